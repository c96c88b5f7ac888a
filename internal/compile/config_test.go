package compile

import (
	"reflect"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"

	"github.com/nftdp/go-nftdp/internal/ruleset"
)

// FuzzConfigured: what another configuration changes is computed from the fixed parts
// alone, and leads to the ruleset that it compiles to from the beginning.
func FuzzConfigured(f *testing.F) {
	addRandom(f, 200)
	f.Fuzz(func(t *testing.T, data []byte) {
		d := &dice{data}
		services := d.services()
		state, cfg := New(d.config(), services), d.config()
		cfg.Affinities += uint32(d.roll(2))
		next := state.Configured(cfg)
		changes := ruleset.Diff(state.Fixed(), next.Fixed()).Changes()
		if !cfg.SameElements(state.Config()) {
			changes = ruleset.Diff(state.Ruleset(), next.Ruleset()).Changes()
		}
		got, want := ruleset.Apply(state.Ruleset(), changes), New(cfg, services).Ruleset()
		if diff := gocmp.Diff(text(want), text(got)); diff != "" {
			t.Errorf("the change makes another ruleset (-want +got):\n%s\n%v", diff, changes)
		}
		if diff := gocmp.Diff(text(want), text(next.Ruleset())); diff != "" {
			t.Errorf("the state compiles to another ruleset (-want +got):\n%s", diff)
		}
		if !reflect.DeepEqual(next.shared, New(cfg, services).shared) {
			t.Error("the state counts other uses than a new one")
		}
		for i := range changes {
			if c := &changes[i]; c.Set != nil && SetNamed(c.Set.Name) < NumSets && cfg.SameElements(state.Config()) {
				t.Errorf("a change of services: %v", c)
			}
		}
	})
}
