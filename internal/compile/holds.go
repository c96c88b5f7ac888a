package compile

import (
	"cmp"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/nftdp/go-nftdp/internal/ruleset"
)

// Held is a service read from a ruleset. Its frontends are those of Slots.
type Held struct {
	Service
	Slots []HeldFrontend
}

// HeldFrontend is a frontend with the slots of its pools. NoBackend says that
// connections are rejected, dropped or left to the host, except those of internal
// clients if there is a pool for them.
type HeldFrontend struct {
	Frontend
	NoBackend      bool
	Slots          []HeldBackend // of Pool, and then of Internal
	Packets, Bytes uint64
}

// HeldBackend is one slot of a pool.
type HeldBackend struct {
	Addr           netip.AddrPort
	Packets, Bytes uint64
}

// Holds reads the services that a ruleset holds, sorted by name, with frontends
// sorted by address and port. Elements that belong to no service are left out.
func Holds(r *ruleset.Ruleset) []Held { return holds(r, true) }

// holds is Holds with the Slots of frontends, or without.
func holds(r *ruleset.Ruleset, slots bool) []Held {
	byName := map[string]*Held{}
	for _, t := range r.Tables {
		reader := newReader(t)
		reader.counters = slots
		for _, id := range []SetID{Frontends, NodeFrontends, FrontendRanges, NodeFrontendRanges} {
			for e := range elements(t, id) {
				reader.frontend(byName, id, e)
			}
		}
	}
	out := make([]Held, 0, len(byName))
	for _, h := range byName {
		slices.SortFunc(h.Slots, func(x, y HeldFrontend) int {
			return cmp.Or(x.Addr.Compare(y.Addr), cmp.Compare(x.Port, y.Port), cmp.Compare(x.End, y.End))
		})
		for i := range h.Slots {
			if i > 0 {
				h.Slots[i].sharePools(&h.Slots[i-1].Frontend)
			}
			h.Frontends = append(h.Frontends, new(h.Slots[i].Frontend))
		}
		h.Adopted = true
		out = append(out, *h)
	}
	slices.SortFunc(out, func(x, y Held) int { return cmp.Compare(x.Name, y.Name) })
	return out
}

// sharePools makes equal pools of two frontends the same slices, as lowering does.
func (f *Frontend) sharePools(o *Frontend) {
	if slices.Equal(f.Pool, o.Pool) {
		f.Pool = o.Pool
	}
	if f.Internal != nil && o.Internal != nil && slices.Equal(f.Internal, o.Internal) {
		f.Internal = o.Internal
	}
}

// HeldByName is Holds without the Slots. It is empty if a table has another schema.
func HeldByName(r *ruleset.Ruleset) map[string]*Service {
	for _, t := range r.Tables {
		if !Current(t) {
			return nil
		}
	}
	held := holds(r, false)
	out := make(map[string]*Service, len(held))
	for i := range held {
		out[held[i].Name] = &held[i].Service
	}
	return out
}

// elements iterates over the elements of a set that could be decoded.
func elements(t *ruleset.Table, id SetID) func(yield func(*ruleset.Element) bool) {
	return func(yield func(*ruleset.Element) bool) {
		s := t.Set(id.name())
		if s == nil {
			return
		}
		for i := range s.Elements {
			if e := &s.Elements[i]; !e.Opaque && !yield(e) {
				return
			}
		}
	}
}

// reader indexes the contents of a table by frontend.
type reader struct {
	*ruleset.Table
	counters   bool // HeldFrontend.Slots are wanted
	names      *ruleset.Names
	slots      map[Key][]*ruleset.Element
	sources    map[Key]Source
	affinities map[Key]uint32
}

func newReader(t *ruleset.Table) *reader {
	r := &reader{
		Table: t, names: t.Names(),
		slots: map[Key][]*ruleset.Element{}, sources: map[Key]Source{}, affinities: map[Key]uint32{},
	}
	for id := Backends; id.Backends(); id++ {
		r.addSlots(id)
	}
	for id := Masq; id <= NodeSourceRanges; id++ {
		for e := range elements(t, id) {
			key, ok := FrontendOf(id, t.Family, e.Key)
			if !ok || e.Verdict.Kind == ruleset.Return { // the source is kept
				continue
			}
			r.sources[key] = Source{}
			if c := r.names.Chain(e.Verdict.Chain); c != nil {
				r.sources[key] = r.sourceOf(c)
			}
		}
	}
	for _, id := range []SetID{Affinities, NodeAffinities} {
		for e := range elements(t, id) {
			key, ok := FrontendOf(id, t.Family, e.Key)
			if seconds, known := secondsOf(e.Verdict.Chain); ok && known {
				r.affinities[key] = seconds
			}
		}
	}
	return r
}

// addSlots indexes the elements of a map of pools. Those of one frontend mostly
// follow each other.
func (r *reader) addSlots(id SetID) {
	var at Key
	var slots []*ruleset.Element
	for e := range elements(r.Table, id) {
		key, ok := FrontendOf(id, r.Family, e.Key)
		if !ok {
			continue
		}
		if key != at {
			r.slots[at] = slots
			at, slots = key, r.slots[key]
		}
		slots = append(slots, e)
	}
	r.slots[at] = slots
}

func (r *reader) frontend(byName map[string]*Held, id SetID, e *ruleset.Element) {
	key, ok := FrontendOf(id, r.Family, e.Key)
	if !ok || e.Comment == "" {
		return
	}
	h := byName[e.Comment]
	if h == nil {
		h = &Held{Service: Service{Name: e.Comment, Proto: key.Proto}}
		byName[e.Comment] = h
	}
	front := HeldFrontend{Frontend: Frontend{Addr: key.Addr, Port: key.Port}, Packets: e.Packets, Bytes: e.Bytes}
	if n := e.End.Len(); n > 0 && n == e.Key.Len() && id.Ranged() {
		front.End = LastPort(e)
	}
	r.follow(h, &front, key, e.Verdict)
	if !front.NoBackend || front.Internal != nil {
		r.pools(h, &front, r.slots[key])
		front.Source = r.source(key)
	}
	h.Slots = append(h.Slots, front)
}

func (r *reader) source(key Key) Source {
	if s, ok := r.sources[key]; ok {
		return s
	}
	return Source{Mode: Keep}
}

// follow takes the path of a packet through the chains of a class, and records
// what they say.
func (r *reader) follow(h *Held, front *HeldFrontend, key Key, v ruleset.Verdict) {
	for range 8 { // another process may have made a loop
		c := r.names.Chain(v.Chain)
		switch {
		case v.Kind == ruleset.Drop:
			front.NoBackend, front.Empty = true, Drop
			return
		case v.Kind == ruleset.Accept:
			front.NoBackend, front.Empty = true, Pass
			return
		case v.Chain == noBackendChain || c == nil || len(c.Rules) == 0:
			front.NoBackend = true
			return
		case choosing(c):
			h.Scheduler = schedulerOf(v.Chain)
			return
		}
		for _, rule := range c.Rules {
			if onward, ok := verdictOf(rule); ok && len(rule) == 1 {
				v = onward
				break
			}
			if usesAffinity(rule) { // an element of a learner's map alone is a leftover
				h.Affinity = max(h.Affinity, r.affinities[key])
			}
			r.condition(h, front, key, rule)
		}
	}
}

// usesAffinity reports whether a rule sends clients to the backend they had
// before.
func usesAffinity(rule ruleset.Rule) bool {
	return slices.ContainsFunc(rule, func(s ruleset.Statement) bool {
		d, ok := s.(ruleset.DNAT)
		return ok && IsAffinityMap(d.Map)
	})
}

// verdictOf returns the verdict that a rule ends with.
func verdictOf(rule ruleset.Rule) (v ruleset.Verdict, ok bool) {
	if len(rule) > 0 {
		v, ok = rule[len(rule)-1].(ruleset.Verdict)
	}
	return v, ok
}

// choosing reports whether a chain, which has rules, chooses a slot of a pool.
func choosing(c *ruleset.Chain) bool {
	for _, rule := range c.Rules {
		for _, s := range rule {
			var key []ruleset.Operand
			switch s := s.(type) {
			case ruleset.DNAT:
				key = s.Key
			case ruleset.VMap:
				key = s.Key
			}
			if n := len(key); n > 0 && key[n-1].Mod > 0 {
				return true
			}
		}
	}
	return false
}

// condition records what a rule ahead of the choice says about clients.
func (r *reader) condition(h *Held, front *HeldFrontend, key Key, rule ruleset.Rule) {
	v, ok := verdictOf(rule)
	if !ok {
		return
	}
	lookup, ok := rule[0].(ruleset.Lookup)
	switch {
	case !ok:
		front.Clients.read(rule)
		return
	case lookup.Set == internalSet:
		front.Internal = []netip.AddrPort{}
		h.Scheduler = schedulerOf(v.Chain)
		if c := r.names.Chain(v.Chain); c != nil && slices.ContainsFunc(c.Rules, usesAffinity) {
			h.Affinity = max(h.Affinity, r.affinities[key])
		}
		return
	}
	s := r.names.Set(lookup.Set)
	if s == nil || !strings.HasPrefix(s.Name, prefixesPrefix) {
		return
	}
	if list, ok := listOf(s, r.Family); ok && lookup.Not {
		front.Clients.Allow = list
	} else if ok {
		front.Clients.Deny = list
	}
}

// schedulerOf reads the scheduler from the name of a pool's chain.
func schedulerOf(chain string) Scheduler {
	for _, prefix := range []string{"node-", "affinity-", "loopback-", "internal-", "limited-", "range-"} {
		chain = strings.TrimPrefix(chain, prefix)
	}
	for i := range schedulers {
		if strings.HasPrefix(chain, schedulers[i].name+"-") {
			return Scheduler(i)
		}
	}
	return Random
}

// pools reads the slots of a frontend.
func (r *reader) pools(h *Held, front *HeldFrontend, slots []*ruleset.Element) {
	slices.SortFunc(slots, func(x, y *ruleset.Element) int { return x.Key.Compare(&y.Key) })
	first := (&pool{ranged: front.End > 0}).internalSlots()
	for _, e := range slots {
		b, ok := BackendOf(r.Family, e)
		if !ok {
			continue
		}
		h.ToNode = h.ToNode || OfNode(b)
		if r.counters {
			front.Slots = append(front.Slots, HeldBackend{Addr: b, Packets: e.Packets, Bytes: e.Bytes})
		}
		if e.Key.SlotAt(e.Key.Len()-ruleset.Slot.Len(r.Family))&first == 0 {
			if front.Pool == nil {
				front.Pool = make([]netip.AddrPort, 0, len(slots))
			}
			front.Pool = append(front.Pool, b)
		} else if front.Internal != nil {
			front.Internal = append(front.Internal, b)
		}
		if l, ok := limitOf(r.Family, e.Verdict.Chain); ok && l.most > 0 {
			if h.Limits == nil {
				h.Limits = map[netip.AddrPort]uint32{}
			}
			h.Limits[b] = l.most
			if l.drop {
				front.Empty = Drop
			}
		}
	}
}

// BackendOf reads the backend that an element of a backends map leads to; ok is
// false for an element of another set. The port is 0 if it is the one that the
// client connected to.
func BackendOf(f ruleset.Family, e *ruleset.Element) (b netip.AddrPort, ok bool) {
	switch n := e.Data.Len() - f.AddrLen(); {
	case e.Opaque:
		return b, false
	case n == 0:
		return netip.AddrPortFrom(e.Data.AddrAt(0, f), 0), true
	case n == ruleset.Port.Len(f):
		return netip.AddrPortFrom(e.Data.AddrAt(0, f), e.Data.PortAt(f.AddrLen())), true
	}
	l, ok := limitOf(f, e.Verdict.Chain)
	return l.backend, ok
}

const (
	limitPrefix   = "limit-"
	backendPrefix = "backend-"
)

// limitOf reads a backend and its limit from the name that limit.name made.
func limitOf(f ruleset.Family, chain string) (l limit, ok bool) {
	if !strings.HasPrefix(chain, limitPrefix) && !strings.HasPrefix(chain, backendPrefix) {
		return l, false
	}
	words := strings.Split(chain, "-")
	if len(words) < 4 {
		return l, false
	}
	text := words[len(words)-2]
	addr, err := netip.ParseAddr(outOfName(text, f))
	if text == nodeWord {
		addr, err = f.Unspecified(), nil
	}
	port, err2 := strconv.ParseUint(words[len(words)-1], 10, 16)
	l.backend = netip.AddrPortFrom(addr, uint16(port))
	if most, err := strconv.ParseUint(words[1], 10, 32); err == nil {
		l.most, l.drop = uint32(most), words[2] == "drop"
	}
	return l, err == nil && err2 == nil
}

// OwnerOfChain reads the frontend that a chain of its own belongs to from the name that
// pool.name made; ok is false for other chains.
func OwnerOfChain(f ruleset.Family, chain string) (k Key, ok bool) {
	words := strings.Split(chain, "-")
	n := len(words)
	if n < 3 || strings.HasPrefix(chain, limitPrefix) || strings.HasPrefix(chain, backendPrefix) {
		return k, false
	}
	port, err := strconv.ParseUint(words[n-1], 10, 16)
	k.Port, k.Addr, k.Ranged = uint16(port), f.Unspecified(), slices.Contains(words, "range")
	proto := words[n-2]
	if addr, err := netip.ParseAddr(outOfName(proto, f)); err == nil {
		k.Addr, proto = addr, words[n-3]
	}
	for _, p := range protocolNumbers {
		if ruleset.ProtoName(p) == proto {
			k.Proto = p
		}
	}
	return k, err == nil && k.Proto > 0
}

// FrontendOf reads the frontend that a key of the set begins with; ok is false
// for a set whose keys do not.
func FrontendOf(id SetID, f ruleset.Family, key ruleset.Tuple) (k Key, ok bool) {
	if id >= Hairpin {
		return k, false
	}
	at := 0
	k.Addr, k.Ranged = f.Unspecified(), id.Ranged()
	if !id.NodeWide() {
		at = f.AddrLen()
	}
	if key.Len() < at+ruleset.Proto.Len(f)+ruleset.Port.Len(f) {
		return k, false
	}
	if at > 0 {
		k.Addr = key.AddrAt(0, f)
	}
	k.Proto, at = key.ProtoAt(at), at+ruleset.Proto.Len(f)
	if id.kind() == RangeBackends {
		k.Port = uint16(key.SlotAt(at) >> rangeSlotBits)
	} else {
		k.Port = key.PortAt(at)
	}
	return k, true
}

// KeyOf reads the key of the frontend that an element of a change belongs to.
func KeyOf(c *ruleset.Change, e *ruleset.Element) (Key, bool) {
	return FrontendOf(SetNamed(c.Set.Name), c.Family, e.Key)
}

// LastPort returns the last port of an element of a map of ranges, which is at
// the end of its key.
func LastPort(e *ruleset.Element) uint16 {
	return e.End.PortAt(e.End.Len() - ruleset.Port.Len(ruleset.IPv4))
}
