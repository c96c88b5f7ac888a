package nftdp

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/nftdp/go-nftdp/internal/around"
	"github.com/nftdp/go-nftdp/internal/compile"
	"github.com/nftdp/go-nftdp/internal/ruleset"
)

// maxTried bounds the backends, and the frontends, that are tried against the rules of
// others.
const maxTried = 4096

// foreignRule is a rule, or the policy, of a base chain of others. Tables of both
// families are read once for each.
type foreignRule struct {
	family, table, base, in string
	hook, devices           string
	priority                int32
	handle                  uint64 // 0: the policy
	words                   string
}

func foreignRuleOf(base, in *around.Chain, rule *around.Rule) foreignRule {
	out := foreignRule{base.Family, base.Table, base.Name, in.Name, base.Hook, strings.Join(base.Devices, ", "), base.Priority, 0, ""}
	if rule != nil {
		out.handle, out.words = rule.Handle, rule.Text
	}
	return out
}

func (r foreignRule) text() string {
	text := fmt.Sprintf("the rule %q", r.words)
	if r.handle == 0 {
		return "its policy"
	}
	if r.in != r.base {
		text += " of chain " + r.in
	}
	return text
}

// byLink returns a packet as it arrives by each link: not by a port of a bridge.
func (x *examination) byLink(p around.Packet) (out []around.Packet) {
	for i := range x.Links {
		if l := &x.Links[i]; !l.Loopback && x.passes(l) {
			p.In = l.Device
			out = append(out, p)
		}
	}
	return out
}

// sent returns a packet of a process on this node: at the hook output, its link is the
// one to which the destination from before the translation is routed.
func (x *examination) sent(p around.Packet) (out []around.Packet) {
	for i := range x.Links {
		if l := &x.Links[i]; x.passes(l) {
			p.Out = l.Device
			out = append(out, p)
		}
	}
	return out
}

func (x *examination) passes(l *around.Link) bool {
	master := x.links[l.Master]
	return l.Up && (master == nil || master.Kind != "bridge")
}

// eachBase calls do for the base chains of others at a hook.
func (x *examination) eachBase(f ruleset.Family, hook ruleset.HookNum, do func(base *around.Chain, all map[string]*around.Chain)) {
	for _, chains := range x.Foreign[f] {
		for _, c := range chains {
			if c.Hook == hook.String() {
				do(c, chains)
			}
		}
	}
}

// stopped is which packets a rule of others drops.
type stopped struct {
	rejected bool
	what     []string
}

// drops are the rules of others that drop packets, by hook.
type drops struct {
	*examination
	found map[ruleset.HookNum]map[foreignRule]*stopped
}

// firewalls finds what drops all new connections to a backend or frontend that come from
// outside, or all that processes on this node begin.
func (x *examination) firewalls() {
	d := drops{x, map[ruleset.HookNum]map[foreignRule]*stopped{}}
	for i := range min(len(x.targets), maxTried) {
		d.toBackend(&x.targets[i])
	}
	before := func(c *around.Chain) bool { return c.Priority < compile.PriorityDNAT }
	x.eachFrontend(func(s *compile.Service, at netip.AddrPort) {
		p := around.Packet{Proto: s.Proto, Dst: at, Local: x.isLocal(at.Addr())}
		d.try(ruleset.Prerouting, s.Name, x.byLink(p), before)
		d.try(ruleset.Output, s.Name, x.sent(p), before)
		p.Early = true
		d.try(ruleset.Ingress, s.Name, x.byLink(p), anyChain)
	})
	for hook, rules := range d.found {
		for by, s := range rules {
			x.foundDropped(hook, by, s)
		}
	}
}

func (d *drops) toBackend(t *target) {
	r := d.Hops[t.addr.Addr()]
	p := around.Packet{Proto: t.proto, Dst: t.addr, Translated: true, Local: r.Local}
	after := func(c *around.Chain) bool { return c.Priority > compile.PriorityDNAT }
	l := d.links[r.Out.Index]
	switch {
	case r.Local:
		d.try(ruleset.Input, t.service, d.byLink(p), anyChain)
	case l == nil || r.Refusal != around.Routed:
		return
	default:
		leaving := p
		leaving.Out = l.Device
		ways := d.byLink(leaving)
		d.try(ruleset.Forward, t.service, ways, anyChain)
		d.try(ruleset.Postrouting, t.service, ways, anyChain)
		d.try(ruleset.Egress, t.service, ways, anyChain)
	}
	d.try(ruleset.Output, t.service, d.sent(p), after)
}

func anyChain(*around.Chain) bool { return true }

// try sends packets through the base chains at a hook, and notes those that drop all.
func (d *drops) try(hook ruleset.HookNum, what string, packets []around.Packet, sees func(*around.Chain) bool) {
	if len(packets) == 0 {
		return
	}
	d.eachBase(ruleset.FamilyOf(packets[0].Dst.Addr()), hook, func(base *around.Chain, all map[string]*around.Chain) {
		if base.Type == "nat" || !sees(base) {
			return
		}
		of := func(p around.Packet) bool {
			return hook == ruleset.Ingress && !base.Sees(p.In) || hook == ruleset.Egress && !base.Sees(p.Out)
		}
		fate, every := fateOfAll(base, all, slices.DeleteFunc(slices.Clone(packets), of), around.Dropped, around.Rejected)
		if !every {
			return
		}
		if d.found[hook] == nil {
			d.found[hook] = map[foreignRule]*stopped{}
		}
		by := foreignRuleOf(base, fate.Chain, fate.Rule)
		if d.found[hook][by] == nil {
			d.found[hook][by] = &stopped{rejected: fate.Kind == around.Rejected}
		}
		d.found[hook][by].what = append(d.found[hook][by].what, what)
	})
}

// fateOfAll reports whether the way of every packet through a chain ends, for certain, in
// one of these ways.
func fateOfAll(base *around.Chain, all map[string]*around.Chain, packets []around.Packet, kinds ...around.FateKind) (last around.Fate, every bool) {
	for i := range packets {
		last = around.Walk(base, all, &packets[i])
		if last.Doubtful || !slices.Contains(kinds, last.Kind) {
			return last, false
		}
	}
	return last, len(packets) > 0
}

func (x *examination) foundDropped(hook ruleset.HookNum, by foreignRule, s *stopped) {
	verb := "drops"
	if s.rejected {
		verb = "rejects"
	}
	severity, from := SeverityError, "from every interface"
	switch hook {
	case ruleset.Output:
		severity, from = SeverityWarning, "of every process on this node"
	case ruleset.Ingress:
		severity, from = SeverityWarning, "by "+by.devices
	case ruleset.Egress:
		from += ", by " + by.devices
	case ruleset.Prerouting, ruleset.Input, ruleset.Forward, ruleset.Postrouting:
	}
	f := Finding{
		Severity: severity, Code: droppedAt(hook.String()),
		Subject: fmt.Sprintf("table %s %s, chain %s", by.family, by.table, by.base),
		Evidence: fmt.Sprintf("%s %s new connections to %s, %s (hook %s, priority %d)",
			by.text(), verb, some(s.what), from, by.hook, by.priority),
		Remedy: "Accept connections that were translated ahead of it, in the configuration of the firewall as well",
	}
	switch table := by.family + " " + by.table; {
	case hook == ruleset.Ingress, hook == ruleset.Prerouting, hook == ruleset.Output && by.priority < compile.PriorityDNAT:
		f.Remedy = "Let the rule accept packets to the frontend: the chain sees them before they are translated"
	case hook == ruleset.Egress: // of family netdev, which has no ct expression (nf_ct_netns_get)
		f.Remedy = "Let the rule accept packets to the backends"
	case table == "ip filter":
		f.Command = fmt.Sprintf("iptables -I %s -m conntrack --ctstate DNAT -j ACCEPT", by.base)
	case table == "ip6 filter":
		f.Command = fmt.Sprintf("ip6tables -I %s -m conntrack --ctstate DNAT -j ACCEPT", by.base)
	default:
		f.Command = fmt.Sprintf("nft insert rule %s %s ct status dnat accept", table, by.base)
	}
	x.found(f)
}

// eachFrontend calls do for an address and port of frontends of which this node takes
// packets, for at most maxTried. Of a node-wide one that is an address of the node, and
// of a range the first port.
func (x *examination) eachFrontend(do func(s *compile.Service, at netip.AddrPort)) {
	left := maxTried
	for _, s := range x.services {
		for _, f := range s.Frontends {
			addr := f.Addr
			if f.Addr.IsUnspecified() {
				addr = netip.Addr{}
				for _, own := range x.own(ruleset.FamilyOf(f.Addr)) {
					if x.takes(own) {
						addr = own
					}
				}
			}
			if !addr.IsValid() || f.Empty == compile.Pass && len(f.Pool) == 0 {
				continue
			}
			if left--; left < 0 {
				return
			}
			do(s, netip.AddrPortFrom(addr, f.Port))
		}
	}
}

// translations finds rules of others that translate packets to frontends before ours,
// or maybe before ours: of chains with the same priority, the one that was made last
// comes first (nf_hook_entries_grow in net/netfilter/core.c). A rule that both packets
// from outside and those of processes on this node meet is found once.
func (x *examination) translations() {
	found, known := map[foreignRule][]string{}, map[[2]string]bool{}
	for _, hook := range []ruleset.HookNum{ruleset.Prerouting, ruleset.Output} {
		at := map[foreignRule][]string{}
		x.eachFrontend(func(s *compile.Service, to netip.AddrPort) {
			p := around.Packet{Proto: s.Proto, Dst: to, Local: x.isLocal(to.Addr())}
			packets := x.byLink(p)
			if hook == ruleset.Output {
				packets = x.sent(p)
			}
			x.eachBase(ruleset.FamilyOf(to.Addr()), hook, func(base *around.Chain, all map[string]*around.Chain) {
				if by, ok := translator(base, all, packets); ok {
					at[by] = append(at[by], fmt.Sprintf("%s (%s)", s.Name, portText(s.Proto, to.Addr(), to.Port())))
				}
			})
		})
		for by, what := range at {
			if rule := [2]string{by.family + " " + by.table + " " + by.in, fmt.Sprint(by.handle)}; hook == ruleset.Prerouting || !known[rule] {
				found[by], known[rule] = what, true
			}
		}
	}
	for by, what := range found {
		order := "has a lower priority than ours, and comes first"
		if by.priority == compile.PriorityDNAT {
			order = "has the same priority as ours: the chain that was made last comes first"
		}
		x.found(Finding{
			Severity: SeverityWarning, Code: CodeForeignDNATFirst,
			Subject:  fmt.Sprintf("table %s %s, chain %s", by.family, by.table, by.in),
			Evidence: fmt.Sprintf("%s translates packets to %s, and its chain %s (hook %s) %s", by.text(), some(what), by.base, by.hook, order),
			Remedy:   "Publish the port in one place only: take it out of the other software, or give the frontend another address or port",
			Command:  deletion(by),
		})
	}
}

// translator returns the rule of a nat chain that translates one of the packets first.
func translator(base *around.Chain, all map[string]*around.Chain, packets []around.Packet) (by foreignRule, ok bool) {
	if base.Type != "nat" || base.Priority > compile.PriorityDNAT {
		return by, false
	}
	for i := range packets {
		if c, r := around.Translation(base, all, &packets[i]); r != nil {
			return foreignRuleOf(base, c, r), true
		}
	}
	return by, false
}

func deletion(by foreignRule) string {
	return strings.Join([]string{"nft", "delete", "rule", by.family, by.table, by.in, "handle", fmt.Sprint(by.handle)}, " ")
}
