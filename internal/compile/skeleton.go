// Package compile turns lowered services into a ruleset: a fixed skeleton of
// chains and a few maps, whose elements are the services. It is pure.
package compile

import (
	"cmp"
	"net/netip"
	"slices"

	"github.com/nftdp/go-nftdp/internal/ruleset"
)

// Config is the part of the configuration that shapes the skeleton.
type Config struct {
	Table     string
	NodeAddrs []netip.Prefix // none: every local address but loopback
	Internal  []netip.Prefix
}

// Schema marks a table as ours and names the layout of its contents.
const Schema = "nftdp schema 1"

// SchemaPrefix is what the marks of all schemas begin with.
const SchemaPrefix = "nftdp schema "

// Hook priorities, numbered as NF_IP_PRI_NAT_DST and NF_IP_PRI_NAT_SRC in
// linux/netfilter_ipv4.h. They are part of the documented API.
const (
	PriorityDNAT = -100
	PrioritySNAT = 100
)

// SetID numbers the sets and maps which services have elements in.
type SetID uint8

// The sets, in the order in which they are created.
const (
	Frontends     SetID = iota // daddr . proto . dport : verdict
	NodeFrontends              // proto . dport : verdict
	Backends                   // daddr . proto . dport . slot : addr . port
	NodeBackends               // proto . dport . slot : addr . port
	Masq                       // original daddr . proto . original dport: masqueraded unless internal
	NodeMasq                   // proto . original dport . backend: the same for node-wide frontends
	Hairpin                    // backend . backend: it reaches itself
	NumSets
)

// Postrouting reports whether the set is asked in postrouting, about
// connections whose destination has been chosen.
func (id SetID) Postrouting() bool { return id == Masq || id == NodeMasq || id == Hairpin }

// Names of what does not belong to one service.
const (
	internalSet    = "internal"
	nodeAddrsSet   = "node_addrs"
	protocolsSet   = "protocols"
	noBackendChain = "no-backend"
	servicesChain  = "services"
	masqChain      = "masquerading"
)

// declarations of the sets by SetID.
func declarations() [NumSets]ruleset.Set {
	frontend := []ruleset.Type{ruleset.Addr, ruleset.Proto, ruleset.Port}
	port := frontend[1:]
	backend := []ruleset.Type{ruleset.Addr, ruleset.Port}
	slot := func(k []ruleset.Type) []ruleset.Type { return append(slices.Clip(k), ruleset.Slot) }
	return [NumSets]ruleset.Set{
		Frontends:     {Name: "frontends", Key: frontend, Verdict: true, Counter: true},
		NodeFrontends: {Name: "node_frontends", Key: port, Verdict: true, Counter: true},
		Backends:      {Name: "backends", Key: slot(frontend), Data: backend, Counter: true},
		NodeBackends:  {Name: "node_backends", Key: slot(port), Data: backend, Counter: true},
		Masq:          {Name: "masq", Key: frontend},
		NodeMasq:      {Name: "node_masq", Key: []ruleset.Type{ruleset.Proto, ruleset.Port, ruleset.Addr}},
		Hairpin:       {Name: "hairpin", Key: []ruleset.Type{ruleset.Addr, ruleset.Addr}},
	}
}

// ops makes operands of fields without parameters.
func ops(fields ...ruleset.Field) []ruleset.Operand {
	out := make([]ruleset.Operand, len(fields))
	for i, f := range fields {
		out[i] = ruleset.Operand{Field: f}
	}
	return out
}

// skeleton is the table of one family without services. The sets of services
// come first, by SetID.
func (c Config) skeleton(f ruleset.Family) *ruleset.Table {
	t := &ruleset.Table{Family: f, Name: c.Table, Comment: Schema}
	for _, s := range declarations() {
		s.Size = ruleset.SizeFor(0)
		t.Sets = append(t.Sets, &s)
	}
	t.Sets = append(t.Sets,
		prefixSet(internalSet, f, c.Internal),
		&ruleset.Set{Name: protocolsSet, Key: []ruleset.Type{ruleset.Proto}, Elements: protocols()})
	if len(c.NodeAddrs) > 0 {
		t.Sets = append(t.Sets, prefixSet(nodeAddrsSet, f, c.NodeAddrs))
	}
	t.Chains = []*ruleset.Chain{
		{Name: noBackendChain, Rules: []ruleset.Rule{
			{ruleset.Match{Field: ruleset.L4proto, Value: TCP}, ruleset.Reject{Reset: true}},
			{ruleset.Reject{}},
		}},
		{Name: servicesChain, Rules: c.servicesRules(f)},
		{Name: masqChain, Rules: masqRules()},
		baseChain("prerouting", ruleset.Prerouting, PriorityDNAT, jump(servicesChain)),
		baseChain("output", ruleset.Output, PriorityDNAT, jump(servicesChain)),
		baseChain("postrouting", ruleset.Postrouting, PrioritySNAT,
			ruleset.Match{Field: ruleset.CtStatus, Value: ruleset.StatusDNAT}, jump(masqChain)),
	}
	return t
}

// IP protocol numbers.
const (
	TCP  = 6
	UDP  = 17
	SCTP = 132
)

func protocols() []ruleset.Element {
	var out []ruleset.Element
	for _, p := range []uint8{TCP, UDP, SCTP} {
		out = append(out, ruleset.Element{Key: ruleset.Tuple{}.Proto(p)})
	}
	return out
}

func jump(chain string) ruleset.Verdict {
	return ruleset.Verdict{Kind: ruleset.Jump, Chain: chain}
}

func baseChain(name string, h ruleset.HookNum, prio int32, rule ...ruleset.Statement) *ruleset.Chain {
	return &ruleset.Chain{Name: name, Hook: &ruleset.Hook{Num: h, Priority: prio}, Rules: []ruleset.Rule{rule}}
}

// servicesRules send a packet to the chain of its frontend's pool. Frontends
// with an address come first, so they win over node-wide ones.
//
// A packet whose frontend is not found is still looked up in the pools: before
// Linux 6.17 (and stable kernels without b2f742c846ca, "restart set lookup on
// base_seq change") a lookup may miss an element that is replaced just then,
// and everywhere it does while the whole map is made anew. The packet would
// escape untranslated, and conntrack keep its connection so. The first slot is
// an element of its own, which hardly ever changes in the same moment.
func (c Config) servicesRules(f ruleset.Family) []ruleset.Rule {
	decl := declarations()
	local := ruleset.Rule{
		ruleset.Match{Field: ruleset.FibDaddr, Value: ruleset.FibLocal},
		ruleset.MatchAddr{Field: ruleset.Daddr, Not: true, Prefix: loopback(f)},
	}
	if len(c.NodeAddrs) > 0 {
		local = append(local, ruleset.Lookup{Key: ops(ruleset.Daddr), Set: nodeAddrsSet})
	}
	addressed, nodeWide := class{size: 1}, class{size: 1, node: true}
	return []ruleset.Rule{
		{ruleset.VMap{Key: addressed.key(), Map: decl[Frontends].Name}},
		addressed.dnat(firstSlot()),
		slices.Concat(local, ruleset.Rule{ruleset.VMap{Key: nodeWide.key(), Map: decl[NodeFrontends].Name}}),
		slices.Concat(local, nodeWide.dnat(firstSlot())),
	}
}

func loopback(f ruleset.Family) netip.Prefix {
	if f == ruleset.IPv6 {
		return netip.PrefixFrom(netip.IPv6Loopback(), 128)
	}
	return netip.PrefixFrom(netip.AddrFrom4([4]byte{127}), 8)
}

// masqRules see the first packet of every connection with a rewritten
// destination, ours or not, so each of them asks whether it is one of ours. A
// node-wide frontend is known by its port and by the backend that was chosen,
// as the node's addresses are not in any set. `meta l4proto tcp` stands before
// `ct original proto-dst` since nft takes it only where the protocol is known.
func masqRules() []ruleset.Rule {
	decl := declarations()
	rules := []ruleset.Rule{
		{ruleset.Lookup{Key: ops(ruleset.Saddr, ruleset.Daddr), Set: decl[Hairpin].Name}, ruleset.Masquerade{}},
		{ruleset.Lookup{Key: ops(ruleset.Saddr), Set: internalSet}, ruleset.Verdict{Kind: ruleset.Return}},
	}
	for _, p := range []uint32{TCP, UDP, SCTP} {
		proto := ruleset.Match{Field: ruleset.L4proto, Value: p}
		rules = append(rules,
			ruleset.Rule{
				proto, ruleset.Lookup{
					Key: ops(ruleset.OrigDaddr, ruleset.L4proto, ruleset.OrigDport), Set: decl[Masq].Name,
				}, ruleset.Masquerade{},
			},
			ruleset.Rule{
				proto, ruleset.Lookup{
					Key: ops(ruleset.L4proto, ruleset.OrigDport, ruleset.Daddr), Set: decl[NodeMasq].Name,
				}, ruleset.Masquerade{},
			})
	}
	return rules
}

// prefixSet holds the prefixes of one family, without those inside others.
func prefixSet(name string, f ruleset.Family, prefixes []netip.Prefix) *ruleset.Set {
	s := &ruleset.Set{Name: name, Key: []ruleset.Type{ruleset.Addr}, Interval: true}
	var sorted []netip.Prefix
	for _, p := range prefixes {
		if p.Addr().Is4() == (f == ruleset.IPv4) {
			sorted = append(sorted, p.Masked())
		}
	}
	slices.SortFunc(sorted, func(x, y netip.Prefix) int {
		return cmp.Or(x.Addr().Compare(y.Addr()), cmp.Compare(x.Bits(), y.Bits()))
	})
	var last netip.Prefix
	for _, p := range sorted {
		if last.IsValid() && last.Contains(p.Addr()) {
			continue // prefixes nest or are disjoint
		}
		last = p
		s.Elements = append(s.Elements, ruleset.Element{
			Key: ruleset.Tuple{}.Addr(p.Addr()), End: ruleset.Tuple{}.Addr(ruleset.LastAddr(p)),
		})
	}
	return s
}
