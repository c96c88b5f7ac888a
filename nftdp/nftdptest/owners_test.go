package nftdptest_test

import (
	"net/netip"
	"testing"
	"time"

	"github.com/nftdp/go-nftdp/nftdp"
	"github.com/nftdp/go-nftdp/nftdp/nftdptest"
)

// TestOwnersFlows: UDP flows and remembered clients of other owners' services stay
// when a service changes that would take their packets otherwise, or when one with
// affinity goes.
func TestOwnersFlows(t *testing.T) {
	here := netip.MustParseAddr("192.0.2.1")
	n := nftdptest.NewNode(here)
	open := func(owner string) *nftdp.Dataplane {
		d, err := n.Open(t.Context(), nftdp.Config{Owner: owner})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := d.Close(); err != nil {
				t.Error(err)
			}
		})
		return d
	}
	service := func(name string, at netip.Addr, port uint16, backend string) nftdp.Service {
		return nftdp.Service{
			Name: name, Protocol: nftdp.ProtocolUDP, Affinity: nftdp.Duration(time.Hour),
			Frontends: []nftdp.Frontend{{Addr: at, Port: port}},
			Backends:  []nftdp.Backend{{Addr: netip.MustParseAddrPort(backend)}},
		}
	}
	update := func(d *nftdp.Dataplane, c nftdp.Change) {
		t.Helper()
		if _, err := d.Update(t.Context(), c); err != nil {
			t.Fatal(err)
		}
	}
	a, b := open("a"), open("b")
	wide := service("a/wide", netip.Addr{}, 53, "10.180.0.1:53")
	update(a, nftdp.Change{Set: []nftdp.Service{wide, service("a/other", netip.Addr{}, 54, "10.180.0.1:53")}})
	update(b, nftdp.Change{Set: []nftdp.Service{service("b/on", here, 53, "10.180.0.2:53")}}) // a does not know of it
	n.Send(nftdptest.Packet{
		Protocol: nftdp.ProtocolUDP, Source: netip.MustParseAddrPort("203.0.113.7:4000"), Destination: netip.AddrPortFrom(here, 53),
	})
	wide.Backends[0].Addr = netip.MustParseAddrPort("10.180.0.3:53")
	update(a, nftdp.Change{Set: []nftdp.Service{wide}, Delete: []string{"a/other"}})
	update(open("a"), nftdp.Change{Delete: []string{"a/wide"}})
	flows, err := b.Flows(t.Context(), "b/on")
	if err != nil || len(flows) != 1 {
		t.Errorf("flows %v, error %v", flows, err)
	}
	clients, err := b.Affinities(t.Context())
	if err != nil || len(clients) != 1 || clients[0].Service != "b/on" {
		t.Errorf("clients %v, error %v", clients, err)
	}
	if _, err := a.Flows(t.Context(), "b/on"); err == nil {
		t.Error("a lists flows of b")
	}
}
