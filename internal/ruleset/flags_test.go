package ruleset

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestDiffFlags: an orphan is adopted, before anything else is changed in it;
// every other difference in the flags replaces the table.
func TestDiffFlags(t *testing.T) {
	with := func(flags TableFlags, port uint32, chains ...*Chain) *Ruleset {
		return &Ruleset{Tables: []*Table{{Family: IPv4, Name: "t", Comment: "ours", Flags: flags, Port: port, Chains: chains}}}
	}
	chain := &Chain{Name: "c"}
	const (
		adopt   = "add table ip t { flags owner,persist; }\n"
		replace = "delete table ip t\nadd table ip t { "
	)
	for _, c := range []struct {
		name string
		a, b *Ruleset
		want string
	}{
		{"owned already", with(Protected, 7), with(Protected, 0), ""},
		{"unprotected already", with(0, 0), with(0, 0), ""},
		{"an orphan", with(Persist, 0), with(Protected, 0), adopt},
		{"an orphan with something to add", with(Persist, 0), with(Protected, 0, chain), "add chain ip t c\n" + adopt},
		{
			"an orphan with something to delete", with(Persist, 0, chain), with(Protected, 0),
			adopt + "flush chain ip t c\ndelete chain ip t c\n",
		},
		{"to be protected", with(0, 0), with(Protected, 0), replace + "flags owner,persist; comment \"ours\"; }\n"},
		{"ends with its owner", with(Owner, 7), with(Protected, 0), replace + "flags owner,persist; comment \"ours\"; }\n"},
		{"an orphan that is not to be protected", with(Persist, 0), with(0, 0), replace + "comment \"ours\"; }\n"},
		{"no longer protected", with(Protected, 7), with(0, 0), replace + "comment \"ours\"; }\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			changes := Diff(c.a, c.b).Changes()
			if diff := cmp.Diff(c.want, lines(changes)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			if left := Diff(Apply(c.a, changes), c.b).Changes(); len(left) > 0 {
				t.Errorf("changes remain after that:\n%s", lines(left))
			}
		})
	}
}

// TestDiffCountsByKey: when a table is replaced, counts are carried on in sets that
// have the same types of keys. In others the same bytes have another meaning.
func TestDiffCountsByKey(t *testing.T) {
	with := func(comment string, key ...Type) *Ruleset {
		e := Element{Key: Tuple{}.Port(80).Port(81), Verdict: Verdict{Kind: Drop}}
		if comment == "former" {
			e.Packets, e.Bytes = 7, 420
		}
		return &Ruleset{Tables: []*Table{{Family: IPv4, Name: "t", Comment: comment, Sets: []*Set{{
			Name: "s", Key: key, Verdict: true, Counter: true, Elements: []Element{e},
		}}}}}
	}
	for _, c := range []struct {
		key  []Type
		want uint64
	}{
		{[]Type{Port, Port}, 7},
		{[]Type{Addr}, 0},
	} {
		a, b := with("former", Port, Port), with("ours", c.key...)
		got := Apply(a, Diff(a, b).Changes()).Tables[0].Sets[0].Elements[0].Packets
		if got != c.want {
			t.Errorf("%d packets with keys %v, want %d", got, c.key, c.want)
		}
	}
}

// TestReplacedTable: while a table is replaced, each base chain is followed by a
// second one, which is deleted in the end.
func TestReplacedTable(t *testing.T) {
	with := func(comment string) *Ruleset {
		return &Ruleset{Tables: []*Table{{Family: IPv4, Name: "t", Comment: comment, Chains: []*Chain{
			{Name: "r", Rules: []Rule{{Masquerade{}}}},
			{Name: "b", Hook: &Hook{Num: Prerouting, Priority: -100}, Rules: []Rule{{Verdict{Kind: Jump, Chain: "r"}}}},
		}}}}
	}
	a, b := with("former"), with("ours")
	changes := Diff(a, b).Changes()
	want := `delete table ip t
add table ip t { comment "ours"; }
add chain ip t r
add chain ip t b { type nat hook prerouting priority -100; policy accept; }
add chain ip t b-late { type nat hook prerouting priority -99; policy accept; }
add rule ip t r masquerade fully-random
add rule ip t b jump r
add rule ip t b-late jump r
flush chain ip t b-late
delete chain ip t b-late
`
	if diff := cmp.Diff(want, lines(changes)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if left := Diff(Apply(a, changes), b).Changes(); len(left) > 0 {
		t.Errorf("changes remain after that:\n%s", lines(left))
	}
}
