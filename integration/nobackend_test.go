//go:build linux

package integration

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/nftdp/go-nftdp/internal/nstest"
	"github.com/nftdp/go-nftdp/nftdp"
)

// immediate is how soon a rejection comes at the latest. It takes a fraction
// of a millisecond; a client that got none would try again after a second.
const immediate = 900 * time.Millisecond

// TestReject: without a usable backend new connections are refused at once,
// with a TCP reset or an ICMP error; a local process that sends a datagram is
// told EPERM by its own system call (case 23).
//
// Servers listen on the node's own port, so that only the rule refuses there.
func TestReject(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nftdp.Config{}, 1)
	serve(t, w.Node, 30644, "tcp", "udp", "sctp")
	w.apply(t, withoutBackends(nftdp.Reject)...)
	w.eachVictim(t, func(t *testing.T, p, service string, v victim, dst, frontend netip.AddrPort) {
		before := w.frontend(t, service, frontend)
		if before.NoBackend == nil || *before.NoBackend != nftdp.Reject {
			t.Errorf("%v has NoBackend %v in the kernel, want %v", frontend, before.NoBackend, nftdp.Reject)
		}
		want := "refused"
		if p != "tcp" && v.name == "local" {
			want = "not permitted"
		}
		start := time.Now()
		got := attempt(v.ns, p, dst, askTimeout)
		latency := time.Since(start)
		t.Logf("%s after %v", got, latency)
		if got != want || latency > immediate {
			t.Errorf("%s after %v, want %s at once", got, latency, want)
		}
		after := w.frontend(t, service, frontend)
		if n := after.Counter.Packets - before.Counter.Packets; n != 1 {
			t.Errorf("the frontend counted %d attempts, want 1", n)
		}
	})
}

// TestDrop: the same with Drop is silence (case 23, with NoBackend). That the
// client sees its own timeout is half of the proof; the other half is that its
// network stack received nothing.
func TestDrop(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nftdp.Config{}, 1)
	serve(t, w.Node, 30644, "tcp", "udp", "sctp")
	w.apply(t, withoutBackends(nftdp.Drop)...)
	w.eachVictim(t, func(t *testing.T, p, service string, v victim, dst, frontend netip.AddrPort) {
		want := "silence"
		if p != "tcp" && v.name == "local" {
			// The kernel tells a sender whose own datagram it drops.
			want = "not permitted"
		}
		before := w.frontend(t, service, frontend)
		if before.NoBackend == nil || *before.NoBackend != nftdp.Drop {
			t.Errorf("%v has NoBackend %v in the kernel, want %v", frontend, before.NoBackend, nftdp.Drop)
		}
		received := receivedSegments(t, v.ns)
		if got := attempt(v.ns, p, dst, silence); got != want {
			t.Errorf("%s, want %s", got, want)
		}
		if n := receivedSegments(t, v.ns) - received; n != 0 {
			t.Errorf("%s received %d packets, want none", v.ns.Name, n)
		}
		after := w.frontend(t, service, frontend)
		if n := after.Counter.Packets - before.Counter.Packets; n != 1 {
			t.Errorf("the frontend counted %d attempts, want 1", n)
		}
	})
}

// TestFamilyWithoutBackends: a service with frontends of both families and
// backends of one refuses in the other (case 34).
func TestFamilyWithoutBackends(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nftdp.Config{}, 1)
	only4 := nftdp.Backend{Addr: netip.AddrPortFrom(nstest.IPv4().Backend(0), backendPort)}
	w.apply(t, nftdp.Service{
		Name: "web", Frontends: append(nodeWide(80), on(clusterIP, 80)...), Backends: []nftdp.Backend{only4},
	})
	for _, addr := range []netip.Addr{nstest.IPv4().Node, nstest.IPv4().ClusterIP} {
		askFor(t, "backend-1", w.Client, "tcp", netip.AddrPortFrom(addr, 80))
	}
	for _, addr := range []netip.Addr{nstest.IPv6().Node, nstest.IPv6().ClusterIP} {
		wantRefused(t, w.Client, "tcp", netip.AddrPortFrom(addr, 80))
	}
}

// TestBackendAppears: once there is a backend the next connection succeeds,
// and so does the next datagram of a UDP socket that was refused before
// (case 28): the refused one left no trace in conntrack.
func TestBackendAppears(t *testing.T) {
	t.Parallel()
	inFamilies(t, func(t *testing.T, a nstest.Addrs) {
		w := newWorld(t, nftdp.Config{}, 1)
		tcp := nftdp.Service{Name: "tcp", Frontends: nodeWide(80)}
		udp := nftdp.Service{Name: "udp", Protocol: nftdp.UDP, Frontends: nodeWide(80)}
		w.apply(t, tcp, udp)
		dst := netip.AddrPortFrom(a.Node, 80)
		wantRefused(t, w.Client, "tcp", dst)
		socket, err := nstest.Open(w.Client, "udp", netip.Addr{}, dst, askTimeout)
		if err != nil {
			t.Fatal(err)
		}
		defer socket.Close()
		if answer, err := exchange(socket, "early"); err == nil {
			t.Errorf("datagram without a backend was answered: %s", answer)
		}

		tcp.Backends, udp.Backends = backends(0), backends(0)
		w.update(t, nftdp.Change{Set: []nftdp.Service{tcp, udp}})
		askFor(t, "backend-1", w.Client, "tcp", dst)
		if answer, err := exchange(socket, "late"); err != nil {
			t.Errorf("datagram of the old socket: %q, %v", answer, err)
		}
	})
}

// withoutBackends is one service without backends for each protocol.
func withoutBackends(action nftdp.Action) []nftdp.Service {
	frontends := append(nodeWide(30644), on(clusterIP, 80)...)
	for i := range frontends {
		frontends[i].NoBackend = action
	}
	var all []nftdp.Service
	for _, p := range protocols() {
		all = append(all, nftdp.Service{Name: p.name, Protocol: p.proto, Frontends: frontends})
	}
	return all
}

// victim is a client whose connections are not taken.
type victim struct {
	name string
	ns   *nstest.Namespace
}

// eachVictim runs a subtest for every protocol, family, frontend of
// withoutBackends and client: one outside, one whose packets are forwarded to
// an address that is not the node's, and a local process.
func (w *world) eachVictim(t *testing.T, test func(
	t *testing.T, protocol, service string, v victim, dst, frontend netip.AddrPort,
),
) {
	t.Helper()
	victims := []victim{{"outside", w.Client}, {"forwarded", w.Backends[0]}, {"local", w.Node}}
	for _, p := range protocols() {
		for _, a := range nstest.Families() {
			for _, v := range victims {
				t.Run(fmt.Sprintf("%s/%s/nodeport/%s", p.name, a.Family, v.name), func(t *testing.T) {
					frontend := netip.AddrPortFrom(a.Any().Addr(), 30644)
					test(t, p.name, p.name, v, netip.AddrPortFrom(a.Node, 30644), frontend)
				})
				t.Run(fmt.Sprintf("%s/%s/clusterip/%s", p.name, a.Family, v.name), func(t *testing.T) {
					dst := netip.AddrPortFrom(a.ClusterIP, 80)
					test(t, p.name, p.name, v, dst, dst)
				})
			}
		}
	}
}
