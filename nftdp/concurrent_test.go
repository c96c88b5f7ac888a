//go:build linux

package nftdp

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/nftdp/go-nftdp/internal/ruleset"
)

// everyCheck runs f with a context whose n-th check calls *happen: for the
// first and the last checks, between which the transaction begins and ends, and
// for some of those in the middle, which come with the answers to a dump.
func everyCheck(t *testing.T, f func(t *testing.T, ctx *checked, happen *func())) {
	t.Helper()
	try := func(n int) (checks int) {
		happen := func() {}
		ctx := checkedAt(t.Context(), n, func() { happen() })
		if f(t, ctx, &happen); t.Failed() {
			t.Fatalf("at check %d", n)
		}
		return ctx.checks
	}
	checks := try(0)
	for n := 1; n <= checks; n++ {
		if n < 5 || n%9 == 0 || n > checks-10 {
			try(n)
		}
	}
}

// knownOrNot passes a source of dataplanes to tests that need many of them.
// Whenever one is taken, the kernel holds the services.
func knownOrNot(t *testing.T, held []Service, test func(*testing.T, *node, func() *Dataplane)) {
	t.Helper()
	dataplanes(t, held, func(t *testing.T, n *node, d *Dataplane) {
		known := strings.HasSuffix(t.Name(), "/known")
		var opened *Dataplane
		test(t, n, func() *Dataplane {
			apply(t, d, held)
			if known {
				return d
			}
			if opened != nil {
				closeOf(t, opened) // the contents of its buffers would keep memory of the kernel
			}
			opened = n.open(t, Config{})
			return opened
		})
	})
}

// TestDisturbed: every method succeeds, at whatever moment another process
// changes rules.
func TestDisturbed(t *testing.T) {
	held, next := someServices(), append(someServices()[1:], web("d", 4, 2))
	for name, method := range map[string]struct {
		do   func(context.Context, *Dataplane) error
		want []Service
	}{
		"apply": {func(ctx context.Context, d *Dataplane) error { _, err := d.Apply(ctx, next); return err }, next},
		"update": {func(ctx context.Context, d *Dataplane) error {
			_, err := d.Update(ctx, Change{Set: next[2:], Delete: []string{"a"}})
			return err
		}, next},
		"plan":    {func(ctx context.Context, d *Dataplane) error { _, err := d.Plan(ctx, next); return err }, held},
		"inspect": {func(ctx context.Context, d *Dataplane) error { _, err := d.Inspect(ctx); return err }, held},
	} {
		t.Run(name, func(t *testing.T) {
			knownOrNot(t, held, func(t *testing.T, n *node, open func() *Dataplane) {
				everyCheck(t, func(t *testing.T, ctx *checked, happen *func()) {
					*happen = func() { n.disturb(t) }
					if err := method.do(ctx, open()); err != nil {
						t.Error(err)
					}
					n.wantServices(t, Config{}, method.want)
				})
			})
		})
	}
}

// TestDisturbedRemove: Remove succeeds, at whatever moment another process
// changes rules.
func TestDisturbedRemove(t *testing.T) {
	n := newNode(t)
	d := n.open(t, Config{})
	everyCheck(t, func(t *testing.T, ctx *checked, happen *func()) {
		apply(t, d, someServices())
		*happen = func() { n.disturb(t) }
		if err := d.Remove(ctx); err != nil {
			t.Error(err)
		}
		n.wantText(t, DefaultTable, "")
	})
}

// TestTwoWriters: two processes that have just started update one service each,
// the second at any moment of the first one's Update. The kernel then holds
// both services.
func TestTwoWriters(t *testing.T) {
	n := newNode(t)
	a, b, c := web("a", 1, 1), web("b", 2, 2), web("c", 3, 3)
	everyCheck(t, func(t *testing.T, ctx *checked, happen *func()) {
		apply(t, n.open(t, Config{}), []Service{a})
		one, two := n.open(t, Config{}), n.open(t, Config{})
		want := []Service{b}
		*happen = func() {
			updateWith(t, two, Change{Set: []Service{c}})
			want = append(want, c)
		}
		plan, err := one.Update(ctx, Change{Set: []Service{b}, Delete: []string{"a"}})
		if err != nil || plan.Empty() {
			t.Errorf("plan %v, error %v", plan, err)
		}
		n.wantServices(t, Config{}, want)
	})
}

// TestConflict: while others keep changing our tables, every method that has to
// read them fails with ErrConflict and changes nothing. An Update need not read
// them as long as the kernel accepts it.
func TestConflict(t *testing.T) {
	dataplanes(t, someServices(), func(t *testing.T, n *node, d *Dataplane) {
		text := n.read(t, DefaultTable).String()
		ctx := &checked{Context: t.Context(), check: func(int) error { n.tamper(t); return nil }}
		_, err := d.Plan(ctx, nil)
		wantConflict(t, "plan", err)
		_, err = d.Apply(ctx, nil)
		wantConflict(t, "apply", err)
		_, err = d.Ruleset(ctx)
		wantConflict(t, "ruleset", err)
		n.wantText(t, DefaultTable, text)

		// A refused change has claimed and deleted nothing.
		next := append(someServices(), renamed(web("d", 4, 1), "e"))
		updateWith(t, d, Change{Set: next[3:]})
		n.wantServices(t, Config{}, next)

		if _, err := d.Update(ctx, Change{Delete: []string{"e"}}); err != nil {
			t.Errorf("update: %v", err)
		}
		n.wantServices(t, Config{}, someServices())
	})
}

// TestOthersDoNotStop: every method succeeds while others keep changing other
// tables.
func TestOthersDoNotStop(t *testing.T) {
	dataplanes(t, someServices(), func(t *testing.T, n *node, d *Dataplane) {
		ctx := &checked{Context: t.Context(), check: func(int) error { n.disturb(t); return nil }}
		next := append(someServices()[1:], web("d", 4, 1))
		if _, err := d.Plan(ctx, nil); err != nil {
			t.Errorf("plan: %v", err)
		}
		if _, err := d.Update(ctx, Change{Set: next[2:], Delete: []string{"a"}}); err != nil {
			t.Errorf("update: %v", err)
		}
		n.wantServices(t, Config{}, next)
		if _, err := d.Apply(ctx, someServices()); err != nil {
			t.Errorf("apply: %v", err)
		}
		n.wantServices(t, Config{}, someServices())
		if _, err := d.Inspect(ctx); err != nil {
			t.Errorf("inspect: %v", err)
		}
		if err := d.Remove(ctx); err != nil {
			t.Errorf("remove: %v", err)
		}
		n.wantText(t, DefaultTable, "")
	})
}

func wantConflict(t *testing.T, method string, err error) {
	t.Helper()
	if !errors.Is(err, ErrConflict) {
		t.Errorf("%s: %v", method, err)
	}
}

// TestCancelled: at whatever moment the context ends, the kernel holds the
// former services or the wanted ones, and the next change succeeds.
func TestCancelled(t *testing.T) {
	held, next := someServices(), append(someServices()[1:], web("d", 4, 2))
	before, after := mustCompile(t, Config{}, held).status(), mustCompile(t, Config{}, next).status()
	knownOrNot(t, held, func(t *testing.T, n *node, open func() *Dataplane) {
		for at := 1; ; at += 1 + at/12 {
			d, cancelled := open(), false
			ctx := &checked{Context: t.Context(), check: func(n int) error {
				if n < at {
					return nil
				}
				cancelled = true
				return context.Canceled
			}}
			_, err := d.Update(ctx, Change{Set: next[2:], Delete: []string{"a"}})
			got := n.read(t, DefaultTable).status()
			isBefore, isAfter := cmp.Equal(before, got, plainAddrs()), cmp.Equal(after, got, plainAddrs())
			switch {
			case err == nil && (cancelled || !isAfter):
				t.Fatalf("cancelled at check %d: no error, although cancelled, or with other services: before %t, after %t", at, isBefore, isAfter)
			case err != nil && (!errors.Is(err, context.Canceled) || !isBefore && !isAfter):
				t.Fatalf("cancelled at check %d: %v, %s", at, err, asJSON(got))
			}
			updateWith(t, d, Change{Set: []Service{web("e", 5, 4)}, Delete: []string{"b"}})
			apply(t, d, next)
			n.wantServices(t, Config{}, next)
			if !cancelled {
				return
			}
		}
	})
}

// TestWaitForTurn: methods take turns, and waiting ends with the context.
func TestWaitForTurn(t *testing.T) {
	n := newNode(t)
	d, spy := n.spied(t, Config{})
	held, release := spy.hold()
	applied := make(chan error, 1)
	go func() { _, err := d.Apply(t.Context(), nil); applied <- err }()
	receive(t, held) // another method is running
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	_, err := d.Plan(ctx, nil)
	wantDeadline(t, "plan", err)
	_, err = d.Apply(ctx, nil)
	wantDeadline(t, "apply", err)
	_, err = d.Update(ctx, Change{})
	wantDeadline(t, "update", err)
	_, err = d.Inspect(ctx)
	wantDeadline(t, "inspect", err)
	wantDeadline(t, "remove", d.Remove(ctx))
	release()
	if err := receive(t, applied); err != nil {
		t.Error(err)
	}
	apply(t, d, someServices())
}

func wantDeadline(t *testing.T, method string, err error) {
	t.Helper()
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%s: %v", method, err)
	}
}

// TestManyCallers: several goroutines can use one Dataplane.
func TestManyCallers(t *testing.T) {
	n := newNode(t)
	d := n.open(t, Config{})
	const callers, rounds = 8, 5
	var want []Service
	var wait sync.WaitGroup
	for i := range callers {
		name := fmt.Sprint("service ", i)
		want = append(want, web(name, i, rounds))
		wait.Go(func() {
			for backends := 1; backends <= rounds; backends++ {
				if _, err := d.Update(t.Context(), Change{Set: []Service{web(name, i, backends)}}); err != nil {
					t.Error(err)
				}
				if _, err := d.Inspect(t.Context()); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wait.Wait()
	n.wantServices(t, Config{}, want)
}

// TestBusyNamespace: changes succeed while another process changes rules as
// fast as it can.
func TestBusyNamespace(t *testing.T) {
	n := newNode(t)
	d := n.open(t, Config{})
	apply(t, d, someServices())
	ctx, stop := context.WithCancel(t.Context())
	var wait sync.WaitGroup
	wait.Go(func() { disturbUntil(ctx, t, n) })
	services := someServices()
	for i := range 20 {
		services[1] = web("b", 2, i%4)
		if _, err := d.Update(t.Context(), Change{Set: services[1:2]}); err != nil {
			t.Error(err)
		}
	}
	stop()
	wait.Wait()
	n.wantServices(t, Config{}, services)
}

func disturbUntil(ctx context.Context, t *testing.T, n *node) {
	t.Helper()
	change := ruleset.Change{Verb: ruleset.Add, Family: ruleset.IPv6, Table: "disturbing"}
	for ctx.Err() == nil || change.Verb == ruleset.Delete {
		generation, err := n.conn.Generation(t.Context())
		if err != nil {
			t.Error(err)
			return
		}
		// The commit of the Dataplane may have come in between.
		if _, err := n.conn.Commit(t.Context(), generation, []ruleset.Change{change}); err != nil {
			continue
		}
		change.Verb = ruleset.Add + ruleset.Delete - change.Verb
	}
}
