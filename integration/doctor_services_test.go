//go:build linux

package integration

import (
	"errors"
	"net/netip"
	"testing"

	"github.com/nftdp/go-nftdp/internal/nstest"
	"github.com/nftdp/go-nftdp/nftdp"
)

// TestDoctorNeighbour: a backend at whose address nobody is does not answer ARP, also if
// no client has tried it.
func TestDoctorNeighbour(t *testing.T) {
	t.Parallel()
	inFamilies(t, func(t *testing.T, a nstest.Addrs) {
		t.Parallel()
		w := healthy(t, nftdp.Config{}, webOf(nodeWide(80)))
		nobody := a.Client2 // in the network of the uplink
		web := nftdp.Service{Name: "web", Frontends: nodeWide(80), Backends: []nftdp.Backend{{Addr: netip.AddrPortFrom(nobody, 80)}}}
		w.apply(t, web)
		wantFindings(t, w, "error NEIGHBOUR_FAILED "+nobody.String())
		dst := netip.AddrPortFrom(a.Node, 80)
		if got := attempt(w.Backends[1], "tcp", dst, silence); got == "backend-1" {
			t.Errorf("a dead backend answers")
		}
		web.Backends = backends(0)
		w.apply(t, web)
		wantFindings(t, w)
		askFor(t, "backend-1", w.Backends[1], "tcp", dst)
	})
}

// TestDoctorRoutes: a backend to which there is no route.
func TestDoctorRoutes(t *testing.T) {
	t.Parallel()
	w := healthy(t, nftdp.Config{}, webOf(nodeWide(80)))
	w.shell(t, "ip route add blackhole 198.51.100.0/24; ip -6 route add unreachable 2001:db8:1::/48")
	w.apply(t, nftdp.Service{Name: "web", Frontends: nodeWide(80), Backends: []nftdp.Backend{
		{Addr: netip.MustParseAddrPort("198.51.100.7:80")}, {Addr: netip.MustParseAddrPort("[2001:db8:1::7]:80")},
	}})
	wantFindings(t, w, "error NO_ROUTE_TO_BACKEND 198.51.100.7", "error NO_ROUTE_TO_BACKEND 2001:db8:1::7")
	w.apply(t, webOf(nodeWide(80)))
	wantFindings(t, w)
}

// TestDoctorPools: services that cannot reach a backend, also for a Dataplane that has
// only read them.
func TestDoctorPools(t *testing.T) {
	t.Parallel()
	w := healthy(t, nftdp.Config{Internal: podNets()}, webOf(nodeWide(80)))
	local := webOf(withPolicy(nftdp.PolicyExternalLocalOnly, on(nodeAddr, 80)))
	w.apply(t, local, nftdp.Service{Name: "none", Frontends: on(nodeAddr, 81)})
	want := []string{"warning LOCAL_ONLY_NONE web", "warning NO_BACKEND none"}
	wantFindings(t, w, want...)
	wantOutcomes(t, w, "silence", "silence")
	other := &world{Topology: w.Topology}
	other.open(t, nftdp.Config{Internal: podNets()})
	wantFindings(t, other, want...)

	for i := range local.Backends {
		local.Backends[i].Local = true
	}
	w.apply(t, local)
	wantFindings(t, w)
	wantOutcomes(t, w, "backend-1", "backend-1")
}

// TestDoctorNodeAddrs: node-wide frontends that do not take all of the node's
// addresses, or none.
func TestDoctorNodeAddrs(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nftdp.Config{NodeAddrs: []netip.Prefix{netip.MustParsePrefix("192.168.0.0/24"), netip.MustParsePrefix("fd00:77::/32")}}, 1)
	if _, err := w.dataplane.MeetRequirements(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.apply(t, webOf(nodeWide(80)))
	want := []string{"notice NODE_ADDRS_LIMIT nodeAddrs ip", "error NODE_ADDRS_LIMIT nodeAddrs ip6"}
	wantFindings(t, w, want...)
	wantOutcomes(t, w, "backend-1", "refused")
	other := &world{Topology: w.Topology} // with another configuration
	other.open(t, nftdp.Config{})
	wantFindings(t, other, want...)
	other.apply(t, webOf(nodeWide(80)))
	wantFindings(t, other)
	wantOutcomes(t, w, "backend-1", "backend-1")
}

// TestDoctorSockets: a process that listens where a frontend takes the packets, unless
// it is the backend.
func TestDoctorSockets(t *testing.T) {
	t.Parallel()
	for _, p := range []string{"tcp", "udp"} {
		t.Run(p, func(t *testing.T) {
			t.Parallel()
			w := healthy(t, nftdp.Config{})
			serve(t, w.Node, 80, p)
			wantFindings(t, w)
			web := webOf(nodeWide(80))
			if p == "udp" {
				web.Protocol = nftdp.ProtocolUDP
			}
			w.apply(t, web)
			found := examine(t, w)
			if len(found) == 0 {
				t.Fatal("nothing was found")
			}
			for _, f := range found {
				if f.Code != nftdp.CodeSocketShadowed {
					t.Errorf("%v was found", f)
				}
			}
			for _, a := range nstest.Families() {
				askFor(t, "backend-1", w.Client, p, netip.AddrPortFrom(a.Node, 80))
			}
			web.Frontends = nodeWide(81)
			w.apply(t, web)
			wantFindings(t, w)
			for _, a := range nstest.Families() {
				askFor(t, "node", w.Client, p, netip.AddrPortFrom(a.Node, 80))
			}
		})
	}
}

// TestDoctorEphemeralPorts: Fix reserves the ports of frontends, besides those that are
// reserved.
func TestDoctorEphemeralPorts(t *testing.T) {
	t.Parallel()
	w := healthy(t, nftdp.Config{}, webOf(nodeWide(80)))
	if err := w.Node.Sysctl("net/ipv4/ip_local_reserved_ports", "40010,50000"); err != nil {
		t.Fatal(err)
	}
	w.apply(t, webOf(append(nodeWide(40010), nodeWide(40001)...)), nftdp.Service{
		Name: "range", Frontends: upToPort(40012, nodeWide(40011)), Backends: []nftdp.Backend{{Addr: netip.AddrPortFrom(nstest.IPv4().Backend(1), 0)}, {Addr: netip.AddrPortFrom(nstest.IPv6().Backend(1), 0)}},
	}, nftdp.Service{Name: "vip", Frontends: on(clusterIP, 45000), Backends: backends(1)})
	found := wantFindings(t, w, "warning EPHEMERAL_PORT net.ipv4.ip_local_reserved_ports")
	fix(t, w, found)
	wantFindings(t, w)
	if out, err := runTool(t, w.Node, "", "sysctl", "-n", "net.ipv4.ip_local_reserved_ports"); err != nil || out != "40001,40010-40012,50000\n" {
		t.Errorf("reserved ports: %q, error %v", out, err)
	}
}

// TestDoctorTwice: two tables of ours have the same frontend.
func TestDoctorTwice(t *testing.T) {
	t.Parallel()
	w := healthy(t, nftdp.Config{}, webOf(nodeWide(80)))
	other := &world{Topology: w.Topology}
	other.open(t, nftdp.Config{Table: "other"})
	other.apply(t, nftdp.Service{Name: "mine", Frontends: []nftdp.Frontend{{Port: 80}, {Port: 81}}, Backends: backends(1)})
	wantOutcomes(t, w, "backend-2", "backend-2") // the newer one
	wantFindings(t, w, "error FRONTEND_TWICE table ip other", "error FRONTEND_TWICE table ip6 other")
	wantFindings(t, other, "error FRONTEND_TWICE table ip nftdp", "error FRONTEND_TWICE table ip6 nftdp")
	other.apply(t, nftdp.Service{Name: "mine", Frontends: nodeWide(81), Backends: backends(1)})
	wantFindings(t, w)
	wantOutcomes(t, w, "backend-1", "backend-1")
}

// TestDoctorLoops: a backend that is a frontend reaches nobody, unless there is a host
// or a process at its address.
func TestDoctorLoops(t *testing.T) {
	t.Parallel()
	backend := func(a netip.Addr, port uint16) []nftdp.Backend {
		return []nftdp.Backend{{Addr: netip.AddrPortFrom(a, port)}}
	}
	inFamilies(t, func(t *testing.T, a nstest.Addrs) {
		t.Parallel()
		w := healthy(t, nftdp.Config{})
		vip := []nftdp.Frontend{{Addr: a.ClusterIP, Port: 80}}
		check := func(want string, findings []string, services ...nftdp.Service) {
			t.Helper()
			w.apply(t, services...)
			wantFindings(t, w, findings...)
			if got := attempt(w.Client, "tcp", netip.AddrPortFrom(a.ClusterIP, 80), silence); got != want && (want != "" || got == "backend-1" || got == "backend-2") {
				t.Errorf("connection to %v: %s, want %s", a.ClusterIP, got, want)
			}
		}
		self := netip.AddrPortFrom(a.ClusterIP, 80).String()
		check("", []string{"warning BACKEND_IS_FRONTEND a -> " + self},
			nftdp.Service{Name: "a", Frontends: vip, Backends: backend(a.ClusterIP, 80)})
		another := netip.AddrPortFrom(a.External, 80).String()
		check("", []string{"warning BACKEND_IS_FRONTEND a -> " + another, "warning BACKEND_IS_FRONTEND b -> " + self},
			nftdp.Service{Name: "a", Frontends: vip, Backends: backend(a.External, 80)},
			nftdp.Service{Name: "b", Frontends: []nftdp.Frontend{{Addr: a.External, Port: 80}}, Backends: backend(a.ClusterIP, 80)})
		// A frontend on a backend's own address and port, which is both.
		both := netip.AddrPortFrom(a.Backend(0), backendPort)
		check("backend-1", nil,
			nftdp.Service{Name: "a", Frontends: vip, Backends: backend(both.Addr(), both.Port())},
			nftdp.Service{Name: "b", Frontends: []nftdp.Frontend{{Addr: both.Addr(), Port: both.Port()}}, Backends: backend(a.Backend(1), backendPort)})
		// An address of this node is served by a process, or by nobody.
		local := netip.AddrPortFrom(a.Node, 80)
		loop := []nftdp.Service{
			{Name: "a", Frontends: vip, Backends: backend(a.Node, 80)},
			{Name: "b", Frontends: []nftdp.Frontend{{Addr: a.Node, Port: 80}}, Backends: backend(a.Backend(1), backendPort)},
		}
		check("refused", []string{"error BACKEND_IS_FRONTEND a -> " + local.String()}, loop...)
		serve(t, w.Node, 80, "tcp")
		w.apply(t, loop...)
		if got := attempt(w.Client, "tcp", netip.AddrPortFrom(a.ClusterIP, 80), askTimeout); got != "node" {
			t.Errorf("connection to a process that is also a frontend: %s", got)
		}
		for _, f := range examine(t, w) {
			if f.Code == nftdp.CodeBackendIsFrontend {
				t.Errorf("%v, though a process listens", f)
			}
		}
	})
}

// TestFixErrors: what no parameter mends is an error, and parameters of the machine are
// not touched.
func TestFixErrors(t *testing.T) {
	t.Parallel()
	w := healthy(t, nftdp.Config{})
	for _, f := range []nftdp.Finding{
		{Code: nftdp.CodeNoBackend, Subject: "web"},
		{Code: nftdp.CodeForwardingOff, Set: []nftdp.Parameter{{Name: "kernel.panic", Value: "1"}}},
	} {
		if err := w.dataplane.Fix(t.Context(), f); err == nil {
			t.Errorf("%v was fixed", f)
		}
	}
	closeOrFail(t, w.dataplane)
	if _, err := w.dataplane.Doctor(t.Context()); !errors.Is(err, nftdp.ErrClosed) {
		t.Errorf("error is %v, want ErrClosed", err)
	}
}
