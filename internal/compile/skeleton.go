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
	Inputs       []string // patterns of interfaces whose packets come from internal clients
	ServiceCIDRs []netip.Prefix
	// DropUnallocated drops packets to addresses in ServiceCIDRs that no frontend
	// has, instead of rejecting them.
	DropUnallocated bool
	Localhost       bool
	Affinities      uint32 // the size of the affinity map
	Flags           ruleset.TableFlags
	Owner           string // empty: the tables hold one list of services
}

// Schema marks a table as ours and names the layout of its contents.
const Schema = "nftdp schema 4"

// SchemaPrefix begins the comments of all schemas.
const SchemaPrefix = "nftdp schema "

// Hook priorities, numbered as NF_IP_PRI_NAT_DST and NF_IP_PRI_NAT_SRC in
// linux/netfilter_ipv4.h. They are part of the documented API.
const (
	PriorityDNAT = -100
	PrioritySNAT = 100
)

// Shared reports whether a set exists only while services use it.
func Shared(name string) bool {
	return strings.HasPrefix(name, prefixesPrefix) || SetNamed(name).Shard()
}

// Separate reports whether the chains of services can be added and deleted
// independently of the set: either services share it, or only the chain that all
// packets pass looks it up.
func Separate(name string) bool {
	return Shared(name) || name == serviceCIDRsSet
}

// OfSkeleton reports whether a chain exists without services, too.
func OfSkeleton(c *ruleset.Chain) bool {
	if c.Hook != nil {
		return !strings.HasPrefix(c.Name, loopbackPrefix)
	}
	switch c.Name {
	case noBackendChain, servicesChain, nodeWideChain, affinityChain, masqChain, Source{}.name():
		return true
	}
	return false
}

// Common reports whether a chain belongs to all owners of shared tables: whether it
// exists without services, or is one of those for loopback addresses.
func Common(chain string) bool {
	switch chain {
	case "prerouting", "output", "input", postroutingChain:
		return true
	}
	return OfSkeleton(&ruleset.Chain{Name: chain}) || loopbackNamed(ruleset.IPv4, chain) != nil
}

// Names of objects that do not belong to one service.
const (
	internalSet      = "internal"
	serviceCIDRsSet  = "service_cidrs"
	protocolsSet     = "protocols"
	noBackendChain   = "no-backend"
	servicesChain    = "services"
	nodeWideChain    = "node-wide"
	affinityChain    = "affinities"
	masqChain        = "masquerading"
	postroutingChain = "postrouting"
)

// ops returns operands of fields without parameters.
func ops(fields ...ruleset.Field) []ruleset.Operand {
	out := make([]ruleset.Operand, len(fields))
	for i, f := range fields {
		out[i] = ruleset.Operand{Field: f}
	}
	return out
}

// skeleton returns the table of one family without services and their sets.
func (c Config) skeleton(f ruleset.Family) *ruleset.Table {
	t := &ruleset.Table{Family: f, Name: c.Table, Comment: c.Comment(), Flags: c.Flags}
	maps := c.AffinityMaps()
	t.Sets = append(t.Sets,
		prefixSet(internalSet, f, c.Internal),
		&ruleset.Set{Name: protocolsSet, Key: []ruleset.Type{ruleset.Proto}, Elements: protocols()},
		maps[0], maps[1])
	if len(c.ServiceCIDRs) > 0 {
		t.Sets = append(t.Sets, prefixSet(serviceCIDRsSet, f, c.ServiceCIDRs))
	}
	prerouting := append(inTheMiddle(ruleset.Match{Field: ruleset.Socket, Value: ruleset.Specific}), ruleset.Rule{jump(servicesChain)})
	output := append(inTheMiddle(toNode), ruleset.Rule{jump(servicesChain)})
	if c.Localhost {
		output = append(output, ruleset.Rule{
			ruleset.MatchAddr{Field: ruleset.Daddr, Prefix: netip.PrefixFrom(f.Loopback(), 8*f.AddrLen())}, jump(nodeWideChain),
		})
	}
	t.Chains = append(t.Chains,
		&ruleset.Chain{Name: noBackendChain, Rules: []ruleset.Rule{
			{ruleset.Match{Field: ruleset.L4proto, Value: TCP}, ruleset.Reject{Reset: true}},
			{ruleset.Reject{}},
		}},
		&ruleset.Chain{Name: servicesChain, Rules: c.servicesRules(f)},
		&ruleset.Chain{Name: nodeWideChain, Rules: frontendRules(true)},
		&ruleset.Chain{Name: affinityChain, Rules: byFrontend(learners)},
		c.chainOf(f, Source{}),
		&ruleset.Chain{Name: masqChain, Rules: byFrontend(sources)},
		baseChain("prerouting", ruleset.Hook{Num: ruleset.Prerouting, Priority: PriorityDNAT}, prerouting...),
		baseChain("output", ruleset.Hook{Num: ruleset.Output, Priority: PriorityDNAT}, output...),
		baseChain("input", ruleset.Hook{Num: ruleset.Input, Priority: PrioritySNAT}, ruleset.Rule{translated, jump(affinityChain)}),
		baseChain(postroutingChain, ruleset.Hook{Num: ruleset.Postrouting, Priority: PrioritySNAT}, c.postroutingRules(f)...),
	)
	return t
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
// moment. For pools in shards it stands in a map of its own, once more.
//
// Changes of interval sets take effect at the very end of a commit
// (nft_set_commit_update in net/netfilter/nf_tables_api.c). Until then a lookup misses
// elements that are replaced, and the thread that commits may lose its processor
// meanwhile. So packets to a range that is not found are dropped: the client's next one
// is evaluated afresh. The set of all ranges changes only when ranges come or go, or get
// other ends: then both sets miss them.
func (c Config) servicesRules(f ruleset.Family) []ruleset.Rule {
	rules := append(frontendRules(false), c.nodeRules(f)...)
	if len(c.ServiceCIDRs) == 0 {
		return rules
	}
	inCIDRs := ruleset.Lookup{Key: ops(ruleset.Daddr), Set: serviceCIDRsSet}
	reject := ruleset.Verdict{Kind: ruleset.Goto, Chain: noBackendChain}
	if !c.DropUnallocated {
		return append(rules, ruleset.Rule{inCIDRs, reject})
	}
	return append(rules,
		ruleset.Rule{inCIDRs, ruleset.Lookup{Key: ops(ruleset.Daddr), Set: Addresses.name()}, reject},
		ruleset.Rule{inCIDRs, ruleset.Verdict{Kind: ruleset.Drop}})
}

// SameElements reports whether services have the same elements with both configurations.
func (c Config) SameElements(o Config) bool { return c.DropUnallocated == o.DropUnallocated }

// nodeRules returns the rules that send packets for the node to the node-wide
// frontends. The addresses are in the rules, since those in a new set of prefixes
// would be found only at the very end of the commit (nft_set_commit_update in
// net/netfilter/nf_tables_api.c), when packets already traverse the rules.
//
// Loopback and link-local addresses are left to the host, unless NodeAddrs has
// prefixes of IPv4 link-local ones. Clients send to link-local IPv6 addresses from
// link-local ones, and the kernel forwards no packet from there: ip6_forward
// answers with the ICMPv6 error "beyond scope of source address". It does forward
// those of IPv4 (ip_forward).
func (c Config) nodeRules(f ruleset.Family) []ruleset.Rule {
	others, linkLocals := c.nodeAddrs(f)
	var out []ruleset.Rule
	for _, p := range others {
		var rule ruleset.Rule
		if p.Bits() > 0 {
			rule = append(rule, ruleset.MatchAddr{Field: ruleset.Daddr, Prefix: p})
		}
		rule = append(rule, toNode)
		for _, left := range []netip.Prefix{loopback(f), linkLocal(f)} {
			if left.Overlaps(p) {
				rule = append(rule, ruleset.MatchAddr{Field: ruleset.Daddr, Not: true, Prefix: left})
			}
		}
		out = append(out, append(rule, jump(nodeWideChain)))
	}
	for _, p := range linkLocals {
		out = append(out, ruleset.Rule{
			ruleset.MatchAddr{Field: ruleset.Daddr, Prefix: p},
			toNode,
			jump(nodeWideChain),
		})
	}
	return out
}

// nodeAddrs splits the NodeAddrs of a family into those that name link-local
// addresses and all others.
func (c Config) nodeAddrs(f ruleset.Family) (others, linkLocals []netip.Prefix) {
	if len(c.NodeAddrs) == 0 {
		return []netip.Prefix{netip.PrefixFrom(f.Unspecified(), 0)}, nil
	}
	for _, p := range ofFamily(f, c.NodeAddrs) {
		if within(p, linkLocal(f)) {
			linkLocals = append(linkLocals, p)
		} else {
			others = append(others, p)
		}
	}
	return outermost(others), outermost(linkLocals)
}

// TakesNodeWide reports whether node-wide frontends take an address if it is the
// node's.
func (c Config) TakesNodeWide(a netip.Addr) bool {
	f := ruleset.FamilyOf(a)
	if a.IsLoopback() {
		return c.Localhost && a == f.Loopback()
	}
	others, linkLocals := c.nodeAddrs(f)
	if linkLocal(f).Contains(a) {
		others = linkLocals
	}
	return slices.ContainsFunc(others, func(p netip.Prefix) bool { return p.Contains(a) })
}

// linkLocal returns the link-local addresses of a family.
func linkLocal(f ruleset.Family) netip.Prefix {
	if f == ruleset.IPv6 {
		return netip.PrefixFrom(netip.AddrFrom16([16]byte{0xfe, 0x80}), 10)
	}
	return netip.PrefixFrom(netip.AddrFrom4([4]byte{169, 254}), 16)
}

func within(p, other netip.Prefix) bool { return p.Bits() >= other.Bits() && other.Overlaps(p) }

func frontendRules(node bool) []ruleset.Rule {
	one := class{node: node, pool: pool{size: 1}}
	return []ruleset.Rule{
		{ruleset.VMap{Key: one.key(), Map: Frontends.of(node).name()}},
		one.slot(firstSlot()),
		{
			ruleset.Lookup{Key: ops(ruleset.L4proto), Set: protocolsSet},
			ruleset.DNAT{Key: one.key(), Map: FirstBackends.of(node).name()},
		},
		{ruleset.VMap{Key: one.key(), Map: FrontendRanges.of(node).name()}},
		{ruleset.Lookup{Key: one.key(), Set: Ranges.of(node).name()}, ruleset.Verdict{Kind: ruleset.Drop}},
	}
}

// postroutingRules returns the rules for the first packet of every connection with
// a rewritten destination, ours or not. First they learn clients with affinity,
// then they choose the source address by the frontend. Connections for which that
// keeps the source need another one nevertheless if a backend is sent to itself,
// whose replies would not come back, or if the source is a loopback address, which
// must never leave the node. A connection to a loopback address keeps its source:
// either it is not ours, or it is one of a local process to a port of the node.
func (c Config) postroutingRules(f ruleset.Family) []ruleset.Rule {
	rules := []ruleset.Rule{
		{translated, jump(affinityChain)},
		{translated, ruleset.MatchAddr{Field: ruleset.Daddr, Not: true, Prefix: loopback(f)}, jump(masqChain)},
		{translated, hairpin(), ruleset.Masquerade{}},
	}
	if c.Localhost {
		rules = append(rules, ruleset.Rule{
			translated,
			ruleset.MatchAddr{Field: ruleset.Saddr, Prefix: loopback(f)},
			ruleset.MatchAddr{Field: ruleset.Daddr, Not: true, Prefix: loopback(f)},
			ruleset.Masquerade{},
		})
	}
	return rules
}

// hairpin matches packets of a backend to itself.
func hairpin() ruleset.Statement {
	return ruleset.Lookup{Key: ops(ruleset.Saddr, ruleset.Daddr), Set: Hairpin.name()}
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

// learners returns the rules that look up who records the client of a connection. None
// does for ranges, so that only those with an address need an element, which keeps the
// connection from the node-wide frontends.
func learners(key []ruleset.Operand, node bool) []ruleset.Rule {
	if node {
		return vmaps(Affinities)(key, node)
	}
	return vmaps(Affinities, AffinityRanges)(key, node)
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

// NodeWide reads from a table which of the node's addresses its node-wide frontends
// take: those in the prefixes, or all if there is the prefix of all.
func NodeWide(t *ruleset.Table) (out []netip.Prefix) {
	for _, c := range t.Chains {
		for _, r := range c.Rules {
			if len(r) == 0 || r[len(r)-1] != ruleset.Statement(jump(nodeWideChain)) {
				continue
			}
			limit := netip.PrefixFrom(t.Family.Unspecified(), 0)
			for _, s := range r {
				if m, ok := s.(ruleset.MatchAddr); ok && m.Field == ruleset.Daddr && !m.Not {
					limit = m.Prefix
				}
			}
			out = append(out, limit)
		}
	}
	return out
}
