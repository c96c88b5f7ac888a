//go:build linux

package integration

import (
	"net/netip"
	"testing"

	"github.com/nftdp/go-nftdp/internal/nstest"
	"github.com/nftdp/go-nftdp/nftdp"
)

// attempts is the number of connections that shows that a backend is not chosen. If
// it still had a third of them, the probability that it gets none would be
// (2/3)^60 = 3e-11.
const attempts = 60

// TestStates: draining and down backends take no new connections, while established
// ones go on. Without an active backend the frontend has none.
func TestStates(t *testing.T) {
	t.Parallel()
	inFamilies(t, func(t *testing.T, a nstest.Addrs) {
		t.Parallel()
		w := newWorld(t, nftdp.Config{}, 3)
		web := nftdp.Service{Name: "web", Frontends: nodeWide(80), Backends: backends(0, 1, 2)}
		dst := netip.AddrPortFrom(a.Node, 80)
		w.apply(t, web)
		conns := connect(t, attempts, w.Client, dst)
		wantOnly(t, answerers(conns), "backend-1", "backend-2", "backend-3")

		setState(&web, 1, nftdp.StateDraining)
		setState(&web, 2, nftdp.StateDown)
		w.apply(t, web)
		wantOnly(t, count(t, attempts, w.Client, "tcp", dst), "backend-1")
		wantAlive(t, conns)

		setState(&web, 0, nftdp.StateDraining)
		w.update(t, nftdp.Change{Set: []nftdp.Service{web}})
		wantRefused(t, w.Client, "tcp", dst)
		wantAlive(t, conns)

		setState(&web, 1, nftdp.StateActive)
		w.update(t, nftdp.Change{Set: []nftdp.Service{web}})
		wantOnly(t, count(t, attempts, w.Client, "tcp", dst), "backend-2")
		wantAlive(t, conns)
	})
}

// answerers counts connections by server.
func answerers(conns []*nstest.Conn) map[string]int {
	counts := map[string]int{}
	for _, c := range conns {
		counts[c.Answer.Server]++
	}
	return counts
}

// wantOnly fails unless all of these servers answered, and no others.
func wantOnly(t *testing.T, counts map[string]int, servers ...string) {
	t.Helper()
	missing := false
	for _, s := range servers {
		missing = missing || counts[s] == 0
	}
	if missing || len(counts) != len(servers) {
		t.Errorf("connections went to %v, want all of %v and no other", counts, servers)
	}
}
