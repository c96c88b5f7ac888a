package health

import (
	"net/netip"
	"time"

	"github.com/nftdp/go-nftdp/nftdp"
)

// service is one that is checked.
type service struct {
	name    string
	check   Check
	members []member // in the order of the service's backends
	known   map[netip.AddrPort]*backend
	panics  bool // as it was last reported
}

// member is a backend as the service has it.
type member struct {
	*backend
	wanted  nftdp.State    // the caller's
	set     nftdp.State    // the dataplane's
	reserve bool           // a backup, or for the connections that a policy restricts
	target  netip.AddrPort // what is checked; port 0: nothing
}

// in reports whether the backend is one of a family's. A port of the node is both's.
func (m *member) in(is4 bool) bool {
	addr := m.addr.Addr().Unmap()
	return addr.IsUnspecified() || addr.Is4() == is4
}

// backend is what is known about one. It outlives changes of its service.
type backend struct {
	service *service
	addr    netip.AddrPort // by which SetState knows it
	target  netip.AddrPort // that of the service as it is now
	healthy bool
	streak  int // checks in a row that say otherwise
	err     error
	took    time.Duration
	since   time.Time // of healthy
	next    time.Time // when it is checked next; zero before it is in the schedule
	gone    bool      // its service has it no more
}

// newService returns a service with what is known about its backends from the former
// one, which may be nil.
func newService(s *nftdp.Service, check Check, former *service) *service {
	out := &service{name: s.Name, check: check, known: make(map[netip.AddrPort]*backend, len(s.Backends))}
	if former != nil {
		out.panics = former.panics
	}
	for i := range s.Backends {
		b := &s.Backends[i]
		addr, target := addrsOf(b, check.Port)
		var known *backend
		if former != nil {
			known = former.known[addr]
		}
		if known == nil {
			// A single failure takes out what has never succeeded.
			known = &backend{addr: addr, healthy: true, streak: check.Fall - 1, since: time.Now()}
		}
		out.known[addr] = known
		out.members = append(out.members, member{backend: known, wanted: b.State, reserve: b.Backup || b.LocalOnly, target: target})
	}
	states, _ := out.states()
	for i := range out.members {
		out.members[i].set = states[i]
	}
	return out
}

// addrsOf returns by which address SetState knows a backend, and which is checked. A
// port of the node takes local connections at the loopback address.
func addrsOf(b *nftdp.Backend, port uint16) (addr, target netip.AddrPort) {
	addr, target = b.Addr, b.Addr
	if b.NodePort > 0 {
		addr = netip.AddrPortFrom(netip.IPv4Unspecified(), b.NodePort)
		target = netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), b.NodePort)
	}
	if port > 0 {
		target = netip.AddrPortFrom(target.Addr(), port)
	}
	return addr, target
}

// states returns the states that the members should have.
func (s *service) states() (states []nftdp.State, panics bool) {
	states = make([]nftdp.State, len(s.members))
	pools := [2]pool{s.pool(true), s.pool(false)}
	for i := range s.members {
		m := &s.members[i]
		needed := m.in(true) && pools[0].needs(m) || m.in(false) && pools[1].needs(m)
		switch {
		case m.wanted != nftdp.StateActive:
			states[i] = m.wanted
		case m.healthy || needed:
			states[i] = nftdp.StateActive
		default:
			states[i] = nftdp.StateDown
		}
	}
	return states, pools[0].panics || pools[1].panics
}

// pool is which backends of a family connections go to.
type pool struct {
	reserve bool // to those in reserve, as these alone are healthy
	panics  bool // to failed ones, too
}

func (p pool) needs(m *member) bool { return p.panics && m.reserve == p.reserve }

func (s *service) pool(is4 bool) pool {
	var all, healthy [2]int // of those that are not in reserve, and of those that are
	for i := range s.members {
		m := &s.members[i]
		if m.wanted != nftdp.StateActive || !m.in(is4) {
			continue
		}
		kind := 0
		if m.reserve {
			kind = 1
		}
		all[kind]++
		if m.healthy {
			healthy[kind]++
		}
	}
	kind := 0
	if healthy[0] == 0 && healthy[1] > 0 || all[0] == 0 {
		kind = 1
	}
	return pool{reserve: kind == 1, panics: all[kind] > 0 && float64(healthy[kind]) < s.check.Panic*float64(all[kind])}
}

// judge takes the outcome of a check, and reports whether the backend has become
// healthy or has failed.
func (b *backend) judge(err error, took time.Duration) (changed bool) {
	b.took = took
	if (err == nil) == b.healthy {
		b.streak = 0
		if b.healthy {
			b.err = nil
		} else {
			b.err = err
		}
		return false
	}
	b.streak++
	need := b.service.check.Rise
	if b.healthy {
		b.err, need = err, b.service.check.Fall
	}
	if b.streak < need {
		return false
	}
	b.healthy, b.streak, b.since, b.err = !b.healthy, 0, time.Now(), err
	return true
}

// schedule is a heap of backends by the time of their next check (container/heap).
type schedule []*backend

func (s schedule) Len() int           { return len(s) }
func (s schedule) Less(i, j int) bool { return s[i].next.Before(s[j].next) }
func (s schedule) Swap(i, j int)      { s[i], s[j] = s[j], s[i] }

// Push and Pop are for container/heap.
func (s *schedule) Push(b any) { *s = append(*s, b.(*backend)) }

// Pop removes the last one.
func (s *schedule) Pop() any {
	last := len(*s) - 1
	b := (*s)[last]
	(*s)[last] = nil
	*s = (*s)[:last]
	return b
}
