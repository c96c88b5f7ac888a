//go:build linux

package integration

import (
	"maps"
	"net/netip"
	"slices"
	"testing"

	"github.com/nftdp/go-nftdp/internal/nstest"
	"github.com/nftdp/go-nftdp/nftdp"
)

// TestCountersSurviveChanges: a frontend keeps its count while its pool grows,
// shrinks and is empty for a while. A backend keeps its count as long as it stays
// in the pool, whichever slot it moves to.
func TestCountersSurviveChanges(t *testing.T) {
	t.Parallel()
	inFamilies(t, func(t *testing.T, a nstest.Addrs) {
		w := newWorld(t, nftdp.Config{}, 4)
		web := nftdp.Service{Name: "web", Frontends: append(nodeWide(80), on(clusterIP, 80)...)}
		for frontend, dst := range map[netip.AddrPort]netip.AddrPort{
			netip.AddrPortFrom(a.Any().Addr(), 80): netip.AddrPortFrom(a.Node, 80),
			netip.AddrPortFrom(a.ClusterIP, 80):    netip.AddrPortFrom(a.ClusterIP, 80),
		} {
			w.apply(t)
			want, total := map[string]int{}, 0
			for _, pool := range [][]int{{0, 1, 2}, {0, 1, 2, 3}, {1, 2, 3}, {3, 2}, {}, {2}, {0, 2, 1}} {
				web.Backends = backends(pool...)
				w.update(t, nftdp.Change{Set: []nftdp.Service{web}})
				maps.DeleteFunc(want, func(server string, _ int) bool { return !w.holds(pool, server) })
				w.wantCounts(t, a, frontend, total, want)
				if len(pool) == 0 {
					continue
				}
				for server, n := range count(t, attempts, w.Client, "tcp", dst) {
					want[server] += n
				}
				total += attempts
				w.wantCounts(t, a, frontend, total, want)
			}
		}
	})
}

// holds reports whether a pool of the topology's backends has that server.
func (w *world) holds(pool []int, server string) bool {
	return slices.ContainsFunc(pool, func(i int) bool { return w.Backends[i].Name == server })
}

// wantCounts compares the kernel's counters of a frontend and its backends with
// the servers' answers.
func (w *world) wantCounts(t *testing.T, a nstest.Addrs, frontend netip.AddrPort, total int, want map[string]int) {
	t.Helper()
	status := w.frontend(t, "web", frontend)
	if int(status.Counter.Connections) != total {
		t.Errorf("frontend %v counts %d connections, want %d", frontend, status.Counter.Connections, total)
	}
	got := map[string]int{}
	for _, b := range status.Backends {
		for i, pod := range w.Backends {
			if b.Addr == netip.AddrPortFrom(a.Backend(i), backendPort) && b.Counter.Connections > 0 {
				got[pod.Name] = int(b.Counter.Connections)
			}
		}
	}
	if !maps.Equal(got, want) {
		t.Errorf("backends of %v count %v connections, servers answered %v", frontend, got, want)
	}
}
