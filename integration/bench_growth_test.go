//go:build linux

package integration

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/nftdp/go-nftdp/nftdp"
)

// growing are services whose cost does not follow from their number alone.
var growing = []struct {
	name     string
	sizes    []int
	services func(n int) []nftdp.Service
}{
	{"round-robin", []int{300, 3_000}, func(n int) []nftdp.Service {
		return eachOf(n, func(_ int, s *nftdp.Service) { s.Scheduler = nftdp.SchedulerRoundRobin })
	}},
	{"own-list", []int{400, 4_000}, func(n int) []nftdp.Service {
		return eachOf(n, func(i int, s *nftdp.Service) {
			s.Frontends[0].Allow = []netip.Prefix{netip.PrefixFrom(ipv4(10, 8, i), 32), netip.MustParsePrefix("192.0.2.0/24")}
		})
	}},
	{"maglev", []int{30, 300}, func(n int) []nftdp.Service {
		return eachOf(n, func(_ int, s *nftdp.Service) { s.Scheduler = nftdp.SchedulerMaglev })
	}},
	{"range", []int{1_000, 10_000}, func(n int) []nftdp.Service {
		return eachOf(n, func(_ int, s *nftdp.Service) {
			s.Frontends[0].EndPort = s.Frontends[0].Port + 9
			s.Backends = []nftdp.Backend{{Addr: netip.AddrPortFrom(s.Backends[0].Addr.Addr(), 0)}}
		})
	}},
}

// shortened returns the first n sizes only, with -short.
func shortened(sizes []int, n int) []int {
	if testing.Short() {
		return sizes[:n]
	}
	return sizes
}

// eachOf returns n services that are changed by a function.
func eachOf(n int, change func(i int, s *nftdp.Service)) []nftdp.Service {
	all := manyServices(n)
	for i := range all {
		change(i, &all[i])
	}
	return all
}

// BenchmarkGrowth loads services of a kind, and restarts with them.
func BenchmarkGrowth(b *testing.B) {
	for _, kind := range growing {
		for _, n := range shortened(kind.sizes, 1) {
			b.Run(fmt.Sprintf("of=%s/services=%d", kind.name, n), func(b *testing.B) {
				services := kind.services(n)
				loads, restarts := newLaps(), newLaps()
				for b.Loop() {
					ns := newNamespace(b)
					begin := time.Now()
					load(b, ns, services)
					loads.add(begin)
					begin = time.Now()
					d := open(b, ns, nftdp.Config{})
					plan, err := d.Apply(b.Context(), services)
					restarts.add(begin)
					mustKeep(b, plan, err)
					closeOrFail(b, d)
				}
				loads.report(b, "load-p50-ns")
				restarts.report(b, "restart-p50-ns")
			})
		}
	}
}

// BenchmarkManyFrontends changes one frontend of a service with many, which with
// affinity know each other.
func BenchmarkManyFrontends(b *testing.B) {
	for _, n := range shortened([]int{60, 6_000, 60_000}, 2) {
		b.Run(fmt.Sprintf("affinity=0/frontends=%d", n), func(b *testing.B) { changeOneFrontend(b, n, 0) })
	}
	for _, n := range shortened([]int{60, 600, 6_000}, 1) {
		b.Run(fmt.Sprintf("affinity=10/frontends=%d", n), func(b *testing.B) { changeOneFrontend(b, n, 10*time.Second) })
	}
}

// changeOneFrontend changes how the connections of one frontend are masqueraded: by a
// verdict, for which the kernel validates those of all frontends, and back, by none. The
// kernel's share is that of the transactions.
func changeOneFrontend(b *testing.B, n int, affinity time.Duration) {
	b.Helper()
	s := service(0, poolSize)
	s.Affinity = nftdp.Duration(affinity)
	for i := 1; i < n; i++ {
		s.Frontends = append(s.Frontends, nftdp.Frontend{Addr: clusterAddr(i % 600), Port: uint16(80 + i/600)})
	}
	s.Frontends[0].Masquerade = nftdp.MasqueradeAlways // so that the chain is there
	d := openLoaded(b, []nftdp.Service{s})
	var committing time.Duration
	d.Observe(func(e nftdp.Event) {
		if e.Kind == nftdp.EventTransaction {
			committing += e.Duration
		}
	})
	changed := &s.Frontends[n/2]
	change := func(to nftdp.Masquerade, all, kernel *laps) {
		changed.Masquerade, committing = to, 0
		begin := time.Now()
		plan, err := d.Update(b.Context(), nftdp.Change{Set: []nftdp.Service{s}})
		all.add(begin)
		mustChange(b, plan, err)
		*kernel = append(*kernel, committing)
	}
	verdict, verdictKernel, back, backKernel := newLaps(), newLaps(), newLaps(), newLaps()
	for b.Loop() {
		change(nftdp.MasqueradeAlways, verdict, verdictKernel)
		change(nftdp.MasqueradeAuto, back, backKernel)
	}
	verdict.report(b, "verdict-p50-ns")
	verdictKernel.report(b, "verdict-kernel-p50-ns")
	back.report(b, "back-p50-ns")
	backKernel.report(b, "back-kernel-p50-ns")
}
