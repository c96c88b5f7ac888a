//go:build linux

package integration

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/nftdp/go-nftdp/internal/nstest"
	"github.com/nftdp/go-nftdp/nftdp"
)

// TestPrecedence: on its address a frontend with an address of the node wins over a
// node-wide one of the same port, whatever their order and names, even while it
// has no backend.
func TestPrecedence(t *testing.T) {
	t.Parallel()
	inFamilies(t, func(t *testing.T, a nstest.Addrs) {
		w := newWorld(t, nftdp.Config{}, 2)
		special := nftdp.Service{Name: "m", Frontends: on(nodeAddr, 80), Backends: backends(0)}
		general := nftdp.Service{Frontends: nodeWide(80), Backends: backends(1)}
		for _, name := range []string{"a", "z"} {
			general.Name = name
			services := []nftdp.Service{special, general}
			for range 2 {
				slices.Reverse(services)
				w.apply(t, services...)
				for _, from := range []*nstest.Namespace{w.Client, w.Node, w.Backends[1]} {
					askFor(t, "backend-1", from, "tcp", netip.AddrPortFrom(a.Node, 80))
					askFor(t, "backend-2", from, "tcp", netip.AddrPortFrom(a.Uplink, 80))
				}
			}
		}
		special.Backends = nil
		w.apply(t, special, general)
		wantRefused(t, w.Client, "tcp", netip.AddrPortFrom(a.Node, 80))
		askFor(t, "backend-2", w.Client, "tcp", netip.AddrPortFrom(a.Uplink, 80))

		w.apply(t, general)
		askFor(t, "backend-2", w.Client, "tcp", netip.AddrPortFrom(a.Node, 80))
	})
}

// TestSamePortOnOtherAddress: two services on the same port of different node
// addresses get their own connections.
func TestSamePortOnOtherAddress(t *testing.T) {
	t.Parallel()
	inFamilies(t, func(t *testing.T, a nstest.Addrs) {
		w := newWorld(t, nftdp.Config{}, 2)
		w.apply(t,
			nftdp.Service{Name: "a", Frontends: on(nodeAddr, 80), Backends: backends(0)},
			nftdp.Service{Name: "b", Frontends: on(uplink, 80), Backends: backends(1)})
		for range attempts {
			askFor(t, "backend-1", w.Client, "tcp", netip.AddrPortFrom(a.Node, 80))
			askFor(t, "backend-2", w.Client, "tcp", netip.AddrPortFrom(a.Uplink, 80))
		}
		wantRefused(t, w.Client, "tcp", netip.AddrPortFrom(a.PodGW, 80))
	})
}

// TestSamePortOtherProtocol: TCP, UDP and SCTP on the same address and port can be
// three services, each with its own backends and backend port.
func TestSamePortOtherProtocol(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nftdp.Config{}, 3)
	var services []nftdp.Service
	for i, p := range protocols() {
		port := uint16(8443 + i)
		serve(t, w.Backends[i], port, p.name)
		s := nftdp.Service{
			Name: "dns:" + p.name, Protocol: p.proto, Frontends: append(nodeWide(443), on(clusterIP, 443)...),
		}
		for _, a := range nstest.Families() {
			s.Backends = append(s.Backends, nftdp.Backend{Addr: netip.AddrPortFrom(a.Backend(i), port)})
		}
		services = append(services, s)
	}
	w.apply(t, services...)
	for _, a := range nstest.Families() {
		for i, p := range protocols() {
			for _, addr := range []netip.Addr{a.Node, a.ClusterIP} {
				counts := count(t, attempts, w.Client, p.name, netip.AddrPortFrom(addr, 443))
				wantOnly(t, counts, w.Backends[i].Name)
			}
		}
	}
}
