package ruleset

import (
	"fmt"
	"net/netip"
	"strings"
)

// Match compares a field that is Comparable with a value, or tests a bit of
// CtStatus. Only a Negatable field can be compared for inequality.
type Match struct {
	Field Field
	Not   bool
	Value uint32
}

func (m Match) text(f Family) string {
	word := m.Field.row().word
	if word == nil {
		word = named(0, "0")
	}
	return m.Field.text(f) + operator(m.Not) + word(m.Value)
}

func (m Match) eval(w *walk) effect {
	if !m.Field.Comparable() {
		w.fail("no value of field %s", m.Field.text(w.table.Family))
		return effect{}
	}
	value := w.number(Operand{Field: m.Field})
	if m.Field == FibSaddr {
		w.localSource()
	}
	w.asked([]Operand{{Field: m.Field}}, func(w *walk) answer { return answer{yes: w.number(Operand{Field: m.Field}) == m.Value} })
	switch {
	case m.Field == CtStatus:
		return effect{matched: value&m.Value != 0}
	case m.Field == TCPFlags && ProtoName(w.packet.Proto) != "tcp":
		return effect{}
	case m.Field == IifType && (w.hook == Output || w.hook == Postrouting && w.packet.Sent):
		return effect{} // without an interface there is nothing to compare with
	}
	return effect{matched: (value == m.Value) != m.Not}
}

// MatchAddr compares Saddr, Daddr or OrigSaddr with a prefix.
type MatchAddr struct {
	Field  Field
	Not    bool
	Prefix netip.Prefix
}

func (m MatchAddr) text(f Family) string {
	return m.Field.text(f) + operator(m.Not) + prefixText(m.Prefix)
}

func (m MatchAddr) eval(w *walk) effect {
	w.asked([]Operand{{Field: m.Field}}, func(w *walk) answer { return answer{yes: m.Prefix.Contains(w.addr(m.Field))} })
	in := m.Prefix.Contains(w.addr(m.Field))
	w.inside(m.Field, m.Prefix.String(), []netip.Prefix{m.Prefix}, in)
	return effect{matched: in != m.Not}
}

// MatchInput matches packets that come in by an interface of a name or, if the pattern
// ends with an asterisk, by one whose name begins so.
type MatchInput struct {
	Pattern string
}

func (m MatchInput) text(Family) string { return fmt.Sprintf(`iifname "%s"`, m.Pattern) }

// eval: at output there is no input interface. At postrouting there is one for packets
// that were forwarded (since Linux 5.7).
func (m MatchInput) eval(w *walk) effect {
	if w.packet.Sent {
		return effect{}
	}
	return effect{matched: m.Names(w.packet.In)}
}

// Names reports whether an interface has the name, or one that begins so.
func (m MatchInput) Names(name string) bool {
	prefix, open := strings.CutSuffix(m.Pattern, "*")
	return name == m.Pattern || open && strings.HasPrefix(name, prefix)
}

func operator(not bool) string {
	if not {
		return " != "
	}
	return " "
}

// prefixText leaves out the length of a whole address, as nft does.
func prefixText(p netip.Prefix) string {
	if p.IsSingleIP() {
		return p.Addr().String()
	}
	return p.String()
}
