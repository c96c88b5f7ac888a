package nftdp

import (
	"fmt"
	"strings"
)

// The words of the API, at the place that their constant's value gives.
func protocolWords() []string {
	return []string{ProtocolTCP: "tcp", ProtocolUDP: "udp", ProtocolSCTP: "sctp"}
}

func actionWords() []string {
	return []string{ActionDefault: "default", ActionReject: "reject", ActionDrop: "drop"}
}

func stateWords() []string {
	return []string{StateActive: "active", StateDraining: "draining", StateDown: "down"}
}

func policyWords() []string {
	return []string{PolicyAnyBackend: "any-backend", PolicyLocalOnly: "local-only", PolicyExternalLocalOnly: "external-local-only"}
}

func masqueradeWords() []string {
	return []string{MasqueradeAuto: "auto", MasqueradeAlways: "always", MasqueradeNever: "never"}
}

func schedulerWords() []string {
	return []string{SchedulerRandom: "random", SchedulerRoundRobin: "round-robin", SchedulerSourceHash: "source-hash", SchedulerMaglev: "maglev"}
}

// String is the way to balance in lower case, or "scheduler(9)" if it is none.
func (b Scheduler) String() string { return word("scheduler", schedulerWords(), uint8(b)) }

// MarshalText gives the way to balance in lower case. It fails if it is none.
func (b Scheduler) MarshalText() ([]byte, error) {
	return marshalWord("scheduler", schedulerWords(), uint8(b))
}

// UnmarshalText takes a way to balance in upper or lower case.
func (b *Scheduler) UnmarshalText(text []byte) error {
	return unmarshalWord("scheduler", schedulerWords(), text, b)
}

// String is the policy in lower case, or "policy(9)" if it is none.
func (p Policy) String() string { return word("policy", policyWords(), uint8(p)) }

// MarshalText gives the policy in lower case. It fails if it is none.
func (p Policy) MarshalText() ([]byte, error) {
	return marshalWord("policy", policyWords(), uint8(p))
}

// UnmarshalText takes a policy in upper or lower case.
func (p *Policy) UnmarshalText(text []byte) error {
	return unmarshalWord("policy", policyWords(), text, p)
}

// String is when to masquerade in lower case, or "masquerade(9)" if it is none.
func (m Masquerade) String() string { return word("masquerade", masqueradeWords(), uint8(m)) }

// MarshalText gives when to masquerade in lower case. It fails if it is none.
func (m Masquerade) MarshalText() ([]byte, error) {
	return marshalWord("masquerade", masqueradeWords(), uint8(m))
}

// UnmarshalText takes when to masquerade in upper or lower case.
func (m *Masquerade) UnmarshalText(text []byte) error {
	return unmarshalWord("masquerade", masqueradeWords(), text, m)
}

// String is the protocol in lower case, or "protocol(9)" if it is none.
func (p Protocol) String() string { return word("protocol", protocolWords(), uint8(p)) }

// String is the action in lower case, or "action(9)" if it is none.
func (a Action) String() string { return word("action", actionWords(), uint8(a)) }

// String is the state in lower case, or "state(9)" if it is none.
func (s State) String() string { return word("state", stateWords(), uint8(s)) }

// MarshalText gives the protocol in lower case. It fails if it is none.
func (p Protocol) MarshalText() ([]byte, error) {
	return marshalWord("protocol", protocolWords(), uint8(p))
}

// MarshalText gives the action in lower case. It fails if it is none.
func (a Action) MarshalText() ([]byte, error) {
	return marshalWord("action", actionWords(), uint8(a))
}

// MarshalText gives the state in lower case. It fails if it is none.
func (s State) MarshalText() ([]byte, error) {
	return marshalWord("state", stateWords(), uint8(s))
}

// UnmarshalText takes a protocol in upper or lower case.
func (p *Protocol) UnmarshalText(text []byte) error {
	return unmarshalWord("protocol", protocolWords(), text, p)
}

// UnmarshalText takes an action in upper or lower case.
func (a *Action) UnmarshalText(text []byte) error {
	return unmarshalWord("action", actionWords(), text, a)
}

// UnmarshalText takes a state in upper or lower case.
func (s *State) UnmarshalText(text []byte) error {
	return unmarshalWord("state", stateWords(), text, s)
}

// word is the word for a value, or for one that has none a text that says so.
func word(kind string, words []string, v uint8) string {
	if int(v) < len(words) {
		return words[v]
	}
	return fmt.Sprintf("%s(%d)", kind, v)
}

func marshalWord(kind string, words []string, v uint8) ([]byte, error) {
	if int(v) >= len(words) {
		return nil, fmt.Errorf("unknown %s %d: want %s", kind, v, choice(words))
	}
	return []byte(words[v]), nil
}

// unmarshalWord leaves v alone when it fails.
func unmarshalWord[T ~uint8](kind string, words []string, text []byte, v *T) error {
	got := strings.ToLower(string(text))
	for i, w := range words {
		if got == w {
			*v = T(i)
			return nil
		}
	}
	return fmt.Errorf("unknown %s %q: want %s", kind, text, choice(words))
}

// choice joins words as in "tcp, udp or sctp".
func choice(words []string) string {
	last := len(words) - 1
	return strings.Join(words[:last], ", ") + " or " + words[last]
}
