//go:build linux

package integration

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/nftdp/go-nftdp/internal/nstest"
	"github.com/nftdp/go-nftdp/nftdp"
)

// The table in the README is printed by
//
//	go test ./integration -run '^$' -bench . -count 5 -timeout 1h | go run ./integration/benchtable

// poolSize is the number of backends of every service here.
const poolSize = 10

// inSizes runs a benchmark with increasing numbers of services.
func inSizes(b *testing.B, bench func(b *testing.B, n int)) {
	b.Helper()
	sizes := []int{100, 1_000, 10_000, 50_000}
	if testing.Short() {
		sizes = sizes[:2]
	}
	for _, n := range sizes {
		b.Run(fmt.Sprintf("services=%d", n), func(b *testing.B) { bench(b, n) })
	}
}

// BenchmarkUpdateBackend replaces one backend, each time of a different service.
func BenchmarkUpdateBackend(b *testing.B) {
	inSizes(b, func(b *testing.B, n int) {
		before, after := manyServices(n), replacedBackends(n)
		d := openLoaded(b, before)
		laps := newLaps()
		b.ReportAllocs()
		for i := 0; b.Loop(); i++ {
			if i == n {
				i, before, after = 0, after, before
			}
			begin := time.Now()
			plan, err := d.Update(b.Context(), nftdp.Change{Set: after[i : i+1]})
			laps.add(begin)
			mustChange(b, plan, err)
		}
		laps.report(b, "p50-ns")
	})
}

// BenchmarkUpdateService adds a service and removes it again.
func BenchmarkUpdateService(b *testing.B) {
	inSizes(b, func(b *testing.B, n int) {
		d := openLoaded(b, manyServices(n))
		extra := []nftdp.Service{service(n, poolSize)}
		names := []string{extra[0].Name}
		adds, removes := newLaps(), newLaps()
		b.ReportAllocs()
		for b.Loop() {
			begin := time.Now()
			plan, err := d.Update(b.Context(), nftdp.Change{Set: extra})
			adds.add(begin)
			mustChange(b, plan, err)

			begin = time.Now()
			plan, err = d.Update(b.Context(), nftdp.Change{Delete: names})
			removes.add(begin)
			mustChange(b, plan, err)
		}
		adds.report(b, "add-p50-ns")
		removes.report(b, "remove-p50-ns")
	})
}

// BenchmarkApplyOneChange applies all services after the backend of one has been
// replaced.
func BenchmarkApplyOneChange(b *testing.B) {
	inSizes(b, func(b *testing.B, n int) {
		services, other := manyServices(n), replacedBackends(n)
		d := openLoaded(b, services)
		laps := newLaps()
		b.ReportAllocs()
		for i := 0; b.Loop(); i = (i + 1) % n {
			services[i], other[i] = other[i], services[i]
			begin := time.Now()
			plan, err := d.Apply(b.Context(), services)
			laps.add(begin)
			mustChange(b, plan, err)
		}
		laps.report(b, "p50-ns")
	})
}

// BenchmarkInspectOne reads one service among others.
func BenchmarkInspectOne(b *testing.B) {
	inSizes(b, func(b *testing.B, n int) {
		services := manyServices(n)
		d := openLoaded(b, services)
		laps := newLaps()
		b.ReportAllocs()
		for i := 0; b.Loop(); i = (i + 1) % n {
			begin := time.Now()
			got, err := d.Inspect(b.Context(), services[i].Name)
			laps.add(begin)
			if len(got) != 1 || err != nil {
				b.Fatalf("%d services, error %v", len(got), err)
			}
		}
		laps.report(b, "p50-ns")
	})
}

// BenchmarkSetConfig changes the prefixes of internal clients, and how loopback
// addresses are treated.
func BenchmarkSetConfig(b *testing.B) {
	inSizes(b, func(b *testing.B, n int) {
		d := openLoaded(b, manyServices(n))
		configs := [...]nftdp.Config{{Internal: podNets(), Localhost: true}, {}}
		laps := newLaps()
		b.ReportAllocs()
		for i := 0; b.Loop(); i++ {
			begin := time.Now()
			plan, err := d.SetConfig(b.Context(), configs[i%2])
			laps.add(begin)
			mustChange(b, plan, err)
		}
		laps.report(b, "p50-ns")
	})
}

// BenchmarkAdopt measures a restart: a new Dataplane finds everything in place.
func BenchmarkAdopt(b *testing.B) {
	inSizes(b, func(b *testing.B, n int) {
		ns := newNamespace(b)
		services := manyServices(n)
		load(b, ns, services)
		laps := newLaps()
		b.ReportAllocs()
		for b.Loop() {
			begin := time.Now()
			d := open(b, ns, nftdp.Config{})
			plan, err := d.Apply(b.Context(), services)
			laps.add(begin)
			mustKeep(b, plan, err)
			untimed(b, func() { closeOrFail(b, d) })
		}
		laps.report(b, "p50-ns")
	})
}

// TestUpdateFollowsTheChange: replacing a backend takes the same changes and
// about the same allocations with many services as with few. This much of the
// benchmarks does not depend on the machine.
func TestUpdateFollowsTheChange(t *testing.T) {
	few, allocsOfFew := costOfUpdate(t, 100)
	many, allocsOfMany := costOfUpdate(t, 10_000)
	if few != many {
		t.Errorf("%d changes with 100 services, %d with 10,000", few, many)
	}
	if allocsOfMany > 1.5*allocsOfFew {
		t.Errorf("%v allocations with 100 services, %v with 10,000", allocsOfFew, allocsOfMany)
	}
}

// costOfUpdate counts the changes and allocations for replacing one backend of
// one of n services.
func costOfUpdate(t *testing.T, n int) (changes int, allocs float64) {
	t.Helper()
	d := openLoaded(t, manyServices(n))
	i := n / 2
	states := [][]nftdp.Service{{service(i, 0)}, {service(i, poolSize)}}
	allocs = testing.AllocsPerRun(20, func() {
		slices.Reverse(states)
		plan, err := d.Update(t.Context(), nftdp.Change{Set: states[1]})
		mustChange(t, plan, err)
		changes = plan.Len()
	})
	return changes, allocs
}

// manyServices returns n services that have nothing in common.
func manyServices(n int) []nftdp.Service {
	all := make([]nftdp.Service, n)
	for i := range all {
		all[i] = service(i, poolSize)
	}
	return all
}

// replacedBackends returns the same services, each with one backend replaced.
// Slots follow the order of addresses, and the new backend comes last, so that
// half of the slots move on average.
func replacedBackends(n int) []nftdp.Service {
	all := make([]nftdp.Service, n)
	for i := range all {
		all[i] = service(i, i%poolSize)
	}
	return all
}

// service is the i-th service. It has a cluster address and poolSize backends,
// which have all of poolSize+1 addresses but the one at absent.
func service(i, absent int) nftdp.Service {
	s := nftdp.Service{
		Name:      fmt.Sprintf("default/service-%d:http", i),
		Frontends: []nftdp.Frontend{{Addr: clusterAddr(i), Port: 80}},
		Backends:  make([]nftdp.Backend, 0, poolSize),
	}
	for j := range poolSize + 1 {
		if j != absent {
			s.Backends = append(s.Backends, nftdp.Backend{Addr: backendAddr(i, j)})
		}
	}
	return s
}

func clusterAddr(i int) netip.Addr { return ipv4(10, 96, 1+i) }

func backendAddr(i, j int) netip.AddrPort {
	return netip.AddrPortFrom(ipv4(10, 128, i*(poolSize+1)+j), backendPort)
}

// ipv4 is the n-th address from a.b.0.0 on.
func ipv4(a, b byte, n int) netip.Addr {
	first := binary.BigEndian.Uint32([]byte{a, b, 0, 0})
	return netip.AddrFrom4([4]byte(binary.BigEndian.AppendUint32(nil, first+uint32(n))))
}

// openLoaded opens a new namespace and programs these services.
func openLoaded(tb testing.TB, services []nftdp.Service) *nftdp.Dataplane {
	tb.Helper()
	d := open(tb, newNamespace(tb), nftdp.Config{})
	tb.Cleanup(func() { closeOrFail(tb, d) })
	plan, err := d.Apply(tb.Context(), services)
	mustChange(tb, plan, err)
	return d
}

// load programs the services and closes the Dataplane.
func load(tb testing.TB, ns *nstest.Namespace, services []nftdp.Service) {
	tb.Helper()
	d := open(tb, ns, nftdp.Config{})
	plan, err := d.Apply(tb.Context(), services)
	mustChange(tb, plan, err)
	closeOrFail(tb, d)
}

func mustChange(tb testing.TB, plan *nftdp.Plan, err error) {
	tb.Helper()
	if err != nil {
		tb.Fatal(err)
	}
	if plan.Empty() {
		tb.Fatal("the plan is empty")
	}
}

func mustKeep(tb testing.TB, plan *nftdp.Plan, err error) {
	tb.Helper()
	if err != nil {
		tb.Fatal(err)
	}
	if !plan.Empty() {
		tb.Fatalf("the plan is not empty but has %d changes", plan.Len())
	}
}

// untimed runs what does not belong to an iteration.
func untimed(b *testing.B, f func()) {
	b.Helper()
	b.StopTimer()
	f()
	b.StartTimer()
}

// laps are the durations of iterations. Their median is the duration of a
// typical one. ns/op is the mean, which depends on the few iterations during
// which the machine did something else.
type laps []time.Duration

// newLaps reserves enough memory for laps that measuring does not allocate.
func newLaps() *laps {
	l := make(laps, 0, 1<<20)
	return &l
}

func (l *laps) add(begin time.Time) { *l = append(*l, time.Since(begin)) }

func (l *laps) report(b *testing.B, unit string) {
	b.Helper()
	b.ReportMetric(l.median(), unit)
}

// median returns the median in nanoseconds.
func (l *laps) median() float64 {
	slices.Sort(*l)
	return float64((*l)[len(*l)/2])
}
