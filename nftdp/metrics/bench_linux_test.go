package metrics

import (
	"cmp"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/nftdp/go-nftdp/internal/nstest"
	"github.com/nftdp/go-nftdp/nftdp"
)

// BenchmarkUpdateScraped replaces a backend among 10,000 services of ten backends each,
// 2,000 times each in turns alone, with an observer that logs everything, with a
// Collector, while another goroutine computes without a pause, and while the Collector
// is scraped without a pause. It reports the medians of each, and the 99th percentiles,
// divided by those of the first. Scrapes keep a processor busy: what that costs by
// itself, if there are few, is what the goroutine that computes costs.
func BenchmarkUpdateScraped(b *testing.B) {
	d, err := nftdp.Config{}.OpenIn(b.Context(), nstest.NewTestNamespace(b).Handle())
	if err != nil {
		b.Fatal(err)
	}
	defer d.Close()
	services := make([]nftdp.Service, 10000)
	for i := range services {
		services[i] = nftdp.Service{
			Name:      fmt.Sprint("s", i),
			Frontends: []nftdp.Frontend{{Addr: netip.AddrFrom4([4]byte{10, 96, byte(i >> 8), byte(i)}), Port: 80}},
		}
		for j := range 10 {
			services[i].Backends = append(services[i].Backends, nftdp.Backend{
				Addr: netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, byte(100 + j), byte(i >> 8), byte(i)}), 80),
			})
		}
	}
	if _, err := d.Apply(b.Context(), services); err != nil {
		b.Fatal(err)
	}
	n := 0
	updates := func() [2]time.Duration {
		const rounds = 2000
		took := make([]time.Duration, rounds)
		for i := range took {
			s := services[n%len(services)]
			s.Backends = slices.Clone(s.Backends)
			s.Backends[0].Addr = netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 200, byte(n >> 8), byte(n)}), 80)
			n++
			begin := time.Now()
			if _, err := d.Update(b.Context(), nftdp.Change{Set: []nftdp.Service{s}}); err != nil {
				b.Fatal(err)
			}
			took[i] = time.Since(begin)
		}
		slices.Sort(took)
		return [2]time.Duration{took[rounds/2], took[rounds*99/100]}
	}
	var alone, logged, collected, busy, scraped [][2]time.Duration
	var idle atomic.Bool
	scrapes := 0
	for b.Loop() {
		alone = append(alone, updates())
		stop := d.Observe(nftdp.LogEvents(slog.New(slog.NewTextHandler(io.Discard, nil))))
		logged = append(logged, updates())
		stop()
		collector := New(d, Options{Backends: 1000})
		collected = append(collected, updates())
		done := make(chan struct{})
		go func() {
			defer close(done)
			for x := 0; !idle.Load(); x++ {
				_ = x
			}
		}()
		busy = append(busy, updates())
		idle.Store(true)
		<-done
		idle.Store(false)
		end, ended := make(chan struct{}), make(chan error, 1)
		registry := prometheus.NewRegistry()
		registry.MustRegister(collector)
		go func() {
			for {
				select {
				case <-end:
					ended <- nil
					return
				default:
				}
				if _, err := registry.Gather(); err != nil {
					ended <- err
					return
				}
				scrapes++
			}
		}()
		scraped = append(scraped, updates())
		close(end)
		if err := <-ended; err != nil {
			b.Fatal(err)
		}
		collector.Close()
	}
	b.ReportMetric(0, "ns/op")
	for i, percentile := range []string{"p50", "p99"} {
		median := func(all [][2]time.Duration) float64 {
			slices.SortFunc(all, func(x, y [2]time.Duration) int { return cmp.Compare(x[i], y[i]) })
			return float64(all[len(all)/2][i])
		}
		b.ReportMetric(median(logged)/median(alone), "logged/alone-"+percentile)
		b.ReportMetric(median(collected)/median(alone), "collected/alone-"+percentile)
		b.ReportMetric(median(busy)/median(alone), "busy/alone-"+percentile)
		b.ReportMetric(median(scraped)/median(alone), "scraped/alone-"+percentile)
	}
	b.ReportMetric(float64(scrapes)/float64(b.N), "scrapes/op")
}
