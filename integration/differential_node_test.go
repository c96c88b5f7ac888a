//go:build linux

package integration

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/nftdp/go-nftdp/internal/nstest"
	"github.com/nftdp/go-nftdp/internal/ruleset"
	"github.com/nftdp/go-nftdp/nftdp"
	"github.com/nftdp/go-nftdp/nftdp/nftdptest"
)

// nodeInMemory is configured like the node of the world.
func nodeInMemory(t *testing.T, config nftdp.Config, services []nftdp.Service) *nftdptest.Node {
	t.Helper()
	var addrs []netip.Addr
	for _, a := range nstest.Families() {
		addrs = append(addrs, a.Node, a.Uplink, a.PodGW)
	}
	n := nftdptest.NewNode(addrs...)
	d, err := n.Open(t.Context(), config)
	if err == nil {
		_, err = d.Apply(t.Context(), services)
	}
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func (p *probe) inMemory() nftdptest.Packet {
	return nftdptest.Packet{Protocol: p.protocol.proto, Source: p.src, Destination: p.dst, Interface: p.input()}
}

// imagined are the outcomes in memory, in the terms of rules. An outcome for
// another service than the one that takes the packet is left out.
func (r *round) imagined(p *probe) (out []ruleset.Outcome) {
	name := ""
	if s, _ := r.spec.frontend(p); s != nil {
		name = s.Name
	}
	for _, o := range r.node.Outcomes(p.inMemory()) {
		if o.Service == name {
			out = append(out, imagined(p, o))
		}
	}
	return out
}

// onFirst is an outcome of the rules as a node in memory has it: connections to a port
// of the node are at the first address of it.
func (p *probe) onFirst(o ruleset.Outcome) ruleset.Outcome {
	if o.Dst.Addr().IsUnspecified() {
		o.Dst = netip.AddrPortFrom(p.addrs.Node, o.Dst.Port())
	}
	return o
}

func imagined(p *probe, o nftdptest.Outcome) ruleset.Outcome {
	if o.Verdict != nftdptest.VerdictDelivered {
		return ruleset.Outcome{Fate: ruleset.Fate(o.Verdict), Dst: p.dst}
	}
	out := ruleset.Outcome{Dst: o.Destination, Masquerade: o.Masqueraded}
	if o.Source != p.src && !o.Masqueraded {
		out.SNAT = o.Source.Addr()
	}
	return out
}

// repeat sends the probe in memory, too, where it has to take the same way.
func (r *round) repeat(p *probe, way ruleset.Outcome) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.node.Choose = func(possible []nftdptest.Outcome) int {
		return slices.IndexFunc(possible, func(o nftdptest.Outcome) bool { return imagined(p, o) == p.onFirst(way) })
	}
	r.node.Send(p.inMemory())
}
