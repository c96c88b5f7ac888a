package compile

import (
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/nftdp/go-nftdp/internal/ruleset"
)

// FuzzExcerpt: at every place an excerpt has the same elements as the whole
// ruleset, given the services that the keys of the places belong to.
func FuzzExcerpt(f *testing.F) {
	addRandom(f, 200)
	f.Fuzz(func(t *testing.T, b []byte) {
		d := &dice{b}
		config := d.config()
		state, other := New(config, d.services()), New(config, d.services())
		var parts [2]map[Place]bool
		for i := range parts {
			parts[i] = map[Place]bool{}
		}
		for _, t := range slices.Concat(state.Ruleset().Tables, other.Ruleset().Tables) {
			for id := range NumSets {
				for e := range elements(t, id) {
					parts[d.roll(2)][Place{t.Family, id, e.Key}] = true
				}
			}
		}
		for _, at := range parts {
			want := state.Ruleset()
			for i, f := range ruleset.Families {
				for _, s := range want.Tables[i].Sets {
					id := SetNamed(s.Name)
					if id == NumSets {
						continue
					}
					s.Elements = slices.DeleteFunc(s.Elements, func(e ruleset.Element) bool { return !at[Place{f, id, e.Key}] })
				}
			}
			got := state.Excerpt(at, ownersOf(state, at), true)
			if diff := cmp.Diff(text(sortedByKey(want)), text(sortedByKey(got))); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		}
	})
}

// ownersOf returns the services that own the frontends of the places.
func ownersOf(state *State, at map[Place]bool) map[string]bool {
	out := map[string]bool{}
	for p := range at {
		k, ok := FrontendOf(p.Set, p.Family, p.Key)
		for _, s := range state.Services() {
			for _, f := range s.Frontends {
				if ok && s.Proto == k.Proto && f.Addr == k.Addr && f.Port == k.Port {
					out[s.Name] = true
				}
			}
		}
	}
	return out
}

func sortedByKey(r *ruleset.Ruleset) *ruleset.Ruleset {
	for _, t := range r.Tables {
		for _, s := range t.Sets {
			slices.SortFunc(s.Elements, func(x, y ruleset.Element) int { return x.Key.Compare(&y.Key) })
		}
	}
	return r
}
