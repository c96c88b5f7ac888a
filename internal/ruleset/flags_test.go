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
		{"an orphan with something to add", with(Persist, 0), with(Protected, 0, chain), adopt + "add chain ip t c\n"},
		{
			"an orphan with something to delete", with(Persist, 0, chain), with(Protected, 0),
			adopt + "flush chain ip t c\ndelete chain ip t c\n",
		},
		{"to be protected", with(0, 0), with(Protected, 0), replace + "flags owner,persist; comment \"ours\"; }\n"},
		{"ends with its owner", with(Owner, 7), with(Protected, 0), replace + "flags owner,persist; comment \"ours\"; }\n"},
		{"an orphan that shall not be protected", with(Persist, 0), with(0, 0), replace + "comment \"ours\"; }\n"},
		{"no longer protected", with(Protected, 7), with(0, 0), replace + "comment \"ours\"; }\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			changes := Diff(c.a, c.b)
			if diff := cmp.Diff(c.want, lines(changes)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			if left := Diff(Apply(c.a, changes), c.b); len(left) > 0 {
				t.Errorf("after that there is still to do:\n%s", lines(left))
			}
		})
	}
}
