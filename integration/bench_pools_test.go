//go:build linux

package integration

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/nftdp/go-nftdp/nftdp"
)

// BenchmarkLargePool removes a backend from the middle of a pool, adds it again,
// replaces one by another, and sets the state of one, in services of many and of few
// backends. The service has an address and a node port.
func BenchmarkLargePool(b *testing.B) {
	for _, scheduler := range []nftdp.Scheduler{nftdp.SchedulerRandom, nftdp.SchedulerRoundRobin} {
		for _, n := range shortened([]int{10, 1_000, 10_000}, 2) {
			b.Run(fmt.Sprintf("scheduler=%v/backends=%d", scheduler, n), func(b *testing.B) {
				whole := pooled(scheduler, n)
				fewer, other := whole, whole
				fewer.Backends = slices.Delete(slices.Clone(whole.Backends), n/2, n/2+1)
				other.Backends = slices.Clone(whole.Backends)
				other.Backends[n/2].Addr = backendAddr(0, n+1)
				d := openLoaded(b, []nftdp.Service{whole})
				removes, adds, replaces, states, rest := newLaps(), newLaps(), newLaps(), newLaps(), newLaps()
				update := func(laps *laps, s nftdp.Service) {
					begin := time.Now()
					plan, err := d.Update(b.Context(), nftdp.Change{Set: []nftdp.Service{s}})
					laps.add(begin)
					mustChange(b, plan, err)
				}
				for b.Loop() {
					update(removes, fewer)
					update(adds, whole)
					update(replaces, other)
					untimed(b, func() { update(rest, whole) })
					begin := time.Now()
					plan, err := d.SetState(b.Context(), whole.Name, nftdp.StateDown, whole.Backends[n/2].Addr)
					states.add(begin)
					mustChange(b, plan, err)
					untimed(b, func() { update(rest, whole) })
				}
				removes.report(b, "remove-p50-ns")
				adds.report(b, "add-p50-ns")
				replaces.report(b, "replace-p50-ns")
				states.report(b, "state-p50-ns")
			})
		}
	}
}

// pooled returns a service with n backends.
func pooled(scheduler nftdp.Scheduler, n int) nftdp.Service {
	s := nftdp.Service{
		Name: "default/pooled", Scheduler: scheduler,
		Frontends: []nftdp.Frontend{{Addr: clusterAddr(0), Port: 80}, {Port: 30080}},
	}
	for i := range n {
		s.Backends = append(s.Backends, nftdp.Backend{Addr: backendAddr(0, i)})
	}
	return s
}
