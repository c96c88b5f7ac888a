//go:build linux

package integration

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"github.com/nftdp/go-nftdp/internal/nstest"
	"github.com/nftdp/go-nftdp/nftdp"
)

// TestMatrix sends real connections through every kind of frontend, with every
// protocol and family, from every kind of client, and checks who answers and
// which source address it saw. No process on the node listens meanwhile.
//
// All frontends of a protocol belong to one service, whose only backend is
// backend-1, so that a connection of backend-1 is a hairpin.
func TestMatrix(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name     string
		internal []netip.Prefix
		keeps    []string // the clients whose own address the backend sees
	}{
		{"internal=none", nil, nil},
		{"internal=pods", podNets(), []string{"other-backend"}},
		{"internal=pods,client", append(podNets(), clientNets()...), []string{"other-backend", "outside"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, nftdp.Config{Internal: c.internal}, 2)
			w.apply(t, matrixServices()...)
			for _, p := range protocols() {
				for _, a := range nstest.Families() {
					for _, f := range matrixFrontends(a) {
						for _, client := range w.matrixClients(a) {
							name := fmt.Sprintf("%s/%s/%s/%s", p.name, a.Family, f.name, client.name)
							t.Run(name, func(t *testing.T) {
								answer := askFor(t, "backend-1", client.ns, p.name, f.dst)
								kept := slices.Contains(c.keeps, client.name)
								checkSource(t, a, answer.Client.Addr(), client.addr, kept)
							})
						}
					}
				}
			}
			wantNoListener(t, w.Node)
		})
	}
}

// matrixServices are one service for each protocol, each with all frontends.
func matrixServices() []nftdp.Service {
	frontends := slices.Concat(nodeWide(80), nodeWide(30644),
		on(nodeAddr, 443), on(clusterIP, 80), on(external, 80))
	var all []nftdp.Service
	for _, p := range protocols() {
		all = append(all, nftdp.Service{
			Name: "default/web:" + p.name, Protocol: p.proto, Frontends: frontends, Backends: backends(0),
		})
	}
	return all
}

type matrixFrontend struct {
	name string
	dst  netip.AddrPort
}

func matrixFrontends(a nstest.Addrs) []matrixFrontend {
	return []matrixFrontend{
		{"nodeip80", netip.AddrPortFrom(a.Node, 80)},
		{"nodeport30644", netip.AddrPortFrom(a.Node, 30644)},
		{"nodeport30644-uplink", netip.AddrPortFrom(a.Uplink, 30644)},
		{"nodeaddr443", netip.AddrPortFrom(a.Node, 443)},
		{"clusterip80", netip.AddrPortFrom(a.ClusterIP, 80)},
		{"external80", netip.AddrPortFrom(a.External, 80)},
	}
}

type matrixClient struct {
	name string
	ns   *nstest.Namespace
	addr netip.Addr // not set: the backend never sees it
}

func (w *world) matrixClients(a nstest.Addrs) []matrixClient {
	return []matrixClient{
		{"outside", w.Client, a.Client},
		{"local", w.Node, netip.Addr{}},
		{"hairpin", w.Backends[0], a.Backend(0)},
		{"other-backend", w.Backends[1], a.Backend(1)},
	}
}

// checkSource fails unless the address that a backend saw is the client's own, or,
// unless it was kept, one of the node's.
func checkSource(t *testing.T, a nstest.Addrs, saw, own netip.Addr, kept bool) {
	t.Helper()
	if kept && saw != own {
		t.Errorf("the backend saw %v, want the client's own %v", saw, own)
	}
	if !kept && !a.IsNode(saw) {
		t.Errorf("the backend saw %v, want an address of the node", saw)
	}
}

// wantNoListener fails if any socket of the namespace takes connections. Then only
// translation can have led to an answer there.
func wantNoListener(t *testing.T, ns *nstest.Namespace) {
	t.Helper()
	for _, protocol := range []string{"tcp", "udp"} {
		sockets, err := ns.Listening(protocol)
		if err != nil {
			t.Fatal(err)
		}
		if len(sockets) != 0 {
			t.Errorf("%s sockets in %s: %v, want none", protocol, ns.Name, sockets)
		}
	}
}
