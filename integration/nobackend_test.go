//go:build linux

package integration

import (
	"fmt"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/nftdp/go-nftdp/internal/nstest"
	"github.com/nftdp/go-nftdp/nftdp"
)

// immediate is when a rejection should have come. It takes a fraction of a
// millisecond, and without one a client would try again after a second. On a
// machine under load one rejection may be late, but not several in a row.
const (
	immediate = 900 * time.Millisecond
	tries     = 4
)

// TestReject: without a usable backend new connections are refused at once, with a
// TCP reset or an ICMP error. A local process that sends a datagram gets EPERM from
// its own system call.
//
// Servers listen on the node's port, so that only the rule can refuse there.
func TestReject(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nftdp.Config{}, 1)
	serve(t, w.Node, 30644, "tcp", "udp", "sctp")
	w.apply(t, withoutBackends(nftdp.ActionReject)...)
	for _, v := range w.victims() {
		t.Run(v.name, func(t *testing.T) {
			before := w.wantNoBackend(t, v, nftdp.ActionReject)
			var sent uint64
			for latency := time.Hour; latency > immediate; sent++ {
				if sent == tries {
					t.Fatalf("none of %d refusals came at once", tries)
				}
				start := time.Now()
				got := attempt(v.from, v.protocol, v.dst, askTimeout)
				latency = time.Since(start)
				t.Logf("%s after %v", got, latency)
				if want := v.outcome("refused"); got != want {
					t.Fatalf("%s, want %s", got, want)
				}
			}
			after := w.wantNoBackend(t, v, nftdp.ActionReject)
			if n := after.Connections - before.Connections; n != sent {
				t.Errorf("the frontend counted %d attempts, want %d", n, sent)
			}
		})
	}
}

// TestDrop: with ActionDrop new connections get no answer. The clients run into
// their own timeouts, and their network stacks receive nothing. All wait at the
// same time.
func TestDrop(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nftdp.Config{}, 1)
	serve(t, w.Node, 30644, "tcp", "udp", "sctp")
	w.apply(t, withoutBackends(nftdp.ActionDrop)...)
	places := []*nstest.Namespace{w.Client, w.Backends[0], w.Node}
	received := map[*nstest.Namespace]int{}
	for _, ns := range places {
		received[ns] = receivedSegments(t, ns)
	}
	victims := w.victims()
	outcomes := w.attemptAll(t, victims)
	for _, ns := range places {
		if n := receivedSegments(t, ns) - received[ns]; n != 0 {
			t.Errorf("%s received %d packets, want none", ns.Name, n)
		}
	}
	for i, v := range victims {
		t.Run(v.name, func(t *testing.T) {
			if want := v.outcome("silence"); outcomes[i] != want {
				t.Errorf("%s, want %s", outcomes[i], want)
			}
			w.wantNoBackend(t, v, nftdp.ActionDrop)
		})
	}
}

// attemptAll makes all connections at the same time. On a machine under load the
// time of an attempt may be over before its packet is sent, which shows nothing.
// So attempts are repeated with more time, until every frontend has counted a
// packet from each of its clients.
func (w *world) attemptAll(t *testing.T, victims []victim) []string {
	t.Helper()
	outcomes := make([]string, len(victims))
	for timeout := silence; timeout < askTimeout; timeout *= 2 {
		before := make([]uint64, len(victims))
		for i, v := range victims {
			before[i] = w.frontend(t, v.protocol, v.frontend).Counter.Connections
		}
		var waiting sync.WaitGroup
		for i, v := range victims {
			waiting.Go(func() { outcomes[i] = attempt(v.from, v.protocol, v.dst, timeout) })
		}
		waiting.Wait()
		complete := true
		for i, v := range victims {
			counted := w.frontend(t, v.protocol, v.frontend).Counter.Connections - before[i]
			complete = complete && counted >= clientsPerFrontend
		}
		if complete {
			return outcomes
		}
	}
	t.Fatal("a frontend did not count a packet of each of its clients")
	return nil
}

// TestFamilyWithoutBackends: a service with frontends in both families and backends
// in one refuses connections in the other.
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

// TestBackendAppears: once there is a backend, the next connection succeeds, and so
// does the next datagram of a UDP socket that was refused before, as the refused
// datagram has left no entry in conntrack.
func TestBackendAppears(t *testing.T) {
	t.Parallel()
	inFamilies(t, func(t *testing.T, a nstest.Addrs) {
		w := newWorld(t, nftdp.Config{}, 1)
		tcp := nftdp.Service{Name: "tcp", Frontends: nodeWide(80)}
		udp := nftdp.Service{Name: "udp", Protocol: nftdp.ProtocolUDP, Frontends: nodeWide(80)}
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
			t.Errorf("datagram of the same socket with a backend: %q, %v", answer, err)
		}
	})
}

// withoutBackends is one service without backends for each protocol.
func withoutBackends(action nftdp.Action) []nftdp.Service {
	return perProtocol(withNoBackend(action, append(nodeWide(30644), on(clusterIP, 80)...)), nil)
}

// victim is a connection that no backend takes.
type victim struct {
	name          string
	local         bool // a process on the node makes it
	from          *nstest.Namespace
	protocol      string // and the service's name
	dst, frontend netip.AddrPort
}

// clientsPerFrontend is the number of victims with the same frontend.
const clientsPerFrontend = 3

// outcome is the outcome of the connection, given that for others: a local process
// whose datagram is rejected or dropped gets an error.
func (v victim) outcome(others string) string {
	if v.local && v.protocol != "tcp" {
		return "not permitted"
	}
	return others
}

// victims are connections to every frontend of withoutBackends, from an outside
// client, from a pod, and from a local process.
func (w *world) victims() []victim {
	var all []victim
	for _, p := range protocols() {
		for _, a := range nstest.Families() {
			for _, from := range []*nstest.Namespace{w.Client, w.Backends[0], w.Node} {
				v := victim{from: from, local: from == w.Node, protocol: p.name}
				v.name = fmt.Sprintf("%s/%s/nodeport/%s", p.name, a.Family, from.Name)
				v.dst = netip.AddrPortFrom(a.Node, 30644)
				v.frontend = netip.AddrPortFrom(a.Any().Addr(), 30644)
				all = append(all, v)
				v.name = fmt.Sprintf("%s/%s/clusterip/%s", p.name, a.Family, from.Name)
				v.dst = netip.AddrPortFrom(a.ClusterIP, 80)
				v.frontend = v.dst
				all = append(all, v)
			}
		}
	}
	return all
}

// wantNoBackend returns the counter of a frontend. It fails unless the frontend
// has the action, and no backends, in the kernel.
func (w *world) wantNoBackend(t *testing.T, v victim, action nftdp.Action) nftdp.Counter {
	t.Helper()
	f := w.frontend(t, v.protocol, v.frontend)
	if f.NoBackend == nil || *f.NoBackend != action || len(f.Backends) != 0 {
		t.Errorf("frontend in the kernel is %+v, want one with NoBackend %v", f, action)
	}
	return f.Counter
}
