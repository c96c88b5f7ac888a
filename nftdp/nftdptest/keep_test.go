package nftdptest_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/nftdp/go-nftdp/nftdp"
)

// rulesOf is the ruleset that a Dataplane holds, expected the one that it should hold.
func rulesOf(t *testing.T, d *nftdp.Dataplane) string {
	t.Helper()
	r, err := d.Ruleset(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return r.String()
}

func expected(t *testing.T, c nftdp.Config, services ...nftdp.Service) string {
	t.Helper()
	r, err := c.Compile(services)
	if err != nil {
		t.Fatal(err)
	}
	return r.String()
}

// TestKeep repairs what two others do, of which one is another Dataplane, and
// reports who it was. It waits in between: synctest finds no other goroutine at
// work.
func TestKeep(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode()
		d, other, elsewhere := open(t, n, nftdp.Config{}), open(t, n, nftdp.Config{}), open(t, n, nftdp.Config{Table: "elsewhere"})
		apply(t, d, web("10.180.0.1:1"))
		ctx, stop := context.WithCancel(t.Context())
		repairs := make(chan *nftdp.Drift, 10)
		kept := make(chan error, 1)
		go func() {
			kept <- d.Keep(ctx, func(drift *nftdp.Drift, err error) {
				if err != nil {
					t.Error(err)
				}
				repairs <- drift
			})
		}()
		synctest.Wait()

		n.FlushRuleset()
		if drift := <-repairs; len(drift.By) != 1 || drift.By[0].Name != "nft" {
			t.Error("flushed by", drift.By)
		}
		apply(t, elsewhere, web("10.180.0.9:1"))
		apply(t, d, web("10.180.0.1:1", "10.180.0.2:1"))
		synctest.Wait()
		if len(repairs) > 0 {
			t.Error("nothing was wrong, and repaired by", <-repairs)
		}
		change := nftdp.Change{Set: []nftdp.Service{web("10.180.0.3:1")}}
		if _, err := other.Update(t.Context(), change); err != nil {
			t.Fatal(err)
		}
		// An Update has several transactions, each of which can be repaired.
		for want := expected(t, nftdp.Config{}, web("10.180.0.1:1", "10.180.0.2:1")); ; {
			if drift := <-repairs; len(drift.By) != 1 || drift.By[0].Name != "nftdp" {
				t.Error("changed by", drift.By)
			}
			if synctest.Wait(); len(repairs) == 0 && cmp.Equal(want, rulesOf(t, d)) {
				break
			}
		}

		stop()
		if err := <-kept; !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	})
}

// TestKeepEndsWithClose: it does not wait for anything else to happen.
func TestKeepEndsWithClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := open(t, newNode(), nftdp.Config{})
		kept := make(chan error, 1)
		go func() { kept <- d.Keep(t.Context(), nil) }()
		synctest.Wait()
		if err := d.Close(); err != nil {
			t.Fatal(err)
		}
		if err := <-kept; !errors.Is(err, nftdp.ErrClosed) {
			t.Error(err)
		}
	})
}

// TestWatch yields the plan that would repair, and changes nothing.
func TestWatch(t *testing.T) {
	n := newNode()
	d := open(t, n, nftdp.Config{})
	apply(t, d, web("10.180.0.1:1"))
	apply(t, open(t, n, nftdp.Config{}), web("10.180.0.2:1"))
	for drift, err := range d.Watch(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
		plan, err := d.Plan(t.Context(), []nftdp.Service{web("10.180.0.1:1")})
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(plan.String(), drift.String()); diff != "" || plan.Empty() {
			t.Error("plan:", diff)
		}
		break
	}
	if diff := cmp.Diff(expected(t, nftdp.Config{}, web("10.180.0.2:1")), rulesOf(t, d)); diff != "" {
		t.Error(diff)
	}
}

// TestUpdateOfChangedTables: the kernel refuses it, and it is made of what there
// is.
func TestUpdateOfChangedTables(t *testing.T) {
	n := newNode()
	d := open(t, n, nftdp.Config{})
	apply(t, d, web("10.180.0.1:1"))
	n.FlushRuleset()
	if _, err := d.Update(t.Context(), nftdp.Change{Set: []nftdp.Service{dns("10.180.0.1:5")}}); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(expected(t, nftdp.Config{}, web("10.180.0.1:1"), dns("10.180.0.1:5")), rulesOf(t, d)); diff != "" {
		t.Error(diff)
	}
}

// TestProtect: protected tables cannot be changed by others until they are
// orphans, which can be adopted.
func TestProtect(t *testing.T) {
	n := newNode()
	protect := nftdp.Config{Protect: true}
	d, err := n.Open(t.Context(), protect)
	if err != nil {
		t.Fatal(err)
	}
	apply(t, d, web("10.180.0.1:1"))
	other := open(t, n, protect)
	if _, err := other.Apply(t.Context(), nil); !errors.Is(err, nftdp.ErrProtected) || !errors.Is(err, fs.ErrPermission) {
		t.Error(err)
	}
	n.FlushRuleset()
	if diff := cmp.Diff(expected(t, protect, web("10.180.0.1:1")), rulesOf(t, d)); diff != "" {
		t.Error("flushed:", diff)
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	if plan := apply(t, other, web("10.180.0.1:1")); plan.Len() != 2 {
		t.Error("adopted by", plan)
	}
	n.FlushRuleset()
	if plan := apply(t, other, web("10.180.0.1:1")); !plan.Empty() {
		t.Error("flushed:", plan)
	}
}

// TestRequirements: the parameters are off, and can be set.
func TestRequirements(t *testing.T) {
	d := open(t, newNode(), nftdp.Config{Localhost: true})
	met := func() (n int) {
		all, err := d.Requirements(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range all {
			if r.Met() {
				n++
			}
		}
		return n
	}
	if n := met(); n != 0 {
		t.Error("met at first:", n)
	}
	changed, err := d.MeetRequirements(t.Context())
	if len(changed) != 3 || err != nil || met() != 3 {
		t.Error(changed, err)
	}
}

// TestContext: what is cancelled fails, and changes nothing.
func TestContext(t *testing.T) {
	n := newNode()
	d := open(t, n, nftdp.Config{})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for name, do := range map[string]func() error{
		"Open":         func() error { _, err := n.Open(ctx, nftdp.Config{}); return err },
		"Apply":        func() error { _, err := d.Apply(ctx, nil); return err },
		"Inspect":      func() error { _, err := d.Inspect(ctx); return err },
		"Remove":       func() error { return d.Remove(ctx) },
		"Affinities":   func() error { _, err := d.Affinities(ctx); return err },
		"wrong config": func() error { _, err := n.Open(ctx, nftdp.Config{Table: "table"}); return err },
	} {
		if err := do(); err == nil || name != "wrong config" && !errors.Is(err, context.Canceled) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if text := rulesOf(t, d); text != "" {
		t.Error(text)
	}
}

// TestConcurrent: packets, changes, damage and time at once, with the race
// detector in mind.
func TestConcurrent(t *testing.T) {
	n := newNode()
	d := open(t, n, nftdp.Config{})
	apply(t, d, sticky("10.180.0.1:1"))
	ctx, stop := context.WithCancel(t.Context())
	var all, keepers sync.WaitGroup
	keepers.Go(func() { _ = d.Keep(ctx, nil) })
	for i := range 50 {
		p := tcp(fmt.Sprintf("203.0.113.7:%d", 40000+i), "192.0.2.1:80")
		all.Go(func() {
			n.Send(p)
			n.End(p)
			n.Advance(time.Second)
		})
		all.Go(func() {
			change := nftdp.Change{Set: []nftdp.Service{sticky("10.180.0.1:1", fmt.Sprintf("10.180.1.%d:1", i))}}
			if _, err := d.Update(ctx, change); err != nil {
				t.Error(err)
			}
		})
		if i%10 == 0 {
			all.Go(n.FlushRuleset)
		}
	}
	all.Wait()
	stop()
	keepers.Wait()
	last := dns("10.180.0.1:1") // its elements have counted nothing
	apply(t, d, last)
	if diff := cmp.Diff(expected(t, nftdp.Config{}, last), rulesOf(t, d)); diff != "" {
		t.Error(diff)
	}
}
