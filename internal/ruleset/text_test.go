package ruleset

import (
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// fieldsOf names the fields of a struct, sorted.
func fieldsOf[T any]() []string {
	var out []string
	for f := range reflect.TypeFor[T]().Fields() {
		out = append(out, f.Name)
	}
	slices.Sort(out)
	return out
}

// object is a kind of object that changes are about.
type object string

// TestChangeText has one line of nft for each verb and object. A new verb or
// object needs a line here.
func TestChangeText(t *testing.T) {
	verdicts := &Set{Name: "v", Key: []Type{Proto, Port}, Verdict: true, Counter: true, Size: 1024}
	values := &Set{Name: "m", Key: []Type{Addr, Proto, Port, Slot}, Data: []Type{Addr, Port}}
	plain := &Set{Name: "s", Key: []Type{Addr}, Interval: true}
	base := &Chain{Name: "b", Hook: &Hook{Num: Postrouting, Priority: 100}}
	in := func(v Verb, f Family, c Change) Change { c.Verb, c.Family, c.Table = v, f, "t"; return c }
	verdict := []Element{{
		Key: Tuple{}.Proto(132).Port(80), Verdict: Verdict{Kind: Goto, Chain: "c"},
		Comment: "x", Packets: 1, Bytes: 60,
	}}
	value := []Element{{
		Key:  Tuple{}.Addr(testAddr(IPv6, 1)).Proto(17).Port(53).Slot(256),
		Data: Tuple{}.Addr(testAddr(IPv6, 2)).Port(5353),
	}}
	interval := []Element{
		{Key: Tuple{}.Addr(testAddr(IPv4, 0)), End: Tuple{}.Addr(testAddr(IPv4, 9))},
		{Key: Tuple{}.Addr(testAddr(IPv4, 20)), End: Tuple{}.Addr(testAddr(IPv4, 20))},
	}
	var prefixes []Element
	for _, p := range [][2]string{
		{"0.0.0.0", "255.255.255.255"},
		{"10.0.0.0", "10.0.0.1"},
		{"10.0.0.1", "10.0.0.2"},
		{"10.0.0.0", "10.0.0.255"},
		{"10.0.0.0", "10.0.2.255"},
	} {
		prefixes = append(prefixes, Element{
			Key: Tuple{}.Addr(netip.MustParseAddr(p[0])), End: Tuple{}.Addr(netip.MustParseAddr(p[1])),
		})
	}
	type key struct {
		verb   Verb
		object object
	}
	seen := map[key]bool{}
	for _, c := range []struct {
		object object
		change Change
		want   string
	}{
		{"table", in(Add, IPv4, Change{}), "add table ip t"},
		{"table", in(Add, IPv6, Change{Comment: "ours"}), `add table ip6 t { comment "ours"; }`},
		{
			"table", in(Add, IPv4, Change{Flags: Protected, Comment: "ours"}),
			`add table ip t { flags owner,persist; comment "ours"; }`,
		},
		{"table", in(Adopt, IPv6, Change{Flags: Protected}), "add table ip6 t { flags owner,persist; }"},
		{"table", in(Delete, IPv4, Change{}), "delete table ip t"},
		{"set", in(Add, IPv4, Change{Set: plain}), "add set ip t s { type ipv4_addr; flags interval; }"},
		{"set", in(Delete, IPv4, Change{Set: plain}), "delete set ip t s"},
		{
			"map", in(Add, IPv4, Change{Set: verdicts}),
			"add map ip t v { type inet_proto . inet_service : verdict; size 1024; counter; }",
		},
		{
			"map", in(Add, IPv6, Change{Set: values}),
			"add map ip6 t m { typeof ip6 daddr . meta l4proto . th dport . numgen random mod 65535 : ip6 daddr . th dport; }",
		},
		{"map", in(Delete, IPv4, Change{Set: verdicts}), "delete map ip t v"},
		{
			"element", in(Add, IPv4, Change{Set: verdicts, Elements: verdict}),
			`add element ip t v { sctp . 80 counter packets 1 bytes 60 comment "x" : goto c }`,
		},
		{"element", in(Delete, IPv4, Change{Set: verdicts, Elements: verdict}), "delete element ip t v { sctp . 80 }"},
		{
			"element", in(Add, IPv6, Change{Set: values, Elements: value}),
			"add element ip6 t m { fd00::1 . udp . 53 . 256 : fd00::2 . 5353 }",
		},
		{"element", in(Delete, IPv6, Change{Set: values, Elements: value}), "delete element ip6 t m { fd00::1 . udp . 53 . 256 }"},
		{
			"element", in(Add, IPv4, Change{Set: plain, Elements: interval}),
			"add element ip t s { 10.0.0.0-10.0.0.9 }\nadd element ip t s { 10.0.0.20 }",
		},
		{"element", in(Add, IPv4, Change{Set: plain, Elements: prefixes}), strings.Join([]string{
			"add element ip t s { 0.0.0.0/0 }", "add element ip t s { 10.0.0.0/31 }",
			"add element ip t s { 10.0.0.1-10.0.0.2 }", "add element ip t s { 10.0.0.0/24 }",
			"add element ip t s { 10.0.0.0-10.0.2.255 }",
		}, "\n")},
		{"element", in(Delete, IPv4, Change{Set: plain, Elements: interval[:1]}), "delete element ip t s { 10.0.0.0-10.0.0.9 }"},
		{"chain", in(Add, IPv4, Change{Chain: &Chain{Name: "c"}}), "add chain ip t c"},
		{"chain", in(Delete, IPv4, Change{Chain: base}), "delete chain ip t b"},
		{"chain", in(Flush, IPv4, Change{Chain: base}), "flush chain ip t b"},
		{
			"base chain", in(Add, IPv4, Change{Chain: base}),
			"add chain ip t b { type nat hook postrouting priority 100; policy accept; }",
		},
		{"rule", in(Add, IPv4, Change{Chain: base, Rule: Rule{Masquerade{}}}), "add rule ip t b masquerade fully-random"},
	} {
		seen[key{c.change.Verb, c.object}] = true
		if diff := cmp.Diff(c.want, c.change.String()); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
		if got, want := c.change.Len(), strings.Count(c.want, "\n")+1; got != want {
			t.Errorf("%s: length %d, want %d", c.want, got, want)
		}
	}
	for _, o := range []object{"table", "set", "map", "element", "chain"} {
		for _, v := range []Verb{Add, Delete} {
			if !seen[key{v, o}] {
				t.Errorf("no line for %s %s", v, o)
			}
		}
	}
}

// TestRuleText has every statement and field.
func TestRuleText(t *testing.T) {
	one := func(f Field) []Operand { return []Operand{{Field: f}} }
	all := []Operand{
		{Field: Saddr},
		{Field: Daddr},
		{Field: L4proto},
		{Field: Dport},
		{Field: OrigDaddr},
		{Field: OrigDport},
		{Field: Random, Mod: 3},
		{Field: CtStatus},
		{Field: FibDaddr},
		{Field: 99},
	}
	for _, c := range []struct {
		want string
		rule Rule
	}{
		{"", nil},
		{
			"ip saddr . ip daddr . meta l4proto . th dport . ct original ip daddr . ct original proto-dst . " +
				"numgen random mod 3 . ct status . fib daddr type . field-99 @s",
			Rule{Lookup{Key: all, Set: "s"}},
		},
		{"th dport vmap @m", Rule{VMap{one(Dport), "m"}}},
		{"dnat ip to th dport map @m", Rule{DNAT{Key: one(Dport), Map: "m"}}},
		{"meta l4proto tcp masquerade fully-random", Rule{Match{Field: L4proto, Value: 6}, Masquerade{}}},
		{"meta l4proto 47 accept", Rule{Match{Field: L4proto, Value: 47}, Verdict{Kind: Accept}}},
		{"fib daddr type local drop", Rule{Match{Field: FibDaddr, Value: FibLocal}, Verdict{Kind: Drop}}},
		{"fib daddr type 3 return", Rule{Match{Field: FibDaddr, Value: 3}, Verdict{Kind: Return}}},
		{"ct status dnat jump c", Rule{Match{Field: CtStatus, Value: StatusDNAT}, Verdict{Jump, "c"}}},
		{"ct status 16 goto c", Rule{Match{Field: CtStatus, Value: 16}, Verdict{Goto, "c"}}},
		{"ip daddr != 127.0.0.0/8", Rule{MatchAddr{Daddr, true, netip.MustParsePrefix("127.0.0.0/8")}}},
		{`iifname "veth*" return`, Rule{MatchInput{"veth*"}, Verdict{Kind: Return}}},
		{"ip saddr 10.0.0.1", Rule{MatchAddr{Saddr, false, netip.MustParsePrefix("10.0.0.1/32")}}},
		{"meta iiftype != loopback fib saddr type local", Rule{
			Match{Field: IifType, Not: true, Value: IifLoopback}, Match{Field: FibSaddr, Value: FibLocal},
		}},
		{"ct direction reply ct original ip saddr 127.0.0.0/8 ip daddr set ct reply ip daddr", Rule{
			Match{Field: CtDirection, Value: FromReplier},
			MatchAddr{OrigSaddr, false, netip.MustParsePrefix("127.0.0.0/8")},
			SetAddr{Field: Daddr, From: ReplyDaddr},
		}},
		{"tcp flags != syn / fin,syn,rst,ack socket wildcard 0 accept", Rule{
			Match{Field: TCPFlags, Not: true, Value: TCPSyn}, Match{Field: Socket, Value: Specific}, Verdict{Kind: Accept},
		}},
		{"meta l4proto sctp @th,96,8 != 0x1 accept", Rule{
			Match{Field: L4proto, Value: 132}, Match{Field: SCTPChunk, Not: true, Value: SCTPInit}, Verdict{Kind: Accept},
		}},
		{"ip saddr set 0.0.0.0", Rule{SetAddr{Field: Saddr, Addr: netip.IPv4Unspecified()}}},
		{"ip saddr != @s", Rule{Lookup{Key: one(Saddr), Not: true, Set: "s"}}},
		{"dnat ip to numgen random mod 3 offset 7 map @m", Rule{DNAT{Key: []Operand{{Field: Random, Mod: 3, Offset: 7}}, Map: "m"}}},
		{
			"dnat ip to jhash ip saddr mod 3 seed 0x6e667464 map @m",
			Rule{DNAT{Key: []Operand{{Field: Hash, Mod: 3}}, Map: "m"}},
		},
		{
			"dnat ip to ip daddr . jhash ip saddr . th sport mod 3 seed 0x6e667464 offset 4 map @m",
			Rule{DNAT{Key: []Operand{{Field: Daddr}, {Field: Hash, Mod: 3, Offset: 4, Inputs: []Operand{{Field: Saddr}, {Field: Sport}}}}, Map: "m"}},
		},
		{"ct reply ip saddr . ct reply proto-src @s", Rule{Lookup{Key: []Operand{{Field: ReplySaddr}, {Field: ReplySport}}, Set: "s"}}},
		{"dnat ip to numgen inc mod 3 map @m", Rule{DNAT{Key: []Operand{{Field: Increment, Mod: 3}}, Map: "m"}}},
		{"dnat to 10.0.0.1:80", Rule{DNATTo{netip.MustParseAddrPort("10.0.0.1:80")}}},
		{"dnat to 10.0.0.1", Rule{DNATTo{netip.MustParseAddrPort("10.0.0.1:0")}}},
		{"snat to 10.0.0.1 fully-random", Rule{SNATTo{netip.MustParseAddr("10.0.0.1")}}},
		{"ct count over 20 drop", Rule{ConnCount{20}, Verdict{Kind: Drop}}},
		{
			"update @m { ip saddr timeout 10s : ip daddr . th dport }",
			Rule{Update{Map: "m", Key: one(Saddr), Seconds: 10, Data: []Operand{{Field: Daddr}, {Field: Dport}}}},
		},
		{"reject with tcp reset", Rule{Reject{Reset: true}}},
		{"reject", Rule{Reject{}}},
		{`verdict-0 # not understood: "a\nb"`, Rule{Verdict{}, Opaque{"a\nb"}}},
	} {
		if got := c.rule.Text(IPv4); got != c.want {
			t.Errorf("got  %s\nwant %s", got, c.want)
		}
	}
}

// TestRulesetText shows the text of opaque objects, and that it does not depend on
// the order of sets, chains and elements.
func TestRulesetText(t *testing.T) {
	r := &Ruleset{Tables: []*Table{{
		Family: IPv4, Name: "t", Comment: "ours", Opaque: []string{"flowtable \"f\"\n"},
		Sets: []*Set{
			{Name: "z", Key: []Type{99}, Opaque: "timeout"},
			{Name: "a", Key: []Type{Port}, Size: 2, Elements: []Element{
				{Key: Tuple{}.Port(256)},
				{Key: Tuple{}.Port(2), Opaque: true},
				{},
			}},
		},
		Chains: []*Chain{
			{Name: "base", Hook: &Hook{Num: 7}, Rules: []Rule{{Verdict{Jump, "b"}}}},
			{Name: "cc", Opaque: "flags"},
			{Name: "b"},
		},
	}}}
	want := `table ip t {
	comment "ours"
	# not understood: "flowtable \"f\"\n"

	set a {
		type inet_service
		size 2
		elements = {
			...,
			2 /* not understood */,
			256,
		}
	}

	set z {
		type type-99
		# not understood: "timeout"
	}

	chain b {
	}

	chain cc {
		# not understood: "flags"
	}

	chain base {
		type nat hook hook-7 priority 0; policy accept;
		jump b
	}
}
`
	if diff := cmp.Diff(want, r.String()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestTuple(t *testing.T) {
	full := Tuple{}.Addr(testAddr(IPv6, 9)).Proto(17).Port(0x0102).Slot(0x01020304)
	want := append(testAddr(IPv6, 9).AsSlice(), 17, 0, 0, 0, 1, 2, 0, 0, 1, 2, 3, 4)
	if diff := cmp.Diff(want, full.Bytes()); diff != "" {
		t.Errorf("bytes (-want +got):\n%s", diff)
	}
	if full.AddrAt(0, IPv6) != testAddr(IPv6, 9) || full.ProtoAt(16) != 17 ||
		full.PortAt(20) != 0x0102 || full.SlotAt(24) != 0x01020304 {
		t.Error("fields are not read back")
	}
	again, ok := TupleOf(full.Bytes())
	if !ok || again != full {
		t.Error("the bytes do not make the tuple again")
	}
	if _, ok := TupleOf(make([]byte, 33)); ok {
		t.Error("33 bytes fit")
	}
	// Tuples are keys of maps, so nothing of what is cut off may remain.
	if full.Prefix(20) != (Tuple{}.Addr(testAddr(IPv6, 9)).Proto(17)) {
		t.Error("the prefix is not equal to a tuple made so")
	}
	zero := Tuple{}
	if !zero.IsZero() || full.IsZero() || zero.Compare(&full) >= 0 || full.Compare(&full) != 0 {
		t.Error("the order is wrong")
	}
	small, great := Tuple{}.Slot(2), Tuple{}.Slot(256)
	if small.Compare(&great) >= 0 {
		t.Error("slots are not ordered as numbers")
	}
}
