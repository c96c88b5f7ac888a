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
			ruleset.Match{Field: ruleset.IifType, Not: true, Value: ruleset.IifLoopback},
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
		filter("loopback-routing", ruleset.Prerouting, PriorityDNAT+1, reply(ruleset.ReplyDaddr)),
		filter("loopback-delivery", ruleset.Input, PrioritySNAT+1, reply(ruleset.OrigSaddr)),
	}
	if f == ruleset.IPv4 {
		out = append(out,
			filter("loopback-unsourced", ruleset.Output, PriorityDNAT-1, ruleset.Rule{fromLoopback, translated, noSource}),
			filter("loopback-sourced", ruleset.Output, PriorityDNAT+1, restoreSource))
	}
	return out
}

var (
	translated    = ruleset.Match{Field: ruleset.CtStatus, Value: ruleset.StatusDNAT}
	fromLoopback  = ruleset.MatchAddr{Field: ruleset.Saddr, Prefix: loopback(ruleset.IPv4)}
	noSource      = ruleset.SetAddr{Field: ruleset.Saddr, Addr: netip.IPv4Unspecified()}
	restoreSource = ruleset.Rule{
		ruleset.MatchAddr{Field: ruleset.Saddr, Prefix: netip.PrefixFrom(netip.IPv4Unspecified(), 32)},
		ruleset.SetAddr{Field: ruleset.Saddr, From: ruleset.OrigSaddr},
	}
)

// chainOf returns the chain of a unit in a family.
func (c Config) chainOf(f ruleset.Family, u unit) *ruleset.Chain {
	out := u.chain()
	if c.Localhost && f == ruleset.IPv4 {
		out.Rules = unsourced(out.Rules)
	}
	return out
}

// unsourced takes the source address of loopback clients away ahead of the first
// rule of a chain that translates. Where that rule looks the client up, and further
// chains may follow, it has a twin that reads the client's address from conntrack.
func unsourced(rules []ruleset.Rule) []ruleset.Rule {
	i := slices.IndexFunc(rules, func(r ruleset.Rule) bool { return translates(r[len(r)-1]) })
	if i < 0 {
		return rules
	}
	if d, ok := rules[i][len(rules[i])-1].(ruleset.DNAT); ok && d.Key[0].Field == ruleset.Saddr {
		d.Key = append(ops(ruleset.OrigSaddr), d.Key[1:]...)
		twin := slices.Concat(ruleset.Rule{fromLoopback}, rules[i][:len(rules[i])-1], ruleset.Rule{noSource, d})
		return slices.Insert(slices.Clone(rules), i, twin, restoreSource)
	}
	return slices.Insert(slices.Clone(rules), i, ruleset.Rule{fromLoopback, noSource})
}

func translates(s ruleset.Statement) bool {
	switch s.(type) {
	case ruleset.DNAT, ruleset.DNATTo:
		return true
	}
	return false
}
