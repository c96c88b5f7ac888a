package compile

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/nftdp/go-nftdp/internal/ruleset"
)

// Service is a valid service, lowered: every frontend is of one family, and of
// the backends those that take new connections are left, as slots.
type Service struct {
	Name      string
	Proto     uint8
	Balance   Balance
	Frontends []Frontend
	Pools     [2][]netip.AddrPort // by the index of ruleset.Families, as from Slots

	// What follows is for established flows and compiles to nothing. The
	// lists are sorted.
	Draining []netip.AddrPort
	Reserve  []netip.AddrPort // backups while others are in use
	Adopted  bool             // read from a ruleset, which does not hold the lists
}

// Frontend is an address and port; an unspecified address is node-wide.
type Frontend struct {
	Addr netip.Addr
	Port uint16
	Drop bool // what happens without backends: silence, else rejection
}

// Equal reports whether both compile to the same elements.
func (s *Service) Equal(o *Service) bool {
	return s.Name == o.Name && s.Proto == o.Proto && s.Balance == o.Balance &&
		slices.Equal(s.Frontends, o.Frontends) &&
		slices.Equal(s.Pools[0], o.Pools[0]) && slices.Equal(s.Pools[1], o.Pools[1])
}

func familyIndex(a netip.Addr) int {
	if a.Is4() {
		return 0
	}
	return 1
}

// class is a chain that balances over pools of one size, for all frontends
// that have such a pool. Only round-robin has a chain for each frontend, as
// the kernel keeps the position of the rotation in the rule.
type class struct {
	node     bool // for node-wide frontends
	balance  Balance
	size     int
	rotation rotation // whose it is, with RoundRobin
}

type rotation struct {
	addr  netip.Addr // unset for node-wide frontends
	proto uint8
	port  uint16
}

func (c class) name() string {
	name := ""
	if c.node {
		name = "node-"
	}
	name += [...]string{Random: "random", RoundRobin: "round-robin", SourceHash: "hash", Maglev: "maglev"}[c.balance]
	name += "-" + strconv.Itoa(c.size)
	if c.balance != RoundRobin {
		return name
	}
	name += "-" + ruleset.ProtoName(c.rotation.proto)
	if !c.node { // nft takes no colon in a name
		name += "-" + strings.ReplaceAll(c.rotation.addr.String(), ":", ".")
	}
	return name + "-" + strconv.Itoa(int(c.rotation.port))
}

// balanceOf reads the kind of balancing from the name of a class's chain.
func balanceOf(chain string) Balance {
	chain = strings.TrimPrefix(chain, "node-")
	for b, prefix := range map[Balance]string{RoundRobin: "round-robin-", SourceHash: "hash-", Maglev: "maglev-"} {
		if strings.HasPrefix(chain, prefix) {
			return b
		}
	}
	return Random
}

// chain is the class's chain. The protocols are tested first because nft takes
// a port mapping only where the transport protocol is known.
//
// A packet is not evaluated within one generation: nft_do_chain looks at it
// once for the rules, but every lookup in a set looks anew. So a pool may have
// shrunk since the packet was sent here, and its slot be gone. Then the first
// slot serves, and if the whole pool is gone, the packet is dropped: it has no
// conntrack entry yet, so that the client's next one is evaluated afresh.
func (c class) chain() *ruleset.Chain {
	field := [...]ruleset.Field{
		Random: ruleset.Random, RoundRobin: ruleset.Increment, SourceHash: ruleset.Hash, Maglev: ruleset.Hash,
	}[c.balance]
	rules := []ruleset.Rule{c.dnat(ruleset.Operand{Field: field, Mod: uint32(c.size)})}
	if c.size > 1 {
		rules = append(rules, c.dnat(firstSlot()))
	}
	return &ruleset.Chain{Name: c.name(), Rules: append(rules, ruleset.Rule{ruleset.Verdict{Kind: ruleset.Drop}})}
}

// firstSlot is a slot that every pool has.
func firstSlot() ruleset.Operand { return ruleset.Operand{Field: ruleset.Random, Mod: 1} }

// key is what the class's frontends are found by.
func (c class) key() []ruleset.Operand {
	if c.node {
		return ops(ruleset.L4proto, ruleset.Dport)
	}
	return ops(ruleset.Daddr, ruleset.L4proto, ruleset.Dport)
}

// dnat sends a packet to a slot of its frontend's pool.
func (c class) dnat(slot ruleset.Operand) ruleset.Rule {
	id := Backends
	if c.node {
		id = NodeBackends
	}
	return ruleset.Rule{
		ruleset.Lookup{Key: ops(ruleset.L4proto), Set: protocolsSet},
		ruleset.DNAT{Key: append(c.key(), slot), Map: declarations()[id].Name},
	}
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
	var addrs [2][]netip.Addr
	for family, pool := range s.Pools {
		addrs[family] = distinct(pool)
		for _, a := range addrs[family] {
			to.hairpin(family, a)
		}
	}
	for i := range s.Frontends {
		f := &s.Frontends[i]
		s.emitFrontend(f, addrs[familyIndex(f.Addr)], to)
	}
}

// emitFrontend gives the elements of one frontend, whose pool has the distinct
// addresses addrs.
func (s *Service) emitFrontend(f *Frontend, addrs []netip.Addr, to sink) {
	family := familyIndex(f.Addr)
	pool := s.Pools[family]
	c := class{node: f.Addr.IsUnspecified(), balance: s.Balance, size: len(pool)}

	var key ruleset.Tuple
	frontends, backends := Frontends, Backends
	if c.node {
		frontends, backends = NodeFrontends, NodeBackends
	} else {
		key = key.Addr(f.Addr)
	}
	key = key.Proto(s.Proto).Port(f.Port)
	if c.balance == RoundRobin {
		c.rotation = rotation{addr: f.Addr, proto: s.Proto, port: f.Port}
	}

	to.element(family, frontends, ruleset.Element{Key: key, Verdict: f.verdict(c), Comment: s.Name})
	if c.size == 0 {
		return
	}
	to.class(family, c)
	for slot, b := range pool {
		to.element(family, backends, ruleset.Element{
			Key: key.Slot(uint32(slot)), Data: ruleset.Tuple{}.Addr(b.Addr()).Port(b.Port()),
		})
	}
	if !c.node {
		to.element(family, Masq, ruleset.Element{Key: key})
		return
	}
	for _, a := range addrs {
		to.element(family, NodeMasq, ruleset.Element{Key: key.Addr(a)})
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
