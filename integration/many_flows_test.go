//go:build linux

package integration

import (
	"net/netip"
	"syscall"
	"testing"

	"github.com/nftdp/go-nftdp/internal/nstest"
	"github.com/nftdp/go-nftdp/nftdp"
)

// TestManyStaleFlows: if a backend with many flows is removed, these go, and no others:
// not those to other backends, and not those that others have led to it.
func TestManyStaleFlows(t *testing.T) {
	t.Parallel()
	inFamilies(t, func(t *testing.T, a nstest.Addrs) {
		t.Parallel()
		w := newWorld(t, nftdp.Config{}, 2)
		w.apply(t, udpService(0, 1))
		at := netip.AddrPortFrom
		removed, kept := at(a.Backend(1), backendPort), at(a.Backend(0), backendPort)
		const each = 3500 // more than 20,000 in all: the kernel filters
		var flows []trackedFlow
		stale := map[trackedFlow]bool{}
		client := a.Client
		for _, kind := range []struct {
			dst, to netip.AddrPort
			stale   bool
		}{
			{at(a.ClusterIP, 53), removed, true},
			{at(a.Node, 30053), removed, true}, // node-wide
			{at(a.ClusterIP, 53), kept, false},
			{at(a.Node, 30053), kept, false},
			{at(a.External, 53), removed, false},    // no frontend
			{at(a.External, 30053), removed, false}, // no address of the node
		} {
			client = client.Next()
			for i := range each {
				src := at(client, uint16(10000+i))
				f := trackedFlow{syscall.IPPROTO_UDP, src, kind.dst, kind.to, src}
				flows = append(flows, f)
				if kind.stale {
					stale[f] = true
				}
			}
		}
		addFlows(t, w.Node, flows)
		w.update(t, nftdp.Change{Set: []nftdp.Service{udpService(0)}})
		left := flowTable(t, w.Node, syscall.IPPROTO_UDP)
		for _, f := range flows {
			if left[f] == stale[f] {
				t.Fatalf("stale is %t, still there %t: %v", stale[f], left[f], f)
			}
		}
	})
}
