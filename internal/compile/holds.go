package compile

import (
	"cmp"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/nftdp/go-nftdp/internal/ruleset"
)

// Held is a service as a ruleset holds it. Its frontends are those of Slots.
type Held struct {
	Service
	Slots []HeldFrontend
}

// HeldFrontend is a frontend with the slots of its pools; NoBackend says that
// connections are rejected or dropped, but for those of internal clients if
// there is a pool for them.
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

// Holds reads services out of a ruleset, sorted by name, with frontends sorted
// by address and port. Elements that no service has given are left out.
func Holds(r *ruleset.Ruleset) []Held {
	byName := map[string]*Held{}
	for _, t := range r.Tables {
		reader := newReader(t)
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
			h.Frontends = append(h.Frontends, h.Slots[i].Frontend)
		}
		h.Adopted = true
		out = append(out, *h)
	}
	slices.SortFunc(out, func(x, y Held) int { return cmp.Compare(x.Name, y.Name) })
	return out
}

// elements iterates over those of a set that have a form.
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

// reader knows what a table has for each frontend, whose key has the address
// if there is one, the protocol and the first port.
type reader struct {
	*ruleset.Table
	chains     map[string]*ruleset.Chain
	slots      map[frontendKey][]*ruleset.Element
	sources    map[frontendKey]Source
	affinities map[frontendKey]uint32
}

type frontendKey struct {
	ruleset.Tuple
	ranged bool
}

func newReader(t *ruleset.Table) *reader {
	r := &reader{
		Table: t, chains: make(map[string]*ruleset.Chain, len(t.Chains)),
		slots: map[frontendKey][]*ruleset.Element{}, sources: map[frontendKey]Source{}, affinities: map[frontendKey]uint32{},
	}
	for _, c := range t.Chains {
		r.chains[c.Name] = c
	}
	for id := Backends; id <= NodeRangeBackends; id++ {
		for e := range elements(t, id) {
			if key, ok := r.key(id, &e.Key); ok {
				r.slots[key] = append(r.slots[key], e)
			}
		}
	}
	for id := Masq; id <= NodeSourceRanges; id++ {
		for e := range elements(t, id) {
			key, ok := r.key(id, &e.Key)
			if !ok || e.Verdict.Kind == ruleset.Return { // kept
				continue
			}
			r.sources[key] = Source{}
			if c := r.chains[e.Verdict.Chain]; c != nil {
				r.sources[key], _ = sourceOf(c)
			}
		}
	}
	for _, id := range []SetID{Affinities, NodeAffinities} {
		for e := range elements(t, id) {
			key, ok := r.key(id, &e.Key)
			seconds, err := strconv.ParseUint(strings.TrimPrefix(e.Verdict.Chain, learnPrefix), 10, 32)
			if ok && err == nil {
				r.affinities[key] = uint32(seconds)
			}
		}
	}
	return r
}

// key is that of the frontend that an element belongs to.
func (r *reader) key(id SetID, k *ruleset.Tuple) (key frontendKey, ok bool) {
	addr, proto, port, ok := FrontendOf(id, r.Family, *k)
	if !ok {
		return key, false
	}
	if !id.NodeWide() {
		key.Tuple = key.Addr(addr)
	}
	key.Tuple = key.Proto(proto).Port(port)
	key.ranged = id.Ranged()
	return key, true
}

func (r *reader) frontend(byName map[string]*Held, id SetID, e *ruleset.Element) {
	addr, proto, port, ok := FrontendOf(id, r.Family, e.Key)
	if !ok || e.Comment == "" {
		return
	}
	h := byName[e.Comment]
	if h == nil {
		h = &Held{Service: Service{Name: e.Comment, Proto: proto}}
		byName[e.Comment] = h
	}
	front := HeldFrontend{Frontend: Frontend{Addr: addr, Port: port}, Packets: e.Packets, Bytes: e.Bytes}
	if n := e.End.Len(); n > 0 && n == e.Key.Len() && id.Ranged() {
		front.End = LastPort(e)
	}
	key, _ := r.key(id, &e.Key)
	r.follow(h, &front, key, e.Verdict)
	if !front.NoBackend || front.Internal != nil {
		r.pools(h, &front, r.slots[key])
		front.Source = r.source(key)
	}
	h.Slots = append(h.Slots, front)
}

func (r *reader) source(key frontendKey) Source {
	if s, ok := r.sources[key]; ok {
		return s
	}
	return Source{Mode: Keep}
}

// follow goes the way of a packet, as class lays it, and notes what is on it.
func (r *reader) follow(h *Held, front *HeldFrontend, key frontendKey, v ruleset.Verdict) {
	for range 8 { // somebody else may have made a loop
		c := r.chains[v.Chain]
		switch {
		case v.Kind == ruleset.Drop:
			front.NoBackend, front.Drop = true, true
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
			if remembers(rule) { // what learns without is left over
				h.Affinity = max(h.Affinity, r.affinities[key])
			}
			r.stage(h, front, rule)
		}
	}
}

// remembers reports whether a rule sends clients where they were before.
func remembers(rule ruleset.Rule) bool {
	return slices.ContainsFunc(rule, func(s ruleset.Statement) bool {
		d, ok := s.(ruleset.DNAT)
		return ok && d.Map == affinityMap
	})
}

// verdictOf is the verdict that a rule ends with.
func verdictOf(rule ruleset.Rule) (v ruleset.Verdict, ok bool) {
	if len(rule) > 0 {
		v, ok = rule[len(rule)-1].(ruleset.Verdict)
	}
	return v, ok
}

// choosing reports whether a chain, which has rules, sends packets to slots of
// a pool.
func choosing(c *ruleset.Chain) bool {
	for _, s := range c.Rules[0] {
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
	return false
}

// stage notes what a rule ahead of the choice says.
func (r *reader) stage(h *Held, front *HeldFrontend, rule ruleset.Rule) {
	v, ok := verdictOf(rule)
	if !ok {
		return
	}
	look, ok := rule[0].(ruleset.Lookup)
	if !ok {
		return
	}
	if look.Set == internalSet {
		front.Internal = []netip.AddrPort{}
		h.Scheduler = schedulerOf(v.Chain)
		return
	}
	s := r.Set(look.Set)
	if s == nil || !strings.HasPrefix(s.Name, prefixesPrefix) {
		return
	}
	if list, ok := listOf(s, r.Family); ok && look.Not {
		front.Clients.Allow = list
	} else if ok {
		front.Clients.Deny = list
	}
}

// schedulerOf reads the scheduler from the name of a pool's chain.
func schedulerOf(chain string) Scheduler {
	for _, prefix := range []string{"node-", "internal-", "limited-", "range-"} {
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
		front.Slots = append(front.Slots, HeldBackend{Addr: b, Packets: e.Packets, Bytes: e.Bytes})
		if e.Key.SlotAt(e.Key.Len()-ruleset.Slot.Len(r.Family))&first == 0 {
			front.Pool = append(front.Pool, b)
		} else if front.Internal != nil {
			front.Internal = append(front.Internal, b)
		}
		if l := limitOf(e.Verdict.Chain); l > 0 {
			if h.Limits == nil {
				h.Limits = map[netip.AddrPort]uint32{}
			}
			h.Limits[b] = l
			front.Drop = strings.HasPrefix(e.Verdict.Chain, limitPrefix+strconv.FormatUint(uint64(l), 10)+"-drop-")
		}
	}
}

// BackendOf reads the backend that an element of a backends map leads to; ok
// is false for one of another set. Its port is 0 if it is the client's.
func BackendOf(f ruleset.Family, e *ruleset.Element) (b netip.AddrPort, ok bool) {
	switch n := e.Data.Len() - f.AddrLen(); {
	case e.Opaque:
		return b, false
	case n == 0:
		return netip.AddrPortFrom(e.Data.AddrAt(0, f), 0), true
	case n == ruleset.Port.Len(f):
		return netip.AddrPortFrom(e.Data.AddrAt(0, f), e.Data.PortAt(f.AddrLen())), true
	}
	return backendInName(f, e.Verdict.Chain)
}

const (
	limitPrefix   = "limit-"
	backendPrefix = "backend-"
)

// backendInName reads what limit.name has written.
func backendInName(f ruleset.Family, chain string) (b netip.AddrPort, ok bool) {
	words := strings.Split(chain, "-")
	if len(words) < 4 || !strings.HasPrefix(chain, limitPrefix) && !strings.HasPrefix(chain, backendPrefix) {
		return b, false
	}
	text := words[len(words)-2]
	if f == ruleset.IPv6 {
		text = strings.ReplaceAll(text, ".", ":")
	}
	addr, err := netip.ParseAddr(text)
	port, err2 := strconv.ParseUint(words[len(words)-1], 10, 16)
	return netip.AddrPortFrom(addr, uint16(port)), err == nil && err2 == nil
}

// limitOf reads the limit of a backend's chain; 0 is none.
func limitOf(chain string) uint32 {
	rest, ok := strings.CutPrefix(chain, limitPrefix)
	if !ok {
		return 0
	}
	word, _, _ := strings.Cut(rest, "-")
	n, err := strconv.ParseUint(word, 10, 32)
	if err != nil {
		return 0
	}
	return uint32(n)
}

// FrontendOf reads the frontend that a key of the set begins with, with its
// first port; ok is false for a set without. A node-wide one has the
// unspecified address.
func FrontendOf(id SetID, f ruleset.Family, key ruleset.Tuple) (addr netip.Addr, proto uint8, port uint16, ok bool) {
	if id >= Hairpin {
		return addr, 0, 0, false
	}
	at := 0
	addr = netip.IPv4Unspecified()
	switch {
	case !id.NodeWide():
		at = f.AddrLen()
	case f == ruleset.IPv6:
		addr = netip.IPv6Unspecified()
	}
	if key.Len() < at+ruleset.Proto.Len(f)+ruleset.Port.Len(f) {
		return addr, 0, 0, false
	}
	if at > 0 {
		addr = key.AddrAt(0, f)
	}
	proto, at = key.ProtoAt(at), at+ruleset.Proto.Len(f)
	if id&^1 == RangeBackends {
		return addr, proto, uint16(key.SlotAt(at) >> rangeSlotBits), true
	}
	return addr, proto, key.PortAt(at), true
}

// KeyOf reads the key of the frontend that an element of a change belongs to.
func KeyOf(c *ruleset.Change, e *ruleset.Element) (Key, bool) {
	id := SetNamed(c.Set.Name)
	addr, proto, port, ok := FrontendOf(id, c.Family, e.Key)
	return Key{addr, port, proto, id.Ranged()}, ok
}

// LastPort is the last port of an element of a map of ranges, at the end of its
// key.
func LastPort(e *ruleset.Element) uint16 {
	return e.End.PortAt(e.End.Len() - ruleset.Port.Len(ruleset.IPv4))
}

// SetNamed returns the number of the set of that name, or NumSets.
func SetNamed(name string) SetID {
	for id, n := range setNames {
		if n == name {
			return SetID(id)
		}
	}
	return NumSets
}
