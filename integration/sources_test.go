//go:build linux

package integration

import (
	"testing"

	"github.com/nftdp/go-nftdp/nftdp"
)

// TestSourceBesideNodeWide: what backends see of a client follows the frontend
// that it connected to, although a node-wide one with the same port leads to
// the same backends.
func TestSourceBesideNodeWide(t *testing.T) {
	t.Parallel()
	never := on(clusterIP, 80)
	for i := range never {
		never[i].Masquerade = nftdp.MasqueradeNever
	}
	keeping := on(external, 80)
	for i := range keeping {
		keeping[i].Policy = nftdp.ExternalLocalOnly
	}
	local := to("L1")
	for i := range local {
		local[i].Local = true
	}
	(&packetCase{
		config: nftdp.Config{Internal: podNets()},
		services: []nftdp.Service{
			{Name: "never", Frontends: never, Backends: to("L1")},
			{Name: "keeping", Frontends: keeping, Backends: local},
			{Name: "node", Frontends: nodeWide(80), Backends: to("L1")},
		},
		packets: []packet{
			{from: "C", to: clusterIP, port: 80, want: "L1", source: "C"},
			{from: "C", to: external, port: 80, want: "L1", source: "C"},
			{from: "C", to: nodeAddr, port: 80, want: "L1", source: "N"},
			{from: "L2", to: external, port: 80, want: "L1", source: "L2"},
			{from: "N", to: external, port: 80, want: "L1", source: "N"},
		},
	}).send(t)
}
