package ruleset

import "fmt"

// Rule is a list of statements, which are executed from first to last until
// one does not match. Two rules are equal when their text is.
type Rule []Statement

// Statement is one of Match, MatchAddr, MatchInput, Lookup, VMap, Update, ConnCount,
// DNAT, DNATTo, Redirect, SNATTo, SetAddr, Masquerade, Reject, Verdict and Opaque.
type Statement interface {
	// text is the statement in nft's words.
	text(Family) string
	// eval executes the statement on a packet.
	eval(*walk) effect
}

// effect is the result of a statement.
type effect struct {
	matched bool     // the rule continues, unless there is a verdict
	verdict Verdict  // zero: none
	found   *Element // in a set or map
}

// setUser is a statement that looks something up in a set or map.
type setUser interface {
	set() string
}

// Text is the rule in nft's words, on one line.
func (r Rule) Text(f Family) string { return join(r, " ", f, Statement.text) }

// rule executes a rule. With a zero verdict, evaluation goes on with the next
// rule.
func (w *walk) rule(c *Chain, r Rule) Verdict {
	var found *Element
	var verdict Verdict
	for _, s := range r {
		e := s.eval(w)
		if !e.matched || w.err != nil {
			return Verdict{}
		}
		if e.found != nil {
			found = e.found
		}
		if verdict = e.verdict; verdict != (Verdict{}) {
			break
		}
	}
	w.path.Trace = append(w.path.Trace, Step{c.Name, r, found})
	return verdict
}

// Opaque is a statement that this package cannot express. It equals no rule
// that is compiled from services.
type Opaque struct {
	What string
}

func (o Opaque) text(Family) string { return fmt.Sprintf("# not understood: %q", o.What) }

func (o Opaque) eval(w *walk) effect {
	w.fail("statement not understood: %s", o.What)
	return effect{}
}
