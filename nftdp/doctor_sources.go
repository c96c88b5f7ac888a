package nftdp

import (
	"fmt"
	"net/netip"

	"github.com/nftdp/go-nftdp/internal/around"
	"github.com/nftdp/go-nftdp/internal/compile"
	"github.com/nftdp/go-nftdp/internal/ruleset"
)

// rewritten is whose source a rule of others rewrites.
type rewritten struct {
	all     bool // of every client, not only of those in some prefixes
	clients []string
	what    []string // services
	wanted  []string // what their backends are to see
}

// rewrites finds rules of others that rewrite the source of packets to backends which
// are to see another one: the client's, which chains behind ours can rewrite, too, or
// Service.SNAT.
func (x *examination) rewrites() {
	type key struct {
		proto  uint8
		to     netip.AddrPort
		source compile.Source
	}
	found, seen := map[foreignRule]*rewritten{}, map[key]bool{}
	for _, s := range x.services {
		for _, f := range s.Frontends {
			for b := range backendsOf(f) {
				k := key{s.Proto, b, f.Source}
				if seen[k] || len(seen) >= maxTried {
					continue
				}
				seen[k] = true
				x.rewritesTo(s.Name, around.Packet{Proto: s.Proto, Dst: b, Translated: true}, f.Source, found)
			}
		}
	}
	for by, r := range found {
		x.foundRewritten(by, r)
	}
}

// rewritesTo tries the packets of clients to a backend.
func (x *examination) rewritesTo(service string, p around.Packet, s compile.Source, found map[foreignRule]*rewritten) {
	reach := x.Hops[p.Dst.Addr()]
	hook := ruleset.Postrouting
	switch l := x.links[reach.Out.Index]; {
	case reach.Local:
		hook, p.Local = ruleset.Input, true
	case l == nil || reach.Refusal != around.Routed:
		return
	default:
		p.Out = l.Device
	}
	note := func(client netip.Prefix, wanted string, sees func(*around.Chain) bool) {
		if client.IsValid() {
			p.Src = netip.AddrPortFrom(client.Masked().Addr().Next(), 0)
		}
		packets := x.byLink(p)
		x.eachBase(ruleset.FamilyOf(p.Dst.Addr()), hook, func(base *around.Chain, all map[string]*around.Chain) {
			if base.Type != "nat" || !sees(base) {
				return
			}
			fate, every := fateOfAll(base, all, packets, around.Rewritten)
			if !every || s.Addr.IsValid() && fate.Source == s.Addr {
				return
			}
			by := foreignRuleOf(base, fate.Chain, fate.Rule)
			if found[by] == nil {
				found[by] = &rewritten{}
			}
			r := found[by]
			r.what, r.wanted = append(r.what, service), append(r.wanted, wanted)
			if client.IsValid() {
				r.clients = append(r.clients, client.String())
			} else {
				r.all = true
			}
		})
	}
	if s.Addr.IsValid() && hook == ruleset.Postrouting {
		note(netip.Prefix{}, s.Addr.String(), func(c *around.Chain) bool { return c.Priority <= compile.PrioritySNAT })
	}
	switch s.Mode {
	case compile.All:
		return
	case compile.Keep, compile.Local, compile.Listed:
		note(netip.Prefix{}, "the client's address", anyChain)
	case compile.External:
	}
	for _, in := range x.cfg.Internal {
		if in.Addr().Unmap().Is4() == p.Dst.Addr().Is4() {
			note(in, "the client's address", anyChain)
		}
	}
}

func (x *examination) foundRewritten(by foreignRule, r *rewritten) {
	severity, from := SeverityWarning, "every client"
	if !r.all {
		severity, from = SeverityNotice, "clients in "+some(r.clients)
	}
	f := Finding{
		Severity: severity, Code: CodeForeignSNAT,
		Subject: fmt.Sprintf("table %s %s, chain %s", by.family, by.table, by.in),
		Evidence: fmt.Sprintf("%s rewrites the source of connections of %s to %s, whose backends are to see %s (hook %s, priority %d)",
			by.text(), from, some(r.what), some(r.wanted), by.hook, by.priority),
		Remedy:  "Except connections to the backends from the rule, in the configuration of the other software as well. The command excepts whatever anybody translates. Replies to a client's own address have to pass through this node",
		Command: fmt.Sprintf("nft insert rule %s %s %s ct status dnat accept", by.family, by.table, by.base),
	}
	switch by.family + " " + by.table {
	case "ip nat":
		f.Command = fmt.Sprintf("iptables -t nat -I %s -m conntrack --ctstate DNAT -j ACCEPT", by.base)
	case "ip6 nat":
		f.Command = fmt.Sprintf("ip6tables -t nat -I %s -m conntrack --ctstate DNAT -j ACCEPT", by.base)
	}
	x.found(f)
}
