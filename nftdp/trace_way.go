package nftdp

import (
	"fmt"
	"net/netip"
	"strings"

	"github.com/nftdp/go-nftdp/internal/compile"
	"github.com/nftdp/go-nftdp/internal/engine"
	"github.com/nftdp/go-nftdp/internal/ruleset"
	"github.com/nftdp/go-nftdp/internal/trace"
)

// traceOf turns the way of a packet into a Trace. The table is ours.
func traceOf(w *engine.Traced, table string) *Trace {
	if w == nil {
		return nil
	}
	t := &Trace{
		Steps: []TraceStep{},
		Time:  w.Began, In: w.In, Out: w.Out, Connection: w.Conn.ID, State: stateOf(w.Conn.State),
		Reply: w.Reply, Service: w.Service, Incomplete: w.Lost,
	}
	last := t.steps(w)
	t.Packet, t.Last = packetOf(&w.Packet), packetOf(&last)
	switch {
	case t.Reply && last.Src != w.Packet.Src:
		t.Backend = w.Packet.Src
	case t.Reply:
	case last.Dst != w.Packet.Dst:
		t.Backend = last.Dst
	}
	d := decision{Traced: w, Trace: t, table: table}
	t.Verdict = d.verdict()
	t.Code = d.code()
	return t
}

// steps adds the steps, and returns the packet as it was seen last.
func (t *Trace) steps(w *engine.Traced) (last trace.Packet) {
	last = w.Packet
	for i := range w.Steps {
		s := &w.Steps[i]
		step := TraceStep{
			Hook: s.Base.Hook, Priority: int(s.Base.Priority), Family: tableFamily(s.Family), Table: s.Table, Chain: s.Chain,
			Handle: s.Handle, Rule: s.Rule.Text, Comment: s.Rule.Comment, Verdict: s.Verdict.String(),
		}
		if p := s.Packet; p != nil && (p.Src != last.Src || p.Dst != last.Dst) {
			last = *p
			now := packetOf(p)
			step.Packet = &now
		}
		t.Steps = append(t.Steps, step)
	}
	if n := len(w.Seen); n > 0 {
		last = w.Seen[n-1].Packet
	}
	return last
}

// decision finds out what happened to a packet, and why.
type decision struct {
	*engine.Traced
	*Trace
	table string
}

func (d *decision) own(s *engine.Step) bool {
	return s.Table == d.table && (s.Family == ruleset.IPv4 || s.Family == ruleset.IPv6)
}

func (d *decision) verdict() TraceVerdict {
	if m := d.Way.Verdict(); m != nil {
		n := len(d.Traced.Steps) - 1
		d.By = &d.Trace.Steps[n]
		switch {
		case m.Verdict.Base() == trace.Stolen:
			return VerdictStolen
		case d.Traced.Steps[n].Rule.Reject:
			return VerdictRejected
		}
		return VerdictDropped
	}
	switch d.Way.Last() {
	case trace.PostroutingEnd:
		return VerdictSent
	case trace.InputEnd:
		return VerdictDelivered
	default:
		return VerdictLost
	}
}

func (d *decision) code() Code {
	if n := len(d.Traced.Steps); d.By != nil && d.Verdict != VerdictStolen {
		if d.own(&d.Traced.Steps[n-1]) {
			return d.refused()
		}
		return droppedAt(d.By.Hook)
	}
	if d.Verdict == VerdictLost {
		return d.lost()
	}
	by, ours := d.translator()
	if d.Trace.Service == "" && by != nil && ours { // rules of ours without the frontend
		return CodeDrift
	}
	if d.Trace.Service == "" {
		return CodeNoService
	}
	if by != nil && !ours {
		d.By = by
		return CodeForeignDNATFirst
	}
	if !d.Backend.IsValid() {
		return CodeNotTranslated
	}
	return CodeDelivered
}

// refused is the code of a packet that our rules refused.
func (d *decision) refused() Code {
	n := len(d.Traced.Steps) - 1
	last, before := &d.Traced.Steps[n], ""
	for i := n; i >= 0 && before == ""; i-- {
		if s := &d.Traced.Steps[i]; d.own(s) && s.Chain != last.Chain {
			before = s.Chain
		}
	}
	switch compile.RefusalOf(last.Chain, last.Rule.Text, before) {
	case compile.ClientDenied:
		return CodeClientDenied
	case compile.LimitReached:
		return CodeLimitReached
	case compile.NoBackend:
	}
	switch {
	case d.Trace.Service == "":
		return CodeNoService
	case d.Internal:
		return CodeLocalOnlyNone
	}
	return CodeNoBackend
}

// lost is the code of a packet that disappeared after the last of our chains that
// saw it.
func (d *decision) lost() Code {
	switch d.Way.Last() {
	case trace.PreroutingEnd:
		return CodeNotRouted
	case trace.InputBegin:
		return CodeInputDroppedBy
	case trace.ForwardBegin:
		return CodeForwardDroppedBy
	case trace.Nowhere:
		if d.Local {
			return CodeOutputDroppedBy
		}
		return CodePreroutingDroppedBy
	default: // after the chains of output or forward
		return CodePostroutingDroppedBy
	}
}

func droppedAt(hook string) Code {
	switch hook {
	case "ingress":
		return CodeIngressDroppedBy
	case "egress":
		return CodeEgressDroppedBy
	case "input":
		return CodeInputDroppedBy
	case "forward":
		return CodeForwardDroppedBy
	case "output":
		return CodeOutputDroppedBy
	case "postrouting":
		return CodePostroutingDroppedBy
	}
	return CodePreroutingDroppedBy
}

// translator returns the rule that translated the destination, or nil, and whether it
// is ours. The kernel shows a packet at the beginning of each base chain, so it is the
// last rule that accepted the packet in a chain of type nat before the destination was
// another one, or the first of ours.
func (d *decision) translator() (by *TraceStep, ours bool) {
	if d.Reply || !d.Backend.IsValid() {
		return nil, false
	}
	for i := range d.Traced.Steps {
		s := &d.Traced.Steps[i]
		if s.Packet != nil && s.Packet.Dst != d.Way.Packet.Dst {
			break
		}
		if s.Base.Type == "nat" && s.Verdict.Base() == trace.Accept && s.Handle != 0 {
			if by = &d.Trace.Steps[i]; d.own(s) {
				return by, true
			}
		}
	}
	return by, false
}

func packetOf(p *trace.Packet) Packet {
	out := Packet{Source: p.Src, Destination: p.Dst, Length: p.Length, Protocol: protocolName(p.Proto)}
	switch p.Proto {
	case trace.TCP:
		var flags []string
		for i, name := range strings.Fields("fin syn rst psh ack urg ece cwr") {
			if p.Flags>>i&1 != 0 {
				flags = append(flags, name)
			}
		}
		out.Info = strings.Join(flags, ",")
	case trace.ICMP, trace.ICMPv6:
		out.Info = fmt.Sprintf("type %d code %d", p.Type, p.Code)
	}
	return out
}

func protocolName(p uint8) string {
	switch p {
	case trace.ICMP:
		return "icmp"
	case trace.ICMPv6:
		return "icmpv6"
	}
	return ruleset.ProtoName(p)
}

func tableFamily(f ruleset.Family) string {
	names := map[ruleset.Family]string{1: "inet", 2: "ip", 3: "arp", 5: "netdev", 7: "bridge", 10: "ip6"}
	if name, ok := names[f]; ok {
		return name
	}
	return fmt.Sprintf("family-%d", f)
}

func stateOf(bits uint32) string {
	for _, s := range []struct {
		bit  uint32
		word string
	}{
		{trace.StateNew, "new"},
		{trace.StateEstablished, "established"},
		{trace.StateRelated, "related"},
		{trace.StateUntracked, "untracked"},
		{trace.StateInvalid, "invalid"},
	} {
		if bits&s.bit != 0 {
			return s.word
		}
	}
	return ""
}

// addrText is an address, with the port if it has one.
func addrText(a netip.AddrPort) string {
	if a.Port() == 0 {
		return a.Addr().String()
	}
	return a.String()
}
