package nftdp

import (
	"fmt"
	"strings"
)

// word is a value of an enumeration together with the words of all its
// constants, in their order. Everything that reads, writes or checks such a
// value asks it, so that a new constant takes only its word here.
type word struct {
	kind  string // what the enumeration is called in errors
	words string // separated by spaces: a list would cost an allocation for each value checked
	value uint8
}

func (p Protocol) word() word { return word{"protocol", "tcp udp sctp", uint8(p)} }

func (a Action) word() word { return word{"action", "default reject drop pass", uint8(a)} }

func (p Policy) word() word {
	return word{"policy", "any-backend local-only external-local-only", uint8(p)}
}

func (m Masquerade) word() word { return word{"masquerade", "auto always never external", uint8(m)} }

func (s State) word() word { return word{"state", "active draining down", uint8(s)} }

// known reports whether the value is one of the constants. The first, which is the
// most common one, always is.
func (w word) known() bool { return w.value == 0 || int(w.value) <= strings.Count(w.words, " ") }

func (w word) list() []string { return strings.Fields(w.words) }

func (w word) String() string {
	if !w.known() {
		return fmt.Sprintf("%s(%d)", w.kind, w.value)
	}
	return w.list()[w.value]
}

// flaw says that the value is none of the enumeration, or is "".
func (w word) flaw() string {
	if w.known() {
		return ""
	}
	return fmt.Sprintf("%v is unknown: use %s", w, w.choice())
}

func (w word) marshal() ([]byte, error) {
	if !w.known() {
		return nil, fmt.Errorf("unknown %s %d: want %s", w.kind, w.value, w.choice())
	}
	return []byte(w.String()), nil
}

// unmarshal leaves v as it is when it fails.
func (w word) unmarshal(text []byte, v *uint8) error {
	got := strings.ToLower(string(text))
	for i, known := range w.list() {
		if got == known {
			*v = uint8(i)
			return nil
		}
	}
	return fmt.Errorf("unknown %s %q: want %s", w.kind, text, w.choice())
}

// choice joins the words as in "tcp, udp or sctp".
func (w word) choice() string {
	words := w.list()
	last := len(words) - 1
	return strings.Join(words[:last], ", ") + " or " + words[last]
}

// String returns the protocol's word, or "protocol(9)" for an unknown one.
func (p Protocol) String() string { return p.word().String() }

// MarshalText returns the protocol's word. An unknown protocol is an error.
func (p Protocol) MarshalText() ([]byte, error) { return p.word().marshal() }

// UnmarshalText takes a protocol's word in upper or lower case.
func (p *Protocol) UnmarshalText(text []byte) error { return p.word().unmarshal(text, (*uint8)(p)) }

// String returns the scheduler's word, or "scheduler(9)" for an unknown one.
func (s Scheduler) String() string { return s.word().String() }

// MarshalText returns the scheduler's word. An unknown scheduler is an error.
func (s Scheduler) MarshalText() ([]byte, error) { return s.word().marshal() }

// UnmarshalText takes a scheduler's word in upper or lower case.
func (s *Scheduler) UnmarshalText(text []byte) error { return s.word().unmarshal(text, (*uint8)(s)) }

// String returns the action's word, or "action(9)" for an unknown one.
func (a Action) String() string { return a.word().String() }

// MarshalText returns the action's word. An unknown action is an error.
func (a Action) MarshalText() ([]byte, error) { return a.word().marshal() }

// UnmarshalText takes an action's word in upper or lower case.
func (a *Action) UnmarshalText(text []byte) error { return a.word().unmarshal(text, (*uint8)(a)) }

// String returns the policy's word, or "policy(9)" for an unknown one.
func (p Policy) String() string { return p.word().String() }

// MarshalText returns the policy's word. An unknown policy is an error.
func (p Policy) MarshalText() ([]byte, error) { return p.word().marshal() }

// UnmarshalText takes a policy's word in upper or lower case.
func (p *Policy) UnmarshalText(text []byte) error { return p.word().unmarshal(text, (*uint8)(p)) }

// String returns the masquerade's word, or "masquerade(9)" for an unknown one.
func (m Masquerade) String() string { return m.word().String() }

// MarshalText returns the masquerade's word. An unknown masquerade is an error.
func (m Masquerade) MarshalText() ([]byte, error) { return m.word().marshal() }

// UnmarshalText takes a masquerade's word in upper or lower case.
func (m *Masquerade) UnmarshalText(text []byte) error { return m.word().unmarshal(text, (*uint8)(m)) }

// String returns the state's word, or "state(9)" for an unknown one.
func (s State) String() string { return s.word().String() }

// MarshalText returns the state's word. An unknown state is an error.
func (s State) MarshalText() ([]byte, error) { return s.word().marshal() }

// UnmarshalText takes a state's word in upper or lower case.
func (s *State) UnmarshalText(text []byte) error { return s.word().unmarshal(text, (*uint8)(s)) }
