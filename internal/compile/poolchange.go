package compile

import "net/netip"

// poolChange is the difference between the pools of a frontend and of its
// successor, which differ in nothing else.
type poolChange struct {
	lists          *addrLists
	before, after  *Frontend
	removed, added [2][]int     // slots, of Pool and Internal
	gone, come     []netip.Addr // addresses that only one of them has, for node-wide frontends
}

// compare compares two frontends, unless they have the pools of the last two.
func (p *poolChange) compare(before, after *Frontend) {
	if p.before != nil && p.before.SamePools(before) && p.after.SamePools(after) &&
		p.before.Addr.IsUnspecified() == before.Addr.IsUnspecified() {
		return
	}
	*p = poolChange{lists: p.lists, before: before, after: after}
	p.slots(0, before.Pool, after.Pool)
	p.slots(1, before.Internal, after.Internal)
	p.addKept()
	if before.Addr.IsUnspecified() { // else postrouting finds it by its own address
		p.gone, p.come = differing(p.lists.of(before), p.lists.of(after), netip.Addr.Compare)
	}
}

// slots lists the slots that differ.
func (p *poolChange) slots(which int, before, after []netip.AddrPort) {
	if same(before, after) {
		return
	}
	for i := range max(len(before), len(after)) {
		if i < len(before) && i < len(after) && before[i] == after[i] {
			continue
		}
		if i < len(before) {
			p.removed[which] = append(p.removed[which], i)
		}
		if i < len(after) {
			p.added[which] = append(p.added[which], i)
		}
	}
}

// addKept adds the slots that a backend keeps when it loses others, since they may
// take over the counters of those (ruleset.Set.Inheritors).
func (p *poolChange) addKept() {
	if p.before.Internal == nil && p.after.Internal == nil && p.before.once() {
		return
	}
	losing := map[netip.AddrPort]bool{}
	for which, pool := range [][]netip.AddrPort{p.before.Pool, p.before.Internal} {
		for _, i := range p.removed[which] {
			losing[pool[i]] = true
		}
	}
	for which, pool := range [][]netip.AddrPort{p.before.Pool, p.before.Internal} {
		after := [][]netip.AddrPort{p.after.Pool, p.after.Internal}[which]
		for i := range min(len(pool), len(after)) {
			if pool[i] == after[i] && losing[pool[i]] {
				p.removed[which] = append(p.removed[which], i)
				p.added[which] = append(p.added[which], i)
			}
		}
	}
}

// once reports whether it is known that no backend of Pool has several slots.
func (f *Frontend) once() bool {
	pool := f.Pool
	if f.Ordered != nil {
		pool = f.Ordered
	}
	for i := 1; i < len(pool); i++ {
		if pool[i-1].Compare(pool[i]) >= 0 {
			return false
		}
	}
	return true
}
