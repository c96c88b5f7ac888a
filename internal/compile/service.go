package compile

import (
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/nftdp/go-nftdp/internal/ruleset"
)

// Service is a valid service, lowered: every frontend is of one family and has
// its pool of backends.
type Service struct {
	Name      string
	Proto     uint8
	Scheduler Scheduler
	Affinity  uint32                    // how many seconds a client keeps its backend; 0 disables affinity
	Frontends []*Frontend               // in order of their addresses and ports; services may share them
	Limits    map[netip.AddrPort]uint32 // of connections, for the backends that have a limit
	ToNode    bool                      // some frontend leads to a port of the node (see OfNode)

	// The following fields matter for established flows only and compile to
	// nothing. The lists are sorted.
	Draining []netip.AddrPort
	Reserve  []netip.AddrPort // active backups that no frontend leads to now
	CutStale bool             // established connections that are stale are deleted
	Adopted  bool             // read from a ruleset, which does not hold these fields

	// Model is what the service was lowered from, for whoever lowered it. The
	// package does not look at it. A service that was read from a ruleset has none.
	Model any
}

// Frontend is an address and port; an unspecified address is node-wide.
type Frontend struct {
	Addr  netip.Addr
	Port  uint16
	End   uint16 // last port of a range; 0: Port alone
	Empty Action // what happens to packets while there are no backends

	// Pool has the backends by slot, as Slots returns them; a port of 0
	// stands for the port that the client connects to, and an unspecified
	// address for the node itself. Internal is the pool
	// of internal clients and local processes, if they have another one.
	Pool, Internal []netip.AddrPort

	// Ordered and OrderedInternal are the same as Slots returned them, if
	// Arranged has arranged them otherwise.
	Ordered, OrderedInternal []netip.AddrPort

	Clients Clients
	Source  Source
}

// Action is what happens to packets for which there is no backend.
type Action uint8

// The actions.
const (
	Reject Action = iota
	Drop
	Pass // leave them to the host
)

// Equal reports whether both compile to the same elements.
func (s *Service) Equal(o *Service) bool {
	if s.Name != o.Name || !s.alike(o) || len(s.Frontends) != len(o.Frontends) {
		return false
	}
	for i, f := range s.Frontends {
		if f != o.Frontends[i] && !f.equal(o.Frontends[i]) {
			return false
		}
	}
	return true
}

// alike reports whether equal frontends of both compile to the same elements, but
// for their comments.
func (s *Service) alike(o *Service) bool {
	return s.Proto == o.Proto && s.Scheduler == o.Scheduler && s.Affinity == o.Affinity && s.ToNode == o.ToNode && maps.Equal(s.Limits, o.Limits)
}

func (f *Frontend) equal(o *Frontend) bool {
	return f.alike(o) && f.equalPools(f.Pool, o.Pool) && f.equalPools(f.Internal, o.Internal)
}

// equalPools reports whether two pools of the frontend have the same slots.
func (f *Frontend) equalPools(a, b []netip.AddrPort) bool {
	return equal(a, b) || f.End == 0 && slices.EqualFunc(a, b, func(x, y netip.AddrPort) bool {
		return withPort(x, f.Port) == withPort(y, f.Port)
	})
}

// alike reports whether both are equal but for their pools.
func (f *Frontend) alike(o *Frontend) bool {
	return f.Addr == o.Addr && f.Port == o.Port && f.End == o.End && f.Empty == o.Empty &&
		f.Clients == o.Clients && f.Source == o.Source
}

// Backends returns the backends that some frontend leads to, each once.
func (s *Service) Backends() []netip.AddrPort {
	var out []netip.AddrPort
	for i, f := range s.Frontends {
		if i > 0 && f.SamePools(s.Frontends[i-1]) {
			continue
		}
		out = append(append(out, f.Pool...), f.Internal...)
	}
	slices.SortFunc(out, netip.AddrPort.Compare)
	return slices.Compact(out)
}

// SamePools reports whether two frontends share their slices of backends, as the
// frontends of a family mostly do.
func (f *Frontend) SamePools(o *Frontend) bool {
	return same(f.Pool, o.Pool) && same(f.Internal, o.Internal)
}

func same[T any](a, b []T) bool {
	return len(a) == len(b) && (len(a) == 0 || &a[0] == &b[0])
}

// unit is a chain, or a set of prefixes, that services share.
type unit interface {
	name() string
	chain() *ruleset.Chain // nil for a set
	set() *ruleset.Set
}

// sink receives what a service compiles to.
type sink interface {
	element(family int, id SetID, e ruleset.Element)
	use(family int, u unit)                  // one use of a unit
	addr(family int, id SetID, a netip.Addr) // one use of an address in one of the addrSets
}

// emit passes the service's elements to a sink, and its uses of units and of
// addresses, for the sink to count. Backends that no frontend leads to are left out, so
// that a ruleset shows everything that it was compiled from.
func (s *Service) emit(cfg *Config, to sink) {
	var lists addrLists
	with := learning{Service: s}
	for _, f := range s.Frontends {
		with.emitFrontend(f, lists.of(f), nil, to)
	}
	for family, uses := range s.addrUses(cfg, &lists) {
		for i, addrs := range uses {
			for _, a := range addrs {
				to.addr(family, Hairpin+SetID(i), a)
			}
		}
	}
}

// addrUses lists the addresses in each of the addrSets by family, sorted.
func (s *Service) addrUses(cfg *Config, lists *addrLists) (out [2][addrSets][]netip.Addr) {
	for family, addrs := range s.addrs(lists) {
		out[family][0] = addrs
	}
	if !cfg.DropUnallocated {
		return out
	}
	for i := range s.Frontends { // which are sorted
		a := s.Frontends[i].Addr
		to := &out[ruleset.FamilyOf(a).Index()][Addresses-Hairpin]
		if n := len(*to); !a.IsUnspecified() && (n == 0 || (*to)[n-1] != a) {
			*to = append(*to, a)
		}
	}
	return out
}

// addrs lists the addresses of the service's backends by family, sorted, but for ports
// of the node: none of them is sent to itself by way of another machine.
func (s *Service) addrs(lists *addrLists) (out [2][]netip.Addr) {
	several := [2]bool{}
	for i, f := range s.Frontends {
		if i > 0 && f.SamePools(s.Frontends[i-1]) {
			continue
		}
		family, addrs := ruleset.FamilyOf(f.Addr).Index(), lists.of(f)
		switch {
		case len(addrs) == 0 || same(addrs, out[family]):
		case out[family] == nil:
			out[family] = addrs
		default:
			out[family] = append(slices.Clip(out[family]), addrs...)
			several[family] = true
		}
	}
	for i := range out {
		if several[i] {
			slices.SortFunc(out[i], netip.Addr.Compare)
			out[i] = slices.Compact(out[i])
		}
		if len(out[i]) > 0 && out[i][0].IsUnspecified() { // the node itself
			out[i] = out[i][1:]
		}
	}
	return out
}

// addrLists remembers the addresses of the last pools that it was asked for: the
// frontends of a service mostly share theirs.
type addrLists struct {
	known [4]struct {
		frontend *Frontend
		addrs    []netip.Addr
	}
	next int
}

func (l *addrLists) of(f *Frontend) []netip.Addr {
	for i := range l.known {
		if k := &l.known[i]; k.frontend != nil && k.frontend.SamePools(f) {
			return k.addrs
		}
	}
	k := &l.known[l.next]
	k.frontend, k.addrs = f, f.addrs()
	l.next = (l.next + 1) % len(l.known)
	return k.addrs
}

// addrs lists the addresses of the frontend's backends, sorted.
func (f *Frontend) addrs() []netip.Addr {
	pool, internal := f.Pool, f.Internal
	if f.Ordered != nil {
		pool = f.Ordered
	}
	if f.OrderedInternal != nil {
		internal = f.OrderedInternal
	}
	return distinct(pool, internal)
}

// distinct lists the addresses of pools, sorted.
func distinct(pools ...[]netip.AddrPort) []netip.Addr {
	n := 0
	for _, pool := range pools {
		n += len(pool)
	}
	out := make([]netip.Addr, 0, n)
	sorted := true
	for _, pool := range pools {
		for i, b := range pool {
			if i > 0 && b.Addr() == pool[i-1].Addr() {
				continue
			}
			sorted = sorted && (len(out) == 0 || out[len(out)-1].Less(b.Addr()))
			out = append(out, b.Addr())
		}
	}
	if !sorted {
		slices.SortFunc(out, netip.Addr.Compare)
		out = slices.Compact(out)
	}
	return out
}

// emission emits one frontend, whose backends have these addresses. If only is not
// nil, it has the slots that are emitted, of Pool and Internal, and addrs the
// addresses by which postrouting finds the frontend.
type emission struct {
	*learning
	f      *Frontend
	family int
	addrs  []netip.Addr
	only   *[2][]int
	to     sink
}

func (l *learning) emitFrontend(f *Frontend, addrs []netip.Addr, only *[2][]int, to sink) {
	(&emission{l, f, ruleset.FamilyOf(f.Addr).Index(), addrs, only, to}).emit()
}

func (e *emission) emit() {
	c := e.class(e.f)
	id := Frontends
	if e.f.End > 0 {
		id = FrontendRanges
	}
	el := e.key(id.of(c.node))
	if e.f.End > 0 {
		e.to.element(e.family, Ranges.of(c.node), el)
	}
	el.Verdict, el.Comment = c.verdict(), e.Name
	e.to.element(e.family, id.of(c.node), el)
	for u := range c.units() {
		e.to.use(e.family, u)
	}
	if e.f.Addr.IsLoopback() {
		useLoopback(ruleset.FamilyOf(e.f.Addr), func(u unit) { e.to.use(e.family, u) })
	}
	if len(e.f.Pool)+len(e.f.Internal) == 0 {
		return
	}
	e.backends(c, e.f.Pool, false)
	e.backends(c, e.f.Internal, true)
	e.source(c)
	e.affinity(c)
}

// affinity emits the elements by which postrouting finds the chain that records the
// client, if any.
func (e *emission) affinity(c class) {
	switch {
	case e.Affinity > 0:
		learners := e.of(e.f)
		for _, u := range learners.units {
			e.to.use(e.family, u)
		}
		e.byBackend(Affinities, c, learners.verdict)
	case !c.node: // explicit, since a node-wide frontend with the port and the backend may have affinity
		id := Affinities
		if c.ranged {
			id = AffinityRanges
		}
		e.byBackend(id, c, ruleset.Verdict{Kind: ruleset.Return})
	}
}

// key returns the frontend's element, without a value, for a set whose keys
// begin with frontends.
func (e *emission) key(id SetID) ruleset.Element {
	var el ruleset.Element
	if !id.NodeWide() {
		el.Key = el.Key.Addr(e.f.Addr)
	}
	prefix := el.Key.Proto(e.Proto)
	el.Key = prefix.Port(e.f.Port)
	if e.f.End > 0 {
		el.End = prefix.Port(e.f.End)
	}
	return el
}

// backends emits the slots of a pool.
func (e *emission) backends(c class, pool []netip.AddrPort, internal bool) {
	id, first := c.slots(), uint32(0)
	if c.ranged {
		first = uint32(e.f.Port) << rangeSlotBits
	}
	if internal {
		first += c.internalSlots()
	}
	var key ruleset.Tuple
	if !c.node {
		key = key.Addr(e.f.Addr)
	}
	key = key.Proto(e.Proto)
	if !c.ranged {
		key = key.Port(e.f.Port)
	}
	put := func(slot int) {
		b := pool[slot]
		el := ruleset.Element{Key: key.Slot(first + uint32(slot))}
		switch {
		case c.ranged:
			el.Data = ruleset.Tuple{}.Addr(b.Addr())
		case c.limited:
			l := limit{most: e.Limits[b], proto: e.Proto, backend: withPort(b, e.f.Port)}
			l.drop = e.f.Empty == Drop && l.most > 0
			e.to.use(e.family, l)
			el.Verdict = gotoChain(l)
		default:
			b = withPort(b, e.f.Port)
			el.Data = ruleset.Tuple{}.Addr(b.Addr()).Port(b.Port())
			if id.Shard() && slot == 0 && !internal {
				e.to.element(e.family, FirstBackends.of(c.node), ruleset.Element{Key: key, Data: el.Data})
			}
		}
		e.to.element(e.family, id, el)
	}
	if e.only == nil {
		for slot := range pool {
			put(slot)
		}
		return
	}
	which := 0
	if internal {
		which = 1
	}
	for _, slot := range e.only[which] {
		put(slot)
	}
}

// withPort returns a backend with the port that the client connects to, if it
// has none of its own.
func withPort(b netip.AddrPort, port uint16) netip.AddrPort {
	if b.Port() == 0 {
		return netip.AddrPortFrom(b.Addr(), port)
	}
	return b
}

// byBackend emits elements by which postrouting finds the frontend: one if it
// has an address, else one for each backend.
func (e *emission) byBackend(id SetID, c class, v ruleset.Verdict) {
	id = id.of(c.node)
	el := e.key(id)
	el.Verdict = v
	if !c.node {
		e.to.element(e.family, id, el)
		return
	}
	for _, a := range e.addrs {
		one := el
		one.Key = el.Key.Addr(a)
		if !el.End.IsZero() {
			one.End = el.End.Addr(a)
		}
		e.to.element(e.family, id, one)
	}
}

func gotoChain(u unit) ruleset.Verdict {
	return ruleset.Verdict{Kind: ruleset.Goto, Chain: u.name()}
}

// inName returns an address in the form for names of objects, in which nft
// accepts no colon.
func inName(a netip.Addr) string { return strings.ReplaceAll(a.String(), ":", ".") }

// outOfName undoes inName.
func outOfName(text string, f ruleset.Family) string {
	if f == ruleset.IPv6 {
		return strings.ReplaceAll(text, ".", ":")
	}
	return text
}
