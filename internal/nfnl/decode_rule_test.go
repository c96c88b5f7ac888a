//go:build linux

package nfnl

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/nftdp/go-nftdp/internal/ruleset"
)

// ruleCase is a rule in stock nft's words and its decoded form. A rule that package
// ruleset cannot express is opaque, for a reason that begins with opaque.
type ruleCase struct {
	nft    string
	want   ruleset.Rule
	opaque string
}

var (
	accept = ruleset.Verdict{Kind: ruleset.Accept}
	drop   = ruleset.Verdict{Kind: ruleset.Drop}
)

// ruleSets are the sets of the rules' lookups. The types of ours.nft are tested
// there.
const ruleSets = `
	set s_addrs { type %[1]s; }
	set s_seen { type %[1]s; flags dynamic; size 16; }
	set s_endpoints { typeof %[2]s daddr . th dport; }
	map m_endpoints { typeof %[2]s daddr . th dport : %[2]s daddr . th dport; }
	map m_slots { typeof numgen random mod 65535 : %[2]s daddr . th dport; }
	map m_addrs { type %[1]s : %[1]s; }
	map m_affinity {
		type %[1]s . %[1]s . inet_proto . inet_service : %[1]s . inet_service
		size 65536
		flags dynamic,timeout
	}
	map m_last { type %[1]s : %[1]s; size 16; flags dynamic,timeout; }
	map m_long {
		typeof %[2]s saddr . %[2]s daddr . meta l4proto . th dport . numgen random mod 65535 : verdict
		flags dynamic,timeout
	}
	set s_ranges { type %[1]s . inet_proto . inet_service; flags interval; }
	map m_verdicts { type inet_service : verdict; }
	chain other { }
`

// bothFamilies are rules that differ between the families only by their names. The
// base chain's hook allows everything that is tried here.
func bothFamilies(addr netip.Addr) []ruleCase {
	isTCP := equals(ruleset.L4proto, tcp)
	port := ops(ruleset.Dport)
	endpoint := ops(ruleset.Daddr, ruleset.Dport)
	frontend := ops(ruleset.Saddr, ruleset.L4proto, ruleset.Dport)
	client := ops(ruleset.Saddr, ruleset.Daddr, ruleset.L4proto, ruleset.Dport)
	original := ops(ruleset.OrigDaddr, ruleset.OrigDport)
	slot := []ruleset.Operand{{Field: ruleset.Random, Mod: 7}}
	return []ruleCase{
		{nft: "accept", want: ruleset.Rule{accept}},
		{nft: "drop", want: ruleset.Rule{drop}},
		{nft: "return", want: ruleset.Rule{ruleset.Verdict{Kind: ruleset.Return}}},
		{nft: "jump other", want: ruleset.Rule{ruleset.Verdict{Kind: ruleset.Jump, Chain: "other"}}},
		{nft: "goto other", want: ruleset.Rule{goTo("other")}},
		{nft: "continue", opaque: "immediate"},
		{nft: `drop comment "x"`, opaque: "attribute 7"},
		{nft: "counter accept", opaque: "counter"},
		{nft: "meta mark set 1", opaque: "meta: attribute 3"},
		{nft: "meta mark 1 accept", opaque: "meta: key 3"},
		{nft: "meta l4proto tcp drop", want: ruleset.Rule{equals(ruleset.L4proto, tcp), drop}},
		{nft: "meta l4proto 255 drop", want: ruleset.Rule{equals(ruleset.L4proto, 255), drop}},
		{nft: "meta l4proto != tcp drop", opaque: "cmp: operation"},
		{nft: "meta l4proto > 6 drop", opaque: "cmp: operation"},
		{nft: "meta l4proto { tcp, udp } drop", opaque: "lookup: set __set"},
		{nft: "meta l4proto sctp th dport 80 drop", opaque: "cmp: field"},
		{nft: "meta l4proto sctp th sport 80 drop", opaque: "cmp: field"},
		{nft: "tcp sequence 80 drop", opaque: "payload: 4 bytes at 4 of header 2"},
		{nft: "fib daddr type local drop", want: ruleset.Rule{equals(ruleset.FibDaddr, ruleset.FibLocal), drop}},
		{nft: "fib daddr type multicast drop", want: ruleset.Rule{equals(ruleset.FibDaddr, 5), drop}},
		{nft: "fib daddr type != local drop", opaque: "cmp: operation"},
		{nft: "fib saddr type local drop", want: ruleset.Rule{equals(ruleset.FibSaddr, ruleset.FibLocal), drop}},
		{nft: "fib saddr type != local drop", opaque: "cmp: operation"},
		{nft: "fib saddr . mark type local drop", opaque: "fib: flags"},
		{nft: "meta iiftype loopback drop", want: ruleset.Rule{equals(ruleset.IifType, ruleset.IifLoopback), drop}},
		{nft: "meta iiftype != loopback drop", want: ruleset.Rule{
			ruleset.Match{Field: ruleset.IifType, Not: true, Value: ruleset.IifLoopback}, drop,
		}},
		{nft: `iifname "cni0" drop`, want: ruleset.Rule{ruleset.MatchInput{Pattern: "cni0"}, drop}},
		{nft: `iifname "veth0123456789a" drop`, want: ruleset.Rule{ruleset.MatchInput{Pattern: "veth0123456789a"}, drop}},
		{nft: `iifname "veth*" drop`, want: ruleset.Rule{ruleset.MatchInput{Pattern: "veth*"}, drop}},
		{nft: `iifname != "cni0" drop`, opaque: "cmp: operation"},
		{nft: `iifname "eth\\*" drop`, opaque: "cmp: name"},
		{nft: `oifname "cni0" drop`, opaque: "meta: key 7"},
		{nft: "meta iiftype > 5 drop", opaque: "byteorder: operation"},
		{nft: "meta oiftype loopback drop", opaque: "meta: key 9"},
		{nft: "fib daddr . iif type local drop", opaque: "fib"},
		{nft: "fib daddr oif 1 drop", opaque: "fib"},
		{nft: "ct status dnat drop", want: ruleset.Rule{equals(ruleset.CtStatus, ruleset.StatusDNAT), drop}},
		{nft: "ct status snat drop", want: ruleset.Rule{equals(ruleset.CtStatus, 1<<4), drop}},
		{nft: "ct status & dnat == dnat drop", want: ruleset.Rule{equals(ruleset.CtStatus, ruleset.StatusDNAT), drop}},
		{nft: "ct status dnat,snat drop", opaque: "cmp: operation"},
		{nft: "ct status & dnat == 0 drop", opaque: "cmp: operation"},
		{nft: "ct status == dnat drop", opaque: "cmp: operation"},
		{nft: "ct state new drop", opaque: "ct: key 0"},
		{nft: "meta l4proto tcp ct original proto-src 1 drop", opaque: "ct: key 11"},
		{nft: "meta l4proto tcp ct reply proto-dst . ct original proto-dst vmap { 1 . 1 : drop }", opaque: "ct: key 12"},
		{
			nft:  "meta l4proto tcp ct original FAM daddr . ct original proto-dst @s_endpoints drop",
			want: ruleset.Rule{isTCP, ruleset.Lookup{Key: original, Set: "s_endpoints"}, drop},
		},
		{
			nft:  "FAM daddr . th dport @s_endpoints masquerade fully-random",
			want: ruleset.Rule{ruleset.Lookup{Key: endpoint, Set: "s_endpoints"}, ruleset.Masquerade{}},
		},
		{
			nft:  "FAM daddr . th dport != @s_endpoints masquerade fully-random",
			want: ruleset.Rule{ruleset.Lookup{Key: endpoint, Not: true, Set: "s_endpoints"}, ruleset.Masquerade{}},
		},
		{
			nft:  "FAM saddr . meta l4proto . th dport @s_ranges drop",
			want: ruleset.Rule{ruleset.Lookup{Key: frontend, Set: "s_ranges"}, drop},
		},
		{nft: "FAM saddr @s_addrs drop", want: ruleset.Rule{ruleset.Lookup{Key: ops(ruleset.Saddr), Set: "s_addrs"}, drop}},
		{nft: "ct original FAM daddr @s_addrs drop", want: ruleset.Rule{ruleset.Lookup{Key: ops(ruleset.OrigDaddr), Set: "s_addrs"}, drop}},
		{nft: "th dport vmap @m_verdicts", want: ruleset.Rule{ruleset.VMap{Key: port, Map: "m_verdicts"}}},
		{nft: "th sport vmap @m_verdicts", want: ruleset.Rule{ruleset.VMap{Key: ops(ruleset.Sport), Map: "m_verdicts"}}},
		{nft: "udp length 80 drop", opaque: "payload: 2 bytes at 4 of header 2"},
		{nft: "update @s_seen { FAM saddr }", opaque: "dynset"},
		{nft: "update @m_last { FAM saddr timeout 1m : FAM daddr }", want: ruleset.Rule{ruleset.Update{
			Map: "m_last", Seconds: 60, Key: ops(ruleset.Saddr), Data: ops(ruleset.Daddr),
		}}},
		{nft: "update @m_last { FAM saddr : FAM daddr }", opaque: "dynset: timeout"},
		{nft: "meta l4proto tcp dnat FAM to FAM daddr . th dport map @m_endpoints", want: ruleset.Rule{isTCP, ruleset.DNAT{Key: endpoint, Map: "m_endpoints"}}},
		{nft: "meta l4proto tcp dnat FAM to numgen random mod 7 map @m_slots", want: ruleset.Rule{isTCP, ruleset.DNAT{Key: slot, Map: "m_slots"}}},
		{nft: "meta l4proto tcp dnat FAM to numgen inc mod 7 map @m_slots", want: ruleset.Rule{isTCP, ruleset.DNAT{
			Key: []ruleset.Operand{{Field: ruleset.Increment, Mod: 7}}, Map: "m_slots",
		}}},
		{nft: "meta l4proto tcp dnat FAM to numgen inc mod 7 offset 1 map @m_slots", want: ruleset.Rule{isTCP, ruleset.DNAT{
			Key: []ruleset.Operand{{Field: ruleset.Increment, Mod: 7, Offset: 1}}, Map: "m_slots",
		}}},
		{nft: "meta l4proto tcp dnat FAM to jhash FAM saddr mod 7 seed 0x6e667464 offset 9 map @m_slots", want: ruleset.Rule{isTCP, ruleset.DNAT{
			Key: []ruleset.Operand{{Field: ruleset.Hash, Mod: 7, Offset: 9}}, Map: "m_slots",
		}}},
		{nft: "meta l4proto tcp dnat FAM to jhash FAM saddr mod 7 seed 0x6e667464 map @m_slots", want: ruleset.Rule{isTCP, ruleset.DNAT{
			Key: []ruleset.Operand{{Field: ruleset.Hash, Mod: 7}}, Map: "m_slots",
		}}},
		{nft: "meta l4proto tcp dnat FAM to jhash FAM saddr mod 7 seed 0x1 map @m_slots", opaque: "hash"},
		{nft: "meta l4proto tcp dnat FAM to jhash FAM daddr mod 7 seed 0x6e667464 map @m_slots", want: ruleset.Rule{isTCP, ruleset.DNAT{
			Key: []ruleset.Operand{{Field: ruleset.Hash, Mod: 7, Inputs: ops(ruleset.Daddr)}}, Map: "m_slots",
		}}},
		{nft: "meta l4proto tcp dnat FAM to jhash FAM saddr . th sport mod 7 seed 0x6e667464 offset 2 map @m_slots", want: ruleset.Rule{isTCP, ruleset.DNAT{
			Key: []ruleset.Operand{{Field: ruleset.Hash, Mod: 7, Offset: 2, Inputs: ops(ruleset.Saddr, ruleset.Sport)}}, Map: "m_slots",
		}}},
		{nft: "meta l4proto tcp dnat FAM to jhash FAM saddr . ct mark mod 7 seed 0x6e667464 map @m_slots", opaque: "ct: key 3"},
		{nft: "meta l4proto tcp dnat FAM to jhash FAM saddr mod 7 map @m_slots", opaque: "hash"},
		{nft: "meta l4proto tcp dnat FAM to numgen random mod 7 offset 65536 map @m_slots", want: ruleset.Rule{isTCP, ruleset.DNAT{
			Key: []ruleset.Operand{{Field: ruleset.Random, Mod: 7, Offset: 65536}}, Map: "m_slots",
		}}},
		{nft: "meta l4proto tcp dnat FAM to FAM daddr . th dport map @m_endpoints random", opaque: "nat: flags"},
		{nft: "meta l4proto tcp snat FAM to FAM daddr . th dport map @m_endpoints", opaque: "nat: type"},
		{nft: "dnat to FAM daddr map @m_addrs", want: ruleset.Rule{ruleset.DNAT{Key: ops(ruleset.Daddr), Map: "m_addrs", AddrOnly: true}}},
		{nft: "snat to FAM daddr map @m_addrs", opaque: "nat: type"},
		{nft: "meta l4proto tcp dnat FAM to FAM saddr . FAM daddr . meta l4proto . th dport map @m_affinity", want: ruleset.Rule{
			isTCP, ruleset.DNAT{Key: client, Map: "m_affinity"},
		}},
		{nft: "dnat to ADDR", want: ruleset.Rule{ruleset.DNATTo{Addr: netip.AddrPortFrom(addr, 0)}}},
		{nft: "meta l4proto tcp dnat FAM to ADDRPORT:80", want: ruleset.Rule{isTCP, ruleset.DNATTo{Addr: netip.AddrPortFrom(addr, 80)}}},
		{nft: "meta l4proto tcp dnat FAM to ADDRPORT:80-90", opaque: "nat: range"},
		{nft: "dnat to ADDR random", opaque: "nat: flags"},
		{nft: "snat to ADDR fully-random", want: ruleset.Rule{ruleset.SNATTo{Addr: addr}}},
		{nft: "snat to ADDR", opaque: "nat: source port that is not random"},
		{nft: "dnat to ADDR fully-random", opaque: "nat: flags"},
		{nft: "snat to ADDR fully-random,persistent", opaque: "nat: flags"},
		{nft: "FAM saddr set ADDR", want: ruleset.Rule{ruleset.SetAddr{Field: ruleset.Saddr, Addr: addr}}},
		{nft: "FAM daddr set ADDR", want: ruleset.Rule{ruleset.SetAddr{Field: ruleset.Daddr, Addr: addr}}},
		{nft: "FAM saddr set ct original FAM saddr", want: ruleset.Rule{ruleset.SetAddr{Field: ruleset.Saddr, From: ruleset.OrigSaddr}}},
		{nft: "FAM daddr set ct reply FAM saddr", opaque: "payload: value that is written"},
		{nft: "tcp flags & (fin | syn | rst | ack) != syn drop", want: ruleset.Rule{
			ruleset.Match{Field: ruleset.TCPFlags, Not: true, Value: ruleset.TCPSyn}, drop,
		}},
		{nft: "tcp flags & (fin | syn | rst | ack) == syn drop", want: ruleset.Rule{
			ruleset.Match{Field: ruleset.TCPFlags, Value: ruleset.TCPSyn}, drop,
		}},
		{nft: "tcp flags & (fin | syn | rst) != syn drop", opaque: "cmp: operation"},
		{nft: "meta l4proto 255 @th,104,8 & 0x17 != 2 drop", opaque: "cmp: protocol"},
		{nft: "ct original FAM saddr ADDR drop", want: ruleset.Rule{
			ruleset.MatchAddr{Field: ruleset.OrigSaddr, Prefix: netip.PrefixFrom(addr, addr.BitLen())}, drop,
		}},
		{nft: "tcp flags syn drop", opaque: "cmp: operation"},
		{nft: "meta l4proto sctp @th,96,8 != 1 drop", want: ruleset.Rule{
			equals(ruleset.L4proto, sctp), ruleset.Match{Field: ruleset.SCTPChunk, Not: true, Value: ruleset.SCTPInit}, drop,
		}},
		{nft: "socket wildcard 0 drop", want: ruleset.Rule{equals(ruleset.Socket, ruleset.Specific), drop}},
		{nft: "socket wildcard 1 drop", want: ruleset.Rule{equals(ruleset.Socket, 1), drop}},
		{nft: "socket transparent 1 drop", opaque: "socket: key 0"},
		{nft: "socket wildcard != 1 drop", opaque: "cmp: operation"},
		{nft: "meta l4proto tcp snat FAM to ADDRPORT:80", opaque: "nat: type"},
		{nft: "ct count over 20 drop", want: ruleset.Rule{ruleset.ConnCount{Over: 20}, drop}},
		{nft: "ct count over 20 goto other", want: ruleset.Rule{ruleset.ConnCount{Over: 20}, goTo("other")}},
		{nft: "ct count 20 drop", opaque: "connlimit: flags"},
		{nft: "meta l4proto tcp redirect to :80", want: ruleset.Rule{isTCP, ruleset.Redirect{Port: 80}}},
		{nft: "meta l4proto tcp redirect to :80-90", opaque: "redir: range"},
		{nft: "meta l4proto tcp redirect to :80 random", opaque: "redir: flags"},
		{nft: "meta l4proto tcp redirect to :th dport", opaque: "redir: port that is not in the rule"},
		{nft: "redirect", opaque: "redir: no attribute 1"},
		{nft: "masquerade fully-random", want: ruleset.Rule{ruleset.Masquerade{}}},
		{nft: "masquerade", opaque: "masq: flags"},
		{nft: "masquerade random", opaque: "masq: flags"},
		{nft: "meta l4proto tcp masquerade to :1-9", opaque: "masq: attribute 2"},
		{nft: "reject", want: ruleset.Rule{ruleset.Reject{}}},
		{nft: "meta l4proto tcp reject with tcp reset", want: ruleset.Rule{equals(ruleset.L4proto, tcp), ruleset.Reject{Reset: true}}},
		{nft: "reject with FICMP no-route", opaque: "reject: type 0 code 0"},
	}
}

// addrCases are comparisons of addresses. For prefixes that end at a byte, nft
// loads only a part of the address.
func addrCases(f ruleset.Family) []ruleCase {
	saddr := func(p string) ruleset.MatchAddr {
		return ruleset.MatchAddr{Field: ruleset.Saddr, Prefix: netip.MustParsePrefix(p)}
	}
	notDaddr := func(p string) ruleset.MatchAddr {
		return ruleset.MatchAddr{Field: ruleset.Daddr, Not: true, Prefix: netip.MustParsePrefix(p)}
	}
	if f == ruleset.IPv6 {
		return []ruleCase{
			{nft: "ip6 saddr fd00::1 drop", want: ruleset.Rule{saddr("fd00::1/128"), drop}},
			{nft: "ip6 saddr fd00::/8 drop", want: ruleset.Rule{saddr("fd00::/8"), drop}},
			{nft: "ip6 saddr fe80::/10 drop", want: ruleset.Rule{saddr("fe80::/10"), drop}},
			{nft: "ip6 saddr fd00:0:0:1::/64 drop", want: ruleset.Rule{saddr("fd00:0:0:1::/64"), drop}},
			{nft: "ip6 saddr ::/1 drop", want: ruleset.Rule{saddr("::/1"), drop}},
			{nft: "ip6 saddr fd00::2/127 drop", want: ruleset.Rule{saddr("fd00::2/127"), drop}},
			{nft: "ip6 daddr != ::1 drop", want: ruleset.Rule{notDaddr("::1/128"), drop}},
			{nft: "ip6 daddr fd00::1-fd00::9 drop", opaque: "cmp: operation"},
			{nft: "ip6 nexthdr tcp drop", opaque: "payload: 1 bytes at 6 of header 1"},
		}
	}
	return []ruleCase{
		{nft: "ip saddr 10.1.2.3 drop", want: ruleset.Rule{saddr("10.1.2.3/32"), drop}},
		{nft: "ip saddr 10.0.0.0/8 drop", want: ruleset.Rule{saddr("10.0.0.0/8"), drop}},
		{nft: "ip saddr 172.16.0.0/12 drop", want: ruleset.Rule{saddr("172.16.0.0/12"), drop}},
		{nft: "ip saddr 10.1.2.0/23 drop", want: ruleset.Rule{saddr("10.1.2.0/23"), drop}},
		{nft: "ip saddr 10.1.2.0/24 drop", want: ruleset.Rule{saddr("10.1.2.0/24"), drop}},
		{nft: "ip saddr 10.1.2.2/31 drop", want: ruleset.Rule{saddr("10.1.2.2/31"), drop}},
		{nft: "ip saddr 128.0.0.0/1 drop", want: ruleset.Rule{saddr("128.0.0.0/1"), drop}},
		{nft: "ip daddr != 127.0.0.0/8 drop", want: ruleset.Rule{notDaddr("127.0.0.0/8"), drop}},
		{nft: "ip daddr != 100.64.0.0/10 drop", want: ruleset.Rule{notDaddr("100.64.0.0/10"), drop}},
		{nft: "ip saddr & 255.0.255.0 == 10.0.1.0 drop", opaque: "cmp: mask"},
		{nft: "ip saddr & 255.0.0.0 == 10.1.0.0 drop", opaque: "cmp: bits after"},
		{nft: "ip saddr | 0.0.0.1 == 10.0.0.1 drop", opaque: "bitwise: operation"},
		{nft: "ip saddr > 10.0.0.1 drop", opaque: "cmp: operation"},
		{nft: "ip saddr 10.0.0.1-10.0.0.9 drop", opaque: "cmp: operation"},
		{nft: "ip saddr { 10.0.0.1, 10.0.0.2 } drop", opaque: "lookup: set __set"},
		{nft: "ct original ip daddr 10.0.0.1 drop", opaque: "cmp: field"},
		{
			nft: "meta l4proto tcp update @m_affinity { ip saddr . ct original ip daddr . meta l4proto . ct original proto-dst timeout 10s : ip daddr . th dport }",
			want: ruleset.Rule{equals(ruleset.L4proto, tcp), ruleset.Update{
				Map: "m_affinity", Seconds: 10,
				Key:  ops(ruleset.Saddr, ruleset.OrigDaddr, ruleset.L4proto, ruleset.OrigDport),
				Data: ops(ruleset.Daddr, ruleset.Dport),
			}},
		},
		{
			nft: "meta l4proto tcp update @m_affinity { ip saddr . 10.96.0.10 . meta l4proto . 80 timeout 10s : ip daddr . th dport }",
			want: ruleset.Rule{equals(ruleset.L4proto, tcp), ruleset.Update{
				Map: "m_affinity", Seconds: 10, Key: fixedKey("10.96.0.10:80"), Data: ops(ruleset.Daddr, ruleset.Dport),
			}},
		},
		{nft: "meta l4proto tcp update @m_affinity { ip saddr . ip daddr . 6 . 80 timeout 10s : ip daddr . th dport }", opaque: "dynset: type"},
		{nft: "meta l4proto tcp update @m_affinity { ip saddr . ip daddr . meta l4proto . th dport timeout 10ms : ip daddr . th dport }", opaque: "dynset: timeout"},
		{nft: "meta l4proto tcp add @m_affinity { ip saddr . ip daddr . meta l4proto . th dport timeout 10s : ip daddr . th dport }", opaque: "dynset: operation"},
		{nft: "ip protocol tcp drop", opaque: "payload: 1 bytes at 9 of header 1"},
	}
}

// fixedKey is the key of a client at an address and port of the rule itself.
func fixedKey(at string) []ruleset.Operand {
	addr, port := ruleset.Fix(netip.MustParseAddrPort(at))
	return slices.Concat(ops(ruleset.Saddr), []ruleset.Operand{addr}, ops(ruleset.L4proto), []ruleset.Operand{port})
}

func someAddr(f ruleset.Family) netip.Addr {
	if f == ruleset.IPv6 {
		return netip.MustParseAddr("fd00::1")
	}
	return netip.MustParseAddr("10.0.0.1")
}

func TestDecodeRules(t *testing.T) {
	for _, f := range ruleset.Families {
		t.Run(f.String(), func(t *testing.T) {
			cases := append(bothFamilies(someAddr(f)), addrCases(f)...)
			for _, from := range sources("rules-"+f.String(), ruleScript(f, cases)) {
				t.Run(from.name, func(t *testing.T) {
					got := from.dump(t).tables(t)[0]
					for i, c := range cases {
						t.Run(c.nft, func(t *testing.T) { c.check(t, got.Chain(fmt.Sprintf("c_%d", i)), from.name == "kept") })
					}
				})
			}
		})
	}
}

// check compares the reason why a rule is opaque only in the kept dump: other
// releases of nft write other expressions.
func (c ruleCase) check(t *testing.T, got *ruleset.Chain, reason bool) {
	t.Helper()
	if len(got.Rules) != 1 {
		t.Fatalf("%d rules; the dump needs -update", len(got.Rules))
	}
	rule := got.Rules[0]
	if c.opaque == "" {
		if diff := cmp.Diff(c.want, rule, byValue); diff != "" {
			t.Errorf("(-want +got)\n%s", diff)
		}
		return
	}
	if o, ok := rule[0].(ruleset.Opaque); len(rule) != 1 || !ok || reason && !strings.HasPrefix(o.What, c.opaque) {
		t.Errorf("got %+v, want opaque %q", rule, c.opaque)
	}
}

// ruleScript puts each rule into a chain of its own.
func ruleScript(f ruleset.Family, cases []ruleCase) string {
	typ, icmp := "ipv4_addr", "icmp type net-unreachable"
	if f == ruleset.IPv6 {
		typ, icmp = "ipv6_addr", "icmpv6 type no-route"
	}
	addr := someAddr(f).String()
	port := strings.TrimSuffix(netip.AddrPortFrom(someAddr(f), 1).String(), ":1")
	icmp = strings.Replace(icmp, " type", "", 1)
	var b strings.Builder
	fmt.Fprintf(&b, "table %s rules {\n", f)
	fmt.Fprintf(&b, ruleSets, typ, f)
	for i, c := range cases {
		text := strings.NewReplacer("FICMP no-route", icmp, "FAM", f.String(), "ADDRPORT", port, "ADDR", addr).Replace(c.nft)
		fmt.Fprintf(&b, "\tchain c_%d { %s; }\n", i, text)
	}
	b.WriteString("}\n")
	return b.String()
}

// BenchmarkDecodeRules decodes the rules of the layout that services are
// compiled to.
func BenchmarkDecodeRules(b *testing.B) {
	table := ourTable(ruleset.IPv4, "10.9.0.", "10.8.%.2", "127.0.0.0/8")
	var msgs [][]byte
	for _, m := range keptDump(b, "ours").of(unix.NFT_MSG_NEWRULE) {
		if ruleset.Family(m[0]) == table.Family {
			msgs = append(msgs, m)
		}
	}
	b.ReportAllocs()
	for b.Loop() {
		for _, m := range msgs {
			if _, _, _, r, err := DecodeRule(m, table.Names()); err != nil || isOpaque(r) {
				b.Fatal(r, err)
			}
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(len(msgs)), "ns/rule")
}
