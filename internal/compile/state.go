package compile

import (
	"cmp"
	"iter"
	"maps"
	"net/netip"
	"slices"

	"github.com/nftdp/go-nftdp/internal/ruleset"
)

// State is a set of services with what they share, so that the effect of
// changing a few of them can be computed without the others.
type State struct {
	*Directory
	cfg      Config
	shared   shared
	elements [2][NumSets]int     // numbers of elements
	sizes    [2][NumSets]uint32  // sizes of the kernel's sets; 0 is unlimited
	common   *common             // of shared tables, once they are read; nil: the tables hold nothing else
	names    *[2]map[string]bool // of the units in use; nil: to be computed
}

// shared counts the uses of what services share.
type shared struct {
	units [2]map[unit]int
	addrs [2][addrSets]map[netip.Addr]int
}

// newShared returns counts with room for a number of backends of each family.
func newShared(cfg *Config, backends [2]int) shared {
	var s shared
	for i := range s.units {
		s.units[i] = map[unit]int{}
		s.addrs[i][0] = make(map[netip.Addr]int, backends[i])
		if cfg.DropUnallocated {
			s.addrs[i][Addresses-Hairpin] = map[netip.Addr]int{}
		}
	}
	return s
}

// New returns the state of services, whose names differ. They must not be changed
// afterwards.
func New(cfg Config, services []*Service) *State {
	var backends [2]int
	for _, svc := range services {
		for i, f := range svc.Frontends {
			if i == 0 || !f.SamePools(svc.Frontends[i-1]) {
				backends[ruleset.FamilyOf(f.Addr).Index()] += len(f.Pool)
			}
		}
	}
	s := &State{Directory: newDirectory(len(services)), cfg: cfg, shared: newShared(&cfg, backends)}
	for i, f := range ruleset.Families {
		if cfg.Localhost {
			useLoopback(f, func(u unit) { (*counting)(s).use(i, u) })
		}
	}
	for _, svc := range services {
		s.services[svc.Name] = svc
		s.index.add(svc, svc.Name)
		svc.emit(&s.cfg, (*counting)(s))
	}
	for i := range s.elements {
		for j, uses := range s.shared.addrs[i] {
			s.elements[i][Hairpin+SetID(j)] = len(uses)
		}
	}
	return s
}

// Replaced returns the services of s with those of set added or replaced, and those
// named in remove removed, in no particular order.
func (s *State) Replaced(set []*Service, remove []string) []*Service {
	services := maps.Clone(s.services)
	for _, name := range remove {
		delete(services, name)
	}
	for _, svc := range set {
		services[svc.Name] = svc
	}
	return slices.Collect(maps.Values(services))
}

// ArrangedAs returns the state with each service arranged as another version of it.
func (s *State) ArrangedAs(former map[string]*Service) *State {
	services := make([]*Service, 0, len(s.services))
	changed := false
	for name, svc := range s.services {
		services = append(services, svc.Arranged(former[name]))
		changed = changed || services[len(services)-1] != svc
	}
	if !changed {
		return s
	}
	return New(s.cfg, services)
}

// Config returns the configuration.
func (s *State) Config() Config { return s.cfg }

// Configured returns the state with another configuration. From then on s must not be
// changed, since both share what does not depend on it.
func (s *State) Configured(cfg Config) *State {
	if !cfg.SameElements(s.cfg) {
		return New(cfg, slices.Collect(maps.Values(s.services)))
	}
	out := *s
	out.cfg, out.names = cfg, nil
	if cfg.Localhost == s.cfg.Localhost {
		return &out
	}
	by := 1
	if s.cfg.Localhost {
		by = -1
	}
	for i, f := range ruleset.Families {
		out.shared.units[i] = maps.Clone(s.shared.units[i])
		useLoopback(f, func(u unit) { merge(out.shared.units[i], map[unit]int{u: by}) })
	}
	return &out
}

// Fixed compiles everything but the elements of services: all that depends on the
// configuration, and the chains and sets that services share.
func (s *State) Fixed() *ruleset.Ruleset {
	out := s.hollow()
	s.addUnits(out)
	return out
}

// counting adds a service to the state's counts.
type counting State

func (s *counting) element(f int, id SetID, _ ruleset.Element) { s.elements[f][id]++ }
func (s *counting) use(f int, u unit)                          { s.shared.units[f][u]++ }
func (s *counting) addr(f int, id SetID, a netip.Addr)         { s.shared.addrs[f][id-Hairpin][a]++ }

// Names iterates over the names of the services, in no particular order.
func (s *State) Names() iter.Seq[string] { return maps.Keys(s.services) }

// Index returns the frontends of all services. It changes with the State.
func (s *State) Index() *Index { return s.index }

// Services returns all services, sorted by name.
func (s *State) Services() []*Service {
	return slices.SortedFunc(maps.Values(s.services), func(x, y *Service) int { return cmp.Compare(x.Name, y.Name) })
}

// Ruleset compiles all services. The result does not depend on the order in
// which they were added.
func (s *State) Ruleset() *ruleset.Ruleset {
	out := s.Fixed()
	fill := &filling{sets: byID(out), uses: &s.shared, seen: map[addrUse]bool{}}
	for i := range s.shared.addrs {
		for j, uses := range s.shared.addrs[i] {
			fill.repeats[i][j] = repeats(uses)
		}
	}
	for i := range fill.sets {
		for id, set := range fill.sets[i] {
			if set != nil {
				set.Elements = make([]ruleset.Element, 0, s.elements[i][id])
			}
		}
	}
	for _, svc := range s.Services() {
		svc.emit(&s.cfg, fill)
	}
	return out
}

// hollow returns the ruleset without the elements and units of services.
func (s *State) hollow() *ruleset.Ruleset {
	out := &ruleset.Ruleset{}
	for _, f := range ruleset.Families {
		t := s.cfg.skeleton(f)
		t.Sets = append(s.ServiceSets(f), t.Sets...)
		out.Tables = append(out.Tables, t)
	}
	return out
}

// ServiceSets returns the sets of services of a family in order, without elements.
func (s *State) ServiceSets(f ruleset.Family) (out []*ruleset.Set) {
	for id := range NumSets {
		if !id.Shard() || s.elements[f.Index()][id] > 0 {
			out = append(out, s.Declaration(f, id))
		}
	}
	return out
}

// Declaration returns a set of a family without elements, of the size that is
// declared for those that it should have.
func (s *State) Declaration(f ruleset.Family, id SetID) *ruleset.Set {
	out := Declaration(id)
	out.Size = sizeFor(out, s.elements[f.Index()][id])
	return out
}

// addUnits adds the chains and sets that services share.
func (s *State) addUnits(to *ruleset.Ruleset) {
	for i, t := range to.Tables {
		for _, u := range sortedUnits(s.shared.units[i]) {
			if _, ok := u.(shard); ok {
				continue // see ServiceSets
			}
			if set := u.set(); set != nil {
				t.Sets = append(t.Sets, set)
			} else {
				t.Chains = append(t.Chains, s.cfg.chainOf(t.Family, u))
			}
		}
	}
}

// byID finds the sets of a ruleset with tables of both families by their numbers.
func byID(r *ruleset.Ruleset) (out [2][NumSets]*ruleset.Set) {
	for i, t := range r.Tables {
		for _, s := range t.Sets {
			if id := SetNamed(s.Name); id < NumSets {
				out[i][id] = s
			}
		}
	}
	return out
}

// filling puts a service's elements into a ruleset.
type filling struct {
	sets    [2][NumSets]*ruleset.Set
	uses    *shared
	repeats [2][addrSets]bool // whether several services use one address
	seen    map[addrUse]bool  // addresses that several services use and that were added
}

// addrUse is an address in one of the addrSets.
type addrUse struct {
	SetID
	netip.Addr
}

func repeats(uses map[netip.Addr]int) bool {
	for _, n := range uses {
		if n > 1 {
			return true
		}
	}
	return false
}

func (r *filling) element(f int, id SetID, e ruleset.Element) {
	s := r.sets[f][id]
	s.Elements = append(s.Elements, e)
}

func (*filling) use(int, unit) {}

func (r *filling) addr(f int, id SetID, a netip.Addr) {
	if i := id - Hairpin; r.repeats[f][i] && r.uses.addrs[f][i][a] > 1 {
		if r.seen[addrUse{id, a}] {
			return
		}
		r.seen[addrUse{id, a}] = true
	}
	r.element(f, id, addrElement(id, a))
}

// addrElement returns the element of an address in one of the addrSets.
func addrElement(id SetID, a netip.Addr) ruleset.Element {
	key := ruleset.Tuple{}.Addr(a)
	if id == Hairpin {
		key = key.Addr(a)
	}
	return ruleset.Element{Key: key}
}

func sortedUnits(m map[unit]int) []unit {
	type named struct {
		name string
		unit
	}
	list := make([]named, 0, len(m))
	for u := range m {
		list = append(list, named{u.name(), u})
	}
	slices.SortFunc(list, func(x, y named) int {
		return cmp.Or(cmp.Compare(len(x.name), len(y.name)), cmp.Compare(x.name, y.name))
	})
	out := make([]unit, len(list))
	for i := range list {
		out[i] = list[i].unit
	}
	return out
}

// SetSizes records the sizes of the kernel's sets once the changes are applied
// to the current ruleset: sets that are kept may be larger than a fresh ruleset
// would declare.
func (s *State) SetSizes(current *ruleset.Ruleset, changes []ruleset.Change) {
	for _, f := range ruleset.Families {
		s.SetSizesOf(f, current, changes)
	}
}

// SetSizesOf is SetSizes for one family alone.
func (s *State) SetSizesOf(f ruleset.Family, current *ruleset.Ruleset, changes []ruleset.Change) {
	sizes := &s.sizes[f.Index()]
	for id := range declared {
		d := &declared[id]
		sizes[id] = sizeFor(d, s.elements[f.Index()][id])
		if t := current.Table(f); t != nil && t.Set(d.Name) != nil {
			sizes[id] = t.Set(d.Name).Size
		}
	}
	for i := range changes {
		c := &changes[i]
		if c.Family != f || c.Verb != ruleset.Add || c.Set == nil || len(c.Elements) > 0 {
			continue
		}
		if id := SetNamed(c.Set.Name); id < NumSets {
			sizes[id] = c.Set.Size
		}
	}
}
