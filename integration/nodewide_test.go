//go:build linux

package integration

import (
	"net/netip"
	"testing"

	"github.com/nftdp/go-nftdp/internal/nstest"
	"github.com/nftdp/go-nftdp/nftdp"
)

// TestNodeAddrs: a node-wide frontend takes its port on the addresses in NodeAddrs.
// On other addresses of the node connections are refused as without the frontend.
func TestNodeAddrs(t *testing.T) {
	t.Parallel()
	both := nodePrefixes()
	for _, c := range []struct {
		name     string
		prefixes []netip.Prefix
		taken    func(a nstest.Addrs, addr netip.Addr) bool
	}{
		{"nil", nil, func(nstest.Addrs, netip.Addr) bool { return true }},
		{"both", both, func(a nstest.Addrs, addr netip.Addr) bool { return addr == a.Node }},
		{"v4", both[:1], func(a nstest.Addrs, addr netip.Addr) bool { return addr == a.Node && addr.Is4() }},
		{"v6", both[1:], func(a nstest.Addrs, addr netip.Addr) bool { return addr == a.Node && addr.Is6() }},
		{"two", append(clientNets(), both...), func(a nstest.Addrs, addr netip.Addr) bool { return addr != a.PodGW }},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, nftdp.Config{NodeAddrs: c.prefixes}, 1)
			w.apply(t, nftdp.Service{Name: "web", Frontends: nodeWide(30644), Backends: backends(0)})
			for _, a := range nstest.Families() {
				for _, addr := range []netip.Addr{a.Node, a.Uplink, a.PodGW} {
					for _, from := range []*nstest.Namespace{w.Client, w.Node} {
						want := "refused"
						if c.taken(a, addr) {
							want = "backend-1"
						}
						got := attempt(from, "tcp", netip.AddrPortFrom(addr, 30644), askTimeout)
						if got != want {
							t.Errorf("%s to %v: %s, want %s", from.Name, addr, got, want)
						}
					}
				}
			}
		})
	}
}

// TestNodeAddrsChange: the configuration of the next process takes effect at its
// first Apply.
func TestNodeAddrsChange(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nftdp.Config{}, 1)
	web := nftdp.Service{Name: "web", Frontends: nodeWide(30644), Backends: backends(0)}
	w.apply(t, web)
	a := nstest.IPv4()
	conns := connect(t, 3, w.Client, netip.AddrPortFrom(a.PodGW, 30644))

	closeOrFail(t, w.dataplane)
	w.open(t, nftdp.Config{NodeAddrs: nodePrefixes()})
	if plan := w.apply(t, web); plan.Empty() {
		t.Error("the plan after a change of the configuration is empty")
	}
	wantRefused(t, w.Client, "tcp", netip.AddrPortFrom(a.PodGW, 30644))
	askFor(t, "backend-1", w.Client, "tcp", netip.AddrPortFrom(a.Node, 30644))
	wantAlive(t, conns)
}

// TestLoopbackIsNotTaken: without Config.Localhost a node-wide frontend leaves
// loopback addresses to the processes that listen there, while local processes
// reach it at the node's other addresses.
func TestLoopbackIsNotTaken(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nftdp.Config{}, 1)
	serve(t, w.Node, 80, "tcp", "udp")
	w.apply(t, perProtocol(append(nodeWide(80), nodeWide(30644)...), backends(0))...)
	for _, loopback := range []string{"127.0.0.1", "::1", "127.0.0.2"} {
		addr := netip.MustParseAddr(loopback)
		askFor(t, "node", w.Node, "tcp", netip.AddrPortFrom(addr, 80))
		wantRefused(t, w.Node, "tcp", netip.AddrPortFrom(addr, 30644))
		wantRefused(t, w.Node, "udp", netip.AddrPortFrom(addr, 30644))
		if loopback != "127.0.0.2" { // each of the server's UDP sockets has one address
			askFor(t, "node", w.Node, "udp", netip.AddrPortFrom(addr, 80))
		}
	}
	for _, a := range nstest.Families() {
		askFor(t, "backend-1", w.Node, "tcp", netip.AddrPortFrom(a.Node, 30644))
	}
}

// TestForwardedTrafficIsLeft: a node-wide frontend takes connections to the node's
// addresses only. Those that the node forwards to the same port elsewhere stay as
// they are.
func TestForwardedTrafficIsLeft(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nftdp.Config{}, 2)
	serve(t, w.Client, 80, "tcp", "udp", "sctp")
	serve(t, w.Backends[1], 80, "tcp", "udp", "sctp")
	w.apply(t, perProtocol(nodeWide(80), backends(0))...)
	for _, a := range nstest.Families() {
		for _, p := range protocols() {
			answer := askFor(t, "backend-2", w.Client, p.name, netip.AddrPortFrom(a.Backend(1), 80))
			checkSource(t, a, answer.Client.Addr(), a.Client, true)
			answer = askFor(t, "client", w.Backends[1], p.name, netip.AddrPortFrom(a.Client, 80))
			checkSource(t, a, answer.Client.Addr(), a.Backend(1), true)
			askFor(t, "client", w.Node, p.name, netip.AddrPortFrom(a.Client, 80))
		}
	}
}

// TestListenerIsOverridden: if a process listens on the node's port 80, a frontend
// takes its connections, from outside clients and from local processes. Once the
// frontend is deleted, the process gets them again.
func TestListenerIsOverridden(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nftdp.Config{}, 1)
	serve(t, w.Node, 80, "tcp", "udp")
	everyone := func(t *testing.T, want string) {
		t.Helper()
		for _, a := range nstest.Families() {
			for _, p := range []string{"tcp", "udp"} {
				for _, from := range []*nstest.Namespace{w.Client, w.Node, w.Backends[0]} {
					askFor(t, want, from, p, netip.AddrPortFrom(a.Node, 80))
				}
			}
		}
	}
	everyone(t, "node")
	w.apply(t,
		nftdp.Service{Name: "tcp", Frontends: nodeWide(80), Backends: backends(0)},
		nftdp.Service{Name: "udp", Protocol: nftdp.ProtocolUDP, Frontends: nodeWide(80), Backends: backends(0)})
	everyone(t, "backend-1")
	w.apply(t)
	everyone(t, "node")
}

// TestBackendOnNode: a backend may be a process on the node, with an address of the
// node. It takes connections from everywhere, also from the node itself.
func TestBackendOnNode(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nftdp.Config{Internal: podNets()}, 1)
	serve(t, w.Node, backendPort, "tcp", "udp")
	inFamilies(t, func(t *testing.T, a nstest.Addrs) {
		onNode := []nftdp.Backend{{Addr: netip.AddrPortFrom(a.Node, backendPort)}}
		var frontends []nftdp.Frontend
		for _, addr := range []netip.Addr{a.Any().Addr(), a.ClusterIP} {
			frontends = append(frontends, nftdp.Frontend{Addr: addr, Port: 80})
		}
		w.apply(t,
			nftdp.Service{Name: "tcp", Frontends: frontends, Backends: onNode},
			nftdp.Service{Name: "udp", Protocol: nftdp.ProtocolUDP, Frontends: frontends, Backends: onNode})
		for _, p := range []string{"tcp", "udp"} {
			for _, from := range []*nstest.Namespace{w.Client, w.Node, w.Backends[0]} {
				for _, addr := range []netip.Addr{a.Node, a.Uplink, a.ClusterIP} {
					askFor(t, "node", from, p, netip.AddrPortFrom(addr, 80))
				}
			}
		}
	})
}
