//go:build linux

package kernel

import (
	"context"
	"errors"
	"runtime"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/nftdp/go-nftdp/internal/nstest"
	"github.com/nftdp/go-nftdp/internal/ruleset"
)

// TestReadOthers: tables of other names are not read.
func TestReadOthers(t *testing.T) {
	c := dial(t, nstest.NewTestNamespace(t))
	foreign := compiled(3)
	for _, table := range foreign.Tables {
		table.Name = "t2"
	}
	load(t, c, foreign)
	got, _ := read(t, c)
	wantRuleset(t, &ruleset.Ruleset{}, got)
	load(t, c, compiled(5))
	got, _ = read(t, c)
	wantRuleset(t, compiled(5), got)
	got, _, err := readWhole(t.Context(), c, "t2")
	if err != nil {
		t.Fatal(err)
	}
	wantRuleset(t, foreign, got)
}

// disturbing is a context whose n-th check runs a function. Every request checks its
// context just before it is sent.
type disturbing struct {
	context.Context
	n      int
	happen func()
}

func (d *disturbing) Err() error {
	if d.n--; d.n == 0 {
		d.happen()
	}
	return d.Context.Err()
}

// TestReadDisturbed: if another process changes our rules while we read them, the
// result is the whole ruleset of before or after, or ErrStale.
func TestReadDisturbed(t *testing.T) {
	t.Run("changed", func(t *testing.T) { testReadDisturbed(t, compiled(2), compiled(3)) })
	t.Run("deleted", func(t *testing.T) { testReadDisturbed(t, compiled(2), &ruleset.Ruleset{}) })
}

func testReadDisturbed(t *testing.T, now, later *ruleset.Ruleset) {
	t.Helper()
	ns := nstest.NewTestNamespace(t)
	c, other := dial(t, ns), dial(t, ns)
	load(t, c, now)
	for n := 1; ; n++ {
		disturbed := false
		ctx := &disturbing{t.Context(), n, func() {
			disturbed = true
			replace(t, other, now, later)
			now, later = later, now
		}}
		got, _, err := readWhole(ctx, c, "t")
		switch {
		case !disturbed && n < 5:
			t.Fatalf("everything was read after %d checks", n)
		case err == nil && got.String() != now.String() && got.String() != later.String():
			t.Fatalf("disturbed at check %d, a mixture is read:\n%s", n, got)
		case err != nil && !errors.Is(err, ruleset.ErrStale):
			t.Fatalf("disturbed at check %d: %v", n, err)
		case !disturbed:
			return
		}
	}
}

func replace(t *testing.T, c *Conn, from, to *ruleset.Ruleset) (next uint32) {
	t.Helper()
	next, err := c.Commit(t.Context(), generation(t, c), ruleset.Diff(from, to).Changes())
	if err != nil {
		t.Fatal(err)
	}
	return next
}

// TestReadDynamic: elements of dynamic sets, which packets add, are not requested.
func TestReadDynamic(t *testing.T) {
	checks := func(sets ...*ruleset.Set) int {
		c := dial(t, nstest.NewTestNamespace(t))
		load(t, c, &ruleset.Ruleset{Tables: []*ruleset.Table{{Family: ruleset.IPv4, Name: "t", Sets: sets}}})
		ctx := &disturbing{t.Context(), -1, nil}
		if _, _, err := readWhole(ctx, c, "t"); err != nil {
			t.Fatal(err)
		}
		return -1 - ctx.n
	}
	dynamic := &ruleset.Set{Name: "s", Key: []ruleset.Type{ruleset.Addr}, Dynamic: true, Size: 16}
	plain := &ruleset.Set{Name: "s", Key: []ruleset.Type{ruleset.Addr}}
	none, one, more := checks(), checks(dynamic), checks(plain)
	// The declaration is one more message. The elements take another request.
	if one != none+1 || more <= one {
		t.Errorf("%d checks without a set, %d with a dynamic one, %d with a plain one", none, one, more)
	}
}

// TestReadCounters reads the counters of some elements of a set, in more than one
// request, and of one that does not exist.
func TestReadCounters(t *testing.T) {
	c := dial(t, nstest.NewTestNamespace(t))
	r := compiled(300)
	change := ruleset.Change{Family: ruleset.IPv6, Table: "t", Set: r.Table(ruleset.IPv6).Set("backends")}
	for i := range change.Set.Elements {
		change.Set.Elements[i].Packets, change.Set.Elements[i].Bytes = uint64(i+1), uint64(60*i)
	}
	load(t, c, r)
	var asked, want []ruleset.Element
	for i, e := range change.Set.Elements {
		if i%3 == 0 {
			want = append(want, e)
			e.Packets, e.Bytes = 0, 0
			asked = append(asked, e)
		}
	}
	if err := c.ReadCounters(t.Context(), &change, asked, nil); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, asked, cmp.AllowUnexported(ruleset.Tuple{})); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}

	missing := []ruleset.Element{change.Set.Elements[0]}
	missing[0].Key = ruleset.Tuple{}.Addr(r.Table(ruleset.IPv6).Set("hairpin").Elements[0].Key.AddrAt(0, ruleset.IPv6)).Proto(6).Port(1).Slot(9)
	missing[0].Packets = 7
	if err := c.ReadCounters(t.Context(), &change, missing, nil); err != nil || missing[0].Packets != 7 {
		t.Errorf("an element that does not exist: %d packets, error %v", missing[0].Packets, err)
	}
	between := []ruleset.Element{asked[0], missing[0], asked[1]}
	between[2].Packets = 0
	if err := c.ReadCounters(t.Context(), &change, between, nil); err != nil || between[2].Packets != asked[1].Packets {
		t.Errorf("behind an element that does not exist: %d packets, want %d, error %v", between[2].Packets, asked[1].Packets, err)
	}
	if err := c.ReadCounters(t.Context(), &change, nil, nil); err != nil {
		t.Error(err)
	}
}

// TestTables: the attributes that identify a table's owner are read without its
// contents.
func TestTables(t *testing.T) {
	c := dial(t, nstest.NewTestNamespace(t))
	want := compiled(1)
	load(t, c, want)
	all, err := c.Tables(t.Context(), "t")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range ruleset.Families {
		got := all.Table(f)
		if got == nil || got.Comment != want.Table(f).Comment || len(got.Chains)+len(got.Sets) > 0 {
			t.Errorf("%s: %+v", f, got)
		}
	}
	if got, err := c.Tables(t.Context(), "other"); err != nil || len(got.Tables) > 0 {
		t.Errorf("tables that do not exist: %+v, error %v", got, err)
	}
}

// TestReadWhileWritten: while another process replaces our rules all the time, some
// readings are given up, since they would be mixtures, and all others are whole.
func TestReadWhileWritten(t *testing.T) {
	const enough, most = 20, 10_000
	ns := nstest.NewTestNamespace(t)
	c, other := dial(t, ns), dial(t, ns)
	states := [2]*ruleset.Ruleset{compiled(40), compiled(90)}
	load(t, c, states[0])
	ctx, stop := context.WithCancel(t.Context())
	var writer sync.WaitGroup
	writer.Go(func() {
		for i := 0; ctx.Err() == nil; i++ {
			replace(t, other, states[i%2], states[(i+1)%2])
		}
	})
	whole, torn := 0, 0
	for (whole < enough || torn < enough) && whole+torn < most {
		got, _, err := readWhole(t.Context(), c, "t")
		switch {
		case err == nil && len(ruleset.Diff(got, states[0]).Changes()) > 0 && len(ruleset.Diff(got, states[1]).Changes()) > 0:
			t.Fatalf("a mixture is read:\n%s", got)
		case err == nil:
			whole++
		case errors.Is(err, ruleset.ErrStale):
			torn++
		default:
			t.Fatal(err)
		}
		runtime.Gosched() // on one processor, the writer needs a turn
	}
	stop()
	writer.Wait()
	if min(whole, torn) < enough {
		t.Error("too few readings of one kind to show anything")
	}
	t.Logf("%d readings were whole, %d were given up", whole, torn)
}
