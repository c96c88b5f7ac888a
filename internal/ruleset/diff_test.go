package ruleset

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// FuzzDiff: the changes lead from any ruleset, whatever others have put into
// it, to any that can be compiled.
func FuzzDiff(f *testing.F) {
	addRandom(f, 300)
	f.Fuzz(func(t *testing.T, data []byte) {
		d := &dice{data}
		a, b := d.ruleset(true), d.ruleset(false)
		before := a.String() + b.String()
		changes := Diff(a, b).Changes()
		got := Apply(a, changes)

		if diff := cmp.Diff(masked(b), masked(got)); diff != "" {
			t.Errorf("the changes lead elsewhere (-want +got):\n%s\nfrom\n%s\nchanges\n%s", diff, a, lines(changes))
		}
		for _, c := range []struct{ from, to *Ruleset }{{got, b}, {b, got}, {b, b}} {
			if left := Diff(c.from, c.to).Changes(); len(left) > 0 {
				t.Errorf("something is left to do:\n%s", lines(left))
			}
		}
		if a.String()+b.String() != before {
			t.Error("the rulesets changed")
		}
		checkRoom(t, got)
		checkOrder(t, changes)
	})
}

// masked is the text of a ruleset without what is no part of a comparison.
func masked(r *Ruleset) string {
	r = Apply(r, nil)
	for _, t := range r.Tables {
		for _, s := range t.Sets {
			s.Size = 0
			for i := range s.Elements {
				s.Elements[i].Packets, s.Elements[i].Bytes = 0, 0
			}
		}
	}
	return r.String()
}

func lines(changes []Change) string {
	var b strings.Builder
	for i := range changes {
		fmt.Fprintln(&b, &changes[i])
	}
	return b.String()
}

// checkRoom: the kernel refuses more elements than a set is declared for.
func checkRoom(t *testing.T, r *Ruleset) {
	t.Helper()
	for _, table := range r.Tables {
		for _, s := range table.Sets {
			if s.Size > 0 && len(s.Elements) > int(s.Size) {
				t.Errorf("%d elements in %s, which holds %d", len(s.Elements), s.Name, s.Size)
			}
		}
	}
}

// checkOrder: elements are deleted before others take their places, and a set
// that is deleted is not touched before it is there again.
func checkOrder(t *testing.T, changes []Change) {
	t.Helper()
	added := map[string]bool{}
	for i := range changes {
		c := &changes[i]
		if len(c.Elements) == 0 {
			continue
		}
		at := fmt.Sprint(c.Family, c.Set.Name)
		if c.Verb == Add {
			added[at] = true
		} else if added[at] {
			t.Errorf("elements of %s are deleted after others were added", at)
		}
	}
}

// TestDiffReplacesTable: what differs in a declaration cannot be altered in
// place, nor can what is not understood be trusted.
func TestDiffReplacesTable(t *testing.T) {
	fresh := func() *Ruleset {
		return &Ruleset{Tables: []*Table{{
			Family: IPv4, Name: "t", Comment: "ours",
			Sets: []*Set{
				{Name: "s", Key: []Type{Port}, Verdict: true, Counter: true},
				{Name: "m", Key: []Type{Port}, Data: []Type{Addr, Port}},
			},
			Chains: []*Chain{
				{Name: "r"},
				{Name: "b", Hook: &Hook{Num: Prerouting, Priority: -100}},
			},
		}}}
	}
	for name, spoil := range map[string]func(*Table){
		"table's comment":  func(t *Table) { t.Comment = "nftdp schema 0" },
		"table's flags":    func(t *Table) { t.Opaque = []string{"flags"} },
		"key":              func(t *Table) { t.Sets[0].Key = []Type{Proto} },
		"longer key":       func(t *Table) { t.Sets[0].Key = []Type{Port, Proto} },
		"data":             func(t *Table) { t.Sets[1].Data = []Type{Addr} },
		"verdicts":         func(t *Table) { t.Sets[0].Verdict = false },
		"intervals":        func(t *Table) { t.Sets[0].Interval = true },
		"counters":         func(t *Table) { t.Sets[0].Counter = false },
		"opaque set":       func(t *Table) { t.Sets[0].Opaque = "timeout" },
		"comment of a set": func(t *Table) { t.Sets[0].Note = "user data" },
		"opaque chain":     func(t *Table) { t.Chains[0].Opaque = "flags" },
		"hook":             func(t *Table) { t.Chains[1].Hook.Num = Output },
		"priority":         func(t *Table) { t.Chains[1].Hook.Priority = 0 },
		"no hook":          func(t *Table) { t.Chains[1].Hook = nil },
		"a hook":           func(t *Table) { t.Chains[0].Hook = &Hook{} },
	} {
		t.Run(name, func(t *testing.T) {
			a, b := fresh(), fresh()
			if left := Diff(a, b).Changes(); len(left) > 0 {
				t.Fatalf("equal rulesets differ:\n%s", lines(left))
			}
			spoil(a.Tables[0])
			got := strings.SplitN(lines(Diff(a, b).Changes()), "\n", 3)
			want := []string{"delete table ip t", `add table ip t { comment "ours"; }`}
			if diff := cmp.Diff(want, got[:2]); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// TestDiffExtras: what is too much in our tables is removed, together with the
// rules that hold on to it.
func TestDiffExtras(t *testing.T) {
	b := &Ruleset{Tables: []*Table{{Family: IPv4, Name: "t", Chains: []*Chain{{Name: "ours"}}}}}
	a := Apply(b, nil)
	table := a.Tables[0]
	dport := []Operand{{Field: Dport}}
	table.Sets = []*Set{{Name: "foreign", Key: []Type{Port}, Verdict: true}}
	table.Chains[0].Rules = []Rule{{Verdict{Kind: Jump, Chain: "x"}}}
	table.Chains = append(table.Chains,
		&Chain{Name: "x", Rules: []Rule{{VMap{Key: dport, Map: "foreign"}}}},
		&Chain{Name: "y", Rules: []Rule{{Verdict{Kind: Goto, Chain: "x"}}}})
	a.Tables = append(a.Tables, &Table{Family: IPv6, Name: "t"})

	want := `flush chain ip t ours
flush chain ip t x
flush chain ip t y
delete chain ip t x
delete chain ip t y
delete map ip t foreign
delete table ip6 t
`
	if diff := cmp.Diff(want, lines(Diff(a, b).Changes())); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// TestDiffGrows: a set that cannot hold the old and the new elements together
// is re-created, and every rule that refers to it.
func TestDiffGrows(t *testing.T) {
	build := func(size uint32, keys ...uint16) *Ruleset {
		s := &Set{Name: "s", Key: []Type{Port}, Verdict: true, Counter: true, Size: size}
		for _, k := range keys {
			s.Elements = append(s.Elements, Element{Key: Tuple{}.Port(k), Verdict: Verdict{Kind: Drop}})
		}
		return &Ruleset{Tables: []*Table{{
			Family: IPv4, Name: "t", Sets: []*Set{s},
			Chains: []*Chain{{Name: "c", Rules: []Rule{{VMap{Key: []Operand{{Field: Dport}}, Map: "s"}}}}},
		}}}
	}
	for _, c := range []struct {
		name   string
		a, b   *Ruleset
		remade bool
	}{
		{"fits", build(4, 1, 2), build(4, 1, 2, 3, 4), false},
		{"replaced, fits", build(4, 1, 2), build(4, 3, 4), false},
		{"too many", build(4, 1, 2, 3), build(8, 1, 2, 3, 4, 5), true},
		{"too many until the old are gone", build(4, 1, 2, 3), build(8, 4, 5), true},
		{"unlimited", build(0, 1, 2, 3), build(1024, 1, 2, 3, 4), true},
		{"limited", build(1024, 1, 2, 3), build(0, 1, 2, 3, 4), true},
		{"has been smaller", build(1024, 1, 2, 3), build(4096, 1, 2, 3, 4), false},
		{"has been larger", build(8192, 1, 2, 3), build(1024, 1, 2, 3, 4), false},
		{"has never been", build(8191, 1, 2, 3), build(1024, 1, 2, 3, 4), true},
		{"has never been so small", build(512, 1, 2, 3), build(1024, 1, 2, 3, 4), true},
		{"no smaller", build(1024, 1, 2), build(4, 1), false},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.a.Tables[0].Sets[0].Elements[0].Packets = 7
			changes := Diff(c.a, c.b).Changes()
			text := lines(changes)
			want := "flush chain ip t c\ndelete map ip t s\nadd map ip t s {"
			if strings.HasPrefix(text, want) != c.remade {
				t.Errorf("re-created should be %t:\n%s", c.remade, text)
			}
			if rule := strings.Contains(text, "add rule ip t c th dport vmap @s\n"); rule != c.remade {
				t.Errorf("the rule's return should be %t:\n%s", c.remade, text)
			}
			got := Apply(c.a, changes).Tables[0].Set("s")
			for _, e := range got.Elements {
				if e.Key == (Tuple{}.Port(1)) && e.Packets != 7 {
					t.Errorf("the counter is at %d, want 7", e.Packets)
				}
			}
		})
	}
}

func TestSizeFor(t *testing.T) {
	for n, want := range map[int]uint32{
		0: 1024, 512: 1024, 513: 2048, 1024: 2048, 1025: 4096, 500_000: 1 << 20, 1 << 30: 1 << 31,
	} {
		if got := SizeFor(n); got != want {
			t.Errorf("for %d: %d, want %d", n, got, want)
		}
	}
}

// TestCarryCounters is about a map that is keyed by slots and one that is not.
func TestCarryCounters(t *testing.T) {
	slots := &Set{Key: []Type{Port, Slot}, Data: []Type{Addr, Port}, Counter: true}
	ports := &Set{Key: []Type{Port}, Verdict: true, Counter: true}
	backend := func(port uint16, slot uint32, last uint8, packets uint64) Element {
		return Element{
			Key: Tuple{}.Port(port).Slot(slot), Data: Tuple{}.Addr(testAddr(IPv4, last)).Port(8080),
			Packets: packets, Bytes: 60 * packets,
		}
	}
	frontend := func(port uint16, chain string, packets uint64) Element {
		return Element{
			Key: Tuple{}.Port(port), Verdict: Verdict{Kind: Goto, Chain: chain},
			Packets: packets, Bytes: 60 * packets,
		}
	}
	for _, c := range []struct {
		name     string
		set      *Set
		from, to []Element
		want     []uint64 // packets of to
		carried  []int    // of from
	}{
		{
			"a slot shifts", slots,
			[]Element{backend(80, 1, 1, 5), backend(80, 2, 2, 7)},
			[]Element{backend(80, 1, 2, 0)},
			[]uint64{7},
			[]int{1},
		},
		{
			"slots are exchanged", slots,
			[]Element{backend(80, 0, 1, 5), backend(80, 1, 2, 7)},
			[]Element{backend(80, 0, 2, 0), backend(80, 1, 1, 0)},
			[]uint64{7, 5},
			[]int{0, 1},
		},
		{
			"behind another frontend it is another counter", slots,
			[]Element{backend(80, 0, 1, 5)},
			[]Element{backend(81, 0, 1, 0)},
			[]uint64{0},
			nil,
		},
		{
			"another backend begins anew", slots,
			[]Element{backend(80, 0, 1, 5)},
			[]Element{backend(80, 0, 2, 0)},
			[]uint64{0},
			nil,
		},
		{
			"one backend in two slots", slots,
			[]Element{backend(80, 0, 1, 5), backend(80, 1, 1, 7)},
			[]Element{backend(80, 2, 1, 0)},
			[]uint64{12},
			[]int{0, 1},
		},
		{
			"no count is doubled", slots,
			[]Element{backend(80, 0, 1, 5)},
			[]Element{backend(80, 1, 1, 0), backend(80, 2, 1, 0)},
			[]uint64{5, 0},
			[]int{0},
		},
		{
			"what is there already is added to", ports,
			[]Element{frontend(80, "a", 5)},
			[]Element{frontend(80, "b", 1)},
			[]uint64{6},
			[]int{0},
		},
		{
			"nothing counted", ports,
			[]Element{frontend(80, "a", 0), frontend(81, "a", 0)},
			[]Element{frontend(80, "b", 0)},
			[]uint64{0},
			[]int{0},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			var carried []Element
			for _, i := range c.carried {
				carried = append(carried, c.from[i])
			}
			if diff := cmp.Diff(carried, c.set.Carried(c.from, c.to), cmp.AllowUnexported(Tuple{})); diff != "" {
				t.Errorf("carried (-want +got):\n%s", diff)
			}
			CarryCounters(c.set, c.from, c.to)
			for i, want := range c.want {
				if got := c.to[i]; got.Packets != want || got.Bytes != 60*want {
					t.Errorf("%d: %d packets, %d bytes, want %d packets", i, got.Packets, got.Bytes, want)
				}
			}
		})
	}
}

// TestBereft: of the slots that a backend keeps, the first is replaced when it
// loses others without getting any.
func TestBereft(t *testing.T) {
	slots := &Set{Name: "s", Key: []Type{Port, Slot}, Data: []Type{Addr}, Counter: true}
	pool := func(backends string) *Ruleset {
		s := *slots
		for slot, b := range backends {
			s.Elements = append(s.Elements, Element{
				Key: Tuple{}.Port(80).Slot(uint32(slot)), Data: Tuple{}.Addr(testAddr(IPv4, uint8(b-'a'))),
				Packets: 1 << slot, Bytes: 60 << slot,
			})
		}
		return &Ruleset{Tables: []*Table{{Family: IPv4, Name: "t", Sets: []*Set{&s}}}}
	}
	for _, c := range []struct{ from, to, want string }{
		{"aaab", "ab", "delete 1, 2, 3, 0; add 1 with 8, 0 with 7"},
		{"aaab", "aab", "delete 2, 3, 0; add 2 with 8, 0 with 5"},
		{"aab", "aba", "delete 1, 2; add 1 with 4, 2 with 2"},
		{"aab", "aaa", "delete 2; add 2 with 0"},
		{"aab", "aabc", "delete ; add 3 with 0"},
		{"abab", "ab", "delete 2, 3, 0, 1; add 0 with 5, 1 with 10"},
		{"ab", "b", "delete 0, 1; add 0 with 2"},
	} {
		from, to := pool(c.from), pool(c.to)
		for i := range to.Tables[0].Sets[0].Elements {
			e := &to.Tables[0].Sets[0].Elements[i]
			e.Packets, e.Bytes = 0, 0
		}
		var deleted, added []string
		for _, change := range Diff(from, to).Changes() {
			for _, e := range change.Elements {
				if slot := e.Key.SlotAt(4); change.Verb == Delete {
					deleted = append(deleted, fmt.Sprint(slot))
				} else {
					added = append(added, fmt.Sprintf("%d with %d", slot, e.Packets))
				}
			}
		}
		got := fmt.Sprintf("delete %s; add %s", strings.Join(deleted, ", "), strings.Join(added, ", "))
		if got != c.want {
			t.Errorf("%s to %s: %s, want %s", c.from, c.to, got, c.want)
		}
	}
}

// FuzzCarryCounters: no count gets lost or appears out of nothing, whatever
// the changes are.
func FuzzCarryCounters(f *testing.F) {
	addRandom(f, 300)
	f.Fuzz(func(t *testing.T, data []byte) {
		d := &dice{data}
		a, b := d.ruleset(false), d.ruleset(false)
		for _, table := range b.Tables {
			for _, s := range table.Sets {
				for i := range s.Elements {
					s.Elements[i].Packets, s.Elements[i].Bytes = 0, 0
				}
			}
		}
		want := totals(b, func(f Family, set string, id identity) uint64 { return totals(a, nil)[total{f, set, id}] })
		if diff := cmp.Diff(want, totals(Apply(a, Diff(a, b).Changes()), nil), cmp.AllowUnexported(Tuple{}, total{})); diff != "" {
			t.Errorf("packets by what they belong to (-want +got):\n%s\nfrom\n%s\nto\n%s", diff, a, b)
		}
	})
}

// total is what counts belong to.
type total struct {
	family Family
	set    string
	id     identity
}

// totals adds the packets up, or asks for them.
func totals(r *Ruleset, ask func(Family, string, identity) uint64) map[total]uint64 {
	out := map[total]uint64{}
	for _, t := range r.Tables {
		for _, s := range t.Sets {
			for i := range s.Elements {
				if !s.Counter {
					continue
				}
				id := total{t.Family, s.Name, s.identity(&s.Elements[i])}
				if ask != nil {
					out[id] = ask(t.Family, s.Name, id.id)
				} else {
					out[id] += s.Elements[i].Packets
				}
			}
		}
	}
	return out
}

// TestSame names every field of an element that two equal ones have in common,
// and fails for a new field that nobody has thought of.
func TestSame(t *testing.T) {
	base := Element{
		Key: Tuple{}.Port(1), End: Tuple{}.Port(2), Data: Tuple{}.Port(3),
		Verdict: Verdict{Kind: Goto, Chain: "c"}, Comment: "x", Packets: 1, Bytes: 60,
	}
	changed := map[string]func(*Element){
		"Key":     func(e *Element) { e.Key = Tuple{} },
		"End":     func(e *Element) { e.End = Tuple{} },
		"Data":    func(e *Element) { e.Data = Tuple{} },
		"Verdict": func(e *Element) { e.Verdict.Chain = "d" },
		"Comment": func(e *Element) { e.Comment = "y" },
		"Opaque":  func(e *Element) { e.Opaque = true },
		"Packets": func(e *Element) { e.Packets++ },
		"Bytes":   func(e *Element) { e.Bytes++ },
	}
	if diff := cmp.Diff(fieldsOf[Element](), slices.Sorted(maps.Keys(changed))); diff != "" {
		t.Errorf("fields of Element (-has +known here):\n%s", diff)
	}
	for field, change := range changed {
		e := base
		change(&e)
		want := field == "Packets" || field == "Bytes"
		if base.Same(&e) != want || e.Same(&base) != want {
			t.Errorf("another %s: same should be %t", field, want)
		}
	}
	opaque := Element{Opaque: true}
	if opaque.Same(&opaque) {
		t.Error("something opaque is the same as itself")
	}
}

// TestPrefixesAreComparedAsText: rules are equal when their text is.
func TestPrefixesAreComparedAsText(t *testing.T) {
	a := Rule{MatchAddr{Field: Daddr, Prefix: netip.MustParsePrefix("10.0.0.0/8")}}
	b := Rule{MatchAddr{Field: Daddr, Prefix: netip.MustParsePrefix("10.0.0.0/9")}}
	if !SameRules([]Rule{a}, []Rule{a}, IPv4) || SameRules([]Rule{a}, []Rule{b}, IPv4) ||
		SameRules([]Rule{a}, []Rule{a, a}, IPv4) || SameRules([]Rule{a, b}, []Rule{b, a}, IPv4) {
		t.Error("rules are compared wrongly")
	}
}

// TestDiffRepeated: an element that was read twice is not deleted if it is wanted,
// and deleted once if it is not.
func TestDiffRepeated(t *testing.T) {
	element := func(port uint16) Element { return Element{Key: Tuple{}.Port(port)} }
	set := func(ports ...uint16) *Ruleset {
		s := &Set{Name: "s", Key: []Type{Port}, Size: 64}
		for _, p := range ports {
			s.Elements = append(s.Elements, element(p))
		}
		return &Ruleset{Tables: []*Table{{Family: IPv4, Name: "t", Sets: []*Set{s}}}}
	}
	for _, c := range []struct {
		held, wanted *Ruleset
		deleted      []Element
	}{
		{set(1, 1), set(1), nil},
		{set(1, 2, 1), set(1), []Element{element(2)}},
		{set(2, 1, 1), set(1, 3), []Element{element(2)}},
		{set(1, 2, 2), set(1), []Element{element(2)}},
	} {
		var got []Element
		for _, change := range Diff(c.held, c.wanted).Changes() {
			if change.Verb == Delete {
				got = append(got, change.Elements...)
			}
		}
		if !slices.Equal(got, c.deleted) {
			t.Errorf("from %v to %v, %v is deleted, want %v", c.held, c.wanted, got, c.deleted)
		}
	}
}
