package compile

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"

	"github.com/nftdp/go-nftdp/internal/ruleset"
)

// Held is a service as a ruleset holds it.
type Held struct {
	Name      string
	Proto     uint8
	Frontends []HeldFrontend
}

// HeldFrontend is a frontend with its pool; NoBackend says that its
// connections are rejected or dropped.
type HeldFrontend struct {
	Frontend
	NoBackend      bool
	Balance        Balance
	Pool           []HeldBackend // by slot
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
		pools := poolsOf(t)
		for _, id := range []SetID{Frontends, NodeFrontends} {
			s := t.Set(declarations()[id].Name)
			if s == nil {
				continue
			}
			for i := range s.Elements {
				hold(byName, t.Family, id, &s.Elements[i], pools)
			}
		}
	}
	out := make([]Held, 0, len(byName))
	for _, h := range byName {
		slices.SortFunc(h.Frontends, func(x, y HeldFrontend) int {
			return cmp.Or(x.Addr.Compare(y.Addr), cmp.Compare(x.Port, y.Port))
		})
		out = append(out, *h)
	}
	slices.SortFunc(out, func(x, y Held) int { return cmp.Compare(x.Name, y.Name) })
	return out
}

// poolsOf gives the elements of the backends maps by frontend.
func poolsOf(t *ruleset.Table) map[ruleset.Tuple][]*ruleset.Element {
	pools := map[ruleset.Tuple][]*ruleset.Element{}
	for _, id := range []SetID{Backends, NodeBackends} {
		s := t.Set(declarations()[id].Name)
		if s == nil {
			continue
		}
		for i := range s.Elements {
			e := &s.Elements[i]
			if n := e.Key.Len() - ruleset.Slot.Len(t.Family); n > 0 && !e.Opaque {
				pools[e.Key.Prefix(n)] = append(pools[e.Key.Prefix(n)], e)
			}
		}
	}
	return pools
}

func hold(byName map[string]*Held, f ruleset.Family, id SetID, e *ruleset.Element, pools map[ruleset.Tuple][]*ruleset.Element) {
	addr, proto, port, ok := FrontendOf(id, f, e.Key)
	if !ok || e.Comment == "" || e.Opaque {
		return
	}
	h := byName[e.Comment]
	if h == nil {
		h = &Held{Name: e.Comment, Proto: proto}
		byName[e.Comment] = h
	}
	front := HeldFrontend{
		Frontend: Frontend{Addr: addr, Port: port, Drop: e.Verdict.Kind == ruleset.Drop},
		Packets:  e.Packets, Bytes: e.Bytes,
	}
	front.NoBackend = front.Drop || e.Verdict.Chain == noBackendChain
	if !front.NoBackend {
		front.Balance = balanceOf(e.Verdict.Chain)
		front.Pool = poolOf(f, pools[e.Key])
	}
	h.Frontends = append(h.Frontends, front)
}

func poolOf(f ruleset.Family, slots []*ruleset.Element) []HeldBackend {
	slices.SortFunc(slots, func(x, y *ruleset.Element) int { return x.Key.Compare(&y.Key) })
	var out []HeldBackend
	for _, e := range slots {
		if b, ok := BackendOf(f, e); ok {
			out = append(out, HeldBackend{Addr: b, Packets: e.Packets, Bytes: e.Bytes})
		}
	}
	return out
}

// BackendOf reads the backend that an element of a backends map leads to; ok
// is false for one of another set.
func BackendOf(f ruleset.Family, e *ruleset.Element) (b netip.AddrPort, ok bool) {
	if e.Opaque || e.Data.Len() != f.AddrLen()+ruleset.Port.Len(f) {
		return b, false
	}
	return netip.AddrPortFrom(e.Data.AddrAt(0, f), e.Data.PortAt(f.AddrLen())), true
}

// FrontendOf reads the frontend that a key of the set begins with; ok is false
// for a set without. A node-wide one has the unspecified address.
func FrontendOf(id SetID, f ruleset.Family, key ruleset.Tuple) (addr netip.Addr, proto uint8, port uint16, ok bool) {
	at := 0
	switch id {
	case Frontends, Backends, Masq:
		at = f.AddrLen()
	case NodeFrontends, NodeBackends, NodeMasq:
		addr = netip.IPv4Unspecified()
		if f == ruleset.IPv6 {
			addr = netip.IPv6Unspecified()
		}
	default:
		return addr, 0, 0, false
	}
	if key.Len() < at+ruleset.Proto.Len(f)+ruleset.Port.Len(f) {
		return addr, 0, 0, false
	}
	if at > 0 {
		addr = key.AddrAt(0, f)
	}
	return addr, key.ProtoAt(at), key.PortAt(at + ruleset.Proto.Len(f)), true
}

// SetNamed gives the number of the set of that name, or NumSets.
func SetNamed(name string) SetID {
	for id, s := range declarations() {
		if s.Name == name {
			return SetID(id)
		}
	}
	return NumSets
}

// Service is what compiles to the same elements, as far as the ruleset tells:
// what is the matter with backends that are not in use, it does not.
func (h *Held) Service() *Service {
	s := &Service{Name: h.Name, Proto: h.Proto, Adopted: true}
	for i := range h.Frontends {
		f := &h.Frontends[i]
		s.Frontends = append(s.Frontends, f.Frontend)
		pool := &s.Pools[familyIndex(f.Addr)]
		if len(*pool) > 0 || f.NoBackend {
			continue // every frontend of a family has the same one
		}
		s.Balance = f.Balance
		for _, b := range f.Pool {
			*pool = append(*pool, b.Addr)
		}
	}
	return s
}

// Owned reports whether a table's comment is one of ours, of any schema.
func Owned(t *ruleset.Table) bool { return strings.HasPrefix(t.Comment, SchemaPrefix) }
