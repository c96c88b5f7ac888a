//go:build linux

package kernel

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/nftdp/go-nftdp/internal/nstest"
	"github.com/nftdp/go-nftdp/internal/ruleset"
)

// busy starts a writer that commits to another table until the test ends or stop is
// called, which returns the number of its commits.
func busy(t *testing.T, c *Conn) (stop func() (commits int)) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	var writer sync.WaitGroup
	commits := 0
	changes := [2][]ruleset.Change{
		ruleset.Diff(&ruleset.Ruleset{}, table("others")).Changes(),
		ruleset.Diff(table("others"), &ruleset.Ruleset{}).Changes(),
	}
	writer.Go(func() {
		for ; ctx.Err() == nil; commits++ {
			if _, err := c.Commit(t.Context(), 0, changes[commits%2]); err != nil && ctx.Err() == nil {
				t.Error(err)
				return
			}
		}
	})
	stop = func() int {
		cancel()
		writer.Wait()
		return commits
	}
	t.Cleanup(func() { stop() })
	return stop
}

// TestCommitOfAny: a commit that is not bound to a generation succeeds, whatever
// others have committed since anything was read.
func TestCommitOfAny(t *testing.T) {
	ns := nstest.NewTestNamespace(t)
	c := dial(t, ns)
	load(t, c, setOfPorts(0, 0))
	stop := busy(t, dial(t, ns))
	const n = 300
	for i := range n {
		change := ruleset.Diff(setOfPorts(i, 0), setOfPorts(i+1, 0)).Changes()
		if _, err := c.Commit(t.Context(), 0, change); err != nil {
			t.Fatalf("commit %d: %v", i, err)
		}
		runtime.Gosched() // on one processor, the writer needs a turn
	}
	if others := stop(); others == 0 {
		t.Error("the other writer has not committed")
	}
	got, _ := read(t, c)
	wantRuleset(t, setOfPorts(n, 0), got)
	entries := affinities(ruleset.IPv4, 0, 2*maxEntries, time.Hour)
	replace(t, c, got, &ruleset.Ruleset{})
	load(t, c, specimens())
	if done, next, err := c.CommitEntries(t.Context(), 0, entries); err != nil || done != len(entries.Entries) || next != 0 {
		t.Errorf("%d entries, generation %d, error %v", done, next, err)
	}
}

// large returns a ruleset with a set that takes many datagrams to dump.
func large() *ruleset.Ruleset {
	const n = 20_000
	r := compiled(60)
	s := setOfPorts(n, ruleset.SizeFor(n)).Tables[0].Sets[0]
	r.Tables[0].Sets = append(r.Tables[0].Sets, s)
	return r
}

// TestElementsDespiteOthers: commits to another table after each datagram do not
// disturb the elements of a set.
func TestElementsDespiteOthers(t *testing.T) {
	ns := nstest.NewTestNamespace(t)
	c, other := dial(t, ns), dial(t, ns)
	want := large()
	load(t, c, want)
	states, commits := [2]*ruleset.Ruleset{{}, table("others")}, 0
	ctx := &disturbing{Context: t.Context()}
	ctx.n, ctx.happen = 1, func() {
		replace(t, other, states[commits%2], states[(commits+1)%2])
		commits++
		ctx.n = 1
	}
	from := want.Tables[0]
	to := *from.Set("ports")
	to.Elements = nil
	if err := c.dumpElements(ctx, from, &to); err != nil || commits < 5 {
		t.Fatalf("after %d commits: %v", commits, err)
	}
	got := &ruleset.Ruleset{Tables: []*ruleset.Table{{Family: from.Family, Name: "t", Sets: []*ruleset.Set{&to}}}}
	wantRuleset(t, setOfPorts(len(from.Set("ports").Elements), to.Size), got)
}

// TestReadDespiteOthers: while another writer commits to its own table all the time,
// some readings are given up, and all others are right.
func TestReadDespiteOthers(t *testing.T) {
	const enough, most = 10, 2000
	ns := nstest.NewTestNamespace(t)
	c := dial(t, ns)
	want := large()
	load(t, c, want)
	stop := busy(t, dial(t, ns))
	right, stale := 0, 0
	for right < enough && right+stale < most {
		got, err := readAll(t.Context(), c, "t")
		switch {
		case err == nil:
			right++
			wantRuleset(t, want, got)
		case errors.Is(err, ruleset.ErrStale): // the list of chains changed in every attempt
			stale++
		default:
			t.Fatal(err)
		}
		runtime.Gosched() // on one processor, the writer needs a turn
	}
	t.Logf("%d readings are right, %d were given up, beside %d commits", right, stale, stop())
	if right < enough {
		t.Error("too few readings are right")
	}
}

// TestReadWhileOthersShrink: all our chains are read, although others delete theirs
// meanwhile. The kernel continues the list at an index that counts those, too, and
// so would skip ours.
func TestReadWhileOthersShrink(t *testing.T) {
	ns := nstest.NewTestNamespace(t)
	c, other := dial(t, ns), dial(t, ns)
	others := &ruleset.Ruleset{Tables: []*ruleset.Table{{Family: ruleset.IPv4, Name: "others"}}}
	for i := range 800 { // enough to fill the first datagrams, and a part of the next
		others.Tables[0].Chains = append(others.Tables[0].Chains, &ruleset.Chain{Name: fmt.Sprintf("chain-%03d", i)})
	}
	load(t, other, others)
	want := setOfPorts(0, 0).Tables[0]
	want.Chains = []*ruleset.Chain{{Name: "a"}, {Name: "b"}}
	load(t, c, &ruleset.Ruleset{Tables: []*ruleset.Table{want}})
	gone := false
	ctx := &disturbing{t.Context(), 2, func() {
		replace(t, other, others, &ruleset.Ruleset{})
		gone = true
	}}
	got := &ruleset.Table{Family: ruleset.IPv4, Name: "t"}
	if err := c.readChains(ctx, got); err != nil || !gone {
		t.Fatalf("gone %t, error %v", gone, err)
	}
	if len(got.Chains) != len(want.Chains) {
		t.Errorf("%d chains are read, want %d", len(got.Chains), len(want.Chains))
	}
}

// TestAbandonedRead: a reading that is abandoned in the middle neither delays a
// commit nor disturbs the next reading.
func TestAbandonedRead(t *testing.T) {
	c := dial(t, nstest.NewTestNamespace(t))
	want := large()
	load(t, c, want)
	checks := &disturbing{t.Context(), 0, nil}
	if err := readPorts(checks, c, want); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	if err := readPorts(&disturbing{ctx, -checks.n / 2, cancel}, c, want); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	added := &ruleset.Ruleset{Tables: []*ruleset.Table{{Family: ruleset.IPv4, Name: "added"}}}
	load(t, c, added)
	if err := c.dumps.Wait(t.Context(), time.Second); err != nil {
		t.Errorf("the commit waited for the rest of the dump: %v", err)
	}
	got, _ := read(t, c)
	wantRuleset(t, want, got)
}

func readPorts(ctx context.Context, c *Conn, r *ruleset.Ruleset) error {
	s := *r.Tables[0].Set("ports")
	s.Elements = nil
	return c.dumpElements(ctx, r.Tables[0], &s)
}
