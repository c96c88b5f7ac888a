package nftdptest_test

import (
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	"github.com/nftdp/go-nftdp/nftdp"
	"github.com/nftdp/go-nftdp/nftdp/nftdptest"
)

// TestFlowsFollowRules applies random services and configurations one after the other
// while clients keep sending. After each change, a UDP flow is treated as one of the outcomes of
// a first packet from the same client says, unless its backend drains; and it goes
// on if it was treated so before.
func TestFlowsFollowRules(t *testing.T) {
	for seed := range uint64(100) {
		r := rand.New(rand.NewPCG(seed, 0))
		n := nftdptest.NewNode(netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2"))
		n.Choose = func(possible []nftdptest.Outcome) int { return r.IntN(len(possible)) }
		d := open(t, n, nftdp.Config{Internal: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}})
		var before []nftdptest.Outcome
		var last []nftdp.Service
		for step := range 6 {
			services := last
			if step == 0 || r.IntN(3) > 0 {
				services = randomDNS(r)
				apply(t, d, services...)
			} else if _, err := d.SetConfig(t.Context(), randomConfig(r)); err != nil {
				t.Fatal(err)
			}
			for i, p := range dnsPackets() {
				checkFlow(t, n, p, services, before, i)
			}
			if t.Failed() {
				t.Fatalf("seed %d, step %d: %+v\nbefore: %+v", seed, step, services, last)
			}
			before, last = nil, services
			for _, p := range dnsPackets() {
				before = append(before, n.Send(p))
			}
		}
	}
}

// randomConfig returns one of those that make a difference to dnsPackets.
func randomConfig(r *rand.Rand) (c nftdp.Config) {
	for _, list := range []*[]netip.Prefix{&c.Internal, &c.NodeAddrs, &c.ServiceCIDRs} {
		for _, p := range []string{"10.0.0.0/8", "203.0.113.0/25", "192.0.2.1/32", "192.0.2.0/30"} {
			if r.IntN(3) == 0 {
				*list = append(*list, netip.MustParsePrefix(p))
			}
		}
	}
	c.Localhost, c.Unallocated = r.IntN(2) == 0, nftdp.Action(r.IntN(3))
	return c
}

// checkFlow compares what becomes of the next packet of a flow with what would
// become of another flow's first packet from the same address.
func checkFlow(t *testing.T, n *nftdptest.Node, p nftdptest.Packet, services []nftdp.Service, before []nftdptest.Outcome, i int) {
	t.Helper()
	fresh := p
	fresh.Source = netip.AddrPortFrom(p.Source.Addr(), 9)
	var possible []nftdptest.Outcome
	for _, o := range n.Outcomes(fresh) {
		possible = append(possible, withoutPort(o))
	}
	next := n.Outcomes(p)
	for _, o := range next {
		o = withoutPort(o)
		if !slices.ContainsFunc(possible, func(x nftdptest.Outcome) bool { return sameWay(x, o) }) && !drains(services, o.Destination) {
			t.Errorf("%+v: %v, a first packet: %v", p, o, possible)
		}
	}
	if before == nil || before[i].Verdict != nftdptest.VerdictDelivered {
		return
	}
	was := withoutPort(before[i])
	if slices.ContainsFunc(possible, func(x nftdptest.Outcome) bool { return sameWay(x, was) }) &&
		(len(next) != 1 || !sameWay(withoutPort(next[0]), was)) {
		t.Errorf("%+v was %v and is %v now", p, was, next)
	}
}

// sameWay compares what packets show: not the service, nor who has chosen the source.
func sameWay(x, y nftdptest.Outcome) bool {
	x.Service, y.Service = "", ""
	x.Masqueraded, y.Masqueraded = false, false
	return x == y
}

func withoutPort(o nftdptest.Outcome) nftdptest.Outcome {
	o.Source = netip.AddrPortFrom(o.Source.Addr(), 0)
	return o
}

func drains(services []nftdp.Service, backend netip.AddrPort) bool {
	for _, s := range services {
		for _, b := range s.Backends {
			same := b.Addr == backend || b.Addr == netip.AddrPortFrom(backend.Addr(), 0)
			if same && b.State == nftdp.StateDraining {
				return true
			}
		}
	}
	return false
}

// dnsPackets are of clients outside, a pod that is a backend, and the node, to each
// kind of frontend.
func dnsPackets() (out []nftdptest.Packet) {
	for _, src := range []string{"203.0.113.7:40000", "203.0.113.200:40000", "10.180.0.1:40000", "192.0.2.1:40000"} {
		for _, dst := range []string{"10.96.0.10:53", "192.0.2.1:53", "192.0.2.2:53", "192.0.2.2:54"} {
			out = append(out, nftdptest.Packet{Protocol: nftdp.ProtocolUDP, Source: addrPort(src), Destination: addrPort(dst)})
		}
	}
	return out
}

// randomDNS returns a service with a virtual address and a port of the node, and one
// at one of its addresses, or less.
func randomDNS(r *rand.Rand) []nftdp.Service {
	frontend := func(addr string) nftdp.Frontend {
		f := nftdp.Frontend{Port: 53, Policy: nftdp.Policy(r.IntN(3))}
		if addr != "" {
			f.Addr = netip.MustParseAddr(addr)
		}
		if r.IntN(4) == 0 {
			f.EndPort = 54
		}
		switch r.IntN(6) {
		case 0:
			f.Deny = []netip.Prefix{netip.MustParsePrefix("203.0.113.128/25")}
		case 1:
			f.Allow = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("203.0.113.0/25")}
		case 2:
			f.Masquerade = nftdp.Masquerade(1 + r.IntN(2))
		case 3:
			f.MasqueradeClients = []netip.Prefix{netip.MustParsePrefix("203.0.113.0/25")}
		}
		return f
	}
	service := func(name string, addrs ...string) nftdp.Service {
		s := nftdp.Service{Name: name, Protocol: nftdp.ProtocolUDP}
		for _, a := range addrs {
			s.Frontends = append(s.Frontends, frontend(a))
		}
		ranged := slices.ContainsFunc(s.Frontends, func(f nftdp.Frontend) bool { return f.EndPort > 0 })
		for _, a := range []string{"10.180.0.1", "10.180.0.2", "10.180.2.1"} {
			b := nftdp.Backend{Addr: netip.AddrPortFrom(netip.MustParseAddr(a), 53), State: nftdp.State(r.IntN(3)), Local: r.IntN(2) == 0}
			if ranged {
				b.Addr = netip.AddrPortFrom(b.Addr.Addr(), 0)
			}
			if r.IntN(3) > 0 {
				s.Backends = append(s.Backends, b)
			}
		}
		if r.IntN(5) == 0 {
			s.SNAT = []netip.Addr{netip.MustParseAddr("192.0.2.2")}
		}
		return s
	}
	all := []nftdp.Service{service("dns", "10.96.0.10", ""), service("narrow", "192.0.2.2")}
	return all[:r.IntN(3)]
}
