//go:build linux

package integration

import (
	"net/netip"
	"testing"

	"github.com/nftdp/go-nftdp/internal/nstest"
	"github.com/nftdp/go-nftdp/nftdp"
)

// linkLocal is the link-local address that a case adds to the node's uplink, in
// IPv4, and to the client's link.
func linkLocal(a nstest.Addrs) (node, client netip.Prefix) {
	if a.Client.Is4() {
		return netip.MustParsePrefix("169.254.7.1/16"), netip.MustParsePrefix("169.254.7.2/16")
	}
	return netip.MustParsePrefix("fe80::7:1/64"), netip.MustParsePrefix("fe80::7:2/64")
}

// withLinkLocal gives link-local addresses to the node and the client, and returns
// the node's.
func (w *world) withLinkLocal(t *testing.T, a nstest.Addrs) netip.Addr {
	t.Helper()
	n, c := linkLocal(a)
	for ns, add := range map[*nstest.Namespace]func() error{
		w.Node:   func() error { return w.Node.AddAddr("uplink", n) },
		w.Client: func() error { return w.Client.AddAddr(nstest.ClientLink, c) },
	} {
		if err := add(); err != nil {
			t.Fatalf("%s: %v", ns.Name, err)
		}
		if err := ns.WaitUp(); err != nil {
			t.Fatal(err)
		}
	}
	return n.Addr()
}

// zoned adds the client's link to a link-local IPv6 address.
func zoned(a netip.Addr) netip.Addr {
	if a.Is4() {
		return a
	}
	return a.WithZone(nstest.ClientLink)
}

// TestLinkLocalIsLeft: a node-wide frontend leaves link-local addresses to who
// listens there. The kernel forwards no packet with a link-local IPv6 source, so a
// client of such an address would get ICMP errors instead of an answer. It takes
// those of IPv4 that NodeAddrs names, which work.
func TestLinkLocalIsLeft(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name   string
		config nftdp.Config
		want   string // in IPv4
	}{
		{"default", nftdp.Config{}, "node"},
		{"any", nftdp.Config{NodeAddrs: []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("::/0")}}, "node"},
		{"named", nftdp.Config{NodeAddrs: []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("169.254.7.1/32"), netip.MustParsePrefix("::/0")}}, "backend-1"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, c.config, 1)
			inFamilies(t, func(t *testing.T, a nstest.Addrs) {
				node := w.withLinkLocal(t, a)
				serve(t, w.Node, 80, "tcp", "udp")
				w.apply(t, perProtocol(nodeWide(80), backends(0))...)
				want := c.want
				if a.Client.Is6() {
					want = "node"
				}
				for _, p := range []string{"tcp", "udp"} {
					if p == "tcp" || want != "node" { // the server has no UDP socket on link-local addresses
						askFor(t, want, w.Client, p, netip.AddrPortFrom(zoned(node), 80))
					}
					askFor(t, "backend-1", w.Client, p, netip.AddrPortFrom(a.Node, 80))
				}
			})
		})
	}
}

// TestAddressedLinkLocal: a frontend may have a link-local IPv4 address, as node-local
// caches do.
func TestAddressedLinkLocal(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nftdp.Config{}, 1)
	a := nstest.IPv4()
	node := w.withLinkLocal(t, a)
	w.apply(t, perProtocol([]nftdp.Frontend{{Addr: node, Port: 53}}, backends(0)[:1])...)
	for _, p := range protocols() {
		for _, from := range []*nstest.Namespace{w.Client, w.Node, w.Backends[0]} {
			askFor(t, "backend-1", from, p.name, netip.AddrPortFrom(node, 53))
		}
	}
}

// TestFamiliesServed: a node-wide frontend leaves the family in which its service has
// no backends to the host, unless NoBackend or the unspecified address says that it
// belongs to the service.
func TestFamiliesServed(t *testing.T) {
	t.Parallel()
	inFamilies(t, func(t *testing.T, a nstest.Addrs) {
		w := newWorld(t, nftdp.Config{}, 1)
		other := otherFamily(a)
		serve(t, w.Node, 80, "tcp", "udp")
		backend := []nftdp.Backend{{Addr: netip.AddrPortFrom(a.Backend(0), backendPort)}}
		down := append(backend, nftdp.Backend{Addr: netip.AddrPortFrom(other.Backend(0), backendPort), State: nftdp.StateDown})
		both := []nftdp.Frontend{{Addr: a.Any().Addr(), Port: 80}, {Addr: other.Any().Addr(), Port: 80}}
		for _, c := range []struct {
			name      string
			frontends []nftdp.Frontend
			backends  []nftdp.Backend
			want      string // in the other family
		}{
			{"one family", nodeWide(80), backend, "node"},
			{"range", upToPort(81, nodeWide(80)), []nftdp.Backend{{Addr: netip.AddrPortFrom(a.Backend(0), 0)}}, "node"},
			{"the other one is down", nodeWide(80), down, "refused"},
			{"rejected", withNoBackend(nftdp.ActionReject, nodeWide(80)), backend, "refused"},
			{"dropped", withNoBackend(nftdp.ActionDrop, nodeWide(80)), backend, "silence"},
			{"both declared", both, down, "refused"},
			{"one declared", both[:1], backend, "node"},
		} {
			w.apply(t, perProtocol(c.frontends, c.backends)...)
			for _, p := range []string{"tcp", "udp"} {
				timeout := askTimeout
				if c.want == "silence" {
					timeout = silence
				}
				if got := attempt(w.Client, p, netip.AddrPortFrom(other.Node, 80), timeout); got != c.want {
					t.Errorf("%s, %s: %s, want %s", c.name, p, got, c.want)
				}
				if c.name != "range" {
					askFor(t, "backend-1", w.Client, p, netip.AddrPortFrom(a.Node, 80))
				}
			}
		}
		w.apply(t, perProtocol(nodeWide(80), nil)...)
		for _, a := range nstest.Families() {
			wantRefused(t, w.Client, "tcp", netip.AddrPortFrom(a.Node, 80))
		}
	})
}

// TestPass: without a usable backend a frontend with ActionPass leaves connections to
// the host, and neither a less specific frontend nor ServiceCIDRs takes them. A
// backend that appears gets what follows, also from a UDP socket that the host has
// answered.
func TestPass(t *testing.T) {
	t.Parallel()
	inFamilies(t, func(t *testing.T, a nstest.Addrs) {
		w := newWorld(t, nftdp.Config{ServiceCIDRs: []netip.Prefix{single(a.Node)}}, 2)
		serve(t, w.Node, 80, "tcp", "udp")
		pass := withNoBackend(nftdp.ActionPass, []nftdp.Frontend{{Addr: a.Node, Port: 80}, {Addr: a.Any().Addr(), Port: 81}})
		services := func(backends []nftdp.Backend) []nftdp.Service {
			all := perProtocol(pass, backends)
			for _, s := range perProtocol([]nftdp.Frontend{{Addr: a.Any().Addr(), Port: 80}}, onFamily(a, 1)) {
				s.Name += "/wide"
				all = append(all, s)
			}
			return all
		}
		w.apply(t, services(nil)...)
		at := netip.AddrPortFrom(a.Node, 80)
		for _, from := range []*nstest.Namespace{w.Client, w.Node, w.Backends[0]} {
			for _, p := range []string{"tcp", "udp"} {
				askFor(t, "node", from, p, at)
				askFor(t, "backend-2", from, p, netip.AddrPortFrom(a.Uplink, 80))
			}
		}
		if f := w.frontend(t, "tcp", at); f.NoBackend == nil || *f.NoBackend != nftdp.ActionPass || f.Counter.Connections != 3 {
			t.Errorf("status %+v, want pass and 3 connections", f)
		}
		client := dialUDP(t, w.Client, at)
		wantAll(t, []*udpClient{client}, "node")
		w.apply(t, services(onFamily(a, 0))...)
		wantAll(t, []*udpClient{client}, "backend-1")
		askFor(t, "backend-1", w.Client, "tcp", at)
		w.apply(t, services(nil)...)
		wantAll(t, []*udpClient{client}, "node")
		askFor(t, "node", w.Client, "tcp", at)

		remote := withPolicy(nftdp.PolicyLocalOnly, pass[:1])
		w.apply(t, perProtocol(remote, onFamily(a, 0))...)
		askFor(t, "node", w.Client, "tcp", at)
	})
}

// onFamily are backends of one family.
func onFamily(a nstest.Addrs, i int) []nftdp.Backend {
	return []nftdp.Backend{{Addr: netip.AddrPortFrom(a.Backend(i), backendPort)}}
}

// TestSNATAlways: Service.SNAT is also the source of connections that are always
// masqueraded, whatever Masquerade says: those of a backend to itself, and those from
// loopback addresses.
func TestSNATAlways(t *testing.T) {
	t.Parallel()
	w := newLocalhostWorld(t)
	inFamilies(t, func(t *testing.T, a nstest.Addrs) {
		if err := w.Node.AddAddr("lo", single(snatAddr(a))); err != nil {
			t.Fatal(err)
		}
		var frontends []nftdp.Frontend
		port := uint16(30600)
		for _, set := range []func(*nftdp.Frontend){
			func(*nftdp.Frontend) {},
			func(f *nftdp.Frontend) { f.Masquerade = nftdp.MasqueradeAlways },
			func(f *nftdp.Frontend) { f.Masquerade = nftdp.MasqueradeNever },
			func(f *nftdp.Frontend) { f.Policy = nftdp.PolicyLocalOnly },
			func(f *nftdp.Frontend) { f.MasqueradeClients = []netip.Prefix{a.ClientNet} },
		} {
			for i, addr := range []netip.Addr{a.Any().Addr(), a.ClusterIP, loopback(a)} {
				f := nftdp.Frontend{Addr: addr, Port: port + uint16(i)} // so that the loopback address is node-wide, too
				set(&f)
				frontends = append(frontends, f)
			}
			port += 3
		}
		backend := isLocal(onFamily(a, 0))
		services := perProtocol(frontends, backend)
		for i := range services {
			services[i].SNAT = []netip.Addr{snatAddr(a)}
			services[i].Affinity = anHour
		}
		w.apply(t, services...)
		for _, p := range protocols() {
			for _, f := range frontends {
				from, to := w.Backends[0], f.Addr
				if to.IsLoopback() {
					from = w.Node
				} else if to.IsUnspecified() {
					to = a.Node
					answer := askFor(t, "backend-1", w.Node, p.name, netip.AddrPortFrom(loopback(a), f.Port))
					if got := answer.Client.Addr(); got != snatAddr(a) {
						t.Errorf("%s to %v port %d, %v: the backend saw %v", p.name, loopback(a), f.Port, f.Masquerade, got)
					}
				}
				answer := askFor(t, "backend-1", from, p.name, netip.AddrPortFrom(to, f.Port))
				if got := answer.Client.Addr(); got != snatAddr(a) {
					t.Errorf("%s from %s to %v, %v: the backend saw %v", p.name, from.Name, to, f.Masquerade, got)
				}
			}
		}
	})
}

// TestLoopbackFrontends: a frontend with a loopback address is for processes of the
// node, and leaves other loopback addresses and neighbours' packets alone. It needs
// the sysctl that Requirements lists once it is programmed, and no Config.Localhost.
func TestLoopbackFrontends(t *testing.T) {
	t.Parallel()
	w := newCaseWorld(t, nftdp.Config{})
	serve(t, w.Node, 53, "tcp")
	serve(t, w.Node, backendPort, "tcp", "udp", "sctp")
	var services []nftdp.Service
	ports := map[uint16]place{53: "L1", 54: "R1", 55: "N"}
	for port, at := range ports {
		for _, p := range protocols() {
			services = append(services, nftdp.Service{
				Name: string(at) + p.name, Protocol: p.proto, Frontends: on(loopback, port), Backends: to(at), Affinity: anHour,
			})
		}
	}
	w.apply(t, services...)
	w.meetRequirements(t)
	for _, a := range nstest.Families() {
		for port, at := range ports {
			for _, p := range protocols() {
				answer := askFor(t, w.namespace(at).Name, w.Node, p.name, netip.AddrPortFrom(loopback(a), port))
				checkSource(t, a, answer.Client.Addr(), netip.Addr{}, false)
			}
		}
		if flows, err := w.dataplane.Flows(t.Context(), "R1tcp"); err != nil || len(flows) == 0 {
			t.Errorf("flows %v, %v", flows, err)
		}
		n := newNeighbour(t, w.world, a)
		for _, port := range []uint16{53, 54, 55} {
			if n.knock(t, "tcp", netip.AddrPortFrom(a.Client, 40000+port), netip.AddrPortFrom(loopback(a), port), silence) {
				t.Errorf("a neighbour's packet to %v:%d is answered", loopback(a), port)
			}
		}
	}
	askFor(t, "node", w.Node, "tcp", netip.MustParseAddrPort("127.0.0.53:53"))
	w.apply(t)
	askFor(t, "node", w.Node, "tcp", netip.MustParseAddrPort("127.0.0.1:53"))
}
