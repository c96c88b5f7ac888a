package compile

import (
	"net/netip"
	"slices"
	"strconv"

	"github.com/nftdp/go-nftdp/internal/ruleset"
)

// Service is a valid service, lowered: every frontend is of one family, and
// only backends that take new connections are left.
type Service struct {
	Name      string
	Proto     uint8
	Frontends []Frontend
	Backends  [2][]netip.AddrPort // by the index of ruleset.Families, sorted
}

// Frontend is an address and port; an unspecified address is node-wide.
type Frontend struct {
	Addr netip.Addr
	Port uint16
	Drop bool // what happens without backends: silence, else rejection
}

// Equal reports whether both compile to the same elements.
func (s *Service) Equal(o *Service) bool {
	return s.Name == o.Name && s.Proto == o.Proto && slices.Equal(s.Frontends, o.Frontends) &&
		slices.Equal(s.Backends[0], o.Backends[0]) && slices.Equal(s.Backends[1], o.Backends[1])
}

func familyIndex(a netip.Addr) int {
	if a.Is4() {
		return 0
	}
	return 1
}

// class is a chain that balances over a pool: one per size, used by every
// frontend whose pool has that size.
type class struct {
	node bool // for node-wide frontends
	size int
}

func (c class) name() string {
	if c.node {
		return "node-random-" + strconv.Itoa(c.size)
	}
	return "random-" + strconv.Itoa(c.size)
}

// chain is the class's chain. The protocols are tested first because nft takes
// a port mapping only where the transport protocol is known.
func (c class) chain() *ruleset.Chain {
	key, id := ops(ruleset.Daddr, ruleset.L4proto, ruleset.Dport), Backends
	if c.node {
		key, id = key[1:], NodeBackends
	}
	slot := ruleset.Operand{Field: ruleset.Random, Mod: uint32(c.size)}
	return &ruleset.Chain{Name: c.name(), Rules: []ruleset.Rule{{
		ruleset.Lookup{Key: ops(ruleset.L4proto), Set: protocolsSet},
		ruleset.DNAT{Key: append(key, slot), Map: declarations()[id].Name},
	}}}
}

// sink takes what a service is made of.
type sink interface {
	element(family int, id SetID, e ruleset.Element)
	class(family int, c class)        // a use of the class
	hairpin(family int, a netip.Addr) // a use of the backend's address
}

// emit gives the service's elements. Those that services share, classes and
// hairpins, are given as uses, for the sink to count. Backends that no frontend
// leads to give none, so that a ruleset tells all that it was compiled from.
func (s *Service) emit(to sink) {
	if len(s.Frontends) == 0 {
		return
	}
	for i := range s.Frontends {
		s.emitFrontend(&s.Frontends[i], to)
	}
	for family, backends := range s.Backends {
		var last netip.Addr
		for _, b := range backends {
			if b.Addr() != last { // they are sorted
				last = b.Addr()
				to.hairpin(family, last)
			}
		}
	}
}

func (s *Service) emitFrontend(f *Frontend, to sink) {
	family := familyIndex(f.Addr)
	pool := s.Backends[family]
	c := class{node: f.Addr.IsUnspecified(), size: len(pool)}

	var key ruleset.Tuple
	frontends, backends := Frontends, Backends
	if c.node {
		frontends, backends = NodeFrontends, NodeBackends
	} else {
		key = key.Addr(f.Addr)
	}
	key = key.Proto(s.Proto).Port(f.Port)

	to.element(family, frontends, ruleset.Element{Key: key, Verdict: f.verdict(c), Comment: s.Name})
	if c.size == 0 {
		return
	}
	to.class(family, c)
	if !c.node {
		to.element(family, Masq, ruleset.Element{Key: key})
	}
	var last netip.Addr
	for slot, b := range pool {
		to.element(family, backends, ruleset.Element{
			Key: key.Slot(uint32(slot)), Data: ruleset.Tuple{}.Addr(b.Addr()).Port(b.Port()),
		})
		if c.node && b.Addr() != last {
			last = b.Addr()
			to.element(family, NodeMasq, ruleset.Element{Key: key.Addr(last)})
		}
	}
}

func (f *Frontend) verdict(c class) ruleset.Verdict {
	switch {
	case c.size > 0:
		return ruleset.Verdict{Kind: ruleset.Goto, Chain: c.name()}
	case f.Drop:
		return ruleset.Verdict{Kind: ruleset.Drop}
	}
	return ruleset.Verdict{Kind: ruleset.Goto, Chain: noBackendChain}
}
