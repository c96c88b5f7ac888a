package compile

import (
	"net/netip"
	"slices"

	"github.com/nftdp/go-nftdp/internal/ruleset"
)

func loopback(f ruleset.Family) netip.Prefix {
	if f == ruleset.IPv6 {
		return netip.PrefixFrom(netip.IPv6Loopback(), 128)
	}
	return netip.PrefixFrom(netip.AddrFrom4([4]byte{127}), 8)
}

const loopbackPrefix = "loopback-"

// loopbackChains returns the chains by which packets with a loopback address leave
// the node and their replies come back, although the kernel routes neither.
//
// It drops packets from other machines to a loopback address, ours from backends
// included: conntrack restores the client's address before they are routed
// (ip_route_input_slow, ip6_rcv_core, rt6_need_strict). So a reply keeps the address
// at which it arrived, which is the node's, until it has been routed.
//
// For IPv4 it also refuses to route packets from a loopback address to another
// machine, when NAT has changed their destination (__mkroute_output, called by
// nf_nat_ipv4_local_fn). So they have no source address while NAT translates them,
// for which the kernel routes by the destination alone (ip_route_me_harder). The
// sysctl route_localnet is not needed then, which would open the loopback addresses
// to the neighbours. The first packet of a connection loses its source in the chain
// that translates it (see unsourced), all others in loopback-unsourced.
func loopbackChains(f ruleset.Family) []*ruleset.Chain {
	reply := func(to ruleset.Field) ruleset.Rule {
		return ruleset.Rule{
			fromOutside,
			ruleset.Match{Field: ruleset.CtDirection, Value: ruleset.FromReplier},
			translated,
			ruleset.MatchAddr{Field: ruleset.OrigSaddr, Prefix: loopback(f)},
			ruleset.SetAddr{Field: ruleset.Daddr, From: to},
		}
	}
	filter := func(name string, hook ruleset.HookNum, priority int32, rule ruleset.Rule) *ruleset.Chain {
		return baseChain(name, ruleset.Hook{Num: hook, Priority: priority, Filter: true}, rule)
	}
	out := []*ruleset.Chain{
		filter(loopbackPrefix+"routing", ruleset.Prerouting, PriorityDNAT+1, reply(ruleset.ReplyDaddr)),
		filter(loopbackPrefix+"delivery", ruleset.Input, PrioritySNAT+1, reply(ruleset.OrigSaddr)),
	}
	if f == ruleset.IPv4 {
		out = append(out,
			filter(loopbackPrefix+"unsourced", ruleset.Output, PriorityDNAT-1, ruleset.Rule{fromLoopback, translated, noSource}),
			filter(loopbackPrefix+"sourced", ruleset.Output, PriorityDNAT+1, restoreSource))
	}
	return out
}

// fromOutside matches packets that no process on this node has sent. At output
// there is no input interface, and it does not match.
var fromOutside = ruleset.Match{Field: ruleset.IifType, Not: true, Value: ruleset.IifLoopback}

var (
	translated    = ruleset.Match{Field: ruleset.CtStatus, Value: ruleset.StatusDNAT}
	toLoopback    = ruleset.MatchAddr{Field: ruleset.Daddr, Prefix: loopback(ruleset.IPv4)}
	fromLoopback  = ruleset.MatchAddr{Field: ruleset.Saddr, Prefix: loopback(ruleset.IPv4)}
	noSource      = ruleset.SetAddr{Field: ruleset.Saddr, Addr: netip.IPv4Unspecified()}
	restoreSource = ruleset.Rule{
		ruleset.MatchAddr{Field: ruleset.Saddr, Prefix: netip.PrefixFrom(netip.IPv4Unspecified(), 32)},
		ruleset.SetAddr{Field: ruleset.Saddr, From: ruleset.OrigSaddr},
	}
)

// useLoopback passes a use of the chains for loopback addresses: by a frontend that
// has one, or by Config.Localhost.
func useLoopback(f ruleset.Family, use func(unit)) {
	for _, c := range loopbackChains(f) {
		use(loopbackChain{f, c.Name})
	}
}

// loopbackChain is one of them.
type loopbackChain struct {
	family ruleset.Family
	is     string
}

func (l loopbackChain) name() string { return l.is }

func (loopbackChain) set() *ruleset.Set { return nil }

func (l loopbackChain) chain() *ruleset.Chain { return loopbackNamed(l.family, l.is) }

// loopbackNamed returns the one with a name, if there is one.
func loopbackNamed(f ruleset.Family, name string) *ruleset.Chain {
	for _, c := range loopbackChains(f) {
		if c.Name == name {
			return c
		}
	}
	return nil
}

// chainOf returns the chain of a unit in a family. If it translates packets to
// loopback addresses, it takes their source away before. Backends with a limit have
// one chain for frontends of all kinds.
//
// Pools of frontends with an IPv4 loopback address are closed to packets from
// outside, which the kernel lets in where others have set route_localnet.
func (c Config) chainOf(f ruleset.Family, u unit) *ruleset.Chain {
	out := u.chain()
	out.Rules = c.byInput(out.Rules)
	if f == ruleset.IPv6 {
		return out
	}
	own, limited := false, false
	switch u := u.(type) {
	case class:
		own = u.loopback
	case limit:
		limited = true
	}
	switch {
	case c.Localhost, own:
		out.Rules = unsourced(out.Rules, fromLoopback)
	case limited:
		out.Rules = unsourced(out.Rules, fromLoopback, toLoopback)
	}
	if own {
		out.Rules = slices.Concat([]ruleset.Rule{{fromOutside, ruleset.Verdict{Kind: ruleset.Drop}}}, out.Rules)
	}
	return out
}

// unsourced takes the source address of loopback clients away ahead of the first
// rule of a chain that translates. Where that rule looks the client up, and further
// chains may follow, it has a twin that reads the client's address from conntrack.
func unsourced(rules []ruleset.Rule, clients ...ruleset.Statement) []ruleset.Rule {
	i := slices.IndexFunc(rules, func(r ruleset.Rule) bool { return translates(r[len(r)-1]) })
	if i < 0 {
		return rules
	}
	if d, ok := rules[i][len(rules[i])-1].(ruleset.DNAT); ok && d.Key[0].Field == ruleset.Saddr {
		d.Key = append(ops(ruleset.OrigSaddr), d.Key[1:]...)
		twin := slices.Concat(ruleset.Rule(clients), rules[i][:len(rules[i])-1], ruleset.Rule{noSource, d})
		return slices.Insert(slices.Clone(rules), i, twin, restoreSource)
	}
	return slices.Insert(slices.Clone(rules), i, append(slices.Clip(ruleset.Rule(clients)), noSource))
}

func translates(s ruleset.Statement) bool {
	switch s.(type) {
	case ruleset.DNAT, ruleset.DNATTo:
		return true
	}
	return false
}
