package compile

import (
	"maps"
	"net/netip"
	"slices"

	"github.com/nftdp/go-nftdp/internal/ruleset"
)

// Delta is the effect of replacing some services of a State. Its cost follows
// the services that it replaces, not the State.
type Delta struct {
	state  *State
	set    []*Service
	equal  []*Service // compile to the same elements; what they say about flows may differ
	delete []string
	shared shared                         // by how much the numbers of uses change
	sets   [2][NumSets]*setDelta          // nil: unchanged
	unused [2][addrSets][]ruleset.Element // in shared tables
}

// setDelta lists the elements of one set that are deleted and added.
type setDelta struct {
	del, add []ruleset.Element
}

// Stage computes the effect of adding or replacing the services of set and of
// deleting those in remove. No name may be in both. The State is unchanged until
// Commit.
func (s *State) Stage(set []*Service, remove []string) *Delta {
	d := &Delta{state: s, shared: newShared(&s.cfg, [2]int{})}
	for _, name := range remove {
		if old := s.services[name]; old != nil {
			d.delete = append(d.delete, name)
			old.emit(&s.cfg, (*removing)(d))
		}
	}
	for _, svc := range set {
		old := s.services[svc.Name]
		if old != nil && old.Equal(svc) {
			d.equal = append(d.equal, svc)
			continue
		}
		d.set = append(d.set, svc)
		if old == nil {
			svc.emit(&s.cfg, (*adding)(d))
		} else {
			d.replace(old, svc)
		}
	}
	d.stageAddrs()
	for i := range d.sets {
		for id, elements := range d.sets[i] {
			if elements != nil {
				elements.cancel(&declared[id])
			}
		}
	}
	return d
}

// changes returns the changes of a set, to add to them.
func (d *Delta) changes(family int, id SetID) *setDelta {
	at := &d.sets[family][id]
	if *at == nil {
		*at = &setDelta{}
	}
	return *at
}

type (
	adding   Delta
	removing Delta
)

func (d *adding) element(f int, id SetID, e ruleset.Element) {
	to := (*Delta)(d).changes(f, id)
	to.add = append(to.add, e)
}
func (d *adding) use(f int, u unit)                    { d.shared.units[f][u]++ }
func (d *adding) addr(f int, id SetID, a netip.Addr)   { d.shared.addrs[f][id-Hairpin][a]++ }
func (d *removing) use(f int, u unit)                  { d.shared.units[f][u]-- }
func (d *removing) addr(f int, id SetID, a netip.Addr) { d.shared.addrs[f][id-Hairpin][a]-- }
func (d *removing) element(f int, id SetID, e ruleset.Element) {
	to := (*Delta)(d).changes(f, id)
	to.del = append(to.del, e)
}

// stageAddrs finds the addresses that come into use or fall out of use.
func (d *Delta) stageAddrs() {
	for family := range d.shared.addrs {
		for i, changed := range d.shared.addrs[family] {
			if len(changed) > 0 {
				d.stageAddrsOf(family, Hairpin+SetID(i), changed)
			}
		}
	}
}

func (d *Delta) stageAddrsOf(family int, id SetID, changed map[netip.Addr]int) {
	to := d.changes(family, id)
	for _, a := range slices.SortedFunc(maps.Keys(changed), netip.Addr.Compare) {
		before := d.state.shared.addrs[family][id-Hairpin][a]
		there, needed := d.state.common.addr(family, id, a)
		switch after := before + changed[a]; {
		case before == 0 && after > 0 && !there:
			to.add = append(to.add, addrElement(id, a))
		case before > 0 && after == 0 && d.state.common != nil:
			if there && !needed {
				d.unused[family][id-Hairpin] = append(d.unused[family][id-Hairpin], addrElement(id, a))
			}
		case before > 0 && after == 0:
			to.del = append(to.del, addrElement(id, a))
		}
	}
}

// cancel drops the elements that are both deleted and added, unless a counter
// would get lost.
func (s *setDelta) cancel(set *ruleset.Set) {
	if len(s.del) == 0 || len(s.add) == 0 {
		return
	}
	old := make(map[ruleset.Tuple]*ruleset.Element, len(s.del))
	for i := range s.del {
		old[s.del[i].Key] = &s.del[i]
	}
	kept := map[ruleset.Tuple]bool{}
	s.add = slices.DeleteFunc(s.add, func(e ruleset.Element) bool {
		o := old[e.Key]
		if o == nil || !o.Same(&e) {
			return false
		}
		kept[e.Key] = true
		return true
	})
	var gone []ruleset.Element
	for i := range s.del {
		if !kept[s.del[i].Key] {
			gone = append(gone, s.del[i])
		}
	}
	inheritors := set.Inheritors(gone, s.add, func(yield func(*ruleset.Element) bool) {
		for i := range s.del {
			if kept[s.del[i].Key] && !yield(&s.del[i]) {
				return
			}
		}
	})
	s.del, s.add = append(gone, inheritors...), append(s.add, inheritors...)
}

// Fits reports whether the kernel's sets have room for the change.
func (d *Delta) Fits() bool {
	for i := range d.sets {
		for id, elements := range d.sets[i] {
			size := d.state.sizes[i][id]
			if elements != nil && size > 0 && uint64(d.state.count(i, SetID(id))+len(elements.add)) > uint64(size) {
				return false
			}
		}
	}
	return true
}

// Transaction returns the changes of the kernel's rules.
func (d *Delta) Transaction() *ruleset.Transaction {
	out := &ruleset.Transaction{}
	var gone, add []ruleset.Change
	for i, f := range ruleset.Families {
		at := ruleset.Change{Family: f, Table: d.state.cfg.Table}
		come, left, rewritten := d.units(i)
		out.Ahead = append(out.Ahead, d.addUnits(come, at)...)
		out.Now = append(out.Now, d.state.cfg.rewrite(rewritten, at)...)
		gone = append(gone, deleteUnits(left, at)...)
		for id, elements := range d.sets[i] {
			if elements == nil {
				continue
			}
			set := &declared[id]
			late, del := set.Late(elements.del, elements.add)
			out.Behind = at.OfElements(ruleset.Delete, set, late, out.Behind)
			out.Now = at.OfElements(ruleset.Delete, set, del, out.Now)
			add = at.OfElements(ruleset.Add, set, elements.add, add)
		}
	}
	out.Now = append(out.Now, add...)
	if d.state.common != nil {
		out.Unused = append(gone, d.unusedAddrs()...)
		return out
	}
	if len(out.Behind) > 0 { // late elements may lead to a deleted chain
		out.Behind = append(out.Behind, gone...)
	} else {
		out.Now = append(out.Now, gone...)
	}
	return out
}

// units returns the units of a family that have to be added, and to be deleted, and
// the chains whose rules have to be replaced: those of an owner, which have the same
// name whatever their rules are.
func (d *Delta) units(family int) (added, deleted, rewritten []unit) {
	if unchanged(d.shared.units[family]) { // as mostly
		return nil, nil, nil
	}
	come, left, other := map[unit]int{}, map[unit]int{}, map[unit]int{}
	former := map[string]unit{}
	for u, by := range d.shared.units[family] {
		switch n := d.state.shared.units[family][u]; {
		case n == 0 && by > 0:
			come[u] = by
		case n > 0 && n+by == 0:
			left[u] = n
			former[u.name()] = u
		}
	}
	f := ruleset.Families[family]
	for u, n := range come {
		there, _ := d.state.common.unit(family, u) // in shared tables
		old, again := former[u.name()]
		delete(left, old)
		if again && !ruleset.SameRules(old.chain().Rules, u.chain().Rules, f) || there && owned(u) {
			other[u] = n
		}
		if again || there {
			delete(come, u)
		}
	}
	for u := range left {
		if _, needed := d.state.common.unit(family, u); needed {
			delete(left, u)
		}
	}
	return sortedUnits(come), sortedUnits(left), sortedUnits(other)
}

// unchanged reports whether all differences are zero.
func unchanged(by map[unit]int) bool {
	for _, n := range by {
		if n != 0 {
			return false
		}
	}
	return true
}

// rewrite replaces the rules of chains.
func (cfg Config) rewrite(chains []unit, at ruleset.Change) (out []ruleset.Change) {
	for _, u := range chains {
		c := at
		c.Chain, c.Verb = cfg.chainOf(at.Family, u), ruleset.Flush
		out = append(out, c)
		c.Verb = ruleset.Add
		for _, c.Rule = range c.Chain.Rules {
			out = append(out, c)
		}
	}
	return out
}

// addUnits adds chains before rules, since a rule may lead to any chain.
func (d *Delta) addUnits(units []unit, at ruleset.Change) []ruleset.Change {
	var sets, chains, rules []ruleset.Change
	at.Verb = ruleset.Add
	for _, u := range units {
		c := at
		if c.Set = u.set(); c.Set != nil {
			if id, ok := u.(shard); ok {
				c.Set = d.state.Declaration(at.Family, SetID(id))
				c.Set.Size = max(c.Set.Size, d.state.sizes[at.Family.Index()][id])
			}
			sets = append(sets, c)
			if c.Elements = c.Set.Elements; len(c.Elements) > 0 {
				sets = append(sets, c)
			}
			continue
		}
		c.Chain = d.state.cfg.chainOf(at.Family, u)
		chains = append(chains, c)
		for _, c.Rule = range c.Chain.Rules {
			rules = append(rules, c)
		}
	}
	return slices.Concat(sets, chains, rules)
}

// deleteUnits empties all chains before it deletes them, since they may lead to
// each other.
func deleteUnits(units []unit, at ruleset.Change) []ruleset.Change {
	var flushed, chains, sets []ruleset.Change
	for _, u := range units {
		c := at
		c.Verb = ruleset.Delete
		if c.Set = u.set(); c.Set != nil {
			sets = append(sets, c)
			continue
		}
		c.Chain = u.chain()
		chains = append(chains, c)
		c.Verb = ruleset.Flush
		flushed = append(flushed, c)
	}
	return slices.Concat(flushed, chains, sets)
}

// Commit applies the delta to the State that it was computed from.
func (d *Delta) Commit() {
	s := d.state
	s.mu.Lock()
	defer s.mu.Unlock()
	s.names = nil
	for _, name := range d.delete {
		s.index.remove(s.services[name])
		delete(s.services, name)
	}
	for _, svc := range d.set {
		if old := s.services[svc.Name]; old != nil {
			for f := range s.index.moved(old, svc) {
				s.index.removeFrontend(old, f)
			}
		}
	}
	for _, svc := range d.set {
		if old := s.services[svc.Name]; old == nil {
			s.index.add(svc, svc.Name)
		} else {
			for f := range s.index.moved(svc, old) {
				s.index.addFrontend(svc, f, svc.Name)
			}
		}
		s.services[svc.Name] = svc
	}
	for _, svc := range d.equal {
		s.services[svc.Name] = svc
	}
	for i := range d.sets {
		merge(s.shared.units[i], d.shared.units[i])
		for j := range s.shared.addrs[i] {
			merge(s.shared.addrs[i][j], d.shared.addrs[i][j])
		}
		for id, elements := range d.sets[i] {
			if elements == nil {
				continue
			}
			s.elements[i][id] += len(elements.add) - len(elements.del)
		}
	}
}

func merge[K comparable](to, by map[K]int) {
	for k, n := range by {
		if to[k] += n; to[k] == 0 {
			delete(to, k)
		}
	}
}
