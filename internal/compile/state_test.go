package compile

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/nftdp/go-nftdp/internal/ruleset"
)

// FuzzStage: an edit computed from the services concerned has the same changes as
// a comparison of the whole rulesets.
func FuzzStage(f *testing.F) {
	addRandom(f, 200)
	f.Fuzz(func(t *testing.T, data []byte) {
		d := &dice{data}
		state := New(d.config(), d.services())
		for range 4 {
			set, remove := d.change(state)
			checkStage(t, state, set, remove)
		}
	})
}

func checkStage(t *testing.T, state *State, set []*Service, remove []string) {
	t.Helper()
	former := state.Ruleset()
	full := New(state.cfg, state.Replaced(set, remove))
	want := full.Ruleset()

	wantNamesOnce(t, want)
	delta := state.Stage(set, remove)
	changes := delta.Transaction().Changes()
	if state.Ruleset().String() != former.String() {
		t.Error("Stage changed the state")
	}
	if diff := gocmp.Diff(text(want), text(ruleset.Apply(former, changes))); diff != "" {
		t.Errorf("the change makes another ruleset (-want +got):\n%s\n%v", diff, changes)
	}
	if diff := gocmp.Diff(commands(ruleset.Diff(former, want).Changes()), commands(changes)); diff != "" {
		t.Errorf("the change has other commands than a comparison (-want +got):\n%s", diff)
	}

	delta.Commit()
	if diff := gocmp.Diff(want.String(), state.Ruleset().String()); diff != "" {
		t.Errorf("the state does not compile to the ruleset of a new one (-want +got):\n%s", diff)
	}
	exact := gocmp.Options{
		gocmp.AllowUnexported(State{}, Directory{}, Index{}, portRange{}, shared{}, class{}, pool{}, owner{}, limit{}, learner{}, splitLearner{}, prefixes{}),
		cmpopts.EquateComparable(netip.Addr{}, netip.AddrPort{}, netip.Prefix{}), cmpopts.IgnoreFields(Directory{}, "mu"),
	}
	if diff := gocmp.Diff(full, state, exact); diff != "" {
		t.Errorf("the state differs from a new one (-want +got):\n%s", diff)
	}
}

// wantNamesOnce checks that no two chains or sets of a table have the same name,
// which a kernel would refuse.
func wantNamesOnce(t *testing.T, r *ruleset.Ruleset) {
	t.Helper()
	for _, table := range r.Tables {
		chains, sets := map[string]bool{}, map[string]bool{}
		for _, c := range table.Chains {
			if chains[c.Name] {
				t.Errorf("two chains %s", c.Name)
			}
			chains[c.Name] = true
		}
		for _, s := range table.Sets {
			if sets[s.Name] {
				t.Errorf("two sets %s", s.Name)
			}
			sets[s.Name] = true
		}
	}
}

// commands returns the changes as nft commands, sorted.
func commands(changes []ruleset.Change) []string {
	var out []string
	for i := range changes {
		out = append(out, strings.Split(changes[i].String(), "\n")...)
	}
	slices.Sort(out)
	return out
}

// FuzzHolds: the services read from a ruleset compile to the same ruleset, so that
// a new process can continue where the last one ended.
func FuzzHolds(f *testing.F) {
	addRandom(f, 100)
	f.Fuzz(func(t *testing.T, data []byte) {
		d := &dice{data}
		cfg, services := d.config(), d.services()
		want := New(cfg, services).Ruleset()
		var got []*Service
		for _, h := range Holds(want) {
			got = append(got, &h.Service)
		}
		if diff := gocmp.Diff(text(want), text(New(cfg, got).Ruleset())); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
		var names []string
		for _, s := range services {
			if len(s.Frontends) > 0 {
				names = append(names, s.Name)
			}
		}
		for i, s := range got {
			if i >= len(names) || s.Name != names[i] {
				t.Errorf("service %d is %q, want one of %q, sorted", i, s.Name, names)
			}
		}
	})
}

// TestFits: a change fits if there is room for all added elements beside all
// present ones, since the kernel frees the room of deleted elements only
// afterwards.
func TestFits(t *testing.T) {
	backends := func(first, n int) *Service {
		s := &Service{Name: "s", Proto: TCP, Frontends: []*Frontend{{Addr: addr("10.9.0.1"), Port: 80}}}
		for i := first; i < first+n; i++ {
			a := netip.AddrFrom4([4]byte{10, 8, byte(i >> 8), byte(i)})
			f := s.Frontends[0]
			f.Pool = append(f.Pool, netip.AddrPortFrom(a, 80))
		}
		return s
	}
	size := int(ruleset.SizeFor(0))
	for _, c := range []struct {
		name          string
		before, after *Service
		want          bool
	}{
		{"up to the size", backends(0, 1), backends(0, size), true},
		{"beyond the size", backends(0, 1), backends(0, size+1), false},
		{"all replaced, half full", backends(0, size/2), backends(size/2, size/2), true},
		{"all replaced, more than half full", backends(0, size/2+1), backends(size/2+1, size/2+1), false},
		{"fewer", backends(0, size), backends(0, 1), true},
	} {
		t.Run(c.name, func(t *testing.T) {
			current := New(Config{}, nil).Ruleset()
			state := New(Config{}, []*Service{c.before})
			state.SetSizes(current, nil)
			if got := state.Stage([]*Service{c.after}, nil).Fits(); got != c.want {
				t.Errorf("fits: %t, want %t", got, c.want)
			}
		})
	}
	t.Run("unknown sizes", func(t *testing.T) {
		state := New(Config{}, nil)
		if !state.Stage([]*Service{backends(0, 2*size)}, nil).Fits() {
			t.Error("it does not fit")
		}
	})
}

// TestSetSizes: the kernel's sets keep their sizes, except those that are
// replaced.
func TestSetSizes(t *testing.T) {
	services := []*Service{{Name: "s", Proto: TCP, Frontends: []*Frontend{{Addr: addr("10.9.0.1"), Port: 80}}}}
	state := New(Config{}, services)
	current := New(Config{}, nil).Ruleset()
	current.Table(ruleset.IPv4).Set("masq").Size = 0
	current.Table(ruleset.IPv4).Set("backends").Size = 4096
	current.Tables = current.Tables[:1]
	remade := *current.Tables[0].Set("frontends")
	remade.Size = 8192

	state.SetSizes(current, []ruleset.Change{
		{Verb: ruleset.Add, Family: ruleset.IPv4, Set: &remade},
		{Verb: ruleset.Delete, Family: ruleset.IPv4, Set: &ruleset.Set{Name: "masq", Size: 7}},
		{Verb: ruleset.Add, Family: ruleset.IPv6, Set: &ruleset.Set{Name: internalSet, Size: 7}},
		{Verb: ruleset.Add, Family: ruleset.IPv6, Set: &ruleset.Set{Name: "masq", Size: 7}, Elements: make([]ruleset.Element, 1)},
	})
	for _, c := range []struct {
		family int
		id     SetID
		want   uint32
	}{
		{0, Frontends, 8192},
		{0, Backends, 4096},
		{0, Masq, 0},
		{0, Hairpin, 1024},
		{1, Masq, 1024}, // of the table that is added
	} {
		if got := state.sizes[c.family][c.id]; got != c.want {
			t.Errorf("family %d, set %d: size %d, want %d", c.family, c.id, got, c.want)
		}
	}
}
