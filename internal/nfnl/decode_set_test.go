//go:build linux

package nfnl

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/nftdp/go-nftdp/internal/ruleset"
)

// setCase is a set as stock nft declares it, with NAME in the place of its name,
// and its decoded form.
type setCase struct {
	nft  string
	want ruleset.Set
}

// setCases are sets of an IPv4 table. The types of ours.nft are tested there.
func setCases() []setCase {
	addr, port, proto := []ruleset.Type{ruleset.Addr}, []ruleset.Type{ruleset.Port}, []ruleset.Type{ruleset.Proto}
	endpoint := []ruleset.Type{ruleset.Addr, ruleset.Port}
	frontend := []ruleset.Type{ruleset.Addr, ruleset.Proto, ruleset.Port}
	a0, a1, a2, a10 := addrTuple("10.0.0.0"), addrTuple("10.0.0.1"), addrTuple("10.0.0.2"), addrTuple("10.0.0.10")
	return []setCase{
		{
			"set NAME { type ipv4_addr; size 7; comment \"c\"; elements = { 10.0.0.1 comment \"x\" }; }",
			ruleset.Set{Key: addr, Size: 7, Note: "user data", Elements: []ruleset.Element{{Key: a1, Comment: "x"}}},
		},
		{
			"set NAME { type inet_proto; elements = { 255, 0 }; }",
			ruleset.Set{Key: proto, Elements: []ruleset.Element{{Key: protoTuple(0)}, {Key: protoTuple(255)}}},
		},
		{
			"set NAME { type ipv4_addr; counter; elements = { 10.0.0.1 counter packets 3 bytes 4 }; }",
			ruleset.Set{Key: addr, Counter: true, Elements: []ruleset.Element{{Key: a1, Packets: 3, Bytes: 4}}},
		},
		{
			"map NAME { typeof numgen random mod 65535 : ip daddr; elements = { 258 : 10.0.0.1 }; }",
			ruleset.Set{
				Key: []ruleset.Type{ruleset.Slot}, Data: addr, Note: "user data",
				Elements: []ruleset.Element{{Key: ruleset.Tuple{}.Slot(258), Data: a1}},
			},
		},
		{
			"map NAME { type ipv4_addr : inet_service; elements = { 10.0.0.1 : 80 }; }",
			ruleset.Set{Key: addr, Data: port, Elements: []ruleset.Element{{Key: a1, Data: portTuple(80)}}},
		},
		{
			"map NAME { type inet_service : verdict; elements = { 1 : accept, 2 : drop, 3 : return, 4 : jump other, 5 : goto other, 6 : continue }; }",
			ruleset.Set{Key: port, Verdict: true, Elements: []ruleset.Element{
				{Key: portTuple(1), Verdict: accept},
				{Key: portTuple(2), Verdict: drop},
				{Key: portTuple(3), Verdict: ruleset.Verdict{Kind: ruleset.Return}},
				{Key: portTuple(4), Verdict: ruleset.Verdict{Kind: ruleset.Jump, Chain: "other"}},
				{Key: portTuple(5), Verdict: goTo("other")},
				{Key: portTuple(6), Opaque: true},
			}},
		},

		{
			"set NAME { type inet_service; flags interval; elements = { 1-79, 81, 1024-65535 }; }",
			ruleset.Set{Key: port, Interval: true, Elements: []ruleset.Element{
				{Key: portTuple(1), End: portTuple(79)},
				{Key: portTuple(81), End: portTuple(81)},
				{Key: portTuple(1024), End: portTuple(65535)},
			}},
		},
		{
			"set NAME { type ipv4_addr; flags interval; elements = { 0.0.0.0/0 }; }",
			ruleset.Set{Key: addr, Interval: true, Elements: []ruleset.Element{interval("0.0.0.0", "255.255.255.255")}},
		},
		{
			"set NAME { type ipv4_addr; flags interval; counter; elements = { 10.0.0.0/24 comment \"x\", 10.0.1.0/24 }; }",
			ruleset.Set{Key: addr, Interval: true, Counter: true, Elements: []ruleset.Element{
				{Key: addrTuple("10.0.0.0"), End: addrTuple("10.0.0.255"), Comment: "x"},
				interval("10.0.1.0", "10.0.1.255"),
			}},
		},
		{
			"map NAME { type ipv4_addr : inet_service; flags interval; elements = { 10.0.0.0/24 : 1, 10.0.1.0/24 : 2, 240.0.0.0/4 : 3 }; }",
			ruleset.Set{Key: addr, Data: port, Interval: true, Elements: []ruleset.Element{
				{Key: addrTuple("10.0.0.0"), End: addrTuple("10.0.0.255"), Data: portTuple(1)},
				{Key: addrTuple("10.0.1.0"), End: addrTuple("10.0.1.255"), Data: portTuple(2)},
				{Key: addrTuple("240.0.0.0"), End: addrTuple("255.255.255.255"), Data: portTuple(3)},
			}},
		},
		{
			"set NAME { type ipv4_addr . inet_service; flags interval; elements = { 10.0.0.0/24 . 80, 10.0.1.1 . 1-99 }; }",
			ruleset.Set{Key: endpoint, Interval: true, Elements: []ruleset.Element{
				{Key: addrTuple("10.0.0.0").Port(80), End: addrTuple("10.0.0.255").Port(80)},
				{Key: addrTuple("10.0.1.1").Port(1), End: addrTuple("10.0.1.1").Port(99)},
			}},
		},
		{
			"map NAME { type ipv4_addr . inet_proto . inet_service : verdict; size 9; flags interval; counter; " +
				"elements = { 10.0.0.0-10.0.0.9 . tcp . 80-90 counter packets 3 bytes 4 comment \"x\" : goto other, 10.0.0.10 . udp . 53 : drop }; }",
			ruleset.Set{Key: frontend, Verdict: true, Interval: true, Counter: true, Size: 9, Elements: []ruleset.Element{
				{
					Key: a0.Proto(tcp).Port(80), End: addrTuple("10.0.0.9").Proto(tcp).Port(90),
					Verdict: goTo("other"), Comment: "x", Packets: 3, Bytes: 4,
				},
				{Key: a10.Proto(udp).Port(53), End: a10.Proto(udp).Port(53), Verdict: drop},
			}},
		},

		{
			"map NAME { typeof ip daddr . meta l4proto . numgen random mod 65535 : ip daddr; counter; elements = { 10.0.0.1 . tcp . 258 : 10.0.0.2 }; }",
			ruleset.Set{
				Key: []ruleset.Type{ruleset.Addr, ruleset.Proto, ruleset.Slot}, Data: addr, Counter: true,
				Elements: []ruleset.Element{{Key: a1.Proto(tcp).Slot(258), Data: a2}},
			},
		},
		{
			"map NAME { typeof ip daddr . meta l4proto . th dport . numgen random mod 65535 : verdict; counter; elements = { 10.0.0.1 . tcp . 80 . 0 : goto other }; }",
			ruleset.Set{
				Key: append(frontend, ruleset.Slot), Verdict: true, Counter: true,
				Elements: []ruleset.Element{{Key: a1.Proto(tcp).Port(80).Slot(0), Verdict: goTo("other")}},
			},
		},

		{
			"map NAME { type ipv4_addr . inet_proto . inet_service : ipv4_addr . inet_service; size 7; flags dynamic,timeout; " +
				"elements = { 10.0.0.1 . tcp . 80 timeout 1h : 10.0.0.2 . 81 }; }",
			ruleset.Set{Key: frontend, Data: endpoint, Size: 7, Dynamic: true},
		},
		{
			"map NAME { type ipv4_addr : ipv4_addr; flags dynamic,timeout; timeout 1h; }",
			ruleset.Set{Key: addr, Data: addr, Dynamic: true, Opaque: "attribute 11"},
		},
		{
			"set NAME { type ipv4_addr; flags interval,timeout; }",
			ruleset.Set{Key: addr, Interval: true, Opaque: "flags 0x14"},
		},

		{
			"set NAME { type ipv4_addr; flags timeout; elements = { 10.0.0.1 timeout 1h, 10.0.0.2 }; }",
			ruleset.Set{Key: addr, Opaque: "flags 0x10", Elements: []ruleset.Element{{Key: a1, Opaque: true}, {Key: a2}}},
		},
		{"set NAME { type ipv4_addr; size 16; flags dynamic; }", ruleset.Set{Key: addr, Size: 16, Opaque: "flags 0x20"}},
		{
			"set NAME { type ipv4_addr; flags constant; elements = { 10.0.0.1 }; }",
			ruleset.Set{Key: addr, Size: 1, Opaque: "flags 0x2", Elements: []ruleset.Element{{Key: a1}}},
		},
		{"set NAME { type ipv4_addr; policy memory; }", ruleset.Set{Key: addr, Opaque: "policy"}},
		{
			"set NAME { type ipv6_addr; elements = { fd00::1 }; }",
			ruleset.Set{Opaque: "type 0x8", Elements: []ruleset.Element{{Opaque: true}}},
		},
		{
			"set NAME { type ipv4_addr . mark; elements = { 10.0.0.1 . 1 }; }",
			ruleset.Set{Opaque: "type 0x1d3", Elements: []ruleset.Element{{Opaque: true}}},
		},
		{
			"set NAME { type ipv4_addr; elements = { 10.0.0.1, * }; }",
			ruleset.Set{Key: addr, Opaque: "element without a key", Elements: []ruleset.Element{{Opaque: true}, {Key: a1}}},
		},
		{"map NAME { type ipv4_addr : counter; }", ruleset.Set{Key: addr, Opaque: "attribute 15"}},
	}
}

func TestDecodeSets(t *testing.T) {
	cases := setCases()
	var script strings.Builder
	script.WriteString("table ip sets {\n\tchain other { }\n")
	for i, c := range cases {
		fmt.Fprintf(&script, "\t%s\n", strings.Replace(c.nft, "NAME", fmt.Sprintf("s_%d", i), 1))
	}
	script.WriteString("}\n")
	for _, from := range sources("sets", script.String()) {
		t.Run(from.name, func(t *testing.T) {
			table := from.dump(t).tables(t)[0]
			for i, c := range cases {
				t.Run(c.nft, func(t *testing.T) {
					c.want.Name = fmt.Sprintf("s_%d", i)
					if diff := cmp.Diff(&c.want, table.Set(c.want.Name), byValue); diff != "" {
						t.Errorf("(-want +got)\n%s", diff)
					}
				})
			}
		})
	}
}

// TestDecodeTablesAndChains decodes what surrounds rules and sets.
func TestDecodeTablesAndChains(t *testing.T) {
	script := `
table ip plain {
	chain regular { comment "c"; }
	chain nat { type nat hook input priority 7; policy accept; }
	chain nat_drop { type nat hook prerouting priority -100; policy drop; }
	chain filtering { type filter hook forward priority -5; policy accept; }
	chain routing { type route hook output priority 0; policy accept; }
}
table ip6 asleep { comment "zz"; flags dormant; }
table inet both { chain c { drop; }; }
`
	want := []*ruleset.Table{
		{Family: ruleset.IPv4, Name: "plain", Chains: []*ruleset.Chain{
			{Name: "filtering", Hook: &ruleset.Hook{Num: ruleset.Forward, Priority: -5, Filter: true}},
			{Name: "nat", Hook: &ruleset.Hook{Num: ruleset.Input, Priority: 7}},
			{Name: "nat_drop", Opaque: "type nat hook 0 priority -100 policy 0"},
			{Name: "regular", Opaque: "attribute 12"},
			{Name: "routing", Opaque: "type route hook 3 priority 0 policy 1"},
		}},
		{Family: ruleset.IPv6, Name: "asleep", Comment: "zz", Opaque: []string{"flags 0x1"}},
		{Family: 1, Name: "both", Opaque: []string{"family 1"}, Chains: []*ruleset.Chain{
			{Name: "c", Opaque: "family 1", Rules: []ruleset.Rule{{ruleset.Opaque{What: "family 1"}}}},
		}},
	}
	for _, from := range sources("tables", script) {
		t.Run(from.name, func(t *testing.T) {
			got := from.dump(t).tables(t)
			for _, w := range want {
				if diff := cmp.Diff(w, tableOf(t, got, w.Family, w.Name), byValue); diff != "" {
					t.Errorf("(-want +got)\n%s", diff)
				}
			}
		})
	}
}

func TestFoldIntervals(t *testing.T) {
	start := func(p uint16) ruleset.Element { return ruleset.Element{Key: portTuple(p)} }
	end := func(p uint16) ruleset.Element { return ruleset.Element{End: portTuple(p)} }
	whole := func(first, last uint16) ruleset.Element {
		return ruleset.Element{Key: portTuple(first), End: portTuple(last)}
	}
	opaque := func(e ruleset.Element) ruleset.Element { e.Opaque = true; return e }
	for name, c := range map[string]struct{ halves, want []ruleset.Element }{
		"none":                {nil, nil},
		"leading end":         {[]ruleset.Element{end(0), end(3), start(1)}, []ruleset.Element{whole(1, 2)}},
		"any order":           {[]ruleset.Element{end(9), start(1), end(5), start(8)}, []ruleset.Element{whole(1, 4), whole(8, 8)}},
		"up to the top":       {[]ruleset.Element{start(0x100)}, []ruleset.Element{whole(0x100, 0xffff)}},
		"borrow":              {[]ruleset.Element{start(1), end(0x300)}, []ruleset.Element{whole(1, 0x2ff)}},
		"adjacent":            {[]ruleset.Element{start(5), end(5), start(1), end(9)}, []ruleset.Element{whole(1, 4), whole(5, 8)}},
		"end left out":        {[]ruleset.Element{start(5), start(1), end(9)}, []ruleset.Element{whole(1, 4), whole(5, 8)}},
		"end without a start": {[]ruleset.Element{start(1), end(2), end(5)}, []ruleset.Element{whole(1, 1)}},
		"equal starts":        {[]ruleset.Element{start(1), start(1), end(2)}, []ruleset.Element{opaque(whole(1, 1)), whole(1, 1)}},
		"opaque end":          {[]ruleset.Element{start(1), opaque(end(5))}, []ruleset.Element{opaque(whole(1, 4))}},
		"no key":              {[]ruleset.Element{start(1), {Opaque: true}}, []ruleset.Element{{Opaque: true}, whole(1, 0xffff)}},
		"whole already":       {[]ruleset.Element{whole(3, 4), start(1), end(2)}, []ruleset.Element{whole(1, 1), whole(3, 4)}},
	} {
		t.Run(name, func(t *testing.T) {
			s := &ruleset.Set{Key: []ruleset.Type{ruleset.Port}, Interval: true}
			if diff := cmp.Diff(c.want, FoldIntervals(s, c.halves), byValue); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
		})
	}
}

func portTuple(p uint16) ruleset.Tuple { return ruleset.Tuple{}.Port(p) }

func protoTuple(p uint8) ruleset.Tuple { return ruleset.Tuple{}.Proto(p) }
