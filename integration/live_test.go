//go:build linux

package integration

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nftdp/go-nftdp/internal/nstest"
	"github.com/nftdp/go-nftdp/nftdp"
)

// TestChangeUnderLiveConnections: a backend is removed, then another replaced,
// then its service deleted and everything else with it, by Apply or by Update.
// Established connections go on through all of it, and new ones follow the
// state at once (case 31).
func TestChangeUnderLiveConnections(t *testing.T) {
	t.Parallel()
	for _, by := range []string{"apply", "update"} {
		t.Run(by, func(t *testing.T) {
			inFamilies(t, func(t *testing.T, a nstest.Addrs) {
				t.Parallel()
				w := newWorld(t, nftdp.Config{}, 4)
				web := nftdp.Service{Name: "web", Frontends: append(nodeWide(80), on(clusterIP, 80)...)}
				set := func(indices ...int) {
					web.Backends = backends(indices...)
					if by == "apply" {
						w.apply(t, web)
					} else {
						w.update(t, nftdp.Change{Set: []nftdp.Service{web}})
					}
				}
				node, vip := netip.AddrPortFrom(a.Node, 80), netip.AddrPortFrom(a.ClusterIP, 80)

				set(0, 1, 2)
				conns := slices.Concat(connect(t, attempts, w.Client, node), connect(t, attempts, w.Backends[3], vip))
				wantOnly(t, answerers(conns), "backend-1", "backend-2", "backend-3")

				set(1, 2)
				wantAlive(t, conns)
				wantOnly(t, count(t, attempts, w.Client, "tcp", node), "backend-2", "backend-3")
				wantOnly(t, count(t, attempts, w.Backends[3], "tcp", vip), "backend-2", "backend-3")

				set(1, 3)
				wantAlive(t, conns)
				wantOnly(t, count(t, attempts, w.Client, "tcp", node), "backend-2", "backend-4")

				if by == "apply" {
					w.apply(t)
				} else {
					w.update(t, nftdp.Change{Delete: []string{"web"}})
				}
				wantAlive(t, conns)
				wantRefused(t, w.Client, "tcp", node)
			})
		})
	}
}

// TestDeletedServiceIsGone: what a deleted service's frontends do to a packet
// is what they did before it existed: the node's own stack refuses its port,
// and the virtual address belongs to nobody (case 31).
func TestDeletedServiceIsGone(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nftdp.Config{}, 1)
	outcomes := func(timeout time.Duration) []string {
		var all []string
		for _, a := range nstest.Families() {
			for _, p := range []string{"tcp", "udp"} {
				all = append(all,
					attempt(w.Client, p, netip.AddrPortFrom(a.Node, 30644), askTimeout),
					attempt(w.Node, p, netip.AddrPortFrom(a.Node, 30644), askTimeout),
					attempt(w.Backends[0], p, netip.AddrPortFrom(a.ClusterIP, 80), timeout))
			}
		}
		return all
	}
	before := outcomes(silence)
	if slices.Contains(before, "backend-1") {
		t.Fatalf("without services: %v", before)
	}
	var services []nftdp.Service
	for _, p := range protocols() {
		services = append(services, nftdp.Service{
			Name: p.name, Protocol: p.proto,
			Frontends: append(nodeWide(30644), on(clusterIP, 80)...), Backends: backends(0),
		})
	}
	w.apply(t, services...)
	for _, got := range outcomes(askTimeout) {
		if got != "backend-1" {
			t.Errorf("with the services: %s, want backend-1", got)
		}
	}
	w.update(t, nftdp.Change{Delete: []string{"tcp", "udp", "sctp"}})
	if after := outcomes(silence); !slices.Equal(after, before) {
		t.Errorf("after the services: %v, want as before them: %v", after, before)
	}
}

// changes is how often the services change under load.
const changes = 500

// TestNoConnectionFailsDuringChanges: while clients connect all the time, a
// pool grows and shrinks and another service comes and goes, so that slots
// disappear and size classes are made and collected. No connection fails.
//
// Backends leave by draining. Of one that is taken away, flows of UDP are
// deleted, and a client that has just asked it waits in vain.
func TestNoConnectionFailsDuringChanges(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nftdp.Config{}, 3)
	frontends := append(nodeWide(80), on(clusterIP, 80)...)
	tcp := nftdp.Service{Name: "tcp", Frontends: frontends, Backends: backends(0, 1, 2)}
	udp := nftdp.Service{Name: "udp", Protocol: nftdp.UDP, Frontends: frontends, Backends: backends(0, 1, 2)}
	other := nftdp.Service{Name: "other", Frontends: nodeWide(81), Backends: backends(0)}
	w.apply(t, tcp, udp)

	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var clients sync.WaitGroup
	var done atomic.Int64
	for _, a := range nstest.Families() {
		for dst, protocol := range map[netip.Addr]string{a.Node: "tcp", a.ClusterIP: "udp"} {
			clients.Go(func() { done.Add(w.connectUntilDone(ctx, t, protocol, netip.AddrPortFrom(dst, 80))) })
		}
	}
	for i := range changes {
		tcp.Backends = firstActive(1+i%3, 3)
		udp.Backends = tcp.Backends
		switch i % 8 {
		case 0:
			w.apply(t, tcp, udp, other)
		case 4:
			w.apply(t, tcp, udp)
		default:
			w.update(t, nftdp.Change{Set: []nftdp.Service{tcp, udp}})
		}
		if i%100 == 0 { // What follows a change follows its state.
			got := ask(t, w.Client, "tcp", netip.AddrPortFrom(nstest.IPv4().Node, 80)).Server
			if want := backendNames(1 + i%3); !slices.Contains(want, got) {
				t.Errorf("change %d: %s answered, want one of %v", i, got, want)
			}
		}
	}
	stop()
	clients.Wait()
	t.Logf("%d connections during %d changes", done.Load(), changes)
	if done.Load() < changes {
		t.Errorf("%d connections during %d changes are too few to show anything", done.Load(), changes)
	}
}

// firstActive are n backends, of which the first ones are active and the others
// draining.
func firstActive(active, n int) []nftdp.Backend {
	out := backends(upTo(n)...)
	for i := len(nstest.Families()) * active; i < len(out); i++ {
		out[i].State = nftdp.Draining
	}
	return out
}

// connectUntilDone makes connections one after the other and counts them.
func (w *world) connectUntilDone(ctx context.Context, t *testing.T, protocol string, dst netip.AddrPort) (n int64) {
	t.Helper()
	for ; ctx.Err() == nil; n++ {
		if got := attempt(w.Client, protocol, dst, askTimeout); !slices.Contains(backendNames(3), got) {
			t.Errorf("%s to %v after %d connections: %s", protocol, dst, n, got)
			return n
		}
	}
	return n
}

// backendNames are the names of the topology's first n backends.
func backendNames(n int) []string {
	var names []string
	for i := range n {
		names = append(names, fmt.Sprintf("backend-%d", i+1))
	}
	return names
}
