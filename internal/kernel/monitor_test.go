//go:build linux

package kernel

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/nftdp/go-nftdp/internal/nstest"
	"github.com/nftdp/go-nftdp/internal/ruleset"
)

// monitor makes one that has joined, knows all up to a generation, and decodes
// elements of some sets of table t. It tells transactions of every port.
func monitor(t *testing.T, ns *nstest.Namespace, known uint32, sets ...*ruleset.Set) *Monitor {
	t.Helper()
	return monitorExcept(t, ns, 0, known, sets...)
}

func monitorExcept(t *testing.T, ns *nstest.Namespace, own, known uint32, sets ...*ruleset.Set) *Monitor {
	t.Helper()
	m, err := NewMonitor(int(ns.Handle()), own, "t", (&ruleset.Table{Sets: sets}).Set)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { must(t, m.Close()) })
	must(t, m.Join())
	m.Known(known)
	return m
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// heard counts events by table and kind.
type heard map[string]map[ruleset.Kind]int

func (h heard) note(e *ruleset.Event) {
	if h[e.Table] == nil {
		h[e.Table] = map[ruleset.Kind]int{}
	}
	h[e.Table][e.Kind]++
}

func table(name string) *ruleset.Ruleset {
	return &ruleset.Ruleset{Tables: []*ruleset.Table{{Family: ruleset.IPv6, Name: name}}}
}

// TestMonitor hears everything of every transaction, each once, and who it was.
func TestMonitor(t *testing.T) {
	ns := newNamespace(t)
	c := dial(t, ns)
	from := generation(t, c)
	m := monitor(t, ns, from)
	other := setOfPorts(100, 0)
	other.Tables[0].Name = "ports"
	load(t, c, other)
	last := load(t, c, compiled(3))
	name, err := os.ReadFile("/proc/self/comm")
	must(t, err)
	got := heard{}
	to, err := m.CatchUp(t.Context(), last, func(e *ruleset.Event) {
		got.note(e)
		if e.Kind == ruleset.KindEnd && (e.Process.PID <= 0 || e.Process.Name != strings.TrimSpace(string(name))) {
			t.Errorf("it was %+v", e.Process)
		}
	})
	if err != nil || to != last || to != from+2 {
		t.Fatalf("from %d to %d, want %d; error %v", from, to, last, err)
	}
	if n := got[""][ruleset.KindEnd]; n != 2 {
		t.Errorf("%d transactions", n)
	}
	if n := got["ports"]; n[ruleset.KindTable] != 1 || n[ruleset.KindElement] != 100 {
		t.Errorf("messages: %v", n)
	}
	if n := got["t"]; n[ruleset.KindTable] != 2 || n[ruleset.KindElement] == 0 || n[ruleset.KindRule] == 0 {
		t.Errorf("messages: %v", n)
	}
	to, err = m.CatchUp(t.Context(), last, func(e *ruleset.Event) { t.Errorf("again: %+v", e) })
	if err != nil || to != last {
		t.Errorf("generation %d, error %v", to, err)
	}
}

// TestMonitorKnown: what is known already is not told.
func TestMonitorKnown(t *testing.T) {
	ns := newNamespace(t)
	c := dial(t, ns)
	m := monitor(t, ns, generation(t, c))
	m.Known(load(t, c, compiled(3)))
	now := load(t, c, table("later"))
	got := heard{}
	if to, err := m.CatchUp(t.Context(), now, got.note); err != nil || to != now {
		t.Errorf("generation %d, error %v", to, err)
	}
	if len(got) != 2 || got["later"][ruleset.KindTable] != 1 || got[""][ruleset.KindEnd] != 1 {
		t.Errorf("heard %v", got)
	}
}

// TestMonitorOwn: our own transactions are not told, but counted: they make no
// gap before, between and behind those of others.
func TestMonitorOwn(t *testing.T) {
	ns := newNamespace(t)
	ours, other := dial(t, ns), dial(t, ns)
	m := monitorExcept(t, ns, ours.Port(), generation(t, ours))
	for _, by := range []string{"o", "ooo", "oxo", "xoox", "xxoxo"} {
		want, got, last := heard{}, heard{}, uint32(0)
		for i, who := range by {
			name := fmt.Sprint(by, i)
			if who == 'o' {
				last = load(t, ours, table(name))
				continue
			}
			last = load(t, other, table(name))
			want.note(&ruleset.Event{Table: name, Kind: ruleset.KindTable})
			want.note(&ruleset.Event{Kind: ruleset.KindEnd})
		}
		if to, err := m.CatchUp(t.Context(), last, got.note); err != nil || to != last {
			t.Errorf("%s: generation %d, error %v, want %d", by, to, err, last)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", by, diff)
		}
	}
}

// TestMonitorElements: elements are decoded of those sets that the caller has,
// in his table. Of others of his table it is told that they are not known, and
// of other tables nothing but their names.
func TestMonitorElements(t *testing.T) {
	ns := newNamespace(t)
	c := dial(t, ns)
	r := &ruleset.Ruleset{}
	ours, opaque := setOfPorts(3, 0).Tables[0], setOfPorts(2, 0).Tables[0].Sets[0]
	unknown := *opaque
	opaque.Name, unknown.Name = "opaque", "unknown"
	ours.Sets = append(ours.Sets, opaque, &unknown)
	others := *ours
	others.Family = ruleset.IPv6
	others.Name = "others"
	r.Tables = []*ruleset.Table{ours, &others}
	asked := *opaque
	asked.Opaque = "something"
	m := monitor(t, ns, generation(t, c), ours.Set("ports"), &asked)

	type told struct {
		Verb       ruleset.Verb
		Table, Set string
		Opaque     bool
	}
	catchUp := func(to uint32) (events map[told]int, elements []ruleset.Element) {
		t.Helper()
		events = map[told]int{}
		_, err := m.CatchUp(t.Context(), to, func(e *ruleset.Event) {
			if e.Kind == ruleset.KindElement {
				events[told{e.Verb, e.Table, e.Set, e.Opaque}]++
				if !e.Opaque {
					elements = append(elements, e.Elements...)
				}
			}
		})
		must(t, err)
		return events, elements
	}
	for _, step := range []struct {
		verb     ruleset.Verb
		from, to *ruleset.Ruleset
	}{{ruleset.Add, &ruleset.Ruleset{}, r}, {ruleset.Delete, r, emptied(r)}} {
		events, elements := catchUp(replace(t, c, step.from, step.to))
		want := map[told]int{
			{step.verb, "t", "ports", false}:  3,
			{step.verb, "t", "opaque", true}:  2,
			{step.verb, "t", "unknown", true}: 2,

			{step.verb, "others", "ports", false}:   3,
			{step.verb, "others", "opaque", false}:  2,
			{step.verb, "others", "unknown", false}: 2,
		}
		if diff := cmp.Diff(want, events); diff != "" {
			t.Errorf("%s (-want +got):\n%s", step.verb, diff)
		}
		if diff := cmp.Diff(ports(0, 3), elements, cmp.AllowUnexported(ruleset.Tuple{})); diff != "" {
			t.Errorf("%s: elements (-want +got):\n%s", step.verb, diff)
		}
	}
}

// TestMonitorMissed: a gap is noticed, be it for lack of room, or since nobody
// listened, before what is heard or behind it.
func TestMonitorMissed(t *testing.T) {
	for name, miss := range map[string]func(*testing.T, *Conn, *Monitor){
		"overrun": func(t *testing.T, c *Conn, m *Monitor) {
			must(t, m.SetBuffer(1))
			load(t, c, setOfPorts(5000, 0))
		},
		"before": func(t *testing.T, c *Conn, m *Monitor) {
			must(t, m.Leave())
			load(t, c, table("a"))
			must(t, m.Join())
			load(t, c, table("b"))
		},
		"behind": func(t *testing.T, c *Conn, m *Monitor) {
			load(t, c, table("a"))
			must(t, m.Leave())
			load(t, c, table("b"))
			must(t, m.Join())
		},
	} {
		t.Run(name, func(t *testing.T) {
			ns := newNamespace(t)
			c := dial(t, ns)
			m := monitor(t, ns, generation(t, c))
			miss(t, c, m)
			to := generation(t, c)
			for range 2 { // and is not forgotten
				start := time.Now()
				if _, err := m.CatchUp(t.Context(), to, heard{}.note); !errors.Is(err, ruleset.ErrMissed) {
					t.Fatalf("error %v", err)
				}
				if took := time.Since(start); took >= maxDelay {
					t.Errorf("what went by is waited for: %s", took)
				}
			}
			must(t, m.Discard())
			m.Known(to)
			next := load(t, c, table("c"))
			got := heard{}
			if _, err := m.CatchUp(t.Context(), next, got.note); err != nil || got["c"] == nil {
				t.Errorf("after it: heard %v, error %v", got, err)
			}
		})
	}
}

// TestMonitorRejoins: nobody listened for a while. Whoever knows what happened
// then goes on without a gap; who knows less, misses something.
func TestMonitorRejoins(t *testing.T) {
	ns := newNamespace(t)
	c := dial(t, ns)
	m := monitor(t, ns, generation(t, c))
	for i, c2 := range []struct {
		late uint32 // how many generations are not known
		want error
	}{{0, nil}, {1, ruleset.ErrMissed}, {0, nil}} {
		must(t, m.Leave())
		load(t, c, table(fmt.Sprint("a", i)))
		must(t, m.Join())
		m.Known(generation(t, c) - c2.late)
		to, got := load(t, c, table(fmt.Sprint("b", i))), heard{}
		if at, err := m.CatchUp(t.Context(), to, got.note); !errors.Is(err, c2.want) || c2.want == nil && at != to {
			t.Errorf("step %d: generation %d of %d, error %v", i, at, to, err)
		}
		if c2.want == nil && (len(got) != 2 || got[fmt.Sprint("b", i)] == nil) {
			t.Errorf("step %d: heard %v", i, got)
		}
	}
}

// TestMonitorContext: a context that ends, also while it is waited for a
// transaction that is not told, is no gap: what comes later is heard.
func TestMonitorContext(t *testing.T) {
	ns := newNamespace(t)
	c := dial(t, ns)
	now := generation(t, c)
	m := monitor(t, ns, now)
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	soon, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	for _, ctx := range []context.Context{ended, soon} {
		start := time.Now()
		if _, err := m.CatchUp(ctx, now+1, heard{}.note); err == nil || !errors.Is(err, ctx.Err()) {
			t.Errorf("%v, want %v", err, ctx.Err())
		}
		if took := time.Since(start); took >= maxDelay {
			t.Errorf("it takes %s", took)
		}
	}
	next, got := load(t, c, table("later")), heard{}
	if to, err := m.CatchUp(t.Context(), next, got.note); err != nil || to != next || got["later"] == nil {
		t.Errorf("after it: generation %d of %d, heard %v, error %v", to, next, got, err)
	}
}

// TestWaker: it wakes for an event, when it is told to, also before one waits,
// and hearing is possible while somebody waits.
func TestWaker(t *testing.T) {
	ns := newNamespace(t)
	c := dial(t, ns)
	m := monitor(t, ns, generation(t, c))
	w, err := m.Waker()
	must(t, err)
	waiting := func() <-chan error {
		done := make(chan error, 1)
		go func() { done <- w.Wait() }()
		return done
	}
	wakes := func(done <-chan error) {
		t.Helper()
		select {
		case err := <-done:
			must(t, err)
		case <-time.After(20 * time.Second):
			t.Fatal("it does not wake within 20 seconds")
		}
	}
	done := waiting()
	load(t, c, compiled(1))
	wakes(done)
	wakes(waiting()) // until it is heard
	must(t, m.Discard())
	done = waiting()
	w.Wake()
	wakes(done)
	wakes(waiting())
	must(t, w.Reset())
	done = waiting()
	must(t, m.Discard())
	select {
	case err := <-done:
		t.Errorf("it woke by itself: %v", err)
	case <-time.After(50 * time.Millisecond):
	}
	w.Wake()
	wakes(done)
	must(t, w.Close())
	w.Wake() // too late, and no harm
}
