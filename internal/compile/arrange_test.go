package compile

import (
	"net/netip"
	"slices"
	"testing"
)

// FuzzArranged: a pool keeps its arrangement. The result has the wanted backends,
// and differs from the former pool in no more slots than it has to; schedulers that
// hash have the arrangement that all nodes have.
func FuzzArranged(f *testing.F) {
	addRandom(f, 300)
	f.Fuzz(func(t *testing.T, data []byte) {
		d := &dice{data}
		scheduler := Scheduler(d.roll(len(schedulers)))
		service := func(pool []netip.AddrPort) *Service {
			front := &Frontend{Addr: addr("10.9.0.1"), Port: 80, Pool: pool}
			return &Service{Name: "s", Proto: TCP, Scheduler: scheduler, Frontends: []*Frontend{front}}
		}
		held := service(d.tweakedPool(Slots(scheduler, d.backends("10.8.0.1"), 13)))
		for range 5 {
			wanted := d.backends("10.8.0.1")
			want := service(Slots(scheduler, wanted, 13))
			got := want.Arranged(held)
			pool, before, lowered := got.Frontends[0].Pool, held.Frontends[0].Pool, want.Frontends[0].Pool
			wantSameBackends(t, lowered, pool)
			even := slices.ContainsFunc(wanted, func(w Weighted) bool { return w.Weight != wanted[0].Weight })
			switch {
			case !schedulers[scheduler].anySlot, scheduler == RoundRobin && even:
				if !slices.Equal(pool, lowered) {
					t.Errorf("scheduler %d: %v, all nodes have %v", scheduler, pool, lowered)
				}
			case moved(before, pool) > len(missing(before, lowered)):
				t.Errorf("%v\nbecomes %v,\nalthough only %v left", before, pool, missing(before, lowered))
			}
			if again := want.Arranged(got); !again.Equal(got) {
				t.Errorf("the same backends again: %v, then %v", pool, again.Frontends[0].Pool)
			}
			held = got
		}
	})
}

func wantSameBackends(t *testing.T, want, got []netip.AddrPort) {
	t.Helper()
	if len(want) != len(got) || len(missing(want, got)) > 0 {
		t.Errorf("%v, want the backends %v", got, want)
	}
}

// moved counts the slots that both pools have, with different backends.
func moved(before, after []netip.AddrPort) (n int) {
	for i := range min(len(before), len(after)) {
		if before[i] != after[i] {
			n++
		}
	}
	return n
}

// missing lists what is in a more often than in b.
func missing(a, b []netip.AddrPort) []netip.AddrPort {
	left := map[netip.AddrPort]int{}
	for _, x := range b {
		left[x]++
	}
	var out []netip.AddrPort
	for _, x := range a {
		if left[x]--; left[x] < 0 {
			out = append(out, x)
		}
	}
	return out
}

// TestArrangedFrontends: all frontends with the same backends have the same
// arrangement, also new ones, and share it.
func TestArrangedFrontends(t *testing.T) {
	pool := func(backends ...string) (out []netip.AddrPort) {
		for _, b := range backends {
			out = append(out, netip.MustParseAddrPort(b))
		}
		return out
	}
	a, b, c, d := "10.8.0.1:80", "10.8.0.2:80", "10.8.0.3:80", "10.8.0.4:80"
	held := pool(c, a, b)
	wanted := pool(a, b, d)
	front := func(port uint16, pool []netip.AddrPort) *Frontend {
		return &Frontend{Addr: addr("10.9.0.1"), Port: port, Pool: pool}
	}
	former := &Service{Frontends: []*Frontend{front(80, held), front(81, held)}}
	next := &Service{Frontends: []*Frontend{front(79, wanted), front(80, wanted), front(81, wanted), front(82, nil)}}
	got := next.Arranged(former).Frontends
	for i := range 3 {
		if !slices.Equal(got[i].Pool, pool(d, a, b)) || !got[i].SamePools(got[0]) {
			t.Errorf("frontend %d has %v", i, got[i].Pool)
		}
	}
	if len(got[3].Pool) > 0 || !slices.Equal(wanted, pool(a, b, d)) || !slices.Equal(held, pool(c, a, b)) {
		t.Errorf("a frontend without backends has %v, the arguments are %v and %v now", got[3].Pool, held, wanted)
	}
}
