package compile

import (
	"cmp"
	"net/netip"
	"slices"

	"github.com/nftdp/go-nftdp/internal/ruleset"
)

// Scheduler says how connections are spread over a pool.
type Scheduler uint8

// The schedulers, in the order of those of package nftdp.
const (
	Random Scheduler = iota
	RoundRobin
	SourceHash
	Maglev
	SourcePortHash
)

// schedulers has a row for each scheduler.
var schedulers = [...]struct {
	name    string // in names of chains; none begins with another one and a hyphen
	number  ruleset.Operand
	arrange func(pool []Weighted, size int) []netip.AddrPort
	anySlot bool // it makes no difference which slots a backend has
	own     bool // each frontend has a chain of its own
}{
	Random: {name: "random", number: ruleset.Operand{Field: ruleset.Random}, arrange: inOrder, anySlot: true},
	// The kernel keeps the position of the rotation in the rule.
	RoundRobin: {name: "round-robin", number: ruleset.Operand{Field: ruleset.Increment}, arrange: inTurns, anySlot: true, own: true},
	SourceHash: {name: "hash", number: ruleset.Operand{Field: ruleset.Hash}, arrange: inOrder},
	Maglev:     {name: "maglev", number: ruleset.Operand{Field: ruleset.Hash}, arrange: maglev},
	// Every packet has its port here: fragments are reassembled at a priority
	// before NAT's, NF_IP_PRI_CONNTRACK_DEFRAG.
	SourcePortHash: {
		name: "port-hash", arrange: inOrder,
		number: ruleset.Operand{Field: ruleset.Hash, Inputs: ops(ruleset.Saddr, ruleset.Sport)},
	},
}

// Weighted is a backend with its share of a pool, at least 1.
type Weighted struct {
	Addr   netip.AddrPort
	Weight int
}

// Limits of pools.
const (
	// MaxWeightSlots bounds the slots of a pool: weights are rounded to fit,
	// unless there are so many backends that each would get just a few slots.
	MaxWeightSlots = 1024
	minSlots       = 4 // per backend on average, when weights are rounded
	maxSlots       = 65535
)

// Slots returns the slots of a pool. Each slot is drawn with equal probability,
// so that every backend gets its share. The result does not depend on the order
// of the backends, which Slots changes, as their weights. A Maglev table has the
// given size, or MaglevSize if it is 0.
func Slots(b Scheduler, pool []Weighted, size int) []netip.AddrPort {
	if len(pool) == 0 {
		return nil
	}
	slices.SortFunc(pool, func(x, y Weighted) int { return x.Addr.Compare(y.Addr) })
	normalize(pool)
	return schedulers[b].arrange(pool, size)
}

// inOrder returns as many slots for each backend as its weight.
func inOrder(pool []Weighted, _ int) []netip.AddrPort {
	n := 0
	for _, w := range pool {
		n += w.Weight
	}
	out := make([]netip.AddrPort, 0, n)
	for _, w := range pool {
		for range w.Weight {
			out = append(out, w.Addr)
		}
	}
	return out
}

// normalize turns weights into numbers of slots: it divides them by their
// greatest common divisor and, if that still makes too many slots, scales them
// down by the method of largest remainders. Every backend keeps at least one
// slot. The share of any other backend is off by less than one slot, plus the
// slots that this minimum takes.
func normalize(pool []Weighted) {
	divisor, sum := 0, 0
	for i := 0; i < len(pool) && divisor != 1; i++ {
		divisor = gcd(divisor, pool[i].Weight)
	}
	for i := range pool {
		pool[i].Weight /= divisor
		sum += pool[i].Weight
	}
	limit := min(max(MaxWeightSlots, minSlots*len(pool)), maxSlots)
	if sum > limit {
		scale(pool, sum, limit)
	}
}

func gcd(a, b int) int {
	for b != 0 {
		a, b = b, a%b
	}
	return a
}

// scale distributes slots in proportion to the weights. Sum is the sum of the
// weights.
func scale(pool []Weighted, sum, slots int) {
	order := make([]int, len(pool))
	remainder := make([]int, len(pool))
	left := slots
	for i := range pool {
		order[i] = i
		share := pool[i].Weight * slots
		remainder[i] = share % sum
		pool[i].Weight = max(1, share/sum)
		if share < sum {
			remainder[i] = 0 // this backend has more than its share already
		}
		left -= pool[i].Weight
	}
	slices.SortStableFunc(order, func(x, y int) int { return cmp.Compare(remainder[y], remainder[x]) })
	for _, i := range order[:max(0, min(left, len(order)))] {
		pool[i].Weight++
	}
	for ; left < 0; left++ { // take back from the largest what the minimum of one slot costs
		largest := 0
		for i := range pool {
			if pool[i].Weight > pool[largest].Weight {
				largest = i
			}
		}
		pool[largest].Weight--
	}
}

// inTurns orders slots so that those of one backend are spread evenly over the
// period: the k-th of w slots is placed at (k + 1/2) / w.
func inTurns(pool []Weighted, _ int) []netip.AddrPort {
	type slot struct{ backend, place int } // place is 2k + 1
	var slots []slot
	for i, w := range pool {
		for k := range w.Weight {
			slots = append(slots, slot{i, 2*k + 1})
		}
	}
	slices.SortStableFunc(slots, func(x, y slot) int {
		return cmp.Compare(x.place*pool[y.backend].Weight, y.place*pool[x.backend].Weight)
	})
	out := make([]netip.AddrPort, len(slots))
	for i, s := range slots {
		out[i] = pool[s.backend].Addr
	}
	return out
}
