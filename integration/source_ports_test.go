//go:build linux

package integration

import (
	"net/netip"
	"testing"

	"github.com/nftdp/go-nftdp/internal/nstest"
	"github.com/nftdp/go-nftdp/nftdp"
)

// TestSourcePorts: masqueraded connections have random source ports, so that two
// clients cannot be given the same one at the same moment: clients outside, with the
// interface's address and with a chosen one, a backend that reaches itself, and
// processes of the node, also on a loopback address. Others keep their ports.
func TestSourcePorts(t *testing.T) {
	t.Parallel()
	inFamilies(t, func(t *testing.T, a nstest.Addrs) {
		t.Parallel()
		w := newWorld(t, nftdp.Config{Internal: podNets(), Localhost: true}, 2)
		w.apply(t,
			nftdp.Service{Name: "masquerade", Frontends: append(nodeWide(80), on(clusterIP, 80)...), Backends: backends(0)},
			nftdp.Service{Name: "snat", Frontends: on(clusterIP, 81), Backends: backends(0), SNAT: []netip.Addr{nstest.IPv4().PodGW, nstest.IPv6().PodGW}},
			nftdp.Service{Name: "never", Frontends: withMasquerade(nftdp.MasqueradeNever, on(clusterIP, 82)), Backends: backends(0)},
		)
		for _, c := range []struct {
			from   *nstest.Namespace
			dst    netip.Addr
			port   uint16
			random bool
		}{
			{w.Client, a.ClusterIP, 80, true},
			{w.Client, a.Node, 80, true},
			{w.Client, a.ClusterIP, 81, true},
			{w.Node, a.ClusterIP, 80, true},
			{w.Node, loopback(a), 80, true},
			{w.Backends[0], a.ClusterIP, 80, true},
			{w.Backends[1], a.ClusterIP, 80, false},
			{w.Client, a.ClusterIP, 82, false},
		} {
			kept := 0
			for _, conn := range connect(t, 5, c.from, netip.AddrPortFrom(c.dst, c.port)) {
				if conn.Answer.Client.Port() == conn.LocalAddr().Port() {
					kept++
				}
			}
			if c.random && kept > 1 || !c.random && kept < 5 {
				t.Errorf("from %s to %v:%d: %d of 5 connections kept their port", c.from.Name, c.dst, c.port, kept)
			}
		}
	})
}
