package flows

import (
	"maps"
	"net/netip"
	"slices"

	"github.com/nftdp/go-nftdp/internal/compile"
	"github.com/nftdp/go-nftdp/internal/conntrack"
	"github.com/nftdp/go-nftdp/internal/ruleset"
)

// marks say which flows changes can have made stale.
type marks struct {
	whole [2]mark // of all frontends of a family
	addrs addrSet // that the node has got or lost
	at    map[compile.Key]*mark
	// keys before and after the changes: ranges of ports can overlap then.
	keys [2]*compile.Index
	last func(compile.Key) uint16 // the last port of a frontend at present
}

// mark says which flows at a frontend can be stale: all, or only those that lead
// to backends that are gone.
type mark struct {
	all bool
	// fresh: the frontend is new, or its rules were repaired. Packets matched
	// other rules or none before, so flows that lead to where it never led are
	// stale, too.
	fresh bool
	gone  backends
}

func (x *mark) lose(b netip.AddrPort) {
	if x.gone == nil {
		x.gone = backends{}
	}
	x.gone[b] = true
}

const before, after = 0, 1

func newMarks(last func(compile.Key) uint16) *marks {
	return &marks{
		last: last, at: map[compile.Key]*mark{}, keys: [2]*compile.Index{compile.NewIndex(0), compile.NewIndex(0)},
	}
}

// mark returns the mark of a frontend, whose last port is given for a range.
func (m *marks) mark(when int, k compile.Key, last uint16) *mark {
	x := m.keys[when]
	if _, known := x.Owner(k); !known {
		if _, conflict := x.Conflict(k, last, nil); conflict { // others have made tables that contradict themselves
			m.whole[ruleset.FamilyOf(k.Addr).Index()].all = true
			return &mark{}
		}
		x.Add(k, last, "")
	}
	if m.at[k] == nil {
		m.at[k] = &mark{}
	}
	return m.at[k]
}

// none reports whether no flow can be stale.
func (m *marks) none() bool {
	isNone := func(x *mark) bool { return !x.all && len(x.gone) == 0 }
	for k, x := range m.at {
		if isNone(x) {
			delete(m.at, k)
		}
	}
	return len(m.at) == 0 && m.addrs.empty() && isNone(&m.whole[0]) && isNone(&m.whole[1])
}

// touch says what marks say about one flow.
type touch struct {
	can              bool // it can be stale
	led, ledWide     bool // it leads to a backend that its frontend had, if that has the address, or is node-wide
	fresh, freshWide bool // the frontend is fresh, likewise
}

// of returns what the marks say about a flow to an address and port that leads
// somewhere, which may be an address of the node.
func (m *marks) of(proto uint8, dst, to netip.AddrPort, local func(netip.Addr) bool) touch {
	whole := &m.whole[ruleset.FamilyOf(dst.Addr()).Index()]
	out := touch{can: whole.all || m.addrs.has(dst.Addr()) || m.addrs.has(to.Addr()), fresh: whole.fresh, freshWide: whole.fresh}
	if len(m.at) == 0 {
		return out
	}
	k := compile.Key{Addr: dst.Addr(), Port: dst.Port(), Proto: proto}
	for i, k := range [...]compile.Key{k, k.NodeWide()} {
		for _, x := range m.keys {
			found, ok := x.Match(k)
			if mark := m.at[found]; ok && mark != nil {
				led := mark.gone.has(to, local)
				out.can = out.can || mark.all || led
				out.led, out.ledWide = out.led || led && i == 0, out.ledWide || led && i == 1
				out.fresh, out.freshWide = out.fresh || mark.fresh && i == 0, out.freshWide || mark.fresh && i == 1
			}
		}
	}
	return out
}

// replaced marks what it can make stale that a service takes the place of another
// one; either can be nil. It reports whether clients can be remembered that the
// service would not send to their backends any more.
func (m *marks) replaced(old, next *compile.Service) (clients bool) {
	if old == nil {
		old = &compile.Service{Proto: next.Proto}
	}
	if next == nil {
		next = &compile.Service{Proto: old.Proto}
	}
	if old.Proto != next.Proto { // no frontend is the same
		clients = m.replaced(old, nil)
		return m.replaced(nil, next) || clients
	}
	kept, left := newBackends(next.Draining, next.Reserve), backends(nil)
	if len(old.Draining)+len(old.Reserve) > 0 {
		left = lost(slices.Concat(old.Draining, old.Reserve), usable(next))
	}
	pairs := compile.Changed(old, next)
	if len(left) > 0 || old.Adopted {
		pairs = compile.Paired(old.Frontends, next.Frontends)
	}
	var gone backends
	var last [2]*compile.Frontend // that gone is about
	for f, n := range pairs {
		if f == nil {
			x := m.mark(after, next.Key(n), n.End)
			x.all, x.fresh = true, true
			continue
		}
		x := m.mark(before, old.Key(f), f.End)
		switch {
		case n == nil || n.Clients != f.Clients || n.Source != f.Source || (n.Internal == nil) != (f.Internal == nil):
			x.all, clients = true, true
		case passes(f) != passes(n):
			x.all, x.fresh, clients = true, true, true
		default:
			if last[0] == nil || !f.SamePools(last[0]) || !n.SamePools(last[1]) {
				gone, last = lostBy(f, n), [2]*compile.Frontend{f, n}
			}
			for b := range gone {
				clients = true
				if !kept[b] {
					x.lose(b)
				}
			}
			for b := range left {
				x.lose(b)
			}
		}
		x.fresh = x.fresh || old.Adopted
		x.all = x.all || old.Adopted
	}
	return (clients || next.Affinity != old.Affinity) && old.Affinity > 0
}

// passes reports whether the frontend leaves flows to the host, for want of backends.
func passes(f *compile.Frontend) bool { return f.Empty == compile.Pass && len(f.Pool) == 0 }

// lost lists those of a list that are not in a set.
func lost(list []netip.AddrPort, in backends) backends {
	out := backends{}
	for _, b := range list {
		if !in[b] {
			out[b] = true
		}
	}
	return out
}

// lostBy lists the backends that a pool of a frontend has lost. Those that stay keep
// their slots, most of them.
func lostBy(old, next *compile.Frontend) backends {
	out := backends{}
	for _, p := range [...][2][]netip.AddrPort{{old.Pool, next.Pool}, {old.Internal, next.Internal}} {
		moved := backends{}
		for i, b := range p[0] {
			if i >= len(p[1]) || p[1][i] != b {
				moved[b] = true
			}
		}
		if len(moved) > 0 {
			for _, b := range p[1] {
				delete(moved, b)
			}
		}
		maps.Copy(out, moved)
	}
	return out
}

// repaired marks what changes can make stale that were computed from what the
// kernel holds, so that they may undo what others have done.
func (m *marks) repaired(changes []ruleset.Change) {
	made, known := map[any]bool{}, map[compile.Key]uint16{}
	for i := range changes {
		c := &changes[i]
		family := &m.whole[c.Family.Index()]
		switch {
		case len(c.Elements) > 0 && compile.SetNamed(c.Set.Name) == compile.NumSets:
			family.all = family.all || !made[c.Set.Name]
		case len(c.Elements) > 0:
			m.elements(c, known)
		case c.Set != nil:
			made[c.Set.Name] = made[c.Set.Name] || c.Verb == ruleset.Add
		case c.Chain != nil && c.Verb == ruleset.Add && c.Rule == nil:
			made[c.Chain] = true
			family.repaired(c.Chain.Hook != nil)
		case c.Chain != nil && c.Verb == ruleset.Add:
			family.repaired(!made[c.Chain])
		case c.OfTable():
			family.repaired(c.Verb == ruleset.Add)
		}
	}
}

func (x *mark) repaired(yes bool) {
	x.all, x.fresh = x.all || yes, x.fresh || yes
}

// elements marks the frontends of elements. A frontend is new unless its verdict
// is replaced: then it was deleted before, and known has its last port.
func (m *marks) elements(c *ruleset.Change, known map[compile.Key]uint16) {
	if m.whole[c.Family.Index()].fresh {
		return
	}
	id := compile.SetNamed(c.Set.Name)
	for i := range c.Elements {
		e := &c.Elements[i]
		k, ok := compile.KeyOf(c, e)
		if !ok {
			continue
		}
		last := k.Port
		if !e.End.IsZero() {
			last = compile.LastPort(e)
		}
		switch former, there := known[k]; {
		case id.Frontends() && c.Verb == ruleset.Delete:
			known[k] = last
			m.mark(before, k, last).all = true
		case id.Frontends():
			m.mark(after, k, last).repaired(!there || former != last)
		case id.Backends() && c.Verb == ruleset.Delete:
			if b, ok := compile.BackendOf(c.Family, e); ok {
				m.reached(k).lose(b)
			}
		case id.Sources():
			m.reached(k).all = true
		}
	}
}

// reached returns the mark of a frontend whose last port an element does not show.
func (m *marks) reached(k compile.Key) *mark {
	if x := m.at[k]; x != nil {
		return x
	}
	return m.mark(before, k, m.last(k))
}

// fewFlows is a number of flows that can be listed in less time than another walk
// over the buckets of the kernel's table takes.
const fewFlows = 20_000

// filters returns filters that pass all flows that can be stale, and few others.
// There are n flows in all.
func (m *marks) filters(n int) (out []conntrack.Filter) {
	if n <= fewFlows || m.whole[0].all || m.whole[1].all || !m.addrs.empty() {
		return []conntrack.Filter{{}}
	}
	type group struct {
		family ruleset.Family
		proto  uint8
	}
	by := map[group][]compile.Key{}
	for k := range m.at {
		at := group{ruleset.FamilyOf(k.Addr), k.Proto}
		by[at] = append(by[at], k)
	}
	for at, keys := range by {
		all, left := false, backends{}
		for _, k := range keys {
			all = all || m.at[k].all
			maps.Copy(left, m.at[k].gone)
		}
		if all || len(left) > maxDumps {
			out = append(out, filters(keys, false)...)
		} else {
			for b := range left {
				out = append(out, conntrack.Filter{Family: at.family, Proto: at.proto, To: anywhere(b)})
			}
		}
		if at.proto == compile.UDP {
			// A connection that a backend has begun and that is not established
			// is in nobody's way for long, and one more walk takes longest.
			out = append(out, sources(at.family, at.proto, left)...)
		}
	}
	return out
}

// anywhere returns the form of a backend for filters: a port of the node has no address.
func anywhere(b netip.AddrPort) netip.AddrPort {
	if b.Addr().IsUnspecified() {
		return netip.AddrPortFrom(netip.Addr{}, b.Port())
	}
	return b
}

// sources returns filters that pass the flows which backends have begun.
func sources(f ruleset.Family, proto uint8, of backends) (out []conntrack.Filter) {
	ports := map[uint16]netip.Addr{}
	for b := range of {
		b = anywhere(b)
		if a, there := ports[b.Port()]; there && a != b.Addr() {
			ports[b.Port()] = netip.Addr{}
			continue
		}
		ports[b.Port()] = b.Addr()
	}
	for port, a := range ports {
		out = append(out, conntrack.Filter{Family: f, Proto: proto, From: netip.AddrPortFrom(a, port)})
	}
	if len(out) > maxDumps {
		return []conntrack.Filter{{Family: f, Proto: proto}}
	}
	return out
}
