//go:build linux

package kernel

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/nftdp/go-nftdp/internal/nstest"
	"github.com/nftdp/go-nftdp/internal/ruleset"
)

// TestReadElements: whatever keys are asked for, all elements are read, with their
// counters, and no other ones.
func TestReadElements(t *testing.T) {
	const n = ManyKeys + 5*keysAtOnce
	set := &ruleset.Set{
		Name: "s", Counter: true, Size: 2 * n,
		Key: []ruleset.Type{ruleset.Proto, ruleset.Port, ruleset.Slot}, Data: []ruleset.Type{ruleset.Addr, ruleset.Port},
	}
	key := func(i int) ruleset.Tuple { return ruleset.Tuple{}.Proto(6).Port(80).Slot(uint32(i)) }
	keys := make([]ruleset.Tuple, n)
	for i := range keys {
		keys[i] = key(i)
		set.Elements = append(set.Elements, ruleset.Element{
			Key: keys[i], Data: ruleset.Tuple{}.Addr(netip.AddrFrom4([4]byte{10, 0, 0, 1})).Port(uint16(i)), Packets: uint64(i), Bytes: uint64(60 * i),
		})
	}
	ns := nstest.NewTestNamespace(t)
	c := dial(t, ns)
	load(t, c, &ruleset.Ruleset{Tables: []*ruleset.Table{{Family: ruleset.IPv4, Name: "t", Sets: []*ruleset.Set{set}}}})
	for _, test := range []struct {
		name string
		keys []ruleset.Tuple
	}{
		{"none", nil},
		{"too few for that", keys[:10]},
		{"exactly those of the set", keys},
		{"more than it has", append(slices.Clone(keys), key(n), key(n+1))},
		{"some of those that it has, and others", slices.Concat(
			[]ruleset.Tuple{key(n)}, keys[:100], []ruleset.Tuple{key(n + 1), key(n + 2)}, keys[102:], []ruleset.Tuple{key(n + 3)})},
		{"as many as it has, but one other", append(slices.Clone(keys[1:]), key(n))},
	} {
		t.Run(test.name, func(t *testing.T) {
			r, err := c.Read(t.Context(), "t", []ruleset.Family{ruleset.IPv4}, func(ruleset.Family, string) bool { return false })
			if err != nil {
				t.Fatal(err)
			}
			got := r.Tables[0].Sets[0]
			if err := c.ReadElements(t.Context(), r.Tables[0], got, test.keys); err != nil {
				t.Fatal(err)
			}
			slices.SortFunc(got.Elements, func(x, y ruleset.Element) int { return x.Key.Compare(&y.Key) })
			if !slices.Equal(set.Elements, got.Elements) {
				t.Errorf("%d elements, want %d", len(got.Elements), len(set.Elements))
				t.Log(cmp.Diff(set.Elements[:10], got.Elements[:10], cmp.AllowUnexported(ruleset.Tuple{})))
			}
		})
	}

	nft(t, ns, "add element ip t s { * : 10.0.0.2 . 1 }\n", "-f", "-")
	r, err := c.Read(t.Context(), "t", []ruleset.Family{ruleset.IPv4}, func(ruleset.Family, string) bool { return false })
	if err != nil {
		t.Fatal(err)
	}
	got := r.Tables[0].Sets[0]
	if err := c.ReadElements(t.Context(), r.Tables[0], got, keys); err != nil || got.Opaque == "" {
		t.Errorf("with a catch-all element, %d elements and no objection, error %v", len(got.Elements), err)
	}
}
