//go:build linux

package integration

import (
	"errors"
	"fmt"
	"maps"
	"math"
	"net"
	"net/netip"
	"slices"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/nftdp/go-nftdp/internal/nstest"
	"github.com/nftdp/go-nftdp/nftdp"
)

// TestRoundRobin: consecutive connections take the backends exactly in turn, and
// each frontend has a rotation of its own.
func TestRoundRobin(t *testing.T) {
	t.Parallel()
	inFamilies(t, func(t *testing.T, a nstest.Addrs) {
		t.Parallel()
		w := newWorld(t, nftdp.Config{}, 3)
		web := nftdp.Service{
			Name: "web", Scheduler: nftdp.SchedulerRoundRobin,
			Frontends: append(nodeWide(30644), on(clusterIP, 80)...), Backends: backends(0, 1, 2),
		}
		w.apply(t, web)
		nodePort, vip := netip.AddrPortFrom(a.Node, 30644), netip.AddrPortFrom(a.ClusterIP, 80)
		wantPeriod(t, w, nodePort, "backend-1", "backend-2", "backend-3")
		ask(t, w.Client, "tcp", vip) // advances the rotation of that frontend only
		wantPeriod(t, w, nodePort, "backend-1", "backend-2", "backend-3")
		wantPeriod(t, w, vip, "backend-2", "backend-3", "backend-1")

		setWeight(&web, 2, 2) // backend-3 has two of four turns, not consecutive ones
		w.update(t, nftdp.Change{Set: []nftdp.Service{web}})
		wantPeriod(t, w, vip, "backend-3", "backend-1", "backend-2", "backend-3")
	})
}

// wantPeriod makes connections for two periods of a rotation.
func wantPeriod(t *testing.T, w *world, dst netip.AddrPort, period ...string) {
	t.Helper()
	var got []string
	for range 2 * len(period) {
		got = append(got, ask(t, w.Client, "tcp", dst).Server)
	}
	if want := slices.Concat(period, period); !slices.Equal(got, want) {
		t.Errorf("connections to %v went to %v, want %v", dst, got, want)
	}
}

// TestWeights: connections follow weights of 3 to 1. The share of the first
// backend is binomial with a standard deviation of sqrt(4000 * 3/4 * 1/4) =
// 27.4 connections. The probability of a deviation of more than six times that
// is 2e-9. For a hash of address and port, the kernel's choice of ports is random.
func TestWeights(t *testing.T) {
	t.Parallel()
	for _, scheduler := range []nftdp.Scheduler{nftdp.SchedulerRandom, nftdp.SchedulerSourcePortHash} {
		t.Run(scheduler.String(), func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, nftdp.Config{}, 2)
			web := nftdp.Service{
				Name: "web", Protocol: nftdp.ProtocolUDP, Scheduler: scheduler,
				Frontends: nodeWide(80), Backends: backends(0, 1),
			}
			setWeight(&web, 0, 3)
			w.apply(t, web)
			inFamilies(t, func(t *testing.T, a nstest.Addrs) {
				const n = 4000
				counts := count(t, n, w.Client, "udp", netip.AddrPortFrom(a.Node, 80))
				bound := 6 * math.Sqrt(n*3.0/16)
				if off := float64(counts["backend-1"]) - n*3.0/4; math.Abs(off) > bound {
					t.Errorf("connections went to %v, want 3000 and 1000 within %.0f", counts, bound)
				}
			})
		})
	}
}

// TestBackup: a backup takes connections only while no other backend is usable.
func TestBackup(t *testing.T) {
	t.Parallel()
	inFamilies(t, func(t *testing.T, a nstest.Addrs) {
		t.Parallel()
		w := newWorld(t, nftdp.Config{}, 3)
		web := nftdp.Service{Name: "web", Frontends: nodeWide(80), Backends: backends(0, 1, 2)}
		setBackup(&web, 2, true)
		dst := netip.AddrPortFrom(a.Node, 80)
		steps := []struct {
			backend int
			state   nftdp.State
			want    []string
		}{
			{0, nftdp.StateActive, []string{"backend-1", "backend-2"}},
			{0, nftdp.StateDown, []string{"backend-2"}},
			{1, nftdp.StateDraining, []string{"backend-3"}},
			{1, nftdp.StateActive, []string{"backend-2"}},
		}
		for _, step := range steps {
			setState(&web, step.backend, step.state)
			w.apply(t, web)
			wantOnly(t, count(t, attempts, w.Client, "tcp", dst), step.want...)
		}
	})
}

// crowd adds a thousand addresses to the client and returns them.
func crowd(t *testing.T, client *nstest.Namespace, a nstest.Addrs) []netip.Addr {
	t.Helper()
	first := netip.MustParseAddr("198.51.0.1")
	bits := 16
	if a.Client.Is6() {
		first, bits = netip.MustParseAddr("fd00:198:51::1"), 64
	}
	ownAddresses(t, client, netip.PrefixFrom(first, bits).Masked())
	out := make([]netip.Addr, 1000)
	for i := range out {
		out[i] = first
		first = first.Next()
	}
	return out
}

// ownAddresses makes all addresses of a prefix local to the client.
func ownAddresses(t *testing.T, client *nstest.Namespace, prefix netip.Prefix) {
	t.Helper()
	lo, err := client.Links().LinkByName("lo")
	if err != nil {
		t.Fatal(err)
	}
	err = errors.Join(
		client.Sysctl("net/ipv6/ip_nonlocal_bind", "1"),
		client.Links().RouteAdd(&netlink.Route{
			LinkIndex: lo.Attrs().Index, Type: unix.RTN_LOCAL, Table: unix.RT_TABLE_LOCAL, Scope: netlink.SCOPE_HOST,
			Dst: &net.IPNet{IP: prefix.Addr().AsSlice(), Mask: net.CIDRMask(prefix.Bits(), prefix.Addr().BitLen())},
		}))
	if err != nil {
		t.Fatal(err)
	}
}

// landing returns which server each client reaches. Every round uses source
// ports of its own: a port from an earlier round would follow the flow that is
// still in conntrack.
func landing(t *testing.T, w *world, round int, clients []netip.Addr, dst netip.AddrPort) map[netip.Addr]string {
	t.Helper()
	ports := fmt.Sprintf("%d %d", 10000+round*10000, 19999+round*10000)
	if err := w.Client.Sysctl("net/ipv4/ip_local_port_range", ports); err != nil {
		t.Fatal(err)
	}
	out := make(map[netip.Addr]string, len(clients))
	for _, c := range clients {
		answer, err := nstest.Dial(w.Client, "udp", c, dst, askTimeout)
		if err != nil {
			t.Fatalf("from %v: %v", c, err)
		}
		out[c] = answer.Server
	}
	return out
}

// TestHashing: with SourceHash and Maglev each of a thousand clients reaches the
// same backend every time, on this node and on another one. When one of five
// backends goes, Maglev moves its clients and few others: no more than 8 %,
// where a simulation with ten thousand clients finds 2 %. When the backend
// returns, all clients are back where they were.
func TestHashing(t *testing.T) {
	t.Parallel()
	for _, scheduler := range []nftdp.Scheduler{nftdp.SchedulerSourceHash, nftdp.SchedulerMaglev} {
		t.Run(scheduler.String(), func(t *testing.T) {
			t.Parallel()
			inFamilies(t, func(t *testing.T, a nstest.Addrs) { testHashing(t, scheduler, a) })
		})
	}
}

func testHashing(t *testing.T, scheduler nftdp.Scheduler, a nstest.Addrs) {
	t.Helper()
	dst := netip.AddrPortFrom(a.Node, 80)
	web := nftdp.Service{
		Name: "web", Protocol: nftdp.ProtocolUDP, Scheduler: scheduler,
		Frontends: nodeWide(80), Backends: backends(0, 1, 2, 3, 4),
	}
	w, other := newWorld(t, nftdp.Config{}, 5), newWorld(t, nftdp.Config{}, 5)
	clients := crowd(t, w.Client, a)
	crowd(t, other.Client, a)

	w.apply(t, web)
	before := landing(t, w, 0, clients, dst)
	wantOnly(t, tally(before), "backend-1", "backend-2", "backend-3", "backend-4", "backend-5")
	slices.Reverse(web.Backends)
	other.apply(t, web)
	if there := landing(t, other, 0, clients, dst); !maps.Equal(before, there) {
		t.Error("the two nodes send clients to different backends")
	}

	setState(&web, 1, nftdp.StateDown)
	w.apply(t, web)
	moved := 0
	for c, server := range landing(t, w, 1, clients, dst) {
		if server == "backend-2" {
			t.Errorf("%v still goes to backend-2", c)
		}
		if before[c] != "backend-2" && before[c] != server {
			moved++
		}
	}
	t.Logf("%d of %d clients of other backends moved", moved, len(clients)-tally(before)["backend-2"])
	if scheduler == nftdp.SchedulerMaglev && moved > len(clients)*8/100 {
		t.Errorf("%d clients of other backends moved", moved)
	}

	setState(&web, 1, nftdp.StateActive)
	w.apply(t, web)
	if after := landing(t, w, 2, clients, dst); !maps.Equal(before, after) {
		t.Error("with the backend back, some clients go elsewhere than at first")
	}
}

// tally counts clients by server.
func tally(landing map[netip.Addr]string) map[string]int {
	out := map[string]int{}
	for _, server := range landing {
		out[server]++
	}
	return out
}
