package compile

import (
	"maps"
	"net/netip"
	"slices"

	"github.com/nftdp/go-nftdp/internal/ruleset"
)

// Beside returns the ruleset of the state's services beside those of others in
// shared tables: what belongs to a service for which mine returns false is there
// as it is in the current ruleset, damaged or not. What belongs to no service is
// not. The state remembers what else the tables hold.
func (s *State) Beside(current *ruleset.Ruleset, mine func(service string) bool) *ruleset.Ruleset {
	out := s.Ruleset()
	s.common = newCommon()
	for i, t := range out.Tables {
		if old := current.Table(t.Family); old != nil && Current(old) {
			b := beside{State: s, Table: t, old: old, family: i, chains: map[string]bool{}, sets: map[string]bool{}, addrs: map[addrUse]bool{}}
			b.frontends(mine)
			b.elements()
			b.units()
			b.shareAddrs()
		}
		for _, set := range t.Sets {
			if SetNamed(set.Name) < NumSets {
				set.Size = sizeFor(set, len(set.Elements))
			}
		}
	}
	return out
}

// beside adds to a table what other services have in the old one.
type beside struct {
	*State
	*ruleset.Table
	old    *ruleset.Table
	family int

	// What other services need.
	keys         map[Key]bool
	chains, sets map[string]bool
	addrs        map[addrUse]bool
}

// frontends finds the frontends of other services. If one of ours has the same,
// it is in the index, but not kept.
func (b *beside) frontends(mine func(string) bool) {
	b.keys = map[Key]bool{}
	for id := Frontends; id.Frontends(); id++ {
		for e := range elements(b.old, id) {
			k, ok := FrontendOf(id, b.Family, e.Key)
			if !ok || OwnerOf(e.Comment) == "" || mine(e.Comment) {
				continue
			}
			last := k.Port
			if k.Ranged {
				last = LastPort(e)
			}
			b.common.names[e.Comment] = true
			if _, taken := b.common.index.Conflict(k, last, nil); !taken {
				b.common.index.Add(k, last, e.Comment)
			}
			if _, taken := b.index.Conflict(k, last, nil); !taken {
				b.keys[k] = true
			}
		}
	}
}

// elements keeps the elements of other services' frontends, each once: the kernel
// can list one twice if the set changes meanwhile. (Otherwise it would be added.)
func (b *beside) elements() {
	for id := range Hairpin {
		to, seen := b.Set(id.name()), map[ruleset.Tuple]bool{}
		for e := range elements(b.old, id) {
			k, ok := FrontendOf(id, b.Family, e.Key)
			if !ok || !b.keys[k] || seen[e.Key] {
				continue
			}
			seen[e.Key] = true
			if to == nil {
				to = Declaration(id)
				b.Sets = append(b.Sets, to)
			}
			kept := *e
			kept.Packets, kept.Bytes = 0, 0 // they are carried over if the element is replaced
			to.Elements = append(to.Elements, kept)
			b.chains[e.Verdict.Chain] = true
			if backend, ok := BackendOf(b.Family, e); ok && id.Backends() {
				b.addrs[addrUse{Hairpin, backend.Addr()}] = true
			}
		}
	}
}

// units keeps the chains that other services lead to, and the sets that these
// look up.
func (b *beside) units() {
	for k := range b.keys {
		if k.Addr.IsLoopback() {
			useLoopback(b.Family, func(u unit) { b.chains[u.name()] = true })
		}
	}
	old, own := b.old.Names(), b.Table.Names()
	todo := slices.Sorted(maps.Keys(b.chains))
	for len(todo) > 0 {
		c := old.Chain(todo[0])
		todo = todo[1:]
		if c == nil {
			continue
		}
		for _, next := range b.follow(c) {
			if !b.chains[next] {
				b.chains[next] = true
				todo = append(todo, next)
			}
		}
	}
	present := b.common.units[b.family]
	for _, c := range b.old.Chains {
		if OfSkeleton(c) {
			continue
		}
		present[c.Name] = b.chains[c.Name]
		if b.chains[c.Name] && own.Chain(c.Name) == nil {
			b.Chains = append(b.Chains, c)
		}
	}
	for _, s := range b.old.Sets {
		if !Shared(s.Name) {
			continue
		}
		present[s.Name] = b.sets[s.Name]
		if b.sets[s.Name] && own.Set(s.Name) == nil {
			if id := SetNamed(s.Name); id.Shard() { // none of its elements is needed
				s = Declaration(id)
			}
			b.Sets = append(b.Sets, s)
		}
	}
}

// follow returns the chains that a chain leads to, and notes the sets of prefixes
// that it looks up.
func (b *beside) follow(c *ruleset.Chain) (next []string) {
	for _, r := range c.Rules {
		for _, s := range r {
			switch s := s.(type) {
			case ruleset.Verdict:
				if s.Chain != "" {
					next = append(next, s.Chain)
				}
			case ruleset.Lookup:
				b.sets[s.Set] = true
			case ruleset.DNAT:
				b.sets[s.Map] = true
			case ruleset.VMap:
				b.sets[s.Map] = true
			}
		}
	}
	return next
}

// shareAddrs keeps the addresses of other services, and counts elements.
func (b *beside) shareAddrs() {
	for k := range b.keys {
		if b.cfg.DropUnallocated && !k.Addr.IsUnspecified() {
			b.addrs[addrUse{Addresses, k.Addr}] = true
		}
	}
	present := b.common.addrs[b.family]
	for id := Hairpin; id < NumSets; id++ {
		for e := range elements(b.old, id) {
			a, ok := addrOf(Place{b.Family, id, e.Key})
			if _, seen := present[a]; !ok || seen {
				continue
			}
			present[a] = b.addrs[a]
			if b.addrs[a] && b.shared.addrs[b.family][id-Hairpin][a.Addr] == 0 {
				to := b.Set(id.name())
				to.Elements = append(to.Elements, *e)
			}
		}
	}
	for id := range NumSets {
		if s := b.old.Set(id.name()); s != nil {
			b.common.elements[b.family][id] = len(s.Elements)
		}
	}
}

// Apart moves to Unused those changes of a transaction from the current ruleset
// that delete what no service needs, whosever it is. It leaves transactions alone
// that are Exclusive.
func (s *State) Apart(tx *ruleset.Transaction, current *ruleset.Ruleset, mine func(service string) bool) {
	mineAt := [2]map[Key]bool{{}, {}}
	for i, f := range ruleset.Families {
		t := current.Table(f)
		if t == nil {
			continue
		}
		for id := Frontends; id.Frontends(); id++ {
			for e := range elements(t, id) {
				if k, ok := FrontendOf(id, f, e.Key); ok && (mine(e.Comment) || OwnerOf(e.Comment) == "") {
					mineAt[i][k] = true
				}
			}
		}
	}
	owned := func(k Key) bool {
		_, ours := s.index.Owner(k)
		return ours || mineAt[ruleset.FamilyOf(k.Addr).Index()][k]
	}
	wanted := func(c *ruleset.Change) bool { // the object of a change, except elements, is one of ours
		if c.Chain != nil {
			return s.hasUnit(c.Family.Index(), c.Chain.Name) || OfSkeleton(c.Chain)
		}
		return c.Set == nil
	}
	tx.Now, tx.Unused = apart(tx.Now, tx.Unused, wanted, owned)
	tx.Behind, tx.Unused = apart(tx.Behind, tx.Unused, wanted, owned)
}

func apart(list, unused []ruleset.Change, wanted func(*ruleset.Change) bool, owned func(Key) bool) (rest, _ []ruleset.Change) {
	for _, c := range list {
		id := NumSets
		if c.Set != nil {
			id = SetNamed(c.Set.Name)
		}
		switch {
		case c.Verb == ruleset.Add || c.Verb == ruleset.Adopt:
			rest = append(rest, c)
		case len(c.Elements) == 0 && !wanted(&c):
			unused = append(unused, c)
		case len(c.Elements) == 0 || id.Frontends() || id == NumSets:
			rest = append(rest, c)
		default:
			var stay, leave []ruleset.Element
			for _, e := range c.Elements {
				if k, ok := KeyOf(&c, &e); ok && owned(k) {
					stay = append(stay, e)
				} else {
					leave = append(leave, e)
				}
			}
			rest = c.OfElements(c.Verb, c.Set, stay, rest)
			unused = c.OfElements(c.Verb, c.Set, leave, unused)
		}
	}
	return rest, unused
}

// Exclusive reports whether a transaction depends on what other services have in
// shared tables: whether it replaces a table or a set, which their elements are in.
func Exclusive(tx *ruleset.Transaction) bool {
	return slices.ContainsFunc(tx.Changes(), func(c ruleset.Change) bool {
		return c.Chain == nil && c.Verb == ruleset.Delete && len(c.Elements) == 0 && (c.Set == nil || !Shared(c.Set.Name))
	})
}

// Rewriting flushes every chain before rules are added to it, unless it is new, so
// that two processes that repair one chain at the same moment do not add its rules
// twice.
func Rewriting(changes []ruleset.Change) (out []ruleset.Change) {
	empty := map[string]bool{}
	for _, c := range changes {
		switch {
		case c.Chain == nil:
		case c.Rule == nil: // new, or flushed
			empty[c.Family.String()+c.Chain.Name] = true
		case !empty[c.Family.String()+c.Chain.Name]:
			flush := c
			flush.Verb, flush.Rule = ruleset.Flush, nil
			out = append(out, flush)
			empty[c.Family.String()+c.Chain.Name] = true
		}
		out = append(out, c)
	}
	return out
}

// Unreferred makes sure of what services need although the kernel would delete it:
// no element or rule refers to it. It adds the addresses of services to the addrSets,
// where they may be already, and writes the chains for loopback addresses
// again, which the kernel refuses if they are not there.
func (s *State) Unreferred(of []*Service) (out []ruleset.Change) {
	needs := unreferred{{chains: map[unit]int{}}, {chains: map[unit]int{}}}
	for _, svc := range of {
		svc.emit(&s.cfg, &needs)
	}
	for i, f := range ruleset.Families {
		at := ruleset.Change{Family: f, Table: s.cfg.Table}
		out = append(out, s.cfg.rewrite(sortedUnits(needs[i].chains), at)...)
		for j, elements := range needs[i].addrs {
			out = at.OfElements(ruleset.Add, &declared[Hairpin+SetID(j)], elements, out)
		}
	}
	return out
}

// unreferred is a sink that receives, by family, what nothing refers to.
type unreferred [2]struct {
	addrs  [addrSets][]ruleset.Element
	chains map[unit]int
}

func (*unreferred) element(int, SetID, ruleset.Element) {}

func (n *unreferred) addr(f int, id SetID, a netip.Addr) {
	n[f].addrs[id-Hairpin] = append(n[f].addrs[id-Hairpin], addrElement(id, a))
}

func (n *unreferred) use(f int, u unit) {
	if _, ok := u.(loopbackChain); ok {
		n[f].chains[u]++
	}
}

// unusedAddrs deletes the addresses that no service has any more.
func (d *Delta) unusedAddrs() (out []ruleset.Change) {
	for i, f := range ruleset.Families {
		at := ruleset.Change{Family: f, Table: d.state.cfg.Table}
		for j, elements := range d.unused[i] {
			out = at.OfElements(ruleset.Delete, &declared[Hairpin+SetID(j)], elements, out)
		}
	}
	return out
}
