//go:build linux

package integration

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/nftdp/go-nftdp/internal/nstest"
	"github.com/nftdp/go-nftdp/nftdp"
)

// TestChangeUnderLiveConnections: a backend is removed, another one replaced, and
// then the service deleted, by Apply or by Update. Established connections go on
// all the time, and new ones follow each change at once.
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

// TestDeletedServiceIsGone: packets to the frontends of a deleted service end as
// before it existed: the node itself refuses its port, and the virtual address
// belongs to nobody.
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
	w.apply(t, perProtocol(append(nodeWide(30644), on(clusterIP, 80)...), backends(0))...)
	for _, got := range outcomes(askTimeout) {
		if got != "backend-1" {
			t.Errorf("with the services: %s, want backend-1", got)
		}
	}
	w.update(t, nftdp.Change{Delete: []string{"tcp", "udp", "sctp"}})
	if after := outcomes(silence); !slices.Equal(after, before) {
		t.Errorf("without the services again: %v, want %v as before", after, before)
	}
}

// backendNames are the names of the topology's first n backends.
func backendNames(n int) []string {
	var names []string
	for i := range n {
		names = append(names, backendName(i))
	}
	return names
}

// backendName is the name of a backend of the topology, and of its server.
func backendName(i int) string { return fmt.Sprintf("backend-%d", i+1) }
