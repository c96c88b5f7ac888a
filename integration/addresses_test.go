//go:build linux

package integration

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/nftdp/go-nftdp/internal/address"
	"github.com/nftdp/go-nftdp/internal/nstest"
	"github.com/nftdp/go-nftdp/internal/ruleset"
	"github.com/nftdp/go-nftdp/nftdp"
)

// TestAddressMoves: a client that has sent to an address before the node has it is
// served by a node-wide frontend as soon as Keep, Apply or the empty Update has seen
// the address, with the same socket, or a connection from the same port. When the
// address leaves the node, the flow ends, and when it comes back, it is served again:
// so it is on each of two nodes that take over from each other. Whether the kernel
// holds an address or a local prefix makes no difference. Flows to other addresses go
// on: those to a draining backend would not come back.
func TestAddressMoves(t *testing.T) {
	t.Parallel()
	inFamilies(t, func(t *testing.T, a nstest.Addrs) {
		for name, heal := range map[string]func(t *testing.T, w *world, services []nftdp.Service){
			"Keep": nil,
			"Apply": func(t *testing.T, w *world, services []nftdp.Service) {
				t.Helper()
				if plan := w.apply(t, services...); !plan.Empty() {
					t.Errorf("changes:\n%v", plan)
				}
			},
			"empty Update": func(t *testing.T, w *world, _ []nftdp.Service) {
				t.Helper()
				w.update(t, nftdp.Change{})
			},
		} {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				testAddressMoves(t, a, heal)
			})
		}
	})
}

// testAddressMoves tests it with heal or, if that is nil, with Keep.
func testAddressMoves(t *testing.T, a nstest.Addrs, heal func(*testing.T, *world, []nftdp.Service)) {
	t.Helper()
	w := newWorld(t, nftdp.Config{}, 2)
	services := []nftdp.Service{
		{Name: "udp", Protocol: nftdp.ProtocolUDP, Frontends: nodeWide(30644), Backends: backends(0)},
		{Name: "tcp", Frontends: append(nodeWide(30644), nodeWide(31644)...), Backends: backends(0)},
	}
	w.apply(t, services...)
	vip := netip.AddrPortFrom(a.External, 30644)
	client, other := dialUDP(t, w.Client, vip), dialUDP(t, w.Client, netip.AddrPortFrom(a.Node, 30644))
	other.want(t, "backend-1")
	for i := range services {
		services[i].Backends = backends(0, 1)
		for j := range len(nstest.Families()) {
			services[i].Backends[j].State = nftdp.StateDraining
		}
	}
	w.apply(t, services...)
	seen := func() { heal(t, w, services) }
	if heal == nil {
		reports, stop := keep(t, w.dataplane)
		seen = func() {}
		defer func() {
			stop()
			if len(reports) > 0 {
				t.Errorf("Keep reports a repair, or error %v", <-reports)
			}
		}()
	}
	for i, way := range []struct {
		prefix   netip.Prefix
		add, del func(netip.Prefix) error
	}{
		{
			single(a.External),
			func(p netip.Prefix) error { return w.Node.AddAddr("lo", p) },
			func(p netip.Prefix) error { return w.Node.DelAddr("lo", p) },
		},
		{netip.PrefixFrom(a.External, a.External.BitLen()-8).Masked(), w.Node.AddLocal, w.Node.DelLocal},
	} {
		tcp := netip.AddrPortFrom(a.External, 30644+1000*uint16(i)) // a port has to rest after a connection
		client.until(t, heal != nil, "silence")
		wantFrom(t, "silence", w.Client, "tcp", a.Client, tcp)
		if err := way.add(way.prefix); err != nil {
			t.Fatal(err)
		}
		waitLocal(t, w.Node, way.prefix, true)
		seen()
		client.until(t, heal != nil, "backend-2")
		if heal == nil { // UDP flows are deleted first
			untilFrom(t, w.Client, a.Client, tcp, "backend-2")
		} else {
			wantFrom(t, "backend-2", w.Client, "tcp", a.Client, tcp)
		}
		if err := way.del(way.prefix); err != nil {
			t.Fatal(err)
		}
		waitLocal(t, w.Node, way.prefix, false)
		seen()
	}
	client.until(t, heal != nil, "silence")
	other.want(t, "backend-1")
}

// until sends datagrams until one has an outcome: the first one, if it must be so at
// once.
func (c *udpClient) until(t *testing.T, atOnce bool, want string) {
	t.Helper()
	got := c.try(t, silence)
	for deadline := time.Now().Add(askTimeout); got != want && !atOnce && time.Now().Before(deadline); {
		got = c.try(t, silence)
	}
	if got != want {
		t.Fatalf("datagrams from %v to %v: %s, want %s", c.local(), c.dst, got, want)
	}
}

// untilFrom connects from fixedPort until that has an outcome.
func untilFrom(t *testing.T, ns *nstest.Namespace, src netip.Addr, dst netip.AddrPort, want string) {
	t.Helper()
	got := ""
	for deadline := time.Now().Add(askTimeout); got != want && time.Now().Before(deadline); {
		got = attemptFrom(ns, "tcp", src, dst, silence)
	}
	if got != want {
		t.Errorf("tcp from %v port %d to %v: %s, want %s", src, fixedPort(dst), dst, got, want)
	}
}

// waitLocal waits until a prefix is the node's own, or is not any more: IPv6 adds the
// route behind the address.
func waitLocal(t *testing.T, ns *nstest.Namespace, p netip.Prefix, there bool) {
	t.Helper()
	c, err := address.Dial(int(ns.Handle()))
	if err != nil {
		t.Fatal(err)
	}
	defer closeOrFail(t, c)
	poll := time.NewTicker(time.Millisecond)
	defer poll.Stop()
	for deadline := time.Now().Add(askTimeout); ; <-poll.C {
		local, err := c.LocalAddrs(t.Context(), ruleset.FamilyOf(p.Addr()))
		if err != nil || time.Now().After(deadline) {
			t.Fatalf("%v: want local %t, error %v", p, there, err)
		}
		if slices.Contains(local, p) == there {
			return
		}
	}
}
