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
	outcomes := func() []string {
		var all []string
		for _, a := range nstest.Families() {
			for _, p := range []string{"tcp", "udp"} {
				all = append(all,
					attempt(w.Client, p, netip.AddrPortFrom(a.Node, 30644), silence),
					attempt(w.Node, p, netip.AddrPortFrom(a.Node, 30644), silence),
					attempt(w.Backends[0], p, netip.AddrPortFrom(a.ClusterIP, 80), silence))
			}
		}
		return all
	}
	before := outcomes()
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
	for _, got := range outcomes() {
		if got != "backend-1" {
			t.Errorf("with the services: %s, want backend-1", got)
		}
	}
	w.update(t, nftdp.Change{Delete: []string{"tcp", "udp", "sctp"}})
	if after := outcomes(); !slices.Equal(after, before) {
		t.Errorf("after the services: %v, want as before them: %v", after, before)
	}
}

// TestNoConnectionFailsDuringChanges: while clients connect all the time, a
// backend comes and goes and other services come and go, so that pools change
// their size and size classes are made and collected. No connection fails.
func TestNoConnectionFailsDuringChanges(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nftdp.Config{}, 3)
	web := nftdp.Service{
		Name: "web", Frontends: append(nodeWide(80), on(clusterIP, 80)...), Backends: backends(0, 1, 2),
	}
	other := nftdp.Service{Name: "other", Frontends: nodeWide(81), Backends: backends(0)}
	w.apply(t, web)

	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var clients sync.WaitGroup
	var done atomic.Int64
	for _, a := range nstest.Families() {
		for _, dst := range []netip.Addr{a.Node, a.ClusterIP} {
			clients.Go(func() {
				for ctx.Err() == nil {
					got := attempt(w.Client, "tcp", netip.AddrPortFrom(dst, 80), askTimeout)
					if !slices.Contains(backendNames(3), got) {
						t.Errorf("connection to %v: %s", dst, got)
						return
					}
					done.Add(1)
				}
			})
		}
	}
	for i := range 300 {
		web.Backends = backends(upTo(1 + i%3)...)
		switch i % 4 {
		case 0, 1:
			w.update(t, nftdp.Change{Set: []nftdp.Service{web}})
		case 2:
			w.update(t, nftdp.Change{Set: []nftdp.Service{web, other}})
		case 3:
			w.apply(t, web)
		}
		// At least one connection meets each state, and follows it.
		got := ask(t, w.Client, "tcp", netip.AddrPortFrom(nstest.IPv4().Node, 80)).Server
		if want := backendNames(1 + i%3); !slices.Contains(want, got) {
			t.Errorf("change %d: %s answered, want one of %v", i, got, want)
		}
	}
	stop()
	clients.Wait()
	t.Logf("%d connections during 300 changes", done.Load())
	if done.Load() < 300 {
		t.Errorf("%d connections during 300 changes are too few to show anything", done.Load())
	}
}

// backendNames are the names of the topology's first n backends.
func backendNames(n int) []string {
	var names []string
	for i := range n {
		names = append(names, fmt.Sprintf("backend-%d", i+1))
	}
	return names
}
