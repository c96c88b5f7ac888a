//go:build linux

package nfnl

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"golang.org/x/sys/unix"

	"github.com/nftdp/go-nftdp/internal/compile"
	"github.com/nftdp/go-nftdp/internal/ruleset"
)

func mustPrefix(s string) netip.Prefix { return netip.MustParsePrefix(s) }

// FuzzRoundTrip: what is encoded is decoded unchanged, and deletions contain the
// same keys. The kernel's dumps differ in the boundaries of messages, and always
// contain counters.
func FuzzRoundTrip(f *testing.F) {
	for seed := range byte(30) {
		b := make([]byte, 4000)
		rand.NewChaCha8([32]byte{seed}).Read(b) //nolint:errcheck // it never fails
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		d := &dice{data}
		want := &ruleset.Ruleset{Tables: []*ruleset.Table{d.table(ruleset.IPv4), d.table(ruleset.IPv6)}}
		_, msgs := encode(t, 1, ruleset.Diff(&ruleset.Ruleset{}, want).Changes()...)
		got := rulesetOf(t, msgs)
		for _, tables := range [][]*ruleset.Table{want.Tables, got.Tables} {
			for _, table := range tables {
				sortTable(table)
			}
		}
		notInTheKernel := cmpopts.IgnoreFields(ruleset.Set{}, "AfterDNAT", "Repeatable")
		if diff := cmp.Diff(want.Tables, got.Tables, byValue, notInTheKernel); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
		for _, table := range want.Tables {
			for _, s := range table.Sets {
				checkDeleted(t, table, s)
			}
		}
	})
}

// TestRulesRoundTrip encodes every rule that is decoded of stock nft's, and some that
// nft cannot load.
func TestRulesRoundTrip(t *testing.T) {
	for _, f := range ruleset.Families {
		table := keptDump(t, "rules-"+f.String()).tables(t)[0]
		cases := append(bothFamilies(someAddr(f)), addrCases(f)...)
		cases = append(cases, longKeys()...)
		for _, c := range cases {
			if c.opaque != "" {
				continue
			}
			_, msgs := encode(t, 1, ruleset.Change{
				Verb: ruleset.Add, Family: f, Table: table.Name, Chain: &ruleset.Chain{Name: "c"}, Rule: c.want,
			})
			_, _, _, got, err := DecodeRule(msgs[1].body, table.Names())
			if diff := cmp.Diff(c.want, got, byValue); err != nil || diff != "" {
				t.Errorf("%s: error %v (-want +got):\n%s", c.want.Text(f), err, diff)
			}
		}
	}
}

// longKeys need more registers in IPv6 than nft 1.0.6 sets aside.
func longKeys() []ruleCase {
	key := ops(ruleset.Saddr, ruleset.OrigDaddr, ruleset.L4proto, ruleset.OrigDport)
	hash := ruleset.Operand{Field: ruleset.Hash, Mod: 3, Offset: 5}
	return []ruleCase{
		{want: ruleset.Rule{ruleset.Update{
			Map: "m_affinity", Seconds: 10800, Key: key, Data: ops(ruleset.Daddr, ruleset.Dport),
		}}},
		{want: ruleset.Rule{ruleset.VMap{Key: append(key, hash), Map: "m_long"}}},
		{want: ruleset.Rule{ruleset.VMap{Key: append(key, hashOf(ruleset.Saddr, ruleset.Sport)), Map: "m_long"}}},
	}
}

// dice make choices out of bytes, so that a fuzzer or a seed decides them. Without
// bytes they show zero.
type dice struct{ bytes []byte }

// take returns the next n bytes.
func (d *dice) take(n int) []byte {
	out := make([]byte, n)
	d.bytes = d.bytes[copy(out, d.bytes):]
	return out
}

func (d *dice) roll(n int) int { return int(d.take(1)[0]) % n }

// table has every set and every sort of rule that is compiled, and elements
// with any bytes.
func (d *dice) table(f ruleset.Family) *ruleset.Table {
	cfg := compile.Config{Table: "t", NodeAddrs: []netip.Prefix{mustPrefix("10.64.0.0/10"), mustPrefix("fd00::/16")}}
	cfg.Flags = []ruleset.TableFlags{0, ruleset.Protected, ruleset.Persist}[d.roll(3)]
	t := compile.New(cfg, d.pools()).Ruleset().Table(f)
	t.Sets = append(t.Sets, fieldRanges()...)
	for _, s := range t.Sets {
		s.Elements = nil
		s.Size = uint32(d.roll(256)) << 8
		switch {
		case s.Dynamic:
			continue
		case halved(s):
			s.Elements = d.intervals(f)
			continue
		}
		seen := map[ruleset.Tuple]bool{}
		for range d.roll(8) {
			if e := d.element(s, f); !seen[e.Key] {
				if s.Interval {
					e.End = d.tuple(s.Key, f)
				}
				seen[e.Key] = true
				s.Elements = append(s.Elements, e)
			}
		}
	}
	return t
}

// fieldRanges are sets whose keys have a range in each field. The ranges may be
// reversed, which only the kernel checks.
func fieldRanges() []*ruleset.Set {
	key := []ruleset.Type{ruleset.Addr, ruleset.Proto, ruleset.Port}
	return []*ruleset.Set{
		{Name: "x_verdicts", Key: key, Interval: true, Verdict: true, Counter: true},
		{Name: "x_values", Key: key[1:], Data: key[:1], Interval: true},
		{Name: "x_members", Key: key, Interval: true},
	}
}

// pools are services that need chains of some sizes.
func (d *dice) pools() []*compile.Service {
	s := &compile.Service{Name: "s", Proto: compile.TCP, Frontends: []*compile.Frontend{
		{Addr: netip.IPv4Unspecified(), Port: 1},
		{Addr: netip.MustParseAddr("10.0.0.1"), Port: 1},
		{Addr: netip.IPv6Unspecified(), Port: 1},
		{Addr: netip.MustParseAddr("fd00::1"), Port: 1},
	}}
	for i := range d.roll(4) {
		for family, a := range []string{"10.0.0.1", "fd00::1"} {
			b := netip.AddrPortFrom(netip.MustParseAddr(a), uint16(i+1))
			for _, f := range s.Frontends[2*family:][:2] {
				f.Pool = append(f.Pool, b)
			}
		}
	}
	return []*compile.Service{s}
}

func (d *dice) element(s *ruleset.Set, f ruleset.Family) ruleset.Element {
	e := ruleset.Element{Key: d.tuple(s.Key, f), Data: d.tuple(s.Data, f)}
	if s.Verdict {
		e.Verdict = []ruleset.Verdict{
			{Kind: ruleset.Drop},
			{Kind: ruleset.Accept},
			{Kind: ruleset.Return},
			{Kind: ruleset.Jump, Chain: "x"},
			{Kind: ruleset.Goto, Chain: fmt.Sprint("random-", d.roll(256))},
		}[d.roll(5)]
	}
	if s.Counter && d.roll(2) > 0 {
		for _, b := range d.take(8) {
			e.Packets = e.Packets<<8 | uint64(b)
		}
		e.Bytes = ^e.Packets
	}
	if text := slices.DeleteFunc(d.take(d.roll(129)), func(b byte) bool { return b == 0 }); d.roll(2) > 0 && utf8.RuneCount(text) > 0 {
		e.Comment = string(text)
	}
	return e
}

// tuple has any bytes where a field has some, and none in between.
func (d *dice) tuple(types []ruleset.Type, f ruleset.Family) ruleset.Tuple {
	var t ruleset.Tuple
	for _, typ := range types {
		switch b := d.take(16); typ {
		case ruleset.Addr:
			a, _ := netip.AddrFromSlice(b[:f.AddrLen()])
			t = t.Addr(a)
		case ruleset.Proto:
			t = t.Proto(b[0])
		case ruleset.Port:
			t = t.Port(uint16(b[0])<<8 | uint16(b[1]))
		case ruleset.Slot:
			t = t.Slot(uint32(b[0])<<16 | uint32(b[1])<<8 | uint32(b[2]))
		}
	}
	return t
}

// intervals are disjoint, but may touch each other and both ends of all keys.
func (d *dice) intervals(f ruleset.Family) (out []ruleset.Element) {
	at := func(first, last byte) netip.Addr {
		b := make([]byte, f.AddrLen())
		for i := range b {
			b[i] = last
		}
		b[0] = first
		a, _ := netip.AddrFromSlice(b)
		return a
	}
	for first := 0; first < 256; {
		last := min(first+d.roll(100), 255)
		if d.roll(2) > 0 {
			out = append(out, ruleset.Element{
				Key: ruleset.Tuple{}.Addr(at(byte(first), 0)), End: ruleset.Tuple{}.Addr(at(byte(last), 0xff)),
			})
		}
		first = last + 1
	}
	return out
}

// rulesetOf decodes the messages that create objects.
func rulesetOf(t *testing.T, msgs []encoded) *ruleset.Ruleset {
	t.Helper()
	r := &ruleset.Ruleset{}
	for _, m := range msgs[1 : len(msgs)-1] {
		if err := decodeInto(r, m); err != nil {
			t.Fatalf("message of type %#x: %v", m.typ, err)
		}
	}
	for _, table := range r.Tables {
		for _, s := range table.Sets {
			s.Elements = FoldIntervals(s, s.Elements)
		}
	}
	return r
}

func decodeInto(r *ruleset.Ruleset, m encoded) error {
	if int(m.typ) == unix.NFNL_SUBSYS_NFTABLES<<8|unix.NFT_MSG_NEWTABLE {
		t, err := DecodeTable(m.body)
		r.Tables = append(r.Tables, t)
		return err
	}
	t := r.Table(ruleset.Family(m.body[0]))
	switch int(m.typ) {
	case unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_NEWSET:
		_, _, s, err := DecodeSet(m.body)
		t.Sets = append(t.Sets, s)
		return err
	case unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_NEWCHAIN:
		_, _, c, err := DecodeChain(m.body)
		t.Chains = append(t.Chains, c)
		return err
	case unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_NEWRULE:
		_, _, chain, rule, err := DecodeRule(m.body, t.Names())
		if err != nil {
			return err
		}
		t.Chain(chain).Rules = append(t.Chain(chain).Rules, rule)
		return nil
	case unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_NEWSETELEM:
		return decodeElementsInto(t, m)
	}
	return fmt.Errorf("it creates nothing")
}

func decodeElementsInto(t *ruleset.Table, m encoded) error {
	name, _, err := elementList(m.body, t.Family)
	if err != nil {
		return err
	}
	s := t.Set(string(name))
	return DecodeElements(m.body, s, t.Family, func(e ruleset.Element) { s.Elements = append(s.Elements, e) })
}

// checkDeleted: a deletion contains the keys and nothing else.
func checkDeleted(t *testing.T, table *ruleset.Table, s *ruleset.Set) {
	t.Helper()
	if len(s.Elements) == 0 {
		return
	}
	_, msgs := encode(t, 1, ruleset.Change{
		Verb: ruleset.Delete, Family: table.Family, Table: table.Name, Set: s, Elements: s.Elements,
	})
	keys := &ruleset.Set{Name: s.Name, Key: s.Key, Interval: s.Interval}
	var got []ruleset.Element
	err := DecodeElements(msgs[1].body, keys, table.Family, func(e ruleset.Element) { got = append(got, e) })
	if err != nil {
		t.Fatal(err)
	}
	var want []ruleset.Element
	for _, e := range s.Elements {
		want = append(want, ruleset.Element{Key: e.Key, End: e.End})
	}
	if diff := cmp.Diff(want, FoldIntervals(keys, got), byValue); diff != "" {
		t.Errorf("deletion from %s (-want +got):\n%s", s.Name, diff)
	}
}
