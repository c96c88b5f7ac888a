package compile

import (
	"maps"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/nftdp/go-nftdp/internal/ruleset"
)

// FuzzKeys: in a table that nobody else has changed, the keys of the maps of pools
// and of the set of backends' addresses are exactly those that follow from what
// was read before.
func FuzzKeys(f *testing.F) {
	addRandom(f, 200)
	f.Fuzz(func(t *testing.T, b []byte) {
		d := &dice{b}
		for _, table := range New(d.config(), d.services()).Ruleset().Tables {
			known := *table
			known.Sets = nil
			for id, set := range table.Sets[:NumSets] {
				hollow := *set
				hollow.Elements = nil
				known.Sets = append(known.Sets, &hollow)
				got := Keys(&known, SetID(id))
				known.Sets[id] = set
				if !SetID(id).Backends() && SetID(id) != Hairpin {
					continue
				}
				want := map[ruleset.Tuple]int{}
				for _, e := range set.Elements {
					want[e.Key]++
				}
				count := map[ruleset.Tuple]int{}
				for _, k := range got {
					count[k]++
				}
				if !maps.Equal(want, count) {
					t.Errorf("keys of %s %s (-want +got):\n%s", table.Family, set.Name,
						cmp.Diff(keysText(want), keysText(count)))
				}
			}
		}
	})
}

func keysText(keys map[ruleset.Tuple]int) []string {
	var out []string
	for k, n := range keys {
		for range n {
			out = append(out, string(k.Bytes()[:k.Len()]))
		}
	}
	slices.Sort(out)
	return out
}
