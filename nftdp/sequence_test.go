//go:build linux

package nftdp

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/nftdp/go-nftdp/internal/ruleset"
)

var (
	sequences = flag.Int("sequences", 20, "how many random sequences of changes to try in the kernel")
	firstSeed = flag.Uint64("seed", 0, "seed of the first of them; 0 takes another one in every run")
)

// TestRandomSequences changes services at random in every possible way, and has
// others change the tables, which is then repaired. After each step the kernel
// holds the wanted services, with the counters of everything that has existed
// without interruption.
func TestRandomSequences(t *testing.T) {
	first := *firstSeed
	if first == 0 {
		first = uint64(rand.Uint32())
	}
	for seed := first; seed < first+uint64(*sequences); seed++ {
		s := &sequence{
			dice: &dice{randomBytes(seed, 20_000)}, node: newNode(t), counts: map[counted]Counter{},
		}
		for range 20 {
			if s.step(t); t.Failed() {
				t.Fatalf("repeat with go test -run TestRandomSequences -sequences 1 -seed %d; steps:\n%s", seed, s.log)
			}
		}
	}
}

// sequence is the expected state of a node during random changes.
type sequence struct {
	*dice
	node      *node
	dataplane *Dataplane
	known     bool // the dataplane has committed a change, so it knows all services
	config    Config
	services  []Service
	counts    map[counted]Counter
	log       string
}

func (s *sequence) step(t *testing.T) {
	t.Helper()
	if s.dataplane == nil || s.roll(5) == 0 {
		s.config = s.dice.config()
		s.dataplane, s.known = s.node.open(t, s.config), false
		s.log += fmt.Sprintf("open %s\n", asJSON(s.config))
		if s.roll(2) == 0 { // otherwise the old skeleton stays until the next change
			return
		}
	}
	switch s.roll(10) {
	case 0:
		s.log += "disturb\n"
		s.node.disturb(t)
		return
	case 1:
		s.apply(t, s.dice.services())
	case 2:
		s.apply(t, s.reordered(s.services))
	case 3:
		s.remove(t)
		return
	case 4:
		s.spoil(t)
		return
	default:
		if !s.update(t) {
			return
		}
	}
	s.check(t)
}

func (s *sequence) apply(t *testing.T, services []Service) {
	t.Helper()
	s.log += fmt.Sprintf("apply %s\n", asJSON(services))
	planned, err := s.dataplane.Plan(t.Context(), services)
	if err != nil {
		t.Fatal(err)
	}
	applied := apply(t, s.dataplane, services)
	if diff := cmp.Diff(sortedLines(planned), sortedLines(applied)); diff != "" {
		t.Errorf("the applied plan differs from Plan (-planned +applied):\n%s", diff)
	}
	s.services, s.known = services, true
}

// update changes some services. An invalid change is refused and changes nothing.
func (s *sequence) update(t *testing.T) (valid bool) {
	t.Helper()
	var c Change
	next := slices.Clone(s.services)
	some := s.dice.services()
	if len(next) > 0 && s.roll(3) == 0 { // a few frontends of one service
		some = []Service{*s.tweaked(&next[s.roll(len(next))])}
	}
	for _, svc := range some {
		if len(some) > 1 && s.roll(3) > 0 {
			continue
		}
		at := slices.IndexFunc(next, func(x Service) bool { return x.Name == svc.Name })
		switch {
		case at >= 0 && s.roll(3) == 0:
			c.Delete = append(c.Delete, svc.Name)
			next = slices.Delete(next, at, at+1)
		case at >= 0:
			c.Set = append(c.Set, svc)
			next[at] = svc
		default:
			c.Set = append(c.Set, svc)
			next = append(next, svc)
		}
	}
	s.log += fmt.Sprintf("update %s\n", asJSON(c))
	generation := s.node.generation(t)
	_, err := s.dataplane.Update(t.Context(), c)
	valid = s.config.Validate(next) == nil
	switch {
	case valid != (err == nil):
		t.Errorf("update to services that are valid (%t): %v", valid, err)
	case valid:
		s.services, s.known = next, true
	case s.node.generation(t) != generation:
		t.Error("the ruleset has changed")
	}
	return valid
}

func (s *sequence) remove(t *testing.T) {
	t.Helper()
	s.log += "remove\n"
	if err := s.dataplane.Remove(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.services, s.known, s.counts = nil, false, map[counted]Counter{}
}

// check compares the kernel with the wanted state, and increases its counters.
func (s *sequence) check(t *testing.T) {
	t.Helper()
	s.node.wantServices(t, s.config, s.services)
	got := s.node.read(t, DefaultTable)
	want := countsOf(mustCompile(t, s.config, s.services))
	for key := range want {
		want[key] = s.counts[key]
	}
	if diff := cmp.Diff(want, countsOf(got)); diff != "" {
		t.Errorf("counts (-want +got):\n%s", diff)
	}
	if s.roll(3) == 0 {
		s.log += "count\n"
		count(got)
		s.node.load(t, s.node.read(t, DefaultTable), nothing())
		s.node.load(t, nothing(), got)
	}
	s.counts = countsOf(got)
}

// spoil changes our tables as another process would, and then has them repaired: by
// Apply, or by an empty Update if all services are known.
func (s *sequence) spoil(t *testing.T) {
	t.Helper()
	held := s.node.read(t, DefaultTable)
	spoilt := ruleset.Apply(held.rules, nil)
	for range 1 + s.roll(3) {
		s.dice.spoil(spoilt)
	}
	s.log += fmt.Sprintf("spoil\n%v", held.PlanTo(&Ruleset{rules: spoilt}))
	s.node.load(t, held, &Ruleset{rules: spoilt})
	if s.known && s.roll(2) == 0 {
		updateWith(t, s.dataplane, Change{})
	} else {
		apply(t, s.dataplane, s.services)
	}
	s.node.wantServices(t, s.config, s.services)
	s.counts = countsOf(s.node.read(t, DefaultTable))
}

// spoil damages a ruleset at random.
func (d *dice) spoil(r *ruleset.Ruleset) {
	if len(r.Tables) == 0 {
		return
	}
	at := d.roll(len(r.Tables))
	table := r.Tables[at]
	if len(table.Sets) == 0 || len(table.Chains) == 0 {
		return
	}
	set, chain := one(d, table.Sets), one(d, table.Chains)
	switch d.roll(8) {
	case 0:
		r.Tables = slices.Delete(r.Tables, at, at+1)
	case 1:
		set.Elements = nil
	case 2:
		set.Elements = slices.DeleteFunc(set.Elements, func(ruleset.Element) bool { return d.roll(2) == 0 })
	case 3:
		comment(set, "theirs")
	case 4:
		chain.Rules = nil
	case 5:
		shuffle(d, chain.Rules)
	case 6:
		if table.Set("more") == nil {
			addSet(table)
		}
	case 7:
		if table.Chain("theirs") == nil {
			rules := slices.Clone(one(d, table.Chains).Rules)
			table.Chains = append(table.Chains, &ruleset.Chain{Name: "theirs", Rules: rules})
		}
	}
}
