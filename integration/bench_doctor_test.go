//go:build linux

package integration

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/nftdp/go-nftdp/internal/nstest"
	"github.com/nftdp/go-nftdp/nftdp"
)

// BenchmarkDoctor examines a node with 10,000 services of ten backends each, all of
// them behind one gateway, and updates one of the services meanwhile.
func BenchmarkDoctor(b *testing.B) {
	top := newTopology(b, 1)
	d := open(b, top.Node, nftdp.Config{})
	defer closeOrFail(b, d)
	services := make([]nftdp.Service, 10000)
	for i := range services {
		services[i] = nftdp.Service{
			Name:      fmt.Sprint("s", i),
			Frontends: []nftdp.Frontend{{Addr: netip.AddrFrom4([4]byte{10, 96, byte(i >> 8), byte(i)}), Port: 80}},
		}
		for j := range 10 {
			n := 10*i + j
			services[i].Backends = append(services[i].Backends, nftdp.Backend{
				Addr: netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, byte(100 + n>>16), byte(n >> 8), byte(n)}), 80),
			})
		}
	}
	if _, err := d.Apply(b.Context(), services); err != nil {
		b.Fatal(err)
	}
	b.Run("examine", func(b *testing.B) {
		for b.Loop() {
			if _, err := d.Doctor(b.Context()); err != nil {
				b.Fatal(err)
			}
		}
	})
	update := func(b *testing.B) {
		for i := 0; b.Loop(); i++ {
			s := services[0]
			s.Backends = s.Backends[:9+i%2]
			if _, err := d.Update(b.Context(), nftdp.Change{Set: []nftdp.Service{s}}); err != nil {
				b.Fatal(err)
			}
		}
	}
	b.Run("update", update)
	b.Run("update meanwhile", func(b *testing.B) {
		load := nstest.StartLoad(b, func() error { _, err := d.Doctor(b.Context()); return err })
		update(b)
		load.Stop(b)
	})
}
