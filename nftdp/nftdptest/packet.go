package nftdptest

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/nftdp/go-nftdp/internal/compile"
	"github.com/nftdp/go-nftdp/internal/conntrack"
	"github.com/nftdp/go-nftdp/internal/ruleset"
	"github.com/nftdp/go-nftdp/nftdp"
)

// Packet is a packet of a connection, from the side that began it. If its
// source is an address of the node, a process on the node sends it; otherwise it
// arrives. Both addresses have to be valid and of one family, or the methods
// that take it panic.
type Packet struct {
	Protocol    nftdp.Protocol // 0 is TCP
	Source      netip.AddrPort
	Destination netip.AddrPort
	// Interface is the name of the interface by which it arrives, for
	// Config.InternalInterfaces; empty: one that is not listed there.
	Interface string
}

// Verdict is what becomes of a packet.
type Verdict uint8

// The verdicts.
const (
	VerdictDelivered   Verdict = iota // it goes to Outcome.Destination
	VerdictDropped                    // silently
	VerdictReset                      // rejected with a TCP reset
	VerdictUnreachable                // rejected with ICMP or ICMPv6 port-unreachable
)

// String is the verdict in lower case: "delivered".
func (v Verdict) String() string {
	words := [...]string{"delivered", "dropped", "reset", "unreachable"}
	if int(v) >= len(words) {
		return fmt.Sprintf("verdict(%d)", uint8(v))
	}
	return words[v]
}

// Outcome is what becomes of a packet. Outcomes can be compared with ==.
type Outcome struct {
	Verdict Verdict
	// Service is the name of the service that took the packet; empty: none.
	Service string
	// Destination is the backend, or, if no service took the packet, its own
	// destination. For a port of the node it has 127.0.0.1 or ::1 if a process on the
	// node sends the packet, and else the node's first address of the family. It is
	// zero unless the packet is delivered.
	Destination netip.AddrPort
	// Source is the client as the destination sees it. It is zero unless the
	// packet is delivered.
	Source netip.AddrPort
	// Masqueraded says that the kernel chooses the source: an address of the
	// interface by which the packet leaves, for which Source has the node's
	// first address of the family, and a random port, for which it has the
	// client's.
	Masqueraded bool
}

// String is the outcome in words: "web: delivered to 10.180.0.1:8080 from
// 203.0.113.7:40000".
func (o Outcome) String() string {
	out := o.Verdict.String()
	if o.Service != "" {
		out = o.Service + ": " + out
	}
	if o.Verdict == VerdictDelivered {
		out += fmt.Sprintf(" to %v from %v", o.Destination, o.Source)
	}
	if o.Masqueraded {
		out += ", masqueraded"
	}
	return out
}

// Send sends a packet and returns what becomes of it. The first packet of a
// connection goes through the rules, and is counted by them; where it goes, all
// further packets with the same addresses, ports and protocol go, until the
// connection is gone (see End, Advance and Dataplane.Cut). As in the kernel,
// connections are neither begun nor translated while there are no tables.
func (n *Node) Send(p Packet) Outcome {
	n.mu.Lock()
	defer n.mu.Unlock()
	at, packet := n.lower(&p)
	possible := n.ways(at, &packet)
	way := possible[n.choose(possible)]
	if len(n.tables) > 0 {
		n.follow(at, &packet, &way)
	}
	return way.Outcome
}

// Outcomes lists what can become of a packet, without sending it, each outcome
// once: several, if it would be the first one of a connection and chance
// decides.
func (n *Node) Outcomes(p Packet) []Outcome {
	n.mu.Lock()
	defer n.mu.Unlock()
	at, packet := n.lower(&p)
	return outcomes(n.ways(at, &packet))
}

// End ends a connection that was begun by a packet, and reports whether there
// was one. TCP and SCTP connections are kept as ended ones for two minutes, in
// which a further packet begins a new one; UDP flows are gone at once.
func (n *Node) End(p Packet) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	at, _ := n.lower(&p)
	f := n.flow(at)
	switch {
	case f == nil:
		return false
	case p.Protocol == nftdp.ProtocolUDP:
		delete(n.flows, at)
	}
	f.Phase, f.used = conntrack.Closed, n.now
	return true
}

// way is an outcome and how the rules lead to it.
type way struct {
	Outcome
	of   *tables      // nil: none of them
	path ruleset.Path // through the rules
}

func outcomes(ways []way) []Outcome {
	out := make([]Outcome, len(ways))
	for i := range ways {
		out[i] = ways[i].Outcome
	}
	return out
}

func (n *Node) choose(possible []way) int {
	switch {
	case len(possible) == 1:
		return 0
	case n.Choose != nil:
		return n.Choose(outcomes(possible))
	}
	n.turn++
	return (n.turn - 1) % len(possible)
}

// lower returns the name of the packet's connection, and its form for the rules.
func (n *Node) lower(p *Packet) (tuple, ruleset.Packet) {
	unmap := func(a netip.AddrPort) netip.AddrPort { return netip.AddrPortFrom(a.Addr().Unmap(), a.Port()) }
	src, dst := unmap(p.Source), unmap(p.Destination)
	numbers := [...]uint8{nftdp.ProtocolTCP: compile.TCP, nftdp.ProtocolUDP: compile.UDP, nftdp.ProtocolSCTP: compile.SCTP}
	if !src.IsValid() || !dst.IsValid() || src.Addr().Is4() != dst.Addr().Is4() || int(p.Protocol) >= len(numbers) {
		panic(fmt.Sprintf("nftdptest: not a packet: %v from %v to %v", p.Protocol, p.Source, p.Destination))
	}
	at := tuple{numbers[p.Protocol], src, dst}
	return at, ruleset.Packet{Proto: at.proto, Src: src, Dst: dst, Sent: n.local(src.Addr()), In: p.Interface}
}

// ways lists the ways that a packet can go. One that is not the first of its
// connection goes that of the connection. Otherwise the first tables that have
// something to say decide.
func (n *Node) ways(at tuple, p *ruleset.Packet) []way {
	if f := n.flow(at); f != nil && len(n.tables) > 0 {
		return []way{{Outcome: f.outcome}}
	}
	untouched := n.outcome(p, &ruleset.Path{Outcome: ruleset.Outcome{Dst: p.Dst}})
	for _, t := range n.tables {
		var out []way
		for _, path := range n.evaluate(t, p, n.learned(t.name, p.Family())) {
			out = append(out, way{n.outcome(p, &path), t, path})
		}
		if slices.ContainsFunc(out, func(w way) bool { return w.Outcome != untouched }) {
			return out
		}
	}
	return []way{{Outcome: untouched}}
}

// evaluate returns the paths through the rules. Those of package compile always
// have a meaning.
func (n *Node) evaluate(t *tables, p *ruleset.Packet, learned []ruleset.Learned) []ruleset.Path {
	if t.evaluator == nil {
		t.evaluator = ruleset.NewEvaluator(t.rules, n.local)
	}
	paths, err := t.evaluator.Eval(*p, learned)
	if err != nil {
		panic(err)
	}
	return paths
}

func (n *Node) outcome(p *ruleset.Packet, path *ruleset.Path) Outcome {
	out := Outcome{Verdict: Verdict(path.Fate)} // numbered alike
	for _, step := range path.Trace {
		if step.Found != nil && out.Service == "" {
			out.Service = step.Found.Comment // which frontends alone have
		}
	}
	if out.Verdict != VerdictDelivered {
		return out
	}
	if out.Destination = path.Dst; out.Destination.Addr().IsUnspecified() { // a port of the node
		out.Destination = netip.AddrPortFrom(n.first(p.Family()), out.Destination.Port())
	}
	if !out.Destination.IsValid() {
		return Outcome{Verdict: VerdictDropped, Service: out.Service}
	}
	source := p.Src.Addr()
	if path.SNAT.IsValid() {
		source = path.SNAT
	}
	if path.Masquerade {
		source = n.first(p.Family())
	}
	out.Source, out.Masqueraded = netip.AddrPortFrom(source, p.Src.Port()), path.Masquerade
	return out
}
