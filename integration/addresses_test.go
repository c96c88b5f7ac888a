//go:build linux

package integration

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/nftdp/go-nftdp/internal/address"
	"github.com/nftdp/go-nftdp/internal/compile"
	"github.com/nftdp/go-nftdp/internal/engine"
	"github.com/nftdp/go-nftdp/internal/host"
	"github.com/nftdp/go-nftdp/internal/nstest"
	"github.com/nftdp/go-nftdp/internal/ruleset"
)

// TestAddressArrives: a client that sends to an address before the node has it is
// served by a node-wide frontend with its first datagram, or connection from the
// same port, after the engine knows of the address. When the address leaves
// the node, the flow ends. Flows to other addresses go on.
func TestAddressArrives(t *testing.T) {
	t.Parallel()
	inFamilies(t, func(t *testing.T, a nstest.Addrs) {
		t.Parallel()
		w := &world{Topology: newTopology(t, 1)}
		serve(t, w.Backends[0], backendPort, "tcp", "udp")
		e := openEngine(t, w.Node)
		var services []*compile.Service
		for proto, name := range map[uint8]string{compile.UDP: "udp", compile.TCP: "tcp"} {
			services = append(services, &compile.Service{Name: name, Proto: proto, Frontends: []compile.Frontend{{
				Addr: ruleset.FamilyOf(a.Node).Unspecified(), Port: 30644,
				Pool: []netip.AddrPort{netip.AddrPortFrom(a.Backend(0), backendPort)},
			}}})
		}
		if _, err := e.Commit(t.Context(), &engine.Edit{Whole: true, Set: services}); err != nil {
			t.Fatal(err)
		}
		vip := netip.AddrPortFrom(a.External, 30644)
		client, other := dialUDP(t, w.Client, vip), dialUDP(t, w.Client, netip.AddrPortFrom(a.Node, 30644))
		other.want(t, "backend-1")
		unserved := func() {
			t.Helper()
			if got := client.try(t, silence); got == "backend-1" {
				t.Errorf("served by %s", got)
			}
		}
		unserved()
		wantFrom(t, "silence", w.Client, "tcp", a.Client, vip)
		if err := w.Node.AddAddr("lo", single(a.External)); err != nil {
			t.Fatal(err)
		}
		waitLocal(t, w.Node, a.External)
		if err := e.Addresses(t.Context(), []netip.Addr{a.External}, nil); err != nil {
			t.Fatal(err)
		}
		client.want(t, "backend-1")
		wantFrom(t, "backend-1", w.Client, "tcp", a.Client, vip)
		other.want(t, "backend-1")
		delAddr(t, w.Node, "lo", single(a.External))
		if err := e.Addresses(t.Context(), nil, []netip.Addr{a.External}); err != nil {
			t.Fatal(err)
		}
		unserved()
		other.want(t, "backend-1")
	})
}

func openEngine(t *testing.T, ns *nstest.Namespace) *engine.Engine {
	t.Helper()
	h, err := host.Open(int(ns.Handle()), "nftdp", engine.DecodableSet)
	if err != nil {
		t.Fatal(err)
	}
	e, err := engine.Open(t.Context(), compile.Config{Table: "nftdp", Affinities: 16}, h)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closeOrFail(t, e) })
	return e
}

// waitLocal waits until the kernel delivers packets to an address locally: IPv6 adds
// the route behind the address.
func waitLocal(t *testing.T, ns *nstest.Namespace, addr netip.Addr) {
	t.Helper()
	c, err := address.Dial(int(ns.Handle()))
	if err != nil {
		t.Fatal(err)
	}
	defer closeOrFail(t, c)
	poll := time.NewTicker(time.Millisecond)
	defer poll.Stop()
	for deadline := time.Now().Add(askTimeout); ; <-poll.C {
		local, err := c.LocalAddrs(t.Context(), ruleset.FamilyOf(addr))
		if err != nil || time.Now().After(deadline) {
			t.Fatal("the address is not local:", err)
		}
		if slices.Contains(local, single(addr)) {
			return
		}
	}
}

func delAddr(t *testing.T, ns *nstest.Namespace, link string, addr netip.Prefix) {
	t.Helper()
	if out := tool(t, ns, "ip", "addr", "del", addr.String(), "dev", link); out != "" {
		t.Error(out)
	}
}
