package ruleset

import "fmt"

// Verdict ends a rule. Jump and Goto name a chain.
type Verdict struct {
	Kind  VerdictKind
	Chain string
}

// VerdictKind says where the evaluation of a packet ends or continues.
type VerdictKind uint8

// The verdicts.
const (
	Accept VerdictKind = iota + 1
	Drop
	Return
	Jump
	Goto
)

func (v Verdict) text(Family) string {
	names := [...]string{Accept: "accept", Drop: "drop", Return: "return", Jump: "jump ", Goto: "goto "}
	if v.Kind == 0 || int(v.Kind) >= len(names) {
		return fmt.Sprintf("verdict-%d", uint8(v.Kind))
	}
	if v.Kind == Jump || v.Kind == Goto {
		return names[v.Kind] + nameText(v.Chain)
	}
	return names[v.Kind]
}

func (v Verdict) eval(w *walk) effect {
	if v.Kind == Drop {
		w.ended, w.path.Fate = true, Dropped
	}
	return effect{matched: true, verdict: v}
}

// Reject answers with a TCP reset, or with ICMP port-unreachable, and drops.
type Reject struct {
	Reset bool
}

func (r Reject) text(Family) string {
	if r.Reset {
		return "reject with tcp reset"
	}
	return "reject"
}

func (r Reject) eval(w *walk) effect {
	w.ended, w.path.Fate = true, Unreachable
	if r.Reset {
		w.path.Fate = Reset
	}
	return effect{matched: true, verdict: Verdict{Kind: Drop}}
}

// ConnCount counts connections, each rule for itself: it adds the packet's
// connection, and matches when there are more than Over.
type ConnCount struct {
	Over uint32
}

func (c ConnCount) text(Family) string { return fmt.Sprintf("ct count over %d", c.Over) }

// eval assumes that there are few connections.
func (ConnCount) eval(*walk) effect { return effect{} }
