package ruleset

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"
)

// dice make choices out of bytes, so that a fuzzer or a seed decides them. Out
// of bytes, they show zero.
type dice struct{ bytes []byte }

// roll gives a number below n, which is at most 256.
func (d *dice) roll(n int) int {
	if len(d.bytes) == 0 || n < 2 {
		return 0
	}
	b := d.bytes[0]
	d.bytes = d.bytes[1:]
	return int(b) % n
}

func one[T any](d *dice, choices ...T) T { return choices[d.roll(len(choices))] }

// addRandom gives a fuzz target seeds that the normal test run goes through.
func addRandom(f *testing.F, seeds uint64) {
	f.Helper()
	for seed := range seeds {
		b := make([]byte, 600)
		rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8)}).Read(b) //nolint:errcheck // it never fails
		f.Add(b)
	}
}

// ruleset is any, without regard to what services compile to. It holds opaque
// things only if they are asked for.
func (d *dice) ruleset(opaque bool) *Ruleset {
	r := &Ruleset{}
	for _, f := range Families {
		if d.roll(8) > 0 {
			r.Tables = append(r.Tables, d.table(f, opaque))
		}
	}
	return r
}

// seldom is true in one of so many cases.
func (d *dice) seldom(n int) bool { return d.roll(n) == n-1 }

func (d *dice) table(f Family, opaque bool) *Table {
	t := &Table{Family: f, Name: "t", Comment: "ours"}
	if d.seldom(16) {
		t.Comment = ""
	}
	if opaque && d.seldom(8) {
		t.Opaque = []string{"flags 1"}
	}
	if opaque && d.seldom(8) {
		t.Objects = []Object{{Kind: Flowtable, Name: "o"}, {Kind: 1, Name: "o"}}
	}
	for i, s := range []Set{
		{Key: []Type{Port}, Verdict: true, Counter: true},
		{Key: []Type{Port, Slot}, Data: []Type{Addr, Port}, Counter: true},
		{Key: []Type{Addr}, Interval: true},
		{Key: []Type{Addr, Proto, Port}},
	} {
		if d.roll(6) > 0 {
			s.Name = fmt.Sprint("s", i)
			d.fill(&s, f, opaque)
			t.Sets = append(t.Sets, &s)
		}
	}
	for i := range 4 {
		if d.roll(3) > 0 {
			t.Chains = append(t.Chains, d.chain(fmt.Sprint("c", i), i == 3, opaque))
		}
	}
	return t
}

// fill gives a set elements and a size that they fit in.
func (d *dice) fill(s *Set, f Family, opaque bool) {
	if d.seldom(16) {
		s.Counter = !s.Counter
	}
	if opaque && d.seldom(8) {
		s.Opaque = "timeout"
	}
	for i := range uint8(6) {
		if d.roll(2) > 0 {
			s.Elements = append(s.Elements, d.element(s, f, i, opaque))
		}
	}
	s.Size = one(d, 0, uint32(len(s.Elements)), 8, 16)
	if int(s.Size) < len(s.Elements) {
		s.Size = 16
	}
}

// element has the i-th key of its set. Several slots may have the same data.
func (d *dice) element(s *Set, f Family, i uint8, opaque bool) Element {
	var e Element
	for _, t := range s.Key {
		switch t {
		case Addr:
			e.Key = e.Key.Addr(testAddr(f, 16*i))
		case Proto:
			e.Key = e.Key.Proto(6)
		case Port:
			e.Key = e.Key.Port(80 + uint16(i)/3)
		case Slot:
			e.Key = e.Key.Slot(uint32(i) % 3)
		}
	}
	switch {
	case s.Interval:
		e.End = Tuple{}.Addr(testAddr(f, 16*i+uint8(d.roll(16))))
	case s.Verdict:
		e.Key = Tuple{}.Port(uint16(i))
		e.Verdict = one(d, Verdict{Kind: Drop}, Verdict{Kind: Goto, Chain: "c0"}, Verdict{Kind: Goto, Chain: "c1"})
		e.Comment = one(d, "", "a", "b")
	case len(s.Data) > 0:
		e.Data = Tuple{}.Addr(testAddr(f, uint8(d.roll(3)))).Port(8080)
	}
	if s.Counter {
		e.Packets = uint64(d.roll(4))
		e.Bytes = 60 * e.Packets
	}
	e.Opaque = opaque && d.seldom(16)
	return e
}

func testAddr(f Family, last uint8) netip.Addr {
	if f == IPv6 {
		return netip.AddrFrom16([16]byte{0xfd, 15: last})
	}
	return netip.AddrFrom4([4]byte{10, 0, 0, last})
}

func (d *dice) chain(name string, base, opaque bool) *Chain {
	c := &Chain{Name: name}
	if base {
		c.Hook = &Hook{Num: one(d, Prerouting, Prerouting, Prerouting, Output), Priority: -100}
	}
	if opaque && d.seldom(16) {
		c.Opaque = "policy drop"
	}
	dport := []Operand{{Field: Dport}}
	for range d.roll(3) {
		c.Rules = append(c.Rules, one(d,
			Rule{VMap{Key: dport, Map: "s0"}},
			Rule{Lookup{Key: []Operand{{Field: Saddr}}, Set: "s2"}, Verdict{Kind: Return}},
			Rule{DNAT{Key: append(dport, Operand{Field: Random, Mod: 3}), Map: "s1"}},
			Rule{Verdict{Kind: Jump, Chain: "c0"}},
		))
	}
	if opaque && d.seldom(16) {
		c.Rules = append(c.Rules, Rule{Opaque{What: "quota"}})
	}
	return c
}
