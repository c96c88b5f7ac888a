package compile

import (
	"net/netip"

	"github.com/nftdp/go-nftdp/internal/ruleset"
)

// common is what shared tables hold: what other services have there, as it was
// when the tables were last read, and which of the objects that services share
// exist.
type common struct {
	index    *Index          // the frontends of other services
	names    map[string]bool // the other services
	units    [2]map[string]bool
	addrs    [2]map[addrUse]bool // as units: the value says whether other services need it
	elements [2][NumSets]int
}

func newCommon() *common {
	c := &common{index: NewIndex(0), names: map[string]bool{}}
	for i := range c.units {
		c.units[i], c.addrs[i] = map[string]bool{}, map[addrUse]bool{}
	}
	return c
}

// Others reports whether other services have anything in the tables.
func (s *State) Others() bool { return s.common != nil && len(s.common.names) > 0 }

// OthersOf reports whether another process has set services of an owner.
func (s *State) OthersOf(owner string) bool {
	if s.common != nil {
		for name := range s.common.names {
			if OwnerOf(name) == owner {
				return true
			}
		}
	}
	return false
}

// Uses reports whether the state's services use a chain or set of that name.
func (s *State) Uses(f ruleset.Family, name string) bool { return s.hasUnit(f.Index(), name) }

// Has reports whether an element belongs to the state's services.
func (s *State) Has(p Place) bool {
	if a, ok := addrOf(p); ok {
		return s.shared.addrs[p.Family.Index()][a.SetID-Hairpin][a.Addr] > 0
	}
	_, ok := s.OwnerOf(p)
	return ok
}

// Meet records which frontends other services have.
func (s *State) Meet(current *ruleset.Ruleset, mine func(service string) bool) {
	if s.common == nil {
		return
	}
	met := *s.common
	met.index, met.names = NewIndex(0), map[string]bool{}
	with := *s
	with.common = &met
	for i, t := range current.Tables {
		(&beside{State: &with, Table: t, old: t, family: i}).frontends(mine)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.common = &met
}

// Other reports whether another service of that name is known.
func (s *State) Other(name string) bool { return s.common != nil && s.common.names[name] }

// Foreign reports whether packets to the address and port of a key, which is not
// ranged, match a frontend of another service in shared tables before any of ours;
// local says that the address is the node's. It may run at the same time as any
// other method.
func (s *State) Foreign(k Key, local bool) bool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.common == nil {
		return false
	}
	for _, at := range [...]Key{k, k.NodeWide()} {
		theirs, others := s.common.index.Match(at)
		ours, mine := s.index.Match(at)
		switch {
		case others && (!mine || ours.Ranged && !theirs.Ranged):
			return true
		case mine || !local:
			return false
		}
	}
	return false
}

// Note records in what the tables hold that changes have been committed.
func (s *State) Note(changes []ruleset.Change) {
	if s.common == nil {
		return
	}
	for i := range changes {
		s.common.note(&changes[i])
	}
}

func (c *common) note(by *ruleset.Change) {
	at := by.Family.Index()
	switch {
	case by.Rule != nil || by.Verb == ruleset.Flush || by.Verb == ruleset.Adopt:
	case by.Chain != nil && !OfSkeleton(by.Chain):
		noteUse(c.units[at], by.Chain.Name, by.Verb)
	case by.Chain != nil:
	case by.Set == nil: // the table
		c.units[at], c.addrs[at], c.elements[at] = map[string]bool{}, map[addrUse]bool{}, [NumSets]int{}
	case len(by.Elements) > 0:
		c.noteElements(by, at)
	case Shared(by.Set.Name):
		noteUse(c.units[at], by.Set.Name, by.Verb)
	case SetNamed(by.Set.Name) < NumSets && by.Verb == ruleset.Delete:
		c.elements[at][SetNamed(by.Set.Name)] = 0
	}
}

func (c *common) noteElements(by *ruleset.Change, at int) {
	id := SetNamed(by.Set.Name)
	if id == NumSets {
		return
	}
	if by.Verb == ruleset.Add {
		c.elements[at][id] += len(by.Elements)
	} else {
		c.elements[at][id] -= len(by.Elements)
	}
	for i := range by.Elements {
		if a, ok := addrOf(Place{by.Family, id, by.Elements[i].Key}); ok {
			noteUse(c.addrs[at], a, by.Verb)
		}
	}
}

// noteUse records that an object exists, or no longer does.
func noteUse[K comparable](in map[K]bool, k K, v ruleset.Verb) {
	if v == ruleset.Delete {
		delete(in, k)
	} else if !in[k] {
		in[k] = false
	}
}

// hasUnit reports whether the state's services use a chain or set of that name.
func (s *State) hasUnit(family int, name string) bool {
	if s.names == nil {
		s.names = &[2]map[string]bool{{}, {}}
		for i, uses := range s.shared.units {
			for u := range uses {
				s.names[i][u.name()] = true
			}
		}
	}
	return s.names[family][name]
}

// unit reports whether a unit exists in shared tables, and whether other services
// need it.
func (c *common) unit(family int, u unit) (there, needed bool) {
	if c == nil {
		return false, false
	}
	needed, there = c.units[family][u.name()]
	return there, needed
}

// addr reports the same of an address in one of the addrSets.
func (c *common) addr(family int, id SetID, a netip.Addr) (there, needed bool) {
	if c == nil {
		return false, false
	}
	needed, there = c.addrs[family][addrUse{id, a}]
	return there, needed
}

// count returns how many elements a set of the kernel has.
func (s *State) count(family int, id SetID) int {
	if s.common != nil {
		return s.common.elements[family][id]
	}
	return s.elements[family][id]
}
