//go:build linux

package nftdp

import (
	"net/netip"
	"slices"
	"testing"
)

// TestArrangementStays: after a backend has left and come back, the slots are others
// than in a new table. A new process, one that still knows the former slots, and the
// same one again find nothing to do, in whatever order they list the backends.
func TestArrangementStays(t *testing.T) {
	single := []Frontend{{Addr: netip.MustParseAddr("10.96.0.1"), Port: 80}, {Port: 80}}
	ranged := append(slices.Clone(single), Frontend{Port: 5000, EndPort: 5009})
	for name, s := range map[string]Service{
		"random":              {Scheduler: SchedulerRandom, Frontends: single},
		"round-robin":         {Scheduler: SchedulerRoundRobin, Frontends: single},
		"beside a port range": {Scheduler: SchedulerRandom, Frontends: ranged}, // the backends have no port
	} {
		t.Run(name, func(t *testing.T) {
			s.Name = "s"
			for i := range 6 {
				b := netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 180, 0, byte(i)}), 8080)
				if s.ranged() {
					b = netip.AddrPortFrom(b.Addr(), 0)
				}
				s.Backends = append(s.Backends, Backend{Addr: b})
			}
			n := newNode(t)
			same, other := n.open(t, Config{}), n.open(t, Config{})
			apply(t, same, []Service{s})
			apply(t, other, []Service{s})

			fewer := s
			fewer.Backends = slices.Delete(slices.Clone(s.Backends), 1, 2)
			updateWith(t, same, Change{Set: []Service{fewer}})
			updateWith(t, same, Change{Set: []Service{s}})
			held := n.read(t, DefaultTable).String()
			if held == mustCompile(t, Config{}, []Service{s}).String() {
				t.Error("the slots are those of a new table")
			}
			slices.Reverse(s.Backends)
			for name, d := range map[string]*Dataplane{"the same": same, "another": other, "a new one": n.open(t, Config{})} {
				if plan, err := d.Apply(t.Context(), []Service{s}); err != nil || !plan.Empty() {
					t.Errorf("%s: error %v, plan\n%v", name, err, plan)
				}
			}
			n.wantText(t, DefaultTable, held)
		})
	}
}
