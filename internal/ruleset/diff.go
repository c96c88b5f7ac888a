package ruleset

import (
	"iter"
	"slices"
)

// Diff returns the transaction that turns a into b, over both families, in an
// order that the kernel accepts. Counters are not compared, but an element that
// replaces another one takes over its count.
//
// Objects whose declarations differ cannot be altered in place. A set that is
// too small for b, or of a size that b's never have, is recreated; any other mismatch replaces the whole table, which
// established connections survive if it happens within one batch.
func Diff(a, b *Ruleset) *Transaction {
	out := &Transaction{}
	for _, f := range Families {
		out.append(diffTable(a.Table(f), b.Table(f)))
	}
	return out
}

func diffTable(a, b *Table) Transaction {
	switch {
	case a == nil && b == nil:
		return Transaction{}
	case b == nil:
		return Transaction{Now: []Change{{Verb: Delete, Family: a.Family, Table: a.Name}}}
	case a == nil:
		out := tableDiff{Table: b, old: &Table{}}.transaction()
		out.Now = append([]Change{addTable(b)}, out.Now...)
		return out
	case !sameDeclarations(a, b):
		return replaceTable(a, b)
	}
	out := tableDiff{Table: b, old: a, counts: a}.transaction()
	if a.Flags != b.Flags {
		out.Now = append([]Change{{Verb: Adopt, Family: b.Family, Table: b.Name, Flags: b.Flags}}, out.Now...)
	}
	return out
}

func addTable(t *Table) Change {
	return Change{Verb: Add, Family: t.Family, Table: t.Name, Comment: t.Comment, Flags: t.Flags}
}

// sameDeclarations reports whether a can become b without being replaced: every
// object that both have is declared alike.
func sameDeclarations(a, b *Table) bool {
	if a.Name != b.Name || a.Comment != b.Comment || !a.Flags.becomes(b.Flags) || len(a.Opaque) > 0 {
		return false
	}
	of := b.Names()
	for _, s := range a.Sets {
		if n := of.Set(s.Name); n != nil && !s.sameDeclaration(n) {
			return false
		}
	}
	for _, c := range a.Chains {
		if n := of.Chain(c.Name); n != nil && !c.sameDeclaration(n) {
			return false
		}
	}
	return true
}

// sameDeclaration compares everything but the size, which is only a limit.
func (s *Set) sameDeclaration(o *Set) bool {
	return s.Opaque == "" && o.Opaque == "" && s.Note == o.Note &&
		slices.Equal(s.Key, o.Key) && slices.Equal(s.Data, o.Data) &&
		s.Verdict == o.Verdict && s.Interval == o.Interval && s.Dynamic == o.Dynamic && s.Counter == o.Counter
}

func (c *Chain) sameDeclaration(o *Chain) bool {
	if c.Opaque != "" || o.Opaque != "" || (c.Hook == nil) != (o.Hook == nil) {
		return false
	}
	return c.Hook == nil || *c.Hook == *o.Hook
}

// tableDiff turns old into Table.
type tableDiff struct {
	*Table
	old     *Table
	counts  *Table // the table that counts are taken over from; may be nil
	is, was *Names // of both
}

// transaction puts the changes into the order that the kernel requires: rules
// that use a set are deleted before it, chains are created before elements and
// rules that lead to them, and deleted after these.
func (d tableDiff) transaction() Transaction {
	d.is, d.was = d.Names(), d.old.Names()
	elements := d.elements()
	var out Transaction
	fresh := &out.Ahead
	if d.old.Name == "" || len(elements.remade) > 0 {
		fresh = &out.Now // the table is new, or new chains may use a set that is recreated
	}
	gone := &out.Now
	if len(elements.late) > 0 {
		gone = &out.Behind // late elements may lead to a chain that is deleted
	}
	rewritten := d.rewritten(elements.remade)

	d.flushes(rewritten, elements.remade, &out.Now, gone)
	for _, s := range d.old.Sets {
		if elements.remade[s.Name] {
			out.Now = append(out.Now, d.change(Delete, s, nil))
		}
	}
	for _, s := range d.Sets {
		if elements.remade[s.Name] {
			out.Now = append(out.Now, d.change(Add, s, nil))
		} else if d.was.Set(s.Name) == nil {
			*fresh = append(*fresh, d.change(Add, s, nil))
		}
	}
	d.chains(rewritten, fresh, &out.Now)
	*fresh = append(*fresh, elements.fresh...)
	out.Now = append(append(out.Now, elements.deleted...), elements.added...)
	out.Behind = append(elements.late, out.Behind...)
	for _, c := range d.extraChains() {
		*gone = append(*gone, d.change(Delete, nil, c))
	}
	for _, s := range d.old.Sets {
		if d.is.Set(s.Name) == nil {
			*gone = append(*gone, d.change(Delete, s, nil))
		}
	}
	*gone = append(*gone, d.extraObjects()...)
	return out
}

// extraObjects deletes all objects, which are those of others. Rules and sets that
// refer to them are gone by then: none of ours does.
func (d tableDiff) extraObjects() []Change {
	var out []Change
	for i := range d.old.Objects {
		c := d.change(Delete, nil, nil)
		c.Object = &d.old.Objects[i]
		out = append(out, c)
	}
	return out
}

// flushes empties the chains that are rewritten, and those that are deleted
// afterwards.
func (d tableDiff) flushes(rewritten, remade map[string]bool, now, gone *[]Change) {
	for _, c := range d.Chains {
		if old := d.was.Chain(c.Name); rewritten[c.Name] && old != nil && len(old.Rules) > 0 {
			*now = append(*now, d.change(Flush, nil, c))
		}
	}
	if len(remade) > 0 {
		gone = now // their rules may use a set that is recreated
	}
	for _, c := range d.extraChains() {
		*gone = append(*gone, d.change(Flush, nil, c))
	}
}

// chains adds new chains, and the rules of chains that are rewritten. Base chains
// belong to the change itself, since packets pass them at once.
func (d tableDiff) chains(rewritten map[string]bool, fresh, now *[]Change) {
	to := func(c *Chain) *[]Change {
		if c.Hook == nil && d.was.Chain(c.Name) == nil {
			return fresh
		}
		return now
	}
	for _, c := range d.Chains {
		if d.was.Chain(c.Name) == nil {
			*to(c) = append(*to(c), d.change(Add, nil, c))
		}
	}
	for _, c := range d.Chains {
		if !rewritten[c.Name] {
			continue
		}
		for _, r := range c.Rules {
			ch := d.change(Add, nil, c)
			ch.Rule = r
			*to(c) = append(*to(c), ch)
		}
	}
}

func (d tableDiff) change(v Verb, s *Set, c *Chain) Change {
	return Change{Verb: v, Family: d.Family, Table: d.Name, Set: s, Chain: c}
}

// rewritten names the chains whose rules have to be written: those that differ,
// and those that use a set that is recreated.
func (d tableDiff) rewritten(remade map[string]bool) map[string]bool {
	out := map[string]bool{}
	for _, c := range d.Chains {
		old := d.was.Chain(c.Name)
		if old == nil || !SameRules(old.Rules, c.Rules, d.Family) || uses(c, remade) {
			out[c.Name] = true
		}
	}
	return out
}

// SameRules reports whether two chains of a family have the same rules.
func SameRules(a, b []Rule, f Family) bool {
	return slices.EqualFunc(a, b, func(x, y Rule) bool { return x.Text(f) == y.Text(f) })
}

func uses(c *Chain, sets map[string]bool) bool {
	return slices.ContainsFunc(c.Rules, func(r Rule) bool {
		return slices.ContainsFunc(r, func(s Statement) bool {
			user, ok := s.(setUser)
			return ok && sets[user.set()]
		})
	})
}

func (d tableDiff) extraChains() []*Chain {
	var out []*Chain
	for _, c := range d.old.Chains {
		if d.is.Chain(c.Name) == nil {
			out = append(out, c)
		}
	}
	return out
}

// elementChanges are changes of elements.
type elementChanges struct {
	remade         map[string]bool // sets that are recreated because they are too small, or have a size that is not ours
	fresh          []Change        // elements of sets that did not exist, unless they are slots
	deleted, added []Change
	late           []Change // deleted once no packet looks them up any more
}

func (d tableDiff) elements() elementChanges {
	out := elementChanges{remade: map[string]bool{}}
	at := Change{Family: d.Family, Table: d.Name}
	type pair struct{ del, add []Element }
	pairs, counted := make([]pair, len(d.Sets)), counters{}
	for i, s := range d.Sets {
		old := d.was.Set(s.Name)
		exists := old != nil
		if !exists {
			old = &Set{}
		}
		p := &pairs[i]
		p.del, p.add = diffElements(old, s)
		if exists && (!old.fits(len(p.add)) || !s.mayHave(old.Size)) {
			out.remade[s.Name] = true
			p.del, p.add = nil, s.Elements
		}
		if d.counts == d.old && exists && !out.remade[s.Name] {
			counted.add(old, p.del)
		}
	}
	if d.counts != nil {
		for _, s := range d.counts.Sets {
			if d.counts != d.old || out.remade[s.Name] || d.is.Set(s.Name) == nil {
				counted.add(s, s.Elements)
			}
		}
	}
	for _, s := range d.old.Sets {
		if d.is.Set(s.Name) == nil && s.slotted() { // which belong to services, as do those that are added
			out.deleted = at.OfElements(Delete, s, s.Elements, out.deleted)
		}
	}
	for i, s := range d.Sets {
		del, add := pairs[i].del, pairs[i].add
		if len(counted) > 0 && s.Counter {
			add = slices.Clone(add) // which may be b's own
			counted.carry(s, add)
		}
		if d.was.Set(s.Name) == nil && !s.slotted() {
			out.fresh = at.OfElements(Add, s, add, out.fresh)
			continue
		}
		late, del := s.Late(del, add)
		out.late = at.OfElements(Delete, s, late, out.late)
		out.deleted = at.OfElements(Delete, s, del, out.deleted)
		out.added = at.OfElements(Add, s, add, out.added)
	}
	return out
}

// Late separates deleted elements that packets in flight may still look up from
// those that added elements replace. In a set of ranges, any added element may
// overlap a deleted one.
func (s *Set) Late(deleted, added []Element) (late, now []Element) {
	switch {
	case !s.AfterDNAT || s.Interval && len(added) > 0:
		return nil, deleted
	case len(added) == 0:
		return deleted, nil
	}
	keys := make(map[Tuple]bool, len(added))
	for i := range added {
		keys[added[i].Key] = true
	}
	for _, e := range deleted {
		if keys[e.Key] {
			now = append(now, e)
		} else {
			late = append(late, e)
		}
	}
	return late, now
}

// fits reports whether n more elements can be added. The kernel counts elements
// that a batch deletes until it is committed.
func (s *Set) fits(n int) bool {
	return s.Size == 0 || uint64(len(s.Elements))+uint64(n) <= uint64(s.Size)
}

// mayHave reports whether a set can have been declared with a size, when it had more
// or fewer elements. The size of a dynamic set is configured, and does not change.
func (s *Set) mayHave(size uint32) bool {
	return size == s.Size || !s.Dynamic && s.Size > 0 && size > 0 && SizeFor(int(size/2)) == size
}

// SizeFor returns the size to declare for n elements: at least twice as many, so
// that all of them can be replaced in one batch.
func SizeFor(n int) uint32 {
	size := uint32(1024)
	for uint64(size) < 2*uint64(n) {
		size *= 2
	}
	return size
}

// diffElements returns the elements to delete from a and to add to it to get b.
// An element that differs in anything but its key is in both lists, since the
// kernel cannot replace elements.
func diffElements(a, b *Set) (del, add []Element) {
	if len(a.Elements) == 0 {
		return nil, b.Elements
	}
	old := places{elements: a.Elements}
	kept := make([]bool, len(a.Elements))
	left := len(a.Elements)
	for i := range b.Elements {
		e := &b.Elements[i]
		if j, ok := old.find(e.Key); ok && a.Elements[j].Same(e) {
			kept[j] = true
			left--
		} else {
			add = append(add, *e)
		}
	}
	if left > 0 {
		del = others(a.Elements, kept)
	}
	inheritors := b.Inheritors(del, add, func(yield func(*Element) bool) {
		for i := range a.Elements {
			if kept[i] && !yield(&a.Elements[i]) {
				return
			}
		}
	})
	for _, e := range inheritors {
		del = append(del, e)
		e.Packets, e.Bytes = 0, 0 // to be carried over
		add = append(add, e)
	}
	return del, add
}

// others returns the elements that are not kept, in order. A set that was read may
// have an element twice, which is then kept as well.
func others(elements []Element, kept []bool) (out []Element) {
	last := map[Tuple]int{}
	for i := range elements {
		if !kept[i] {
			last[elements[i].Key] = i
		}
	}
	for i := range elements {
		if kept[i] {
			delete(last, elements[i].Key)
		}
	}
	for i := range elements {
		if j, ok := last[elements[i].Key]; ok && i == j {
			out = append(out, elements[i])
		}
	}
	return out
}

// places finds elements by their keys. Two lists of elements mostly have the same
// order, so the next one that is asked for is expected to be the next one.
type places struct {
	elements []Element
	next     int
	byKey    map[Tuple]int // nil before it is needed
}

func (p *places) find(k Tuple) (i int, ok bool) {
	if i = p.next; i < len(p.elements) && p.elements[i].Key == k {
		p.next++
		return i, true
	}
	if p.byKey == nil {
		p.byKey = make(map[Tuple]int, len(p.elements))
		for i := range p.elements {
			p.byKey[p.elements[i].Key] = i
		}
	}
	if i, ok = p.byKey[k]; ok {
		p.next = i + 1
	}
	return i, ok
}

// Same reports whether both elements are equal, whatever their counters.
func (e *Element) Same(o *Element) bool {
	return !e.Opaque && !o.Opaque && e.Key == o.Key && e.End == o.End && e.Data == o.Data &&
		e.Verdict == o.Verdict && e.Comment == o.Comment
}

// CarryCounters adds the counts of deleted elements to those that replace them:
// the one with the same key or, in a map that is keyed by slots, one with the
// same data and frontend, since slots shift.
func CarryCounters(s *Set, from, to []Element) {
	c := counters{}
	c.add(s, from)
	c.carry(s, to)
}

// counters are what elements have counted, by the Heirs of their set.
type counters map[string]map[identity]count

type count struct{ packets, bytes uint64 }

func (c counters) add(s *Set, from []Element) {
	heirs := s.Heirs()
	for i := range from {
		e := &from[i]
		if e.Packets == 0 && e.Bytes == 0 {
			continue
		}
		of := c[heirs]
		if of == nil {
			of = map[identity]count{}
			c[heirs] = of
		}
		id := s.identity(e)
		of[id] = count{of[id].packets + e.Packets, of[id].bytes + e.Bytes}
	}
}

// carry moves counts to elements of a set.
func (c counters) carry(s *Set, to []Element) {
	of := c[s.Heirs()]
	if len(of) == 0 {
		return
	}
	for i := range to {
		id := s.identity(&to[i])
		to[i].Packets += of[id].packets
		to[i].Bytes += of[id].bytes
		delete(of, id)
	}
}

// Heirs identifies the sets whose elements can take over the counts of this set's:
// the set of the same name and, as a slot can move to another map, all that are keyed
// by slots of the same types. (Keys of other types may have the same bytes.)
func (s *Set) Heirs() string {
	if s.slotted() {
		return string(s.Key) + " : " + string(s.Data)
	}
	return s.Name + " " + string(s.Key)
}

// Carried returns the deleted elements whose counts CarryCounters would add to
// those of added ones.
func (s *Set) Carried(deleted, added []Element) []Element {
	ids := make(map[identity]bool, len(added))
	for i := range added {
		ids[s.identity(&added[i])] = true
	}
	var out []Element
	for i := range deleted {
		if ids[s.identity(&deleted[i])] {
			out = append(out, deleted[i])
		}
	}
	return out
}

// Inheritors returns kept elements that have to be replaced by themselves, to take
// over the counts of deleted ones. With weights a backend has several slots. When
// it loses some and gets none, the first slot that it keeps takes over their
// counts.
func (s *Set) Inheritors(deleted, added []Element, kept iter.Seq[*Element]) []Element {
	if len(deleted) == 0 || !s.slotted() || !s.Counter {
		return nil
	}
	ids := make(map[identity]*Element, len(deleted))
	for i := range deleted {
		ids[s.identity(&deleted[i])] = nil
	}
	for i := range added {
		delete(ids, s.identity(&added[i]))
	}
	if len(ids) == 0 {
		return nil
	}
	for e := range kept {
		id := s.identity(e)
		if first, ok := ids[id]; ok && (first == nil || e.Key.Compare(&first.Key) < 0) {
			ids[id] = e
		}
	}
	var out []Element
	for _, e := range ids {
		if e != nil {
			out = append(out, *e)
		}
	}
	slices.SortFunc(out, func(x, y Element) int { return x.Key.Compare(&y.Key) })
	return out
}

// slotted reports whether the set is keyed by slots.
func (s *Set) slotted() bool { return len(s.Key) > 0 && s.Key[len(s.Key)-1] == Slot }

// identity is what an element's counter belongs to.
type identity struct {
	key, data Tuple
	verdict   Verdict
}

// identity is the element's key without the slot, except for the slot's upper
// half where that holds the frontend's port.
func (s *Set) identity(e *Element) identity {
	if !s.slotted() || e.Key.Len() <= 4 {
		return identity{key: e.Key}
	}
	n := e.Key.Len() - 4
	key := e.Key.Prefix(n)
	if !slices.Contains(s.Key, Port) {
		key = key.Slot(e.Key.SlotAt(n) >> 16)
	}
	return identity{key, e.Data, e.Verdict}
}
