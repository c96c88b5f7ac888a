//go:build linux

package integration

import (
	"maps"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/nftdp/go-nftdp/internal/nstest"
	"github.com/nftdp/go-nftdp/nftdp"
)

// limited sets a limit of connections for the backends.
func limited(most uint32, backends []nftdp.Backend) []nftdp.Backend {
	for i := range backends {
		backends[i].MaxConns = most
	}
	return backends
}

// limitedWeb has frontends of two kinds.
func limitedWeb(backends ...nftdp.Backend) nftdp.Service {
	return nftdp.Service{Name: "web", Frontends: append(nodeWide(30644), on(clusterIP, 80)...), Backends: backends}
}

// retryPause is between two tries to get a connection.
const retryPause = 5 * time.Millisecond

// connectAgain tries until a connection succeeds, and keeps it.
func connectAgain(t *testing.T, from *nstest.Namespace, dst netip.AddrPort) *nstest.Conn {
	t.Helper()
	poll := time.NewTicker(retryPause)
	defer poll.Stop()
	for deadline := time.Now().Add(askTimeout); ; <-poll.C {
		c, err := nstest.DialTCP(from, netip.Addr{}, dst, askTimeout)
		switch {
		case err == nil:
			t.Cleanup(func() { _ = c.Close() })
			return c
		case time.Now().After(deadline):
			t.Fatalf("tcp from %s to %v: %v after %v", from.Name, dst, err, askTimeout)
		}
	}
}

// TestMaxConns: a backend keeps as many connections as its limit, over all
// frontends, and the next one is refused, wherever it comes from. A connection that
// is closed or reset makes room at once, although conntrack keeps it in TIME_WAIT
// for two minutes.
func TestMaxConns(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nftdp.Config{Internal: podNets()}, 2)
	w.apply(t, limitedWeb(limited(4, backends(0))...))
	inFamilies(t, func(t *testing.T, a nstest.Addrs) {
		nodePort, vip := netip.AddrPortFrom(a.Node, 30644), netip.AddrPortFrom(a.ClusterIP, 80)
		conns := slices.Concat(
			connect(t, 2, w.Client, nodePort), connect(t, 1, w.Backends[1], vip), connect(t, 1, w.Node, nodePort))
		full := func() {
			t.Helper()
			for range 3 {
				for _, from := range []*nstest.Namespace{w.Client, w.Node, w.Backends[0], w.Backends[1]} {
					wantRefused(t, from, "tcp", nodePort)
					wantRefused(t, from, "tcp", vip)
				}
			}
		}
		full()
		wantAlive(t, conns)

		closeOrFail(t, conns[0])
		conns[0] = connectAgain(t, w.Backends[1], vip)
		full()
		if err := conns[2].Reset(); err != nil {
			t.Error(err)
		}
		conns[2] = connectAgain(t, w.Client, nodePort)
		full()
		wantAlive(t, conns)
	})
}

// TestMaxConnsDrop: with ActionDrop connections over the limit get no answer.
func TestMaxConnsDrop(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nftdp.Config{}, 1)
	web := limitedWeb(limited(2, backends(0))...)
	withNoBackend(nftdp.ActionDrop, web.Frontends)
	w.apply(t, web)
	inFamilies(t, func(t *testing.T, a nstest.Addrs) {
		dst := netip.AddrPortFrom(a.Node, 30644)
		conns := connect(t, 2, w.Client, dst)
		for _, from := range []*nstest.Namespace{w.Client, w.Node} {
			if got := attempt(from, "tcp", dst, silence); got != "silence" {
				t.Errorf("from %s over the limit: %s, want silence", from.Name, got)
			}
		}
		wantAlive(t, conns)
		closeOrFail(t, conns[0])
		conns[0] = connectAgain(t, w.Client, dst)
		wantAlive(t, conns)
	})
}

// TestMaxConnsOfOne: if one of two backends is full, connections that are sent to
// it are refused, and those that are sent to the other one are not.
func TestMaxConnsOfOne(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nftdp.Config{}, 2)
	w.apply(t, limitedWeb(append(limited(3, backends(0)), backends(1)...)...))
	inFamilies(t, func(t *testing.T, a nstest.Addrs) {
		got := w.keepCalling(t, a, attempts)
		if got["backend-1"] != 3 || len(got) != 3 || got["backend-2"] == 0 || got["refused"] == 0 {
			t.Errorf("connections: %v, want 3 to backend-1, the others to backend-2 or refused", got)
		}
	})
}

// TestMaxConnsOfServices: services in which a backend has the same limit share it,
// and a service with another limit has a count of its own.
func TestMaxConnsOfServices(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nftdp.Config{}, 1)
	w.apply(t,
		nftdp.Service{Name: "a", Frontends: nodeWide(30001), Backends: limited(3, backends(0))},
		nftdp.Service{Name: "b", Frontends: nodeWide(30002), Backends: limited(3, backends(0))},
		nftdp.Service{Name: "c", Frontends: nodeWide(30003), Backends: limited(2, backends(0))},
		nftdp.Service{Name: "d", Frontends: nodeWide(30004), Backends: backends(0)})
	inFamilies(t, func(t *testing.T, a nstest.Addrs) {
		dst := func(port uint16) netip.AddrPort { return netip.AddrPortFrom(a.Node, port) }
		conns := slices.Concat(connect(t, 4, w.Client, dst(30004)),
			connect(t, 1, w.Client, dst(30001)), connect(t, 2, w.Client, dst(30002)), connect(t, 2, w.Client, dst(30003)))
		for _, port := range []uint16{30001, 30002, 30003} {
			wantRefused(t, w.Client, "tcp", dst(port))
		}
		connect(t, 1, w.Client, dst(30004))
		wantAlive(t, conns)
	})
}

// TestMaxConnsUDP: a UDP socket counts as long as conntrack has its flow.
func TestMaxConnsUDP(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nftdp.Config{}, 1)
	dns := nftdp.Service{Name: "dns", Protocol: nftdp.ProtocolUDP, Frontends: nodeWide(30053), Backends: limited(2, backends(0))}
	w.apply(t, dns)
	inFamilies(t, func(t *testing.T, a nstest.Addrs) {
		dst := netip.AddrPortFrom(a.Node, 30053)
		first, second, third := dialUDP(t, w.Client, dst), dialUDP(t, w.Client, dst), dialUDP(t, w.Client, dst)
		wantAll(t, []*udpClient{first, second}, "backend-1")
		third.want(t, "refused")
		wantAll(t, []*udpClient{first, second}, "backend-1")
		third.want(t, "refused")

		if n, err := w.dataplane.Cut(t.Context(), "dns", netip.AddrPortFrom(a.Backend(0), backendPort)); n != 2 || err != nil {
			t.Fatalf("cut: %d flows, %v; want 2", n, err)
		}
		wantSoonUDP(t, w.Client, dst, "backend-1")
		wantSoonUDP(t, w.Client, dst, "backend-1")
		second.want(t, "refused")
	})
}

// wantSoonUDP fails unless that server answers one of the next new sockets. The kernel
// finds out one after the other that flows are gone: an entry of another CPU counts
// until it is two jiffies old (find_or_evict in net/netfilter/nf_conncount.c). One
// socket would not do for all tries: it is counted twice for as long as its flow lasts
// if it was refused twice within a jiffy and is let in within the next two.
func wantSoonUDP(t *testing.T, from *nstest.Namespace, dst netip.AddrPort, server string) {
	t.Helper()
	poll := time.NewTicker(retryPause)
	defer poll.Stop()
	for deadline := time.Now().Add(askTimeout); ; <-poll.C {
		c := dialUDP(t, from, dst)
		got := c.try(t, askTimeout)
		switch {
		case got == server:
			return
		case time.Now().After(deadline):
			t.Errorf("datagrams from %v to %v: %s, want %s", c.local(), dst, got, server)
			return
		}
	}
}

// TestMaxConnsKeepsCount: connections stay counted when services change, theirs
// included, and when a new process takes over. Another limit starts a new count.
func TestMaxConnsKeepsCount(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nftdp.Config{}, 2)
	web := limitedWeb(limited(2, backends(0))...)
	other := nftdp.Service{Name: "other", Frontends: nodeWide(30999), Backends: limited(7, backends(0))}
	w.apply(t, web)
	conns := map[string][]*nstest.Conn{}
	dst := func(a nstest.Addrs) netip.AddrPort { return netip.AddrPortFrom(a.Node, 30644) }
	for _, a := range nstest.Families() {
		conns[a.Family] = connect(t, 2, w.Client, dst(a))
	}
	full := func(after string) {
		t.Helper()
		for _, a := range nstest.Families() {
			if got := attempt(w.Client, "tcp", dst(a), askTimeout); got != "refused" {
				t.Errorf("%s: %s, want refused", after, got)
			}
		}
	}
	full("at first")
	w.update(t, nftdp.Change{Set: []nftdp.Service{other}})
	full("a service added")
	w.apply(t, web)
	full("a service removed")
	web.Frontends = append(web.Frontends, on(external, 80)...)
	w.apply(t, web)
	full("a frontend added")
	web.Backends = append(web.Backends, backends(1)...)
	w.apply(t, web)
	web.Backends = limited(2, backends(0))
	w.apply(t, web)
	full("a backend added and removed")
	closeOrFail(t, w.dataplane)
	w.open(t, nftdp.Config{})
	full("the process ended")
	w.apply(t, web)
	full("another process took over")

	web.Backends = limited(1, backends(0))
	w.apply(t, web)
	for _, a := range nstest.Families() {
		wantAlive(t, append(conns[a.Family], connect(t, 1, w.Client, dst(a))...))
	}
	full("another limit")
}

// TestMaxConnsUnderLoad: however many clients connect at the same time, the backend
// ends up with as many connections as its limit, and never has more.
func TestMaxConnsUnderLoad(t *testing.T) {
	t.Parallel()
	const most, callers, calls = 5, 8, 50
	w := newWorld(t, nftdp.Config{}, 1)
	w.apply(t, limitedWeb(limited(most, backends(0))...))
	inFamilies(t, func(t *testing.T, a nstest.Addrs) {
		results := make(chan map[string]int)
		for range callers {
			go func() {
				results <- w.keepCalling(t, a, calls)
			}()
		}
		total := map[string]int{}
		for range callers {
			for k, n := range <-results {
				total[k] += n
			}
		}
		if want := map[string]int{"backend-1": most, "refused": callers*calls - most}; !maps.Equal(total, want) {
			t.Errorf("connections: %v, want %v", total, want)
		}
	})
}

// keepCalling makes n connections, keeps those that succeed, and counts them by
// server, and the others by outcome.
func (w *world) keepCalling(t *testing.T, a nstest.Addrs, n int) map[string]int {
	t.Helper()
	got := map[string]int{}
	for range n {
		c, err := nstest.DialTCP(w.Client, netip.Addr{}, netip.AddrPortFrom(a.Node, 30644), askTimeout)
		if err == nil {
			t.Cleanup(func() { _ = c.Close() })
			got[c.Answer.Server]++
		} else {
			got[outcome(nstest.Answer{}, err)]++
		}
	}
	return got
}
