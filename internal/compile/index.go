package compile

import (
	"cmp"
	"iter"
	"net/netip"
	"slices"
)

// Key identifies a frontend: no two services may claim the same one. A node-wide
// frontend has the unspecified address of its family, so another service may
// claim its port on a single address. Nor does a range of ports collide with a
// single port inside it.
type Key struct {
	Addr   netip.Addr
	Port   uint16 // the first one of a range
	Proto  uint8
	Ranged bool
}

// Key returns the key of one of the service's frontends.
func (s *Service) Key(f *Frontend) Key {
	return Key{Addr: f.Addr, Port: f.Port, Proto: s.Proto, Ranged: f.End > 0}
}

// WithoutPort returns the key of a place where ranges of ports can overlap.
func (k Key) WithoutPort() Key { return Key{Addr: k.Addr, Proto: k.Proto} }

// Index maps frontends to the services that claim them.
type Index struct {
	owner  map[Key]string
	ranges map[Key][]portRange // by WithoutPort, in ascending order
}

type portRange struct{ first, last uint16 }

// NewIndex returns an empty index with room for n frontends.
func NewIndex(n int) *Index {
	return &Index{owner: make(map[Key]string, n), ranges: map[Key][]portRange{}}
}

// Owner returns the name of the service that claims the key.
func (x *Index) Owner(k Key) (name string, ok bool) {
	name, ok = x.owner[k]
	return name, ok
}

// Keys iterates over all keys, in no particular order.
func (x *Index) Keys(yield func(Key) bool) {
	for k := range x.owner {
		if !yield(k) {
			return
		}
	}
}

// Match returns the key of the frontend that matches packets to the address and
// port of k, which is not ranged: a frontend of that single port, else a range.
func (x *Index) Match(k Key) (Key, bool) {
	if _, ok := x.owner[k]; ok {
		return k, true
	}
	if near := x.from(k); len(near) > 0 && near[0].first <= k.Port {
		return Key{k.Addr, near[0].first, k.Proto, true}, true
	}
	return Key{}, false
}

// from lists the ranges with k's address and protocol that end at its port or
// after it.
func (x *Index) from(k Key) []portRange {
	ranges := x.ranges[k.WithoutPort()]
	i, _ := slices.BinarySearchFunc(ranges, k.Port, func(r portRange, port uint16) int { return cmp.Compare(r.last, port) })
	return ranges[i:]
}

// Conflict returns a service that already claims the key or, if the key is a
// range of ports, which ends with last, some port of it as part of another
// range. Services named in ignored do not count.
func (x *Index) Conflict(k Key, last uint16, ignored map[string]bool) (owner string, ok bool) {
	if !k.Ranged {
		owner, ok = x.owner[k]
		return owner, ok && !ignored[owner]
	}
	for _, r := range x.from(k) {
		if r.first > last {
			break
		}
		if owner = x.owner[Key{k.Addr, r.first, k.Proto, true}]; !ignored[owner] {
			return owner, true
		}
	}
	return "", false
}

// Add assigns the key, and the ports up to last if it is a range, to a service.
// The caller makes sure that there is no conflict.
func (x *Index) Add(k Key, last uint16, owner string) {
	x.owner[k] = owner
	if k.Ranged {
		at := k.WithoutPort()
		ranges := x.ranges[at]
		x.ranges[at] = slices.Insert(ranges, len(ranges)-len(x.from(k)), portRange{k.Port, last})
	}
}

// add adds the frontends of a service under a name, except those that another
// service claims already: tables that another process has changed can be
// contradictory.
func (x *Index) add(s *Service, name string) {
	for i := range s.Frontends {
		x.addFrontend(s, s.Frontends[i], name)
	}
}

func (x *Index) addFrontend(s *Service, f *Frontend, name string) {
	if _, taken := x.Conflict(s.Key(f), f.End, nil); !taken {
		x.Add(s.Key(f), f.End, name)
	}
}

func (x *Index) remove(s *Service) {
	for i := range s.Frontends {
		x.removeFrontend(s, s.Frontends[i])
	}
}

func (x *Index) removeFrontend(s *Service, f *Frontend) {
	k := s.Key(f)
	if owner, ok := x.owner[k]; !ok || owner != s.Name {
		return
	}
	delete(x.owner, k)
	if !k.Ranged {
		return
	}
	at := k.WithoutPort()
	ranges := x.ranges[at]
	i := len(ranges) - len(x.from(k))
	if x.ranges[at] = slices.Delete(ranges, i, i+1); len(ranges) == 1 {
		delete(x.ranges, at)
	}
}

// moved iterates over the frontends of a service that its successor does not have
// at the same place.
func (x *Index) moved(s, successor *Service) iter.Seq[*Frontend] {
	return func(yield func(*Frontend) bool) {
		for f, o := range Changed(s, successor) {
			stays := f != nil && o != nil && s.Proto == successor.Proto && x.owner[s.Key(f)] == s.Name
			if f != nil && !stays && !yield(f) {
				return
			}
		}
	}
}

// Conflict is a frontend that another service claims already.
type Conflict struct {
	Service  *Service
	Frontend *Frontend
	Owner    string // the other service
}

// Conflicts lists the frontends of the services of set that other services of
// the State claim already. Services that are replaced by one of set, and those
// named in removed, do not count. The frontends that a service shares with the one
// that it replaces have no conflict.
func (s *State) Conflicts(set []*Service, removed []string) []Conflict {
	ignored := make(map[string]bool, len(set)+len(removed))
	for _, name := range removed {
		ignored[name] = true
	}
	for _, svc := range set {
		ignored[svc.Name] = true
	}
	var out []Conflict
	for _, svc := range set {
		former := s.services[svc.Name]
		if former == nil {
			former = &Service{}
		}
		for _, f := range Changed(former, svc) {
			if f != nil {
				out = s.index.conflict(svc, f, ignored, out)
			}
		}
	}
	return out
}

// ConflictsBeside lists the frontends of services that others in shared tables claim
// already.
func (s *State) ConflictsBeside(set []*Service) (out []Conflict) {
	if !s.Others() {
		return nil
	}
	for _, svc := range set {
		for _, f := range svc.Frontends {
			out = s.common.index.conflict(svc, f, nil, out)
		}
	}
	return out
}

func (x *Index) conflict(s *Service, f *Frontend, ignored map[string]bool, to []Conflict) []Conflict {
	if owner, ok := x.Conflict(s.Key(f), f.End, ignored); ok {
		to = append(to, Conflict{s, f, owner})
	}
	return to
}
