package compile

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// backend returns the i-th of many backends.
func backend(i int) netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}), 80)
}

func weighted(weights ...int) []Weighted {
	var out []Weighted
	for i, w := range weights {
		out = append(out, Weighted{backend(i), w})
	}
	return out
}

func shares(slots []netip.AddrPort) map[netip.AddrPort]int {
	out := map[netip.AddrPort]int{}
	for _, s := range slots {
		out[s]++
	}
	return out
}

func TestSlots(t *testing.T) {
	tests := []struct {
		scheduler Scheduler
		weights   []int
		want      []int // backends by slot
	}{
		{Random, []int{1, 1, 1}, []int{0, 1, 2}},
		{Random, []int{300, 100}, []int{0, 0, 0, 1}},
		{SourceHash, []int{2, 1}, []int{0, 0, 1}},
		{SourcePortHash, []int{1, 3}, []int{0, 1, 1, 1}},
		{RoundRobin, []int{1, 1}, []int{0, 1}},
		{RoundRobin, []int{3, 1}, []int{0, 0, 1, 0}},
		{RoundRobin, []int{2, 2, 4}, []int{2, 0, 1, 2}},
	}
	for _, test := range tests {
		t.Run(fmt.Sprint(test.scheduler, test.weights), func(t *testing.T) {
			var want []netip.AddrPort
			for _, i := range test.want {
				want = append(want, backend(i))
			}
			pool := weighted(test.weights...)
			slices.Reverse(pool) // the order of backends makes no difference
			if d := cmp.Diff(want, Slots(test.scheduler, pool, 0), cmp.Comparer(func(x, y netip.AddrPort) bool { return x == y })); d != "" {
				t.Error(d)
			}
		})
	}
}

// TestWeightsAreExactOrBounded: every backend has exactly its share of the slots
// if they suffice. Otherwise its share is off by less than one slot, plus the
// slots that backends with less than one slot take from the largest.
func TestWeightsAreExactOrBounded(t *testing.T) {
	for _, weights := range [][]int{{1}, {7, 3}, {1, 65535}, {997, 1009}, {1, 2, 3, 65521}, {60000, 60001, 59999}, {5, 5, 5}} {
		pool, sum, divisor := weighted(weights...), 0, 0
		for _, w := range weights {
			sum, divisor = sum+w, gcd(divisor, w)
		}
		for _, b := range []Scheduler{Random, RoundRobin} {
			slots := Slots(b, pool, 0)
			if n := sum / divisor; n <= MaxWeightSlots && len(slots) != n || len(slots) > MaxWeightSlots {
				t.Errorf("weights %v: %d slots", weights, len(slots))
			}
			tiny := 0 // backends whose share is less than one slot
			for _, w := range weights {
				if w*len(slots) < sum {
					tiny++
				}
			}
			got := shares(slots)
			for i, w := range weights {
				exact := float64(w) * float64(len(slots)) / float64(sum)
				off := float64(got[backend(i)]) - exact
				if exact < 1 && got[backend(i)] == 1 {
					continue
				}
				if off >= 1 || off <= -1-float64(tiny) || len(slots) == sum/divisor && off != 0 {
					t.Errorf("weights %v: backend %d has %d of %d slots instead of %.2f", weights, i, got[backend(i)], len(slots), exact)
				}
			}
		}
	}
}

// TestScaleKeepsEveryBackend: with many backends there are more slots.
func TestScaleKeepsEveryBackend(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	weights := make([]int, 2000)
	for i := range weights {
		weights[i] = 1 + rng.IntN(65535)
	}
	slots := Slots(Random, weighted(weights...), 0)
	if got := len(shares(slots)); got != len(weights) || len(slots) != minSlots*len(weights) {
		t.Errorf("%d backends in %d slots, want %d in %d", got, len(slots), len(weights), minSlots*len(weights))
	}
}

// TestMaglevShares: in tables of the default size no backend is off its share by
// more than three percent. The paper measured 1 % with a hundred slots for each
// backend; these tables have at least 98.
func TestMaglevShares(t *testing.T) {
	for _, n := range []int{1, 2, 3, 10, 11, 40, 160, 600} {
		pool := weighted(slices.Repeat([]int{1}, n)...)
		table := Slots(Maglev, pool, 0)
		if len(table) != MaglevSize(n) {
			t.Errorf("%d backends: %d slots", n, len(table))
		}
		got := shares(table)
		for i := range n {
			if share := float64(got[backend(i)]*n) / float64(len(table)); share < 0.97 || share > 1.03 {
				t.Errorf("%d backends: number %d has %.3f of its share", n, i, share)
			}
		}
	}
}

func TestMaglevWeights(t *testing.T) {
	got := shares(Slots(Maglev, weighted(3, 1), 1021))
	if n := got[backend(0)]; n < 764 || n > 767 { // 765.75
		t.Errorf("weight 3 of 4 has %d of 1021 slots", n)
	}
}

// TestMaglevRemoval: when a backend is removed, its clients move to others, and
// hardly any other client does. The paper's figure 12 shows some percent of other
// clients at 100 slots per backend; the bound here was measured, and leaves some
// room.
func TestMaglevRemoval(t *testing.T) {
	const clients = 10000
	for _, n := range []int{5, 10, 40, 100} {
		pool := weighted(slices.Repeat([]int{1}, n)...)
		size := MaglevSize(n)
		before := Slots(Maglev, pool, size)
		worst := 0
		for gone := range min(n, 10) {
			after := Slots(Maglev, slices.Delete(slices.Clone(pool), gone, gone+1), size)
			others := 0
			for i := range clients {
				h := kernelHash(i) % uint32(size)
				if before[h] != backend(gone) && before[h] != after[h] {
					others++
				}
				if after[h] == backend(gone) {
					t.Fatalf("%d backends: slot %d still leads to the removed one", n, h)
				}
			}
			worst = max(worst, others)
		}
		t.Logf("%d backends, table of %d: at most %.2f %% of the clients of others move", n, size, 100*float64(worst)/clients)
		if worst > clients*8/100 {
			t.Errorf("%d backends: %d of %d clients of other backends move", n, worst, clients)
		}
	}
}

// kernelHash stands for the kernel's hash of a client's address.
func kernelHash(client int) uint32 {
	x := uint64(client)*0x9e3779b97f4a7c15 + 1
	x ^= x >> 29
	x *= 0xbf58476d1ce4e5b9
	var b [8]byte
	binary.BigEndian.PutUint64(b[:], x^x>>32)
	return binary.BigEndian.Uint32(b[4:])
}
