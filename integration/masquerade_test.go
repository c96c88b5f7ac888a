//go:build linux

package integration

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"github.com/nftdp/go-nftdp/internal/nstest"
	"github.com/nftdp/go-nftdp/nftdp"
)

// TestMasquerade: backends see the source address that follows from the frontend's
// Masquerade, MasqueradeClients and Policy and the service's SNAT, for each client,
// kind of frontend and protocol. The pods are internal. L1 is the only backend of
// all services, so that its own connections are hairpins.
func TestMasquerade(t *testing.T) {
	t.Parallel()
	for _, policy := range []nftdp.Policy{nftdp.PolicyAnyBackend, nftdp.PolicyLocalOnly, nftdp.PolicyExternalLocalOnly} {
		for _, snat := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/snat=%t", policy, snat), func(t *testing.T) {
				t.Parallel()
				w := newMasqueradeWorld(t)
				w.apply(t, masqueradeServices(policy, snat)...)
				for _, m := range masquerades() {
					for _, protocol := range protocols() {
						for _, a := range nstest.Families() {
							w.wantSources(t, a, protocol.name, m, policy, snat)
						}
					}
				}
			})
		}
	}
}

// TestMasqueradeChanges: the sources of new connections follow a change, while
// established connections stay as they are. SNAT in one family leaves the other.
func TestMasqueradeChanges(t *testing.T) {
	t.Parallel()
	w := newMasqueradeWorld(t)
	a4, a6 := nstest.IPv4(), nstest.IPv6()
	web := nftdp.Service{Name: "web", Frontends: append(nodeWide(80), on(external, 80)...), Backends: isLocal(to("L1"))}
	sources := func(four, six netip.Addr) {
		t.Helper()
		for dst, want := range map[netip.Addr]netip.Addr{
			a4.Node: four, a4.External: four, a6.Node: six, a6.External: six,
		} {
			answer := askFor(t, w.Backends[0].Name, w.Client, "tcp", netip.AddrPortFrom(dst, 80))
			if got := answer.Client.Addr(); got != want {
				t.Errorf("to %v the backend saw %v, want %v", dst, got, want)
			}
		}
	}
	client := func() (four, six netip.Addr) {
		c := connect(t, 1, w.Client, netip.AddrPortFrom(a4.Node, 80))[0]
		return c.Answer.Client.Addr(), ask(t, w.Client, "tcp", netip.AddrPortFrom(a6.Node, 80)).Client.Addr()
	}
	w.apply(t, web)
	conns := connect(t, 3, w.Client, netip.AddrPortFrom(a4.Node, 80))
	sources(a4.PodGW, a6.PodGW)
	web.SNAT = []netip.Addr{snatAddr(a6)}
	w.apply(t, web)
	sources(a4.PodGW, snatAddr(a6))
	web.SNAT = []netip.Addr{snatAddr(a4)}
	w.apply(t, web)
	sources(snatAddr(a4), a6.PodGW)
	withMasquerade(nftdp.MasqueradeNever, web.Frontends)
	w.apply(t, web)
	if four, six := client(); !a4.ClientNet.Contains(four) || !a6.ClientNet.Contains(six) {
		t.Errorf("with MasqueradeNever the backend saw %v and %v, want the client's own", four, six)
	}
	withMasquerade(nftdp.MasqueradeAuto, web.Frontends)
	web.SNAT = nil
	w.apply(t, web)
	sources(a4.PodGW, a6.PodGW)
	wantAlive(t, conns)
}

// TestMasqueradeOfSamePort: frontends of the same port and backend each have their
// own Masquerade, be it one for all node addresses or one for a single address.
func TestMasqueradeOfSamePort(t *testing.T) {
	t.Parallel()
	w := newMasqueradeWorld(t)
	for _, addressed := range []bool{false, true} {
		never, auto := nodeWide(80), on(external, 80)
		if addressed {
			never, auto = auto, never
		}
		frontends := append(withMasquerade(nftdp.MasqueradeNever, never), auto...)
		w.apply(t, nftdp.Service{Name: "web", Frontends: frontends, Backends: to("L1")})
		for _, a := range nstest.Families() {
			for dst, keeps := range map[netip.Addr]bool{a.External: addressed, a.Node: !addressed} {
				answer := askFor(t, w.Backends[0].Name, w.Client, "tcp", netip.AddrPortFrom(dst, 80))
				if kept := a.ClientNet.Contains(answer.Client.Addr()); kept != keeps {
					t.Errorf("to %v the backend saw %v", dst, answer.Client)
				}
			}
		}
	}
}

// snatAddr is an address of the node that nothing else uses.
func snatAddr(a nstest.Addrs) netip.Addr {
	if a.Node.Is4() {
		return netip.MustParseAddr("192.168.0.77")
	}
	return netip.MustParseAddr("fd00:192:168::77")
}

// masquerades are the settings with the ports of their frontends. The lists of
// clients are the subnets of the pods' bridge, which is internal; a subnet that
// the node has an address in and the second client does not; and one of IPv4 only.
func masquerades() []masqueraded {
	return []masqueraded{
		{nftdp.MasqueradeAuto, nil, 80, 6000},
		{nftdp.MasqueradeAlways, nil, 81, 6100},
		{nftdp.MasqueradeNever, nil, 82, 6200},
		{nftdp.MasqueradeAuto, podNets(), 83, 6300},
		{nftdp.MasqueradeAuto, nearClient(), 84, 6400},
		{nftdp.MasqueradeAuto, podNets()[:1], 85, 6500},
		{nftdp.MasqueradeExternal, nil, 86, 6600},
	}
}

type masqueraded struct {
	masquerade nftdp.Masquerade
	clients    []netip.Prefix
	port       uint16
	first      uint16 // of a range of rangeLen ports
}

const rangeLen = 100

// inside is a port of the range.
func (m masqueraded) inside() uint16 { return m.first + rangeLen/2 }

func newMasqueradeWorld(t *testing.T) *caseWorld {
	t.Helper()
	w := newCaseWorld(t, nftdp.Config{Internal: podNets()})
	for _, a := range nstest.Families() {
		if err := w.Node.AddAddr("lo", single(snatAddr(a))); err != nil {
			t.Fatal(err)
		}
	}
	for _, m := range masquerades() {
		serve(t, w.Backends[0], m.inside(), "tcp", "udp", "sctp")
	}
	return w
}

// masqueradeServices have frontends of each kind with each setting.
func masqueradeServices(policy nftdp.Policy, snat bool) []nftdp.Service {
	var all []nftdp.Service
	for _, p := range protocols() {
		one := nftdp.Service{Name: "port:" + p.name, Protocol: p.proto, Backends: isLocal(to("L1"))}
		ranges := nftdp.Service{Name: "range:" + p.name, Protocol: p.proto, Backends: onPort(0, isLocal(to("L1")))}
		for _, m := range masquerades() {
			set := func(f *nftdp.Frontend) {
				f.Masquerade, f.MasqueradeClients, f.Policy = m.masquerade, familyOf(f.Addr, m.clients), policy
			}
			one.Frontends = append(one.Frontends, with(append(nodeWide(m.port), on(external, m.port)...), set)...)
			ranges.Frontends = append(ranges.Frontends,
				with(upToPort(m.first+rangeLen-1, append(nodeWide(m.first), on(external, m.first)...)), set)...)
		}
		all = append(all, one, ranges)
	}
	if snat {
		for i := range all {
			all[i].SNAT = []netip.Addr{snatAddr(nstest.IPv4()), snatAddr(nstest.IPv6())}
		}
	}
	return all
}

// wantSources connects from each place to all frontends with a setting.
func (w *caseWorld) wantSources(t *testing.T, a nstest.Addrs, protocol string, m masqueraded, policy nftdp.Policy, snat bool) {
	t.Helper()
	for _, from := range []place{"C", "C2", "L2", "N", "L1"} {
		for _, addr := range []netip.Addr{a.Node, a.External} {
			for _, port := range []uint16{m.port, m.inside()} {
				dst := netip.AddrPortFrom(addr, port)
				src := map[place]netip.Addr{"C": a.Client, "C2": a.Client2}[from]
				answer, err := nstest.Dial(w.namespace(from), protocol, src, dst, askTimeout)
				if got := outcome(answer, err); got != w.Backends[0].Name {
					t.Errorf("%s from %s to %v: %s", protocol, from, dst, got)
					continue
				}
				want := wantedSource(a, from, addr, m, policy, snat)
				if got := answer.Client.Addr(); got != want {
					t.Errorf("%v %v: %s from %s to %v: the backend saw %v, want %v", m.masquerade, m.clients, protocol, from, dst, got, want)
				}
			}
		}
	}
}

// wantedSource is the address that the backend should see. The node itself connects
// from the address that it connects to, or from the address of its default route.
// A frontend with an address has only the prefixes of its own family, and without
// any it has no list.
func wantedSource(a nstest.Addrs, from place, to netip.Addr, m masqueraded, policy nftdp.Policy, snat bool) netip.Addr {
	rewritten := a.PodGW
	if snat {
		rewritten = snatAddr(a)
	}
	own := from.addr(a)
	if from == "N" && to == a.External {
		own = a.Uplink
	}
	internal := slices.Contains([]place{"L1", "L2"}, from)
	listed := m.clients
	if to == a.External {
		listed = familyOf(to, listed)
	}
	switch {
	case from == "L1": // a hairpin is always masqueraded
		return rewritten
	case m.masquerade == nftdp.MasqueradeNever || len(listed) > 0 && !containsAddr(listed, own):
		return own
	case len(listed) > 0:
		return rewritten
	case m.masquerade == nftdp.MasqueradeExternal && internal, m.masquerade == nftdp.MasqueradeAuto && (internal || policy != nftdp.PolicyAnyBackend && from != "N"):
		return own
	}
	return rewritten
}
