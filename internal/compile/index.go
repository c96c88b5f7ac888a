package compile

import (
	"cmp"
	"net/netip"
	"slices"
)

// Key is what only one frontend can have. A node-wide frontend has the
// unspecified address of its family, so that another service may have its port
// on one address; a range of ports and a single one of them do not collide
// either.
type Key struct {
	Addr   netip.Addr
	Port   uint16 // the first one of a range
	Proto  uint8
	Ranged bool
}

// Key is the frontend's key.
func (s *Service) Key(f *Frontend) Key {
	return Key{Addr: f.Addr, Port: f.Port, Proto: s.Proto, Ranged: f.End > 0}
}

// place is where ranges of ports can overlap.
type place struct {
	addr  netip.Addr
	proto uint8
}

func (k Key) place() place { return place{k.Addr, k.Proto} }

// Index tells which service has a frontend.
type Index struct {
	owner  map[Key]string
	ranges map[place][]portRange
}

type portRange struct{ first, last uint16 }

// NewIndex makes an empty index with room for n frontends.
func NewIndex(n int) *Index {
	return &Index{owner: make(map[Key]string, n), ranges: map[place][]portRange{}}
}

// Owner is the name of the service that has the key.
func (x *Index) Owner(k Key) (name string, ok bool) {
	name, ok = x.owner[k]
	return name, ok
}

// Keys iterates over all keys, in no order.
func (x *Index) Keys(yield func(Key) bool) {
	for k := range x.owner {
		if !yield(k) {
			return
		}
	}
}

// Taking is the key of the frontend that takes a packet to the address and
// port of k, which is not ranged: one of that port, else a range.
func (x *Index) Taking(k Key) (Key, bool) {
	if _, ok := x.owner[k]; ok {
		return k, true
	}
	if near := x.from(k); len(near) > 0 && near[0].first <= k.Port {
		return Key{k.Addr, near[0].first, k.Proto, true}, true
	}
	return Key{}, false
}

// from lists the ranges at k's place that end with its port or behind it.
func (x *Index) from(k Key) []portRange {
	ranges := x.ranges[k.place()]
	i, _ := slices.BinarySearchFunc(ranges, k.Port, func(r portRange, port uint16) int { return cmp.Compare(r.last, port) })
	return ranges[i:]
}

// Conflict is the service that has the key, or a range of ports that overlaps
// the one that begins with it and ends with last. Services named in ignored do
// not count.
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
// There is no conflict.
func (x *Index) Add(k Key, last uint16, owner string) {
	x.owner[k] = owner
	if k.Ranged {
		ranges := x.ranges[k.place()]
		i := len(ranges) - len(x.from(k))
		x.ranges[k.place()] = slices.Insert(ranges, i, portRange{k.Port, last})
	}
}

// add adds the frontends of a service, except those that another one has: what
// somebody else has written into the tables can be contradictory.
func (x *Index) add(s *Service) {
	for i := range s.Frontends {
		f := &s.Frontends[i]
		if _, taken := x.Conflict(s.Key(f), f.End, nil); !taken {
			x.Add(s.Key(f), f.End, s.Name)
		}
	}
}

func (x *Index) remove(s *Service) {
	for i := range s.Frontends {
		k := s.Key(&s.Frontends[i])
		if owner, ok := x.owner[k]; !ok || owner != s.Name {
			continue
		}
		delete(x.owner, k)
		if !k.Ranged {
			continue
		}
		at := k.place()
		x.ranges[at] = slices.DeleteFunc(x.ranges[at], func(r portRange) bool { return r.first == k.Port })
		if len(x.ranges[at]) == 0 {
			delete(x.ranges, at)
		}
	}
}

// Conflict is a frontend that another service has already.
type Conflict struct {
	Service  *Service
	Frontend *Frontend
	Owner    string // the other service
}

// Conflicts lists the frontends of services, which are to be added or to
// replace those of the same names, that the State's other services have
// already. Services that are named in removed do not count.
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
		for i := range svc.Frontends {
			f := &svc.Frontends[i]
			if owner, ok := s.index.Conflict(svc.Key(f), f.End, ignored); ok {
				out = append(out, Conflict{svc, f, owner})
			}
		}
	}
	return out
}
