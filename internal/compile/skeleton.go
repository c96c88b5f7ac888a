// Package compile turns lowered services into a ruleset: a fixed skeleton of
// chains and a few maps, whose elements are the services. It has no I/O.
package compile

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"

	"github.com/nftdp/go-nftdp/internal/ruleset"
)

// Config is the part of the configuration that shapes the skeleton.
type Config struct {
	Table        string
	NodeAddrs    []netip.Prefix // none: every local address but loopback
	Internal     []netip.Prefix
	ServiceCIDRs []netip.Prefix
	Localhost    bool
	Affinities   uint32 // the size of the affinity map
	Flags        ruleset.TableFlags
	Owner        string // empty: the tables hold one list of services
}

// Schema marks a table as ours and names the layout of its contents.
const Schema = "nftdp schema 3"

// SchemaPrefix begins the comments of all schemas.
const SchemaPrefix = "nftdp schema "

// Hook priorities, numbered as NF_IP_PRI_NAT_DST and NF_IP_PRI_NAT_SRC in
// linux/netfilter_ipv4.h. They are part of the documented API.
const (
	PriorityDNAT = -100
	PrioritySNAT = 100
)

// SetID numbers the sets and maps in which services have elements.
type SetID uint8

// The sets, in the order in which they are created. There are two of each kind:
// one for frontends with an address, and one for node-wide frontends.
const (
	Frontends           SetID = iota // daddr . proto . dport : verdict
	NodeFrontends                    // proto . dport : verdict
	FrontendRanges                   // daddr . proto . dports : verdict
	NodeFrontendRanges               // proto . dports : verdict
	Backends                         // daddr . proto . dport . slot : addr . port
	NodeBackends                     // proto . dport . slot : addr . port
	LimitedBackends                  // daddr . proto . dport . slot : verdict
	NodeLimitedBackends              // proto . dport . slot : verdict
	RangeBackends                    // daddr . proto . slot : addr; the slot begins with the first port
	NodeRangeBackends                // proto . slot : addr
	Masq                             // original daddr . proto . original dport: masqueraded unless internal
	NodeMasq                         // proto . original dport . backend: the same for node-wide frontends
	Sources                          // original daddr . proto . original dport : verdict
	NodeSources                      // proto . original dport . backend : verdict
	SourceRanges                     // original daddr . proto . original dports : verdict
	NodeSourceRanges                 // proto . original dports . backend : verdict
	Affinities                       // original daddr . proto . original dport : verdict
	NodeAffinities                   // proto . original dport . backend : verdict
	Hairpin                          // backend . backend: connections of a backend to itself
	NumSets
)

// of returns the set of the same kind for node-wide frontends or for others.
func (id SetID) of(node bool) SetID {
	if node {
		return id + 1
	}
	return id
}

// NodeWide reports whether the set is for node-wide frontends.
func (id SetID) NodeWide() bool { return id < Hairpin && id%2 == 1 }

// Ranged reports whether the set is for ranges of ports.
func (id SetID) Ranged() bool {
	kind := id &^ 1
	return kind == FrontendRanges || kind == RangeBackends || kind == SourceRanges
}

// Frontends reports whether the set holds the frontends themselves.
func (id SetID) Frontends() bool { return id <= NodeFrontendRanges }

// Sources reports whether the set says how the sources of connections are treated.
func (id SetID) Sources() bool { return id >= Masq && id <= NodeSourceRanges }

// Backends reports whether the set holds the slots of pools.
func (id SetID) Backends() bool { return id >= Backends && id <= NodeRangeBackends }

// Shared reports whether a set without a number belongs to the services that
// share it, and not to the skeleton.
func Shared(name string) bool { return strings.HasPrefix(name, prefixesPrefix) }

// Separate reports whether the chains of services can be added and deleted
// independently of the set: either services share it, or only the chain that all
// packets pass looks it up.
func Separate(name string) bool {
	return Shared(name) || name == serviceCIDRsSet
}

// OfSkeleton reports whether a chain without a hook exists without services,
// too.
func OfSkeleton(chain string) bool {
	switch chain {
	case noBackendChain, servicesChain, nodeWideChain, affinityChain, masqChain, Source{}.name():
		return true
	}
	return false
}

// OfTables reports whether a chain exists without services, with a hook or without.
func OfTables(chain string) bool {
	switch chain {
	case "prerouting", "output", "input", postroutingChain, "loopback-guard", "loopback-routing", "loopback-delivery":
		return true
	}
	return OfSkeleton(chain)
}

// Names of objects that do not belong to one service.
const (
	internalSet      = "internal"
	serviceCIDRsSet  = "service_cidrs"
	protocolsSet     = "protocols"
	affinityMap      = "affinity"
	noBackendChain   = "no-backend"
	servicesChain    = "services"
	nodeWideChain    = "node-wide"
	affinityChain    = "affinities"
	masqChain        = "masquerading"
	postroutingChain = "postrouting"
)

// setNames by SetID.
var setNames = [NumSets]string{
	Frontends: "frontends", NodeFrontends: "node_frontends",
	FrontendRanges: "frontend_ranges", NodeFrontendRanges: "node_frontend_ranges",
	Backends: "backends", NodeBackends: "node_backends",
	LimitedBackends: "limited_backends", NodeLimitedBackends: "node_limited_backends",
	RangeBackends: "range_backends", NodeRangeBackends: "node_range_backends",
	Masq: "masq", NodeMasq: "node_masq",
	Sources: "sources", NodeSources: "node_sources",
	SourceRanges: "source_ranges", NodeSourceRanges: "node_source_ranges",
	Affinities: "affinities", NodeAffinities: "node_affinities",
	Hairpin: "hairpin",
}

func (id SetID) name() string { return setNames[id] }

// declared holds the sets without elements, by SetID. They are never changed.
var declared = declarations()

// Declaration returns a set without elements.
func Declaration(id SetID) *ruleset.Set {
	s := declared[id]
	return &s
}

func declarations() [NumSets]ruleset.Set {
	port := []ruleset.Type{ruleset.Proto, ruleset.Port}
	frontend := append([]ruleset.Type{ruleset.Addr}, port...)
	backend := []ruleset.Type{ruleset.Addr, ruleset.Port}
	addr := backend[:1]
	with := func(k []ruleset.Type, t ruleset.Type) []ruleset.Type { return append(slices.Clip(k), t) }
	slot := func(k []ruleset.Type) []ruleset.Type { return with(k, ruleset.Slot) }
	out := [NumSets]ruleset.Set{
		Frontends:           {Key: frontend, Verdict: true, Counter: true},
		NodeFrontends:       {Key: port, Verdict: true, Counter: true},
		FrontendRanges:      {Key: frontend, Interval: true, Verdict: true, Counter: true},
		NodeFrontendRanges:  {Key: port, Interval: true, Verdict: true, Counter: true},
		Backends:            {Key: slot(frontend), Data: backend, Counter: true},
		NodeBackends:        {Key: slot(port), Data: backend, Counter: true},
		LimitedBackends:     {Key: slot(frontend), Verdict: true, Counter: true},
		NodeLimitedBackends: {Key: slot(port), Verdict: true, Counter: true},
		RangeBackends:       {Key: slot(frontend[:2]), Data: addr, Counter: true},
		NodeRangeBackends:   {Key: slot(port[:1]), Data: addr, Counter: true},
		Masq:                {Key: frontend},
		NodeMasq:            {Key: with(port, ruleset.Addr)},
		Sources:             {Key: frontend, Verdict: true},
		NodeSources:         {Key: with(port, ruleset.Addr), Verdict: true},
		SourceRanges:        {Key: frontend, Interval: true, Verdict: true},
		NodeSourceRanges:    {Key: with(port, ruleset.Addr), Interval: true, Verdict: true},
		Affinities:          {Key: frontend, Verdict: true},
		NodeAffinities:      {Key: with(port, ruleset.Addr), Verdict: true},
		Hairpin:             {Key: []ruleset.Type{ruleset.Addr, ruleset.Addr}, Repeatable: true},
	}
	for id := range out {
		out[id].Name, out[id].AfterDNAT = SetID(id).name(), SetID(id) >= Masq
	}
	return out
}

// sizeFor returns the size that is declared for n elements. Interval sets are
// trees, for which a size would be nothing but a limit.
func sizeFor(s *ruleset.Set, n int) uint32 {
	if s.Interval {
		return 0
	}
	return ruleset.SizeFor(n)
}

// ops returns operands of fields without parameters.
func ops(fields ...ruleset.Field) []ruleset.Operand {
	out := make([]ruleset.Operand, len(fields))
	for i, f := range fields {
		out[i] = ruleset.Operand{Field: f}
	}
	return out
}

// skeleton returns the table of one family without services. The sets of
// services come first, by SetID.
func (c Config) skeleton(f ruleset.Family) *ruleset.Table {
	t := &ruleset.Table{Family: f, Name: c.Table, Comment: c.Comment(), Flags: c.Flags}
	for id := range NumSets {
		s := Declaration(id)
		s.Size = sizeFor(s, 0)
		t.Sets = append(t.Sets, s)
	}
	t.Sets = append(t.Sets,
		prefixSet(internalSet, f, c.Internal),
		&ruleset.Set{Name: protocolsSet, Key: []ruleset.Type{ruleset.Proto}, Elements: protocols()},
		c.AffinityMap())
	if len(c.ServiceCIDRs) > 0 {
		t.Sets = append(t.Sets, prefixSet(serviceCIDRsSet, f, c.ServiceCIDRs))
	}
	prerouting := append(inTheMiddle(ruleset.Match{Field: ruleset.Socket, Value: ruleset.Specific}), ruleset.Rule{jump(servicesChain)})
	output := append(inTheMiddle(toNode), ruleset.Rule{jump(servicesChain)})
	if c.Localhost {
		output = append(output, ruleset.Rule{
			ruleset.MatchAddr{Field: ruleset.Daddr, Prefix: loopback(f)}, jump(nodeWideChain),
		})
		t.Chains = append(t.Chains, loopbackChains(f)...)
	}
	t.Chains = append(t.Chains,
		&ruleset.Chain{Name: noBackendChain, Rules: []ruleset.Rule{
			{ruleset.Match{Field: ruleset.L4proto, Value: TCP}, ruleset.Reject{Reset: true}},
			{ruleset.Reject{}},
		}},
		&ruleset.Chain{Name: servicesChain, Rules: c.servicesRules(f)},
		&ruleset.Chain{Name: nodeWideChain, Rules: frontendRules(true)},
		&ruleset.Chain{Name: affinityChain, Rules: byFrontend(vmaps(Affinities))},
		Source{}.chain(),
		&ruleset.Chain{Name: masqChain, Rules: c.masqRules(f)},
		baseChain("prerouting", ruleset.Hook{Num: ruleset.Prerouting, Priority: PriorityDNAT}, prerouting...),
		baseChain("output", ruleset.Hook{Num: ruleset.Output, Priority: PriorityDNAT}, output...),
		baseChain("input", ruleset.Hook{Num: ruleset.Input, Priority: PrioritySNAT}, ruleset.Rule{translated, jump(affinityChain)}),
		baseChain(postroutingChain, ruleset.Hook{Num: ruleset.Postrouting, Priority: PrioritySNAT},
			ruleset.Rule{translated, jump(affinityChain)}, ruleset.Rule{translated, jump(masqChain)}),
	)
	return t
}

// AffinityMap returns the map to which rules add entries: the backend of a
// client at a frontend.
func (c Config) AffinityMap() *ruleset.Set {
	return &ruleset.Set{
		Name: affinityMap, Key: []ruleset.Type{ruleset.Addr, ruleset.Addr, ruleset.Proto, ruleset.Port},
		Data: []ruleset.Type{ruleset.Addr, ruleset.Port}, Dynamic: true, Size: c.Affinities,
	}
}

// IP protocol numbers.
const (
	TCP  = 6
	UDP  = 17
	SCTP = 132
)

var protocolNumbers = [...]uint8{TCP, UDP, SCTP}

func protocols() []ruleset.Element {
	var out []ruleset.Element
	for _, p := range protocolNumbers {
		out = append(out, ruleset.Element{Key: ruleset.Tuple{}.Proto(p)})
	}
	return out
}

func jump(chain string) ruleset.Verdict {
	return ruleset.Verdict{Kind: ruleset.Jump, Chain: chain}
}

func baseChain(name string, h ruleset.Hook, rules ...ruleset.Rule) *ruleset.Chain {
	return &ruleset.Chain{Name: name, Hook: &h, Rules: rules}
}

// toNode matches packets to an address of the node.
var toNode = ruleset.Match{Field: ruleset.FibDaddr, Value: ruleset.FibLocal}

// inTheMiddle returns the rules that leave connections of the node's own sockets to
// them. A connection that is older than conntrack on this node, or that conntrack
// has forgotten, is a new one to it with whatever packet comes next (tcp_new in
// net/netfilter/nf_conntrack_proto_tcp.c, with nf_conntrack_tcp_loose). If that
// packet were translated, it would reach a backend that knows nothing of it.
//
// With owned, a statement that matches TCP packets which are for the node alone,
// the segment passes untranslated. Any other one in the middle of a connection is
// translated: it belongs to a connection to a frontend that conntrack has
// forgotten, or that was cut, or that another node has had. By a hash it goes on,
// and else the backend resets it. Of SCTP, conntrack takes HEARTBEATs for the
// beginning of an association, too (sctp_new in nf_conntrack_proto_sctp.c), and
// nothing shows whether the node has a socket for them.
func inTheMiddle(owned ruleset.Statement) []ruleset.Rule {
	accept := ruleset.Verdict{Kind: ruleset.Accept}
	return []ruleset.Rule{
		{ruleset.Match{Field: ruleset.TCPFlags, Not: true, Value: ruleset.TCPSyn}, owned, accept},
		{
			ruleset.Match{Field: ruleset.L4proto, Value: SCTP},
			ruleset.Match{Field: ruleset.SCTPChunk, Not: true, Value: ruleset.SCTPInit},
			toNode, accept,
		},
	}
}

// servicesRules returns the rules that send a packet to the chain of its
// frontend's class. Frontends with an address come first, so they win over
// node-wide ones, and single ports win over ranges. Packets to the service CIDRs
// that match no frontend are rejected.
//
// A packet whose frontend is not found is still looked up in the pools. Before
// Linux 6.17 (and in stable kernels without b2f742c846ca, "restart set lookup on
// base_seq change") a lookup may miss an element that is just being replaced, and
// on all kernels it misses elements while their whole map is replaced. The packet
// would escape untranslated, and conntrack would leave its connection so. The
// first slot is an element of its own, which hardly ever changes at the same
// moment.
func (c Config) servicesRules(f ruleset.Family) []ruleset.Rule {
	rules := append(frontendRules(false), c.nodeRules(f)...)
	if len(c.ServiceCIDRs) > 0 {
		rules = append(rules, ruleset.Rule{
			ruleset.Lookup{Key: ops(ruleset.Daddr), Set: serviceCIDRsSet},
			ruleset.Verdict{Kind: ruleset.Goto, Chain: noBackendChain},
		})
	}
	return rules
}

// nodeRules returns the rules that send packets for the node to the node-wide
// frontends. The addresses are in the rules, since those in a new set of prefixes
// would be found only at the very end of the commit (nft_set_commit_update in
// net/netfilter/nf_tables_api.c), when packets already traverse the rules.
func (c Config) nodeRules(f ruleset.Family) []ruleset.Rule {
	local := ruleset.Rule{
		toNode,
		ruleset.MatchAddr{Field: ruleset.Daddr, Not: true, Prefix: loopback(f)},
		jump(nodeWideChain),
	}
	if len(c.NodeAddrs) == 0 {
		return []ruleset.Rule{local}
	}
	var out []ruleset.Rule
	for _, p := range outermost(ofFamily(f, c.NodeAddrs)) {
		if p.Bits() == 0 {
			return []ruleset.Rule{local}
		}
		out = append(out, append(ruleset.Rule{ruleset.MatchAddr{Field: ruleset.Daddr, Prefix: p}}, local...))
	}
	return out
}

func frontendRules(node bool) []ruleset.Rule {
	one := class{node: node, pool: pool{size: 1}}
	return []ruleset.Rule{
		{ruleset.VMap{Key: one.key(), Map: Frontends.of(node).name()}},
		one.slot(firstSlot()),
		{ruleset.VMap{Key: one.key(), Map: FrontendRanges.of(node).name()}},
	}
}

// masqRules returns the rules that choose the source address. They see the first
// packet of every connection with a rewritten destination, ours or not, so each
// of them checks that it is ours. A loopback address must never leave the node.
// A connection that stays on loopback addresses is not ours, since no backend has
// one.
func (c Config) masqRules(f ruleset.Family) []ruleset.Rule {
	rules := []ruleset.Rule{
		{ruleset.Lookup{Key: ops(ruleset.Saddr, ruleset.Daddr), Set: Hairpin.name()}, ruleset.Masquerade{}},
	}
	if c.Localhost {
		rules = append(rules, ruleset.Rule{
			ruleset.MatchAddr{Field: ruleset.Saddr, Prefix: loopback(f)},
			ruleset.MatchAddr{Field: ruleset.Daddr, Not: true, Prefix: loopback(f)},
			ruleset.Masquerade{},
		})
	}
	return append(rules, byFrontend(sources)...)
}

// sources returns the rules that choose the source address for a kind of
// frontend, in the order in which frontends are looked up: a single port before a
// range.
func sources(key []ruleset.Operand, node bool) []ruleset.Rule {
	usual := ruleset.Rule{ruleset.Lookup{Key: key, Set: Masq.of(node).name()}, gotoChain(Source{})}
	return append([]ruleset.Rule{usual}, vmaps(Sources, SourceRanges)(key, node)...)
}

// byFrontend returns rules that look up the frontend of a connection whose
// destination has been rewritten. A node-wide frontend is identified by its port
// and the chosen backend, as no set holds the node's addresses. `meta l4proto tcp`
// precedes `ct original proto-dst`, since nft accepts that only where the
// protocol is known.
func byFrontend(rest func(key []ruleset.Operand, node bool) []ruleset.Rule) []ruleset.Rule {
	var out []ruleset.Rule
	for _, p := range protocolNumbers {
		proto := ruleset.Match{Field: ruleset.L4proto, Value: uint32(p)}
		for _, node := range []bool{false, true} {
			key := ops(ruleset.OrigDaddr, ruleset.L4proto, ruleset.OrigDport)
			if node {
				key = ops(ruleset.L4proto, ruleset.OrigDport, ruleset.Daddr)
			}
			for _, r := range rest(key, node) {
				out = append(out, append(ruleset.Rule{proto}, r...))
			}
		}
	}
	return out
}

func vmaps(ids ...SetID) func([]ruleset.Operand, bool) []ruleset.Rule {
	return func(key []ruleset.Operand, node bool) []ruleset.Rule {
		var out []ruleset.Rule
		for _, id := range ids {
			out = append(out, ruleset.Rule{ruleset.VMap{Key: key, Map: id.of(node).name()}})
		}
		return out
	}
}

// prefixSet returns a set of the prefixes of one family, without those inside
// others.
func prefixSet(name string, f ruleset.Family, prefixes []netip.Prefix) *ruleset.Set {
	return intervalSet(name, ofFamily(f, prefixes))
}

func ofFamily(f ruleset.Family, prefixes []netip.Prefix) []netip.Prefix {
	var out []netip.Prefix
	for _, p := range prefixes {
		if p.Addr().Is4() == (f == ruleset.IPv4) {
			out = append(out, p)
		}
	}
	return out
}

func intervalSet(name string, prefixes []netip.Prefix) *ruleset.Set {
	s := &ruleset.Set{Name: name, Key: []ruleset.Type{ruleset.Addr}, Interval: true}
	for _, p := range outermost(prefixes) {
		s.Elements = append(s.Elements, ruleset.Element{
			Key: ruleset.Tuple{}.Addr(p.Addr()), End: ruleset.Tuple{}.Addr(ruleset.LastAddr(p)),
		})
	}
	return s
}

// outermost returns prefixes, sorted, without those inside others.
func outermost(prefixes []netip.Prefix) []netip.Prefix {
	var sorted, out []netip.Prefix
	for _, p := range prefixes {
		sorted = append(sorted, p.Masked())
	}
	slices.SortFunc(sorted, func(x, y netip.Prefix) int {
		return cmp.Or(x.Addr().Compare(y.Addr()), cmp.Compare(x.Bits(), y.Bits()))
	})
	for _, p := range sorted {
		if len(out) > 0 && out[len(out)-1].Contains(p.Addr()) {
			continue // prefixes nest or are disjoint
		}
		out = append(out, p)
	}
	return out
}
