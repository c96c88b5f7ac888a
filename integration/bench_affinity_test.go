//go:build linux

package integration

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/nftdp/go-nftdp/nftdp"
)

// BenchmarkRemembered measures Updates of a service with affinity among remembered
// clients: one that takes a backend from its frontend, after which the map is read
// and what is remembered for that backend is deleted, and one that adds it.
func BenchmarkRemembered(b *testing.B) {
	for _, n := range []int{0, 1_000, 60_000} {
		b.Run(fmt.Sprintf("clients=%d", n), func(b *testing.B) { benchmarkRemembered(b, n) })
	}
}

func benchmarkRemembered(b *testing.B, n int) {
	b.Helper()
	ctx := b.Context()
	node := newNamespace(b)
	d := open(b, node, nftdp.Config{})
	frontend := netip.MustParseAddrPort("10.96.0.10:80")
	service := func(backends int) nftdp.Service {
		s := nftdp.Service{Name: "web", Affinity: anHour, Frontends: []nftdp.Frontend{{Addr: frontend.Addr(), Port: 80}}}
		for i := range backends {
			s.Backends = append(s.Backends, nftdp.Backend{Addr: netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 180, 0, byte(i + 1)}), 80)})
		}
		return s
	}
	if _, err := d.Apply(ctx, []nftdp.Service{service(5)}); err != nil {
		b.Fatal(err)
	}
	clients := make([]nftdp.Affinity, n)
	for i := range clients {
		clients[i] = nftdp.Affinity{
			Service: "web", Client: netip.AddrFrom4([4]byte{198, 18, byte(i >> 8), byte(i)}), Frontend: frontend,
			Backend: service(4).Backends[i%4].Addr, Expires: anHour,
		}
	}
	if added, err := d.AddAffinities(ctx, clients); err != nil || added != n {
		b.Fatal(added, err)
	}
	var adds time.Duration
	count := 0
	for b.Loop() {
		if _, err := d.Update(ctx, nftdp.Change{Set: []nftdp.Service{service(4)}}); err != nil {
			b.Fatal(err)
		}
		begin := time.Now()
		if _, err := d.Update(ctx, nftdp.Change{Set: []nftdp.Service{service(5)}}); err != nil {
			b.Fatal(err)
		}
		adds += time.Since(begin)
		count++
	}
	b.ReportMetric(float64((b.Elapsed()-adds).Microseconds())/float64(count), "µs/taken")
	b.ReportMetric(float64(adds.Microseconds())/float64(count), "µs/added")
}
