//go:build linux

package nftdp

import (
	"context"
	"fmt"
	"slices"
	"testing"

	"github.com/nftdp/go-nftdp/internal/ruleset"
)

// TestOwnersAtEveryMoment: another owner adds a service that shares chains, lists of
// clients and addresses of backends with one that comes or goes, at any moment of
// that. The kernel then holds what both want, in whichever order they came.
func TestOwnersAtEveryMoment(t *testing.T) {
	like := func(name string, number int) Service { // with the same backends, whatever the number
		s := owned(name, web("1", number, 3))
		s.Backends = web("", 1, 3).Backends
		s.Frontends[0].Allow = prefixes("10.0.0.0/8")
		return s
	}
	a1, a2, b1, b2 := like("a", 1), like("a", 2), like("b", 3), owned("b", web("2", 4, 1))
	a2.Name = "a/2"
	for name, c := range map[string]struct {
		ours func(ctx context.Context, d *Dataplane) error
		held []Service
		want []Service
	}{
		"comes": {func(ctx context.Context, d *Dataplane) error {
			_, err := d.Update(ctx, Change{Set: []Service{a1}})
			return err
		}, nil, []Service{a1}},
		"goes": {func(ctx context.Context, d *Dataplane) error {
			_, err := d.Update(ctx, Change{Delete: []string{"a/1"}})
			return err
		}, []Service{a1}, nil},
		"goes by Apply": {func(ctx context.Context, d *Dataplane) error {
			_, err := d.Apply(ctx, []Service{a2})
			return err
		}, []Service{a1}, []Service{a2}},
		"goes with the tables": {func(ctx context.Context, d *Dataplane) error { return d.Remove(ctx) }, []Service{a1}, nil},
	} {
		for _, fresh := range []bool{false, true} {
			for _, comes := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s, fresh %t, other comes %t", name, fresh, comes), func(t *testing.T) {
					n := newNode(t)
					ca, cb := Config{Owner: "a"}, Config{Owner: "b"}
					a, b := n.open(t, ca), n.open(t, cb)
					everyCheck(t, func(t *testing.T, ctx *checked, happen *func()) {
						apply(t, b, []Service{b2})
						theirs, want := []Service{b2}, []Service{b1, b2}
						change := Change{Set: []Service{b1}}
						if !comes { // but goes
							theirs, want, change = []Service{b1, b2}, []Service{b2}, Change{Delete: []string{"b/1"}}
						}
						apply(t, b, theirs)
						apply(t, a, c.held)
						d := a
						if fresh {
							d = n.open(t, ca)
						}
						happened := false
						*happen = func() { happened = true; updateWith(t, b, change) }
						if err := c.ours(ctx, d); err != nil {
							t.Error(err)
						}
						if !happened {
							want = theirs
						}
						n.wantAtLeast(t, ca, append(want, c.want...)...)
						apply(t, b, want)
						n.wantAtLeast(t, ca, append(want, c.want...)...)
					})
				})
			}
		}
	}
}

// TestOwnersGrow: a map that is full is replaced by a larger one, with what another
// owner adds or deletes at any moment of that.
func TestOwnersGrow(t *testing.T) {
	n := newNode(t)
	ca, cb := Config{Owner: "a"}, Config{Owner: "b"}
	var held []Service
	for i := range 500 {
		held = append(held, owned("a", Service{Name: fmt.Sprint(i), Frontends: []Frontend{{Addr: numbered("10.97.0.0", i), Port: 80}}}))
	}
	more := owned("a", Service{Name: "more"})
	for i := range 600 {
		more.Frontends = append(more.Frontends, Frontend{Addr: numbered("10.98.0.0", i), Port: 80})
	}
	b1, b2 := owned("b", web("1", 1, 2)), owned("b", web("2", 2, 3))
	a, b := n.open(t, ca), n.open(t, cb)
	everyCheck(t, func(t *testing.T, ctx *checked, happen *func()) {
		if err := a.Remove(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := b.Remove(t.Context()); err != nil {
			t.Fatal(err)
		}
		apply(t, a, held)
		apply(t, b, []Service{b1})
		want := b1
		*happen = func() {
			want = b2
			updateWith(t, b, Change{Set: []Service{b2}, Delete: []string{b1.Name}})
		}
		if _, err := a.Update(ctx, Change{Set: []Service{more}}); err != nil {
			t.Error(err)
		}
		n.wantAtLeast(t, ca, append(slices.Clip(held), more, want)...)
	})
}

// TestOwnersBetweenBatches: another owner begins to use what is about to be deleted,
// or changes a service while the map that it is in is replaced, right before each
// of the batches.
func TestOwnersBetweenBatches(t *testing.T) {
	ca, cb := Config{Owner: "a"}, Config{Owner: "b"}
	a1, b1 := owned("a", web("1", 1, 3)), owned("b", web("1", 2, 3))
	b1.Backends = a1.Backends
	full := owned("a", Service{Name: "full"})
	more := owned("a", Service{Name: "more"})
	for i := range 600 { // 500 are declared with room for 1024
		full.Frontends = append(full.Frontends, Frontend{Addr: numbered("10.97.0.0", i), Port: 80})
		more.Frontends = append(more.Frontends, Frontend{Addr: numbered("10.98.0.0", i), Port: 80})
	}
	full.Frontends = full.Frontends[:500]
	for name, c := range map[string]struct {
		held   []Service
		change Change
		want   []Service
	}{
		"goes":         {[]Service{a1}, Change{Delete: []string{"a/1"}}, nil},
		"another pool": {[]Service{a1}, Change{Set: []Service{owned("a", web("1", 1, 1))}}, []Service{owned("a", web("1", 1, 1))}},
		"full":         {[]Service{full}, Change{Set: []Service{a1, more}}, []Service{full, a1, more}},
	} {
		for at, batches := 1, 1; at <= batches; at++ {
			n := newNode(t)
			a, spy := n.spied(t, ca)
			b := n.open(t, cb)
			apply(t, b, []Service{owned("b", web("2", 5, 3))})
			apply(t, a, c.held)
			seen := 0
			spy.before = func([]ruleset.Change) {
				if seen++; seen == at {
					updateWith(t, b, Change{Set: []Service{b1}, Delete: []string{"b/2"}})
				}
			}
			updateWith(t, a, c.change)
			if at == 1 {
				batches = seen
			}
			if at <= seen {
				n.wantAtLeast(t, ca, append(slices.Clip(c.want), b1)...)
			}
			if t.Failed() {
				t.Fatalf("%s: at batch %d of %d", name, at, batches)
			}
		}
	}
}

// TestOwnersSplit: an Apply that does not fit into one batch leaves other owners'
// services alone, too, and misses nothing that the owners share, whatever the other
// one does between the batches.
func TestOwnersSplit(t *testing.T) {
	n := newNode(t)
	ca, cb := Config{Owner: "a"}, Config{Owner: "b"}
	a, spy := n.spied(t, ca)
	b := n.open(t, cb)
	b1, b2 := owned("b", web("1", 200, 3)), owned("b", web("2", 201, 4))
	apply(t, b, []Service{b1})
	var list []Service
	for i := range 60 {
		s := owned("a", web(fmt.Sprint(i), i, 1+i%5))
		s.Backends = append(s.Backends, b1.Backends...)
		list = append(list, s)
	}
	spy.limit = 6000
	spy.before = func([]ruleset.Change) {
		updateWith(t, b, Change{Delete: []string{"b/1"}})
		updateWith(t, b, Change{Set: []Service{b1, b2}})
	}
	apply(t, a, list)
	n.wantAtLeast(t, ca, append(slices.Clone(list), b1, b2)...)
	spy.before = nil
	apply(t, a, list[:10])
	apply(t, b, []Service{b1})
	n.wantShared(t, ca, append(slices.Clone(list[:10]), b1)...)
	if spy.batches < 20 {
		t.Errorf("%d batches", spy.batches)
	}
}
