package nftdp

import (
	"net/netip"
	"slices"
	"testing"
)

// TestPoolChangesLittle: a backend that leaves, joins or replaces another one takes
// as many changes in a large pool as in a small one.
func TestPoolChangesLittle(t *testing.T) {
	pooled := func(scheduler Scheduler, n int) Service {
		s := Service{Name: "pooled", Scheduler: scheduler, Frontends: []Frontend{
			{Addr: netip.MustParseAddr("10.96.0.1"), Port: 80}, {Port: 30080}, {Addr: netip.MustParseAddr("10.96.0.2"), Port: 5000, EndPort: 5009},
		}}
		for i := range n {
			s.Backends = append(s.Backends, Backend{Addr: netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 180, byte(i >> 8), byte(i)}), 0)})
		}
		return s
	}
	for _, scheduler := range []Scheduler{SchedulerRandom, SchedulerRoundRobin} {
		lengths := map[string][]int{}
		for _, n := range []int{10, 3000} {
			whole := pooled(scheduler, n)
			fewer, other := whole, whole
			fewer.Backends = slices.Delete(slices.Clone(whole.Backends), n/2, n/2+1)
			other.Backends = slices.Clone(whole.Backends)
			other.Backends[n/3].Addr = netip.MustParseAddrPort("10.181.0.1:0")
			for what, change := range map[string][2]Service{
				"leaves": {whole, fewer}, "joins": {fewer, whole}, "replaces another": {whole, other},
			} {
				from := mustCompile(t, Config{}, change[:1])
				lengths[what] = append(lengths[what], from.PlanTo(mustCompile(t, Config{}, change[1:])).Len())
			}
		}
		for what, n := range lengths {
			if n[0] != n[1] {
				t.Errorf("scheduler %v: a backend %s: %d changes in a pool of 10, %d in one of 3,000", scheduler, what, n[0], n[1])
			}
		}
	}
}
