package ruleset

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// FuzzTransaction: each stage does what it is for, and nothing else, and in
// their order they lead to what is wanted.
func FuzzTransaction(f *testing.F) {
	addRandom(f, 300)
	f.Fuzz(func(t *testing.T, data []byte) {
		d := &dice{data}
		a, b := d.ruleset(true), d.ruleset(false)
		for _, table := range b.Tables {
			for _, s := range table.Sets {
				s.AfterDNAT = d.roll(2) > 0
			}
		}
		tx := Diff(a, b)
		ahead := Apply(a, tx.Ahead)
		now := Apply(ahead, tx.Now)
		behind := Apply(now, tx.Behind)
		if diff := cmp.Diff(masked(b), masked(behind)); diff != "" {
			t.Errorf("the stages lead elsewhere (-want +got):\n%s", diff)
		}
		for _, family := range Families {
			checkAhead(t, a.Table(family), ahead.Table(family), b.Table(family))
			checkNow(t, now.Table(family), b.Table(family))
		}
		for i := range tx.Ahead {
			checkAheadChange(t, &tx.Ahead[i], a)
		}
		for i := range tx.Behind {
			checkBehindChange(t, &tx.Behind[i], a, b)
		}
		checkStages(t, tx)
		if t.Failed() {
			t.Logf("from\n%s\nto\n%s\n%s", a, b, stages(tx))
		}
	})
}

// checkAhead: whatever was there is there as it was, so that no packet meets
// anything else.
func checkAhead(t *testing.T, a, ahead, b *Table) {
	t.Helper()
	if a == nil || b == nil || !sameDeclarations(a, b) {
		if a != ahead && (a == nil || ahead == nil || text(a) != text(ahead)) {
			t.Error("a table that comes, goes or is replaced changes ahead")
		}
		return
	}
	kept := *ahead
	kept.Sets = slices.DeleteFunc(slices.Clone(ahead.Sets), func(s *Set) bool { return a.Set(s.Name) == nil })
	kept.Chains = slices.DeleteFunc(slices.Clone(ahead.Chains), func(c *Chain) bool { return a.Chain(c.Name) == nil })
	if diff := cmp.Diff(text(a), text(&kept)); diff != "" {
		t.Errorf("ahead, what is there changes (-want +got):\n%s", diff)
	}
	for _, s := range ahead.Sets {
		if a.Set(s.Name) == nil && !s.slotted() && len(s.Elements) != len(b.Set(s.Name).Elements) {
			t.Errorf("set %s comes ahead with %d elements of %d", s.Name, len(s.Elements), len(b.Set(s.Name).Elements))
		}
	}
	for _, c := range ahead.Chains {
		if a.Chain(c.Name) == nil && !SameRules(c.Rules, b.Chain(c.Name).Rules, b.Family) {
			t.Errorf("chain %s comes ahead without all of its rules", c.Name)
		}
	}
}

func text(t *Table) string { return (&Ruleset{Tables: []*Table{t}}).String() }

// checkNow: everything is in force that is wanted. What is too much is left to
// packets that ask after their destination was chosen, or cannot come by.
func checkNow(t *testing.T, now, b *Table) {
	t.Helper()
	if b == nil || now == nil {
		if b != now {
			t.Errorf("now there is table %v, want %v", now, b)
		}
		return
	}
	for _, c := range b.Chains {
		if got := now.Chain(c.Name); got == nil || !got.sameDeclaration(c) || !SameRules(got.Rules, c.Rules, b.Family) {
			t.Errorf("now chain %s is not what it should be", c.Name)
		}
	}
	for _, s := range b.Sets {
		got := now.Set(s.Name)
		if got == nil || !got.sameDeclaration(s) {
			t.Errorf("now set %s is not what it should be", s.Name)
			continue
		}
		if missing, _ := diffElements(s, got); len(missing) > 0 {
			t.Errorf("now %d elements of %s are missing", len(missing), s.Name)
		}
		if extra := len(got.Elements) - len(s.Elements); extra > 0 && !s.AfterDNAT {
			t.Errorf("now there are still %d elements too many in %s", extra, s.Name)
		}
	}
}

// checkAheadChange: only chains without a hook, and sets, that were not there.
func checkAheadChange(t *testing.T, c *Change, a *Ruleset) {
	t.Helper()
	old := a.Table(c.Family)
	switch {
	case c.Verb != Add, c.Set == nil && c.Chain == nil,
		c.Set != nil && old.Set(c.Set.Name) != nil,
		c.Chain != nil && (c.Chain.Hook != nil || old.Chain(c.Chain.Name) != nil):
		t.Errorf("ahead: %s", c)
	}
}

// checkBehindChange: only what is asked after the destination was chosen, and
// what may hang on it.
func checkBehindChange(t *testing.T, c *Change, a, b *Ruleset) {
	t.Helper()
	from, to := a.Table(c.Family), b.Table(c.Family)
	switch {
	case len(c.Elements) > 0:
		if c.Verb != Delete || !to.Set(c.Set.Name).AfterDNAT {
			t.Errorf("behind: %s", c)
		}
	case c.Set != nil:
		if c.Verb != Delete || to.Set(c.Set.Name) != nil {
			t.Errorf("behind: %s", c)
		}
	case c.Object != nil:
		if c.Verb != Delete || !slices.Contains(from.Objects, *c.Object) {
			t.Errorf("behind: %s", c)
		}
	case c.Chain == nil || c.Rule != nil || c.Verb != Flush && c.Verb != Delete || to.Chain(c.Chain.Name) != nil:
		t.Errorf("behind: %s", c)
	case from.Chain(c.Chain.Name) == nil:
		if name, late := strings.CutSuffix(c.Chain.Name, lateSuffix); !late || to.Chain(name) == nil || sameDeclarations(from, to) {
			t.Errorf("behind: %s", c)
		}
	}
}

// checkStages: of each family, nothing is ahead where something is re-created,
// and what goes stays until the late elements have gone.
func checkStages(t *testing.T, tx *Transaction) {
	t.Helper()
	var anew, late [2]bool
	for i := range tx.Now {
		c := &tx.Now[i]
		if c.Verb == Add && (c.Set != nil && c.Elements == nil || c.OfTable()) {
			anew[c.Family.Index()] = true
		}
	}
	for i := range tx.Behind {
		late[tx.Behind[i].Family.Index()] = late[tx.Behind[i].Family.Index()] || len(tx.Behind[i].Elements) > 0
	}
	for i := range tx.Ahead {
		if anew[tx.Ahead[i].Family.Index()] {
			t.Errorf("ahead of something that is re-created: %s", &tx.Ahead[i])
		}
	}
	for i := range tx.Now {
		c := &tx.Now[i]
		if late[c.Family.Index()] && c.Verb == Delete && c.Chain != nil {
			t.Errorf("late elements may lead to it: %s", c)
		}
	}
	want := slices.Concat(tx.Ahead, tx.Now, tx.Behind)
	if lines(slices.Concat(tx.Stages()...)) != lines(want) || lines(tx.Changes()) != lines(want) || tx.Empty() != (len(want) == 0) {
		t.Error("the stages are not all changes")
	}
}

// stages is a transaction as text.
func stages(tx *Transaction) string {
	return fmt.Sprintf("ahead:\n%snow:\n%sbehind:\n%s", lines(tx.Ahead), lines(tx.Now), lines(tx.Behind))
}

// TestStages: each kind of change is in its stage.
func TestStages(t *testing.T) {
	base := func() *Table {
		return &Table{
			Family: IPv4, Name: "t",
			Sets: []*Set{
				{Name: "frontends", Key: []Type{Port}, Verdict: true, Elements: []Element{leads(1, "class")}},
				{Name: "sources", Key: []Type{Port}, Verdict: true, AfterDNAT: true, Elements: []Element{leads(1, "source"), leads(2, "source")}},
				{Name: "ranges", Key: []Type{Port}, Interval: true, AfterDNAT: true, Elements: []Element{{Key: Tuple{}.Port(1), End: Tuple{}.Port(9)}}},
			},
			Chains: []*Chain{
				{Name: "class", Rules: []Rule{{Verdict{Kind: Drop}}}},
				{Name: "source", Rules: []Rule{{Masquerade{}}}},
				{Name: "prerouting", Hook: &Hook{Num: Prerouting, Priority: -100}, Rules: []Rule{{VMap{Key: []Operand{{Field: Dport}}, Map: "frontends"}}}},
			},
		}
	}
	without := func(t *Table, set string) *[]Element {
		t.Chains = slices.DeleteFunc(t.Chains, func(c *Chain) bool { return c.Name == "source" })
		return &t.Set(set).Elements
	}
	for _, c := range []struct {
		name   string
		change func(a, b *Table)
		want   string
	}{
		{"nothing", func(_, _ *Table) {}, "ahead: now: behind:"},
		{"an element", func(_, b *Table) {
			b.Set("frontends").Elements = append(b.Set("frontends").Elements, leads(2, "class"))
		}, "ahead: now: add element ip t frontends { 2 : goto class } behind:"},
		{"a class comes", func(_, b *Table) {
			b.Chains = append(b.Chains, &Chain{Name: "new", Rules: []Rule{{Verdict{Kind: Goto, Chain: "class"}}}})
			b.Set("frontends").Elements = []Element{leads(1, "new")}
		}, `ahead: add chain ip t new; add rule ip t new goto class
			now: delete element ip t frontends { 1 }; add element ip t frontends { 1 : goto new } behind:`},
		{"a class goes", func(a, _ *Table) {
			a.Chains = append(a.Chains, &Chain{Name: "old", Rules: []Rule{{Verdict{Kind: Goto, Chain: "class"}}}})
			a.Set("frontends").Elements = []Element{leads(1, "old")}
		}, `ahead: now: flush chain ip t old; delete element ip t frontends { 1 };
			add element ip t frontends { 1 : goto class }; delete chain ip t old behind:`},
		{"a set comes", func(_, b *Table) {
			b.Sets = append(b.Sets, &Set{Name: "new", Key: []Type{Port}, Verdict: true, Elements: []Element{leads(1, "class")}})
			b.Chain("class").Rules = []Rule{{VMap{Key: []Operand{{Field: Dport}}, Map: "new"}}}
		}, `ahead: add map ip t new { type inet_service : verdict; }; add element ip t new { 1 : goto class }
			now: flush chain ip t class; add rule ip t class th dport vmap @new behind:`},
		{"a base chain comes", func(a, _ *Table) {
			a.Chains = slices.DeleteFunc(a.Chains, func(c *Chain) bool { return c.Hook != nil })
		}, `ahead: now: add chain ip t prerouting { type nat hook prerouting priority -100; policy accept; };
			add rule ip t prerouting th dport vmap @frontends behind:`},
		{"a base chain and a class come", func(a, _ *Table) {
			a.Chains = a.Chains[1:2]
			a.Set("frontends").Elements = nil
		}, `ahead: add chain ip t class; add rule ip t class drop
			now: add chain ip t prerouting { type nat hook prerouting priority -100; policy accept; };
			add rule ip t prerouting th dport vmap @frontends; add element ip t frontends { 1 : goto class } behind:`},
		{"a late element goes", func(_, b *Table) {
			b.Set("sources").Elements = b.Set("sources").Elements[1:]
		}, "ahead: now: behind: delete element ip t sources { 1 }"},
		{"late elements go with their chain", func(_, b *Table) {
			*without(b, "sources") = nil
		}, `ahead: now: behind: delete element ip t sources { 1 }; delete element ip t sources { 2 };
			flush chain ip t source; delete chain ip t source`},
		{"a chain goes beside late elements", func(a, b *Table) {
			a.Chains = append(a.Chains, &Chain{Name: "old"})
			b.Set("sources").Elements = b.Set("sources").Elements[1:]
			a.Set("frontends").Elements = []Element{leads(1, "old")}
		}, `ahead: now: delete element ip t frontends { 1 }; add element ip t frontends { 1 : goto class }
			behind: delete element ip t sources { 1 }; flush chain ip t old; delete chain ip t old`},
		{"a late element is replaced, another one goes", func(_, b *Table) {
			b.Set("sources").Elements = []Element{leads(1, "class")}
		}, `ahead: now: delete element ip t sources { 1 }; add element ip t sources { 1 : goto class }
			behind: delete element ip t sources { 2 }`},
		{"a late range goes", func(_, b *Table) {
			b.Set("ranges").Elements = nil
		}, "ahead: now: behind: delete element ip t ranges { 1-9 }"},
		{"a late range gives way", func(_, b *Table) {
			b.Set("ranges").Elements = []Element{{Key: Tuple{}.Port(2), End: Tuple{}.Port(3)}}
		}, "ahead: now: delete element ip t ranges { 1-9 }; add element ip t ranges { 2-3 } behind:"},
		{"a set is re-created, a class comes", func(a, b *Table) {
			a.Set("frontends").Size = 1
			b.Chains = append(b.Chains, &Chain{Name: "new"})
			b.Set("frontends").Elements = []Element{leads(1, "class"), leads(2, "new")}
		}, `ahead: now: flush chain ip t prerouting; delete map ip t frontends;
			add map ip t frontends { type inet_service : verdict; }; add chain ip t new;
			add rule ip t prerouting th dport vmap @frontends;
			add element ip t frontends { 1 : goto class }; add element ip t frontends { 2 : goto new } behind:`},
		{"a set is re-created that a chain asks which goes behind late elements", func(a, b *Table) {
			a.Chains = append(a.Chains, &Chain{Name: "old", Rules: a.Chain("prerouting").Rules})
			a.Set("frontends").Size = 1
			b.Set("frontends").Elements = []Element{leads(1, "class"), leads(2, "class")}
			b.Set("sources").Elements = b.Set("sources").Elements[1:]
		}, `ahead: now: flush chain ip t prerouting; flush chain ip t old; delete map ip t frontends;
			add map ip t frontends { type inet_service : verdict; }; add rule ip t prerouting th dport vmap @frontends;
			add element ip t frontends { 1 : goto class }; add element ip t frontends { 2 : goto class }
			behind: delete element ip t sources { 1 }; delete chain ip t old`},
		{"a set and its elements go behind late elements", func(a, b *Table) {
			a.Sets = append(a.Sets, &Set{Name: "old", Key: []Type{Port}, Elements: []Element{{Key: Tuple{}.Port(1)}}})
			b.Set("sources").Elements = b.Set("sources").Elements[1:]
		}, "ahead: now: behind: delete element ip t sources { 1 }; delete set ip t old"},
		{"an orphan is adopted, which everybody can change, and a class comes", func(a, b *Table) {
			a.Flags, b.Flags = Persist, Protected
			b.Chains = append(b.Chains, &Chain{Name: "new"})
			b.Set("frontends").Elements = append(b.Set("frontends").Elements, leads(2, "new"))
		}, `ahead: add chain ip t new now: add table ip t { flags owner,persist; };
			add element ip t frontends { 2 : goto new } behind:`},
		{"a table is replaced", func(a, b *Table) {
			a.Comment = "another"
			b.Sets = b.Sets[:1]
		}, `ahead: now: delete table ip t; add table ip t; add map ip t frontends { type inet_service : verdict; };
			add chain ip t class; add chain ip t source;
			add chain ip t prerouting { type nat hook prerouting priority -100; policy accept; };
			add chain ip t prerouting-late { type nat hook prerouting priority -99; policy accept; };
			add rule ip t class drop; add rule ip t source masquerade fully-random; add rule ip t prerouting th dport vmap @frontends;
			add rule ip t prerouting-late th dport vmap @frontends; add element ip t frontends { 1 : goto class }
			behind: flush chain ip t prerouting-late; delete chain ip t prerouting-late`},
	} {
		t.Run(c.name, func(t *testing.T) {
			a, b := base(), base()
			c.change(a, b)
			checkText(t, Diff(&Ruleset{Tables: []*Table{a}}, &Ruleset{Tables: []*Table{b}}), c.want)
		})
	}
}

func leads(port uint16, chain string) Element {
	return Element{Key: Tuple{}.Port(port), Verdict: Verdict{Kind: Goto, Chain: chain}}
}

// checkText compares words; a semicolon separates commands of the text that is
// wanted.
func checkText(t *testing.T, tx *Transaction, want string) {
	t.Helper()
	words := func(s string) string {
		s = strings.NewReplacer("ahead:", "\nahead: ", "now:", "\nnow: ", "behind:", "\nbehind: ").Replace(s)
		return strings.Join(strings.Fields(s), " ")
	}
	got := ""
	for i, list := range [][]Change{tx.Ahead, tx.Now, tx.Behind} {
		got += []string{"ahead: ", " now: ", " behind: "}[i] + strings.ReplaceAll(strings.TrimSpace(lines(list)), "\n", "; ")
	}
	if diff := cmp.Diff(words(want), words(got)); diff != "" {
		t.Errorf("(-want +got):\n%s\n%s", diff, stages(tx))
	}
}

// TestStagesOfTables: a table that is new or goes is one change, and the two
// families do not disturb each other.
func TestStagesOfTables(t *testing.T) {
	table := func(f Family, elements ...Element) *Table {
		return &Table{
			Family: f, Name: "t",
			Sets:   []*Set{{Name: "s", Key: []Type{Port}, Verdict: true, AfterDNAT: true, Elements: elements}},
			Chains: []*Chain{{Name: "c"}},
		}
	}
	more := table(IPv4, leads(1, "c"), leads(2, "new"))
	more.Chains = append(more.Chains, &Chain{Name: "new"})
	for name, c := range map[string]struct {
		from, to []*Table
		want     string
	}{
		"new": {nil, []*Table{table(IPv4, leads(1, "c"))}, `ahead: now: add table ip t;
			add map ip t s { type inet_service : verdict; }; add chain ip t c; add element ip t s { 1 : goto c } behind:`},
		"goes": {[]*Table{table(IPv4, leads(1, "c"))}, nil, "ahead: now: delete table ip t behind:"},
		"one is new, one grows": {
			[]*Table{table(IPv4, leads(1, "c"))},
			[]*Table{more, table(IPv6)},
			`ahead: add chain ip t new now: add element ip t s { 2 : goto new }; add table ip6 t;
			add map ip6 t s { type inet_service : verdict; }; add chain ip6 t c behind:`,
		},
		"one goes, one shrinks": {
			[]*Table{more, table(IPv6)},
			[]*Table{table(IPv4, leads(1, "c"))},
			`ahead: now: delete table ip6 t behind: delete element ip t s { 2 }; flush chain ip t new; delete chain ip t new`,
		},
	} {
		t.Run(name, func(t *testing.T) {
			checkText(t, Diff(&Ruleset{Tables: c.from}, &Ruleset{Tables: c.to}), c.want)
		})
	}
}
