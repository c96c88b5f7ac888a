package ruleset

import (
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// evalTable has rules in a nat chain of prerouting, and the sets and chains that
// the rules of these tests use.
func evalTable(rules ...Rule) *Table {
	f := IPv4
	at := func(n byte) Tuple { return Tuple{}.Addr(testAddr(f, n)) }
	type types = []Type
	return &Table{Family: f, Name: "t", Sets: []*Set{
		{Name: "nine", Key: types{Addr}, Elements: []Element{{Key: at(9)}}},
		{Name: "clients", Key: types{Addr}, Interval: true, Elements: []Element{{Key: at(0), End: at(5)}, {Key: at(9), End: at(9)}}},
		{Name: "ranges", Key: types{Addr, Port}, Interval: true, Verdict: true, Elements: []Element{
			{Key: at(0).Port(70), End: at(5).Port(79), Verdict: Verdict{Kind: Drop}},
			{Key: at(9).Port(70), End: at(20).Port(90), Verdict: Verdict{Kind: Drop}},
		}},
		{Name: "verdicts", Key: types{Proto, Port}, Verdict: true, Elements: []Element{
			{Key: Tuple{}.Proto(6).Port(80), Verdict: Verdict{Kind: Goto, Chain: "rejects"}},
		}},
		{Name: "slots", Key: types{Slot}, Data: types{Addr, Port}, Elements: []Element{
			{Key: Tuple{}.Slot(0), Data: at(100).Port(8080)},
			{Key: Tuple{}.Slot(1), Data: at(101).Port(8080)},
			{Key: Tuple{}.Slot(2), Data: at(100).Port(8080)},
			{Key: Tuple{}.Slot(7), Data: at(107).Port(8080)},
		}},
		{Name: "addrs", Key: types{Port}, Data: types{Addr}, Elements: []Element{{Key: Tuple{}.Port(80), Data: at(100)}}},
		{Name: "same", Key: types{Addr, Port}, Elements: []Element{{Key: at(9).Port(80)}}},
		{Name: "learned", Key: types{Addr, Addr, Port}, Data: types{Addr, Port}, Dynamic: true},
	}, Chains: []*Chain{
		{Name: "rejects", Rules: []Rule{{Match{Field: L4proto, Value: 6}, Reject{Reset: true}}, {Reject{}}}},
		{Name: "returns", Rules: []Rule{{Verdict{Kind: Return}}, {Verdict{Kind: Drop}}}},
		{Name: "goes", Rules: []Rule{{Verdict{Kind: Goto, Chain: "returns"}}, {Verdict{Kind: Drop}}}},
		{Name: "under test", Hook: &Hook{Num: Prerouting, Priority: -100}, Rules: rules},
	}}
}

func evaluate(t *testing.T, table *Table, p Packet, learned ...Learned) []Path {
	t.Helper()
	local := func(a netip.Addr) bool { return a == testAddr(IPv4, 9) }
	paths, err := NewEvaluator(&Ruleset{Tables: []*Table{table}}, local).Eval(p, learned)
	if err != nil {
		t.Fatal(err)
	}
	return paths
}

// testPacket is one from 10.0.0.1 to port 80 of the node, 10.0.0.9.
func testPacket() Packet {
	return Packet{
		Proto: 6, Src: netip.AddrPortFrom(testAddr(IPv4, 1), 1234), Dst: netip.AddrPortFrom(testAddr(IPv4, 9), 80), In: "eth0",
	}
}

// TestEvalStatements evaluates each kind of statement on testPacket. The rules that
// follow a statement show whether it matched.
func TestEvalStatements(t *testing.T) {
	const untouched, dropped = "to 10.0.0.9:80", "dropped"
	drop := Verdict{Kind: Drop}
	ops := func(fields ...Field) (out []Operand) {
		for _, f := range fields {
			out = append(out, Operand{Field: f})
		}
		return out
	}
	slot := func(f Field, mod, offset uint32) []Operand { return []Operand{{Field: f, Mod: mod, Offset: offset}} }
	single := netip.PrefixFrom(testAddr(IPv4, 1), 32)
	to := netip.AddrPortFrom(testAddr(IPv4, 100), 8080)
	dnat := Rule{DNATTo{to}}
	seen := map[reflect.Type]bool{}
	for _, c := range []struct {
		want  string
		rules []Rule
	}{
		{dropped, []Rule{{Match{Field: L4proto, Value: 6}, drop}}},
		{untouched, []Rule{{Match{Field: L4proto, Value: 17}, drop}}},
		{dropped, []Rule{{Match{Field: FibDaddr, Value: FibLocal}, drop}}},
		{untouched, []Rule{{Match{Field: FibSaddr, Value: FibLocal}, drop}}},
		{untouched, []Rule{{Match{Field: CtStatus, Value: StatusDNAT}, drop}}},
		{untouched, []Rule{{Match{Field: CtDirection, Value: FromReplier}, drop}}},
		{untouched, []Rule{{Match{Field: IifType, Value: IifLoopback}, drop}}},
		{dropped, []Rule{{Match{Field: IifType, Not: true, Value: IifLoopback}, drop}}},
		{dropped, []Rule{{MatchAddr{Field: Saddr, Prefix: single}, drop}}},
		{untouched, []Rule{{MatchAddr{Field: Saddr, Not: true, Prefix: single}, drop}}},
		{untouched, []Rule{{MatchAddr{Field: Daddr, Prefix: single}, drop}}},
		{dropped, []Rule{{MatchAddr{Field: OrigSaddr, Prefix: single}, drop}}},
		{dropped, []Rule{{MatchInput{"eth0"}, drop}}},
		{dropped, []Rule{{MatchInput{"e*"}, drop}}},
		{untouched, []Rule{{MatchInput{"eth"}, drop}}},
		{untouched, []Rule{{MatchInput{"eth1*"}, drop}}},
		{dropped, []Rule{{Lookup{Key: ops(Daddr), Set: "nine"}, drop}}},
		{untouched, []Rule{{Lookup{Key: ops(Daddr), Not: true, Set: "nine"}, drop}}},
		{untouched, []Rule{{Lookup{Key: ops(Saddr), Set: "nine"}, drop}}},
		{dropped, []Rule{{Lookup{Key: ops(OrigDaddr, OrigDport), Set: "same"}, drop}}},
		{dropped, []Rule{{Lookup{Key: ops(ReplySaddr, ReplySport), Set: "same"}, drop}}},
		{untouched, []Rule{{Lookup{Key: ops(ReplyDaddr, Dport), Set: "same"}, drop}}},
		{dropped, []Rule{{Lookup{Key: ops(Saddr), Set: "clients"}, drop}}},
		{dropped, []Rule{{VMap{Key: ops(Daddr, Dport), Map: "ranges"}}}},
		{untouched, []Rule{{VMap{Key: ops(Saddr, Dport), Map: "ranges"}}}},
		{"reset", []Rule{{VMap{Key: ops(L4proto, Dport), Map: "verdicts"}}, {drop}}},
		{dropped, []Rule{{VMap{Key: ops(Saddr, Dport), Map: "ranges"}}, {drop}}},
		{"to 10.0.0.100:8080", []Rule{{DNAT{Key: slot(Random, 1, 0), Map: "slots"}}, {drop}}},
		{"to 10.0.0.100:8080 | to 10.0.0.101:8080", []Rule{{DNAT{Key: slot(Random, 3, 0), Map: "slots"}}, {drop}}},
		{"to 10.0.0.100:8080 | to 10.0.0.101:8080", []Rule{{DNAT{Key: slot(Increment, 2, 0), Map: "slots"}}, {drop}}},
		{"to 10.0.0.107:8080", []Rule{{DNAT{Key: slot(Hash, 1, 7), Map: "slots"}}, {drop}}},
		{"dropped | to 10.0.0.107:8080", []Rule{{DNAT{Key: slot(Random, 2, 6), Map: "slots"}}, {drop}}},
		{"to 10.0.0.100:80", []Rule{{DNAT{Key: ops(Dport), Map: "addrs", AddrOnly: true}}, {drop}}},
		{"to 10.0.0.100:8080", []Rule{dnat, {drop}}},
		{"to 10.0.0.100:80", []Rule{{DNATTo{netip.AddrPortFrom(to.Addr(), 0)}}, {drop}}},
		{"to 10.0.0.9:80 from 10.0.0.100", []Rule{{SNATTo{to.Addr()}}, {drop}}},
		{"to 10.0.0.9:80, masqueraded", []Rule{{Masquerade{}}, {drop}}},
		{dropped, []Rule{{Update{Map: "learned", Key: ops(Saddr, OrigDaddr, OrigDport), Data: ops(ReplySaddr, ReplySport)}, drop}}},
		{untouched, []Rule{{ConnCount{Over: 0}, drop}}},
		{untouched, []Rule{{Match{Field: TCPFlags, Not: true, Value: TCPSyn}, drop}}},
		{dropped, []Rule{{Match{Field: TCPFlags, Value: TCPSyn}, drop}}},
		{untouched, []Rule{{Match{Field: SCTPChunk, Not: true, Value: SCTPInit}, drop}}},
		{untouched, []Rule{{Match{Field: Socket, Value: Specific}, drop}}},
		{dropped, []Rule{{SetAddr{Field: Saddr, Addr: testAddr(IPv4, 77)}}, {MatchAddr{Field: Saddr, Prefix: netip.PrefixFrom(testAddr(IPv4, 77), 32)}, drop}}},
		{dropped, []Rule{{SetAddr{Field: Saddr, Addr: testAddr(IPv4, 77)}}, {SetAddr{Field: Saddr, From: OrigSaddr}}, {MatchAddr{Field: Saddr, Prefix: single}, drop}}},
		{"to 10.0.0.1:80", []Rule{{SetAddr{Field: Daddr, From: ReplyDaddr}}}},
		{"reset", []Rule{{Reject{Reset: true}}}},
		{"unreachable", []Rule{{Reject{}}}},
		{untouched, []Rule{{Verdict{Kind: Accept}}, {drop}}},
		{untouched, []Rule{{Verdict{Kind: Return}}, {drop}}},
		{"reset", []Rule{{Verdict{Jump, "returns"}}, {Verdict{Jump, "goes"}}, {Verdict{Jump, "rejects"}}}},
		{untouched, []Rule{{Verdict{Goto, "returns"}}, {drop}}},
	} {
		var texts, got []string
		for _, r := range c.rules {
			texts = append(texts, r.Text(IPv4))
			for _, s := range r {
				seen[reflect.TypeOf(s)] = true
			}
		}
		for _, p := range evaluate(t, evalTable(c.rules...), testPacket()) {
			got = append(got, p.String())
		}
		slices.Sort(got)
		if got := strings.Join(got, " | "); got != c.want {
			t.Errorf("%s: %s, want %s", strings.Join(texts, "; "), got, c.want)
		}
	}
	for _, s := range []Statement{
		Match{},
		MatchAddr{},
		MatchInput{},
		Lookup{},
		VMap{},
		Update{},
		ConnCount{},
		DNAT{},
		DNATTo{},
		SNATTo{},
		SetAddr{},
		Masquerade{},
		Reject{},
		Verdict{},
	} {
		if !seen[reflect.TypeOf(s)] {
			t.Errorf("%T is not tested", s)
		}
	}
}

// TestEvalHooks sends a packet through all hooks. Priorities order the chains;
// a nat chain ends the nat of its hook; postrouting sees what prerouting has
// decided.
func TestEvalHooks(t *testing.T) {
	away := netip.AddrPortFrom(testAddr(IPv4, 100), 8080)
	isTranslated := Match{Field: CtStatus, Value: StatusDNAT}
	table := evalTable(Rule{DNATTo{away}})
	base := func(name string, h Hook, rules ...Rule) {
		table.Chains = append(table.Chains, &Chain{Name: name, Hook: &h, Rules: rules})
	}
	base("later nat", Hook{Num: Prerouting, Priority: 0}, Rule{Verdict{Kind: Drop}})
	base("earlier", Hook{Num: Prerouting, Priority: -300, Filter: true}, Rule{isTranslated, Verdict{Kind: Drop}})
	base("later filter", Hook{Num: Prerouting, Priority: 5, Filter: true}, Rule{isTranslated, Verdict{Kind: Accept}})
	base("output", Hook{Num: Output, Priority: -100}, Rule{Match{Field: IifType, Not: true, Value: IifLoopback}, Reject{}}, Rule{DNATTo{netip.AddrPortFrom(testAddr(IPv4, 7), 0)}})
	base("input", Hook{Num: Input, Priority: 100}, Rule{SNATTo{testAddr(IPv4, 50)}})
	base("postrouting", Hook{Num: Postrouting, Priority: 100},
		Rule{isTranslated, Update{Map: "learned", Key: []Operand{{Field: Saddr}, {Field: OrigDaddr}, {Field: OrigDport}}, Data: []Operand{{Field: ReplySaddr}, {Field: ReplySport}}}},
		Rule{isTranslated, Masquerade{}})

	sent := testPacket()
	sent.Sent = true
	local := testPacket()
	for _, c := range []struct {
		name    string
		packet  Packet
		rewrite netip.AddrPort // of prerouting
		want    string
		trace   []string
	}{
		{"forwarded", testPacket(), away, "to 10.0.0.100:8080, masqueraded", []string{"under test", "later filter", "postrouting", "postrouting"}},
		{"to itself is no translation", local, local.Dst, "to 10.0.0.9:80 from 10.0.0.50", []string{"under test", "input"}},
		{"sent", sent, away, "to 10.0.0.7:80, masqueraded", []string{"output", "postrouting", "postrouting"}},
	} {
		table.Chain("under test").Rules = []Rule{{DNATTo{c.rewrite}}}
		paths := evaluate(t, table, c.packet)
		var trace []string
		for _, s := range paths[0].Trace {
			trace = append(trace, s.Chain)
		}
		if len(paths) != 1 || paths[0].String() != c.want {
			t.Errorf("%s: %v, want %s", c.name, paths, c.want)
		}
		if diff := cmp.Diff(c.trace, trace); diff != "" {
			t.Errorf("%s: trace (-want +got):\n%s", c.name, diff)
		}
	}
}

// TestEvalLoopback: no packet passes between a loopback address and another machine,
// unless it has no source while it is translated.
func TestEvalLoopback(t *testing.T) {
	loopback := netip.MustParseAddrPort("127.0.0.1:80")
	away, node := netip.AddrPortFrom(testAddr(IPv4, 100), 8080), netip.AddrPortFrom(testAddr(IPv4, 9), 8080)
	hide := Rule{SetAddr{Field: Saddr, Addr: netip.IPv4Unspecified()}}
	for name, c := range map[string]struct {
		packet Packet
		output []Rule
		want   string
	}{
		"from outside":       {Packet{Proto: 6, Src: away, Dst: loopback}, nil, "dropped"},
		"as somebody else":   {Packet{Proto: 6, Src: loopback, Dst: node}, nil, "dropped"},
		"at the loopback":    {Packet{Proto: 6, Src: loopback, Dst: loopback, Loopback: true}, nil, "to 127.0.0.1:80"},
		"not translated":     {Packet{Proto: 6, Src: loopback, Dst: loopback, Sent: true}, nil, "to 127.0.0.1:80"},
		"to another machine": {Packet{Proto: 6, Src: loopback, Dst: loopback, Sent: true}, []Rule{{DNATTo{away}}}, "dropped"},
		"to the node":        {Packet{Proto: 6, Src: loopback, Dst: loopback, Sent: true}, []Rule{{DNATTo{node}}}, "to 10.0.0.9:8080"},
		"without a source":   {Packet{Proto: 6, Src: loopback, Dst: loopback, Sent: true}, []Rule{hide, {DNATTo{away}}}, "to 10.0.0.100:8080"},
	} {
		table := evalTable()
		table.Chains = append(table.Chains, &Chain{Name: "output", Hook: &Hook{Num: Output, Priority: -100}, Rules: c.output})
		if got := evaluate(t, table, c.packet); len(got) != 1 || got[0].String() != c.want {
			t.Errorf("%s: %v, want %s", name, got, c.want)
		}
	}
}

// TestEvalLearned: what is learned from one packet leads the next one, and is not
// overwritten.
func TestEvalLearned(t *testing.T) {
	client := []Operand{{Field: Saddr}, {Field: Daddr}, {Field: Dport}}
	original := []Operand{{Field: Saddr}, {Field: OrigDaddr}, {Field: OrigDport}}
	table := evalTable(
		Rule{DNAT{Key: client, Map: "learned"}},
		Rule{DNAT{Key: []Operand{{Field: Random, Mod: 2}}, Map: "slots"}})
	table.Chains = append(table.Chains, &Chain{Name: "postrouting", Hook: &Hook{Num: Postrouting}, Rules: []Rule{{
		Update{Map: "learned", Key: original, Data: []Operand{{Field: ReplySaddr}, {Field: ReplySport}}},
	}}})
	first := evaluate(t, table, testPacket())
	if len(first) != 2 {
		t.Fatalf("outcomes: %v, want 2", first)
	}
	for _, p := range first {
		next := evaluate(t, table, testPacket(), p.Learned...)
		if len(next) != 1 || next[0].Outcome != p.Outcome || len(next[0].Learned) != 0 {
			t.Errorf("after %v: %v", p.Outcome, next)
		}
	}
	other := testPacket()
	other.Src = netip.AddrPortFrom(testAddr(IPv4, 2), 1234)
	if paths := evaluate(t, table, other, first[0].Learned...); len(paths) != 2 {
		t.Errorf("another client: %v, want 2 outcomes", paths)
	}
}

// TestEvalRefuses: what the kernel would refuse, and what is not understood, is an
// error without outcomes.
func TestEvalRefuses(t *testing.T) {
	for name, c := range map[string]*Table{
		"opaque":      evalTable(Rule{Opaque{"x"}}),
		"no set":      evalTable(Rule{Lookup{Key: []Operand{{Field: Saddr}}, Set: "none"}}),
		"no chain":    evalTable(Rule{Verdict{Jump, "none"}}),
		"no address":  evalTable(Rule{MatchAddr{Field: Dport}}),
		"not a value": evalTable(Rule{Match{Field: Saddr}}),
		"loop":        evalTable(Rule{Verdict{Goto, "under test"}}),
	} {
		paths, err := NewEvaluator(&Ruleset{Tables: []*Table{c}}, func(netip.Addr) bool { return false }).Eval(testPacket(), nil)
		if err == nil {
			t.Errorf("%s: %v, want an error", name, paths)
		}
	}
}
