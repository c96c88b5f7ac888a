package nftdp

import (
	"fmt"
	"strings"
)

// String is the trace in one line: time, source > destination, service → backend,
// verdict and code.
func (t *Trace) String() string {
	var what []string
	if t.Service != "" {
		what = append(what, t.Service)
	}
	if t.Backend.IsValid() {
		arrow := "→"
		if t.Reply {
			arrow = "←"
		}
		what = append(what, arrow, addrText(t.Backend))
	}
	out := fmt.Sprintf("%s %v: ", t.Time.Format("15:04:05.000000"), t.Packet)
	if len(what) > 0 {
		out += strings.Join(what, " ") + ", "
	}
	return out + t.outcome()
}

// outcome is the verdict and the code, with what caused them.
func (t *Trace) outcome() string {
	out := string(t.Verdict)
	if t.Verdict == VerdictSent && t.Out != "" {
		out += " by " + t.Out
	}
	if t.By != nil {
		by := " by "
		if t.Code == CodeForeignDNATFirst {
			by = ", translated by "
		}
		out += by + t.By.String()
	}
	out += " (" + string(t.Code) + ")"
	if t.Incomplete {
		out += ", reports were missed"
	}
	return out
}

// String is the packet in one line: source > destination, protocol, and what it is.
func (p Packet) String() string {
	out := fmt.Sprintf("%s > %s %s", addrText(p.Source), addrText(p.Destination), p.Protocol)
	if p.Info != "" {
		out += " " + p.Info
	}
	return out
}

// String names the rule or the policy.
func (s *TraceStep) String() string {
	out := fmt.Sprintf("table %s %s, chain %s", s.Family, s.Table, s.Chain)
	switch {
	case s.Handle == 0 && s.ends():
		return out + ", end"
	case s.Handle == 0:
		return out + ", policy " + s.Verdict
	case s.Rule == "":
		out += fmt.Sprintf(", rule %d", s.Handle)
	default:
		out += fmt.Sprintf(", rule %d: %s", s.Handle, s.Rule)
	}
	if s.Comment != "" {
		out += fmt.Sprintf(" (%s)", s.Comment)
	}
	return out
}

// ends reports whether the step is the end of a chain that lets the packet go on.
func (s *TraceStep) ends() bool {
	return s.Handle == 0 && (s.Verdict == "continue" || s.Verdict == "return")
}

// Full is the trace in many lines: the line of String, and each step of the way with
// its hook and verdict.
func (t *Trace) Full() string {
	var b strings.Builder
	fmt.Fprintln(&b, t)
	var facts []string
	if t.In != "" {
		facts = append(facts, "arrived on "+t.In)
	} else {
		facts = append(facts, "sent by a process of this node")
	}
	facts = append(facts, fmt.Sprintf("%d bytes", t.Packet.Length))
	if t.Connection != 0 {
		facts = append(facts, fmt.Sprintf("connection %#08x", t.Connection))
	}
	if t.State != "" {
		facts = append(facts, t.State)
	}
	fmt.Fprintf(&b, "  %s\n", strings.Join(facts, ", "))
	at := ""
	for i := range t.Steps {
		s := &t.Steps[i]
		if s.ends() && i+1 < len(t.Steps) && t.Steps[i+1].Handle == 0 && t.Steps[i+1].Chain == s.Chain {
			continue // its policy follows
		}
		if here := fmt.Sprintf("%s, priority %d", s.Hook, s.Priority); here != at {
			at = here
			fmt.Fprintf(&b, "  %s\n", at)
		}
		if s.Packet != nil {
			fmt.Fprintf(&b, "    the packet is now %v\n", *s.Packet)
		}
		fmt.Fprintf(&b, "    %v\n", s)
		if verdict := " → " + s.Verdict; s.Handle != 0 && !strings.HasSuffix(s.Rule, s.Verdict) {
			b.WriteString("     " + verdict + "\n")
		}
	}
	if t.Last != t.Packet {
		fmt.Fprintf(&b, "  last seen as %v\n", t.Last)
	}
	return b.String()
}
