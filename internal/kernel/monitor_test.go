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

	"github.com/nftdp/go-nftdp/internal/netlink"
	"github.com/nftdp/go-nftdp/internal/nstest"
	"github.com/nftdp/go-nftdp/internal/ruleset"
)

// monitor returns a monitor that has joined, knows everything up to a generation,
// and decodes elements of some sets of table t. It leaves out no transactions.
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

// received counts events by table and kind.
type received map[string]map[ruleset.Kind]int

func (r received) count(e *ruleset.Event) {
	if r[e.Table] == nil {
		r[e.Table] = map[ruleset.Kind]int{}
	}
	r[e.Table][e.Kind]++
}

func table(name string) *ruleset.Ruleset {
	return &ruleset.Ruleset{Tables: []*ruleset.Table{{Family: ruleset.IPv6, Name: name}}}
}

// TestMonitor: a monitor receives all objects of every transaction once, and the
// process that committed it.
func TestMonitor(t *testing.T) {
	ns := nstest.NewTestNamespace(t)
	c := dial(t, ns)
	from := generation(t, c)
	m := monitor(t, ns, from)
	other := setOfPorts(100, 0)
	other.Tables[0].Name = "ports"
	load(t, c, other)
	last := load(t, c, compiled(3))
	name, err := os.ReadFile("/proc/self/comm")
	must(t, err)
	got := received{}
	to, err := m.CatchUp(t.Context(), last, func(e *ruleset.Event) {
		got.count(e)
		if e.Kind == ruleset.KindEnd && (e.Process.PID <= 0 || e.Process.Name != strings.TrimSpace(string(name))) {
			t.Errorf("committed by %+v", e.Process)
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

// TestMonitorKnown: events of known transactions are left out.
func TestMonitorKnown(t *testing.T) {
	ns := nstest.NewTestNamespace(t)
	c := dial(t, ns)
	m := monitor(t, ns, generation(t, c))
	m.Known(load(t, c, compiled(3)))
	now := load(t, c, table("later"))
	got := received{}
	if to, err := m.CatchUp(t.Context(), now, got.count); err != nil || to != now {
		t.Errorf("generation %d, error %v", to, err)
	}
	if len(got) != 2 || got["later"][ruleset.KindTable] != 1 || got[""][ruleset.KindEnd] != 1 {
		t.Errorf("received %v", got)
	}
}

// TestMonitorOwn: our own transactions are left out, but make no gap before,
// between or after those of others.
func TestMonitorOwn(t *testing.T) {
	ns := nstest.NewTestNamespace(t)
	ours, other := dial(t, ns), dial(t, ns)
	m := monitorExcept(t, ns, ours.Port(), generation(t, ours))
	for _, by := range []string{"o", "ooo", "oxo", "xoox", "xxoxo"} {
		want, got, last := received{}, received{}, uint32(0)
		for i, who := range by {
			name := fmt.Sprint(by, i)
			if who == 'o' {
				last = load(t, ours, table(name))
				continue
			}
			last = load(t, other, table(name))
			want.count(&ruleset.Event{Table: name, Kind: ruleset.KindTable})
			want.count(&ruleset.Event{Kind: ruleset.KindEnd})
		}
		if to, err := m.CatchUp(t.Context(), last, got.count); err != nil || to != last {
			t.Errorf("%s: generation %d, error %v, want %d", by, to, err, last)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", by, diff)
		}
	}
}

// TestMonitorElements: elements are decoded of the caller's sets in the caller's
// table. Elements of other sets of that table are marked as opaque, and of other
// tables only names are read.
func TestMonitorElements(t *testing.T) {
	ns := nstest.NewTestNamespace(t)
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
	declared := *opaque
	declared.Opaque = "something"
	m := monitor(t, ns, generation(t, c), ours.Set("ports"), &declared)

	type event struct {
		Verb       ruleset.Verb
		Table, Set string
		Opaque     bool
	}
	catchUp := func(to uint32) (events map[event]int, elements []ruleset.Element) {
		t.Helper()
		events = map[event]int{}
		_, err := m.CatchUp(t.Context(), to, func(e *ruleset.Event) {
			if e.Kind == ruleset.KindElement {
				events[event{e.Verb, e.Table, e.Set, e.Opaque}]++
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
		want := map[event]int{
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

// TestMonitorMissed: a gap is noticed, whether the buffer overran or the monitor
// had left the group, and whether events are missing before or after others.
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
		"after": func(t *testing.T, c *Conn, m *Monitor) {
			load(t, c, table("a"))
			must(t, m.Leave())
			load(t, c, table("b"))
			must(t, m.Join())
		},
	} {
		t.Run(name, func(t *testing.T) {
			ns := nstest.NewTestNamespace(t)
			c := dial(t, ns)
			m := monitor(t, ns, generation(t, c))
			miss(t, c, m)
			to := generation(t, c)
			for range 2 { // the gap stays until Known
				start := time.Now()
				if _, err := m.CatchUp(t.Context(), to, received{}.count); !errors.Is(err, ruleset.ErrMissed) {
					t.Fatalf("error %v", err)
				}
				if took := time.Since(start); took >= maxDelay {
					t.Errorf("waits %s for missed events", took)
				}
			}
			must(t, m.Discard())
			m.Known(to)
			next := load(t, c, table("c"))
			got := received{}
			if _, err := m.CatchUp(t.Context(), next, got.count); err != nil || got["c"] == nil {
				t.Errorf("after the gap: received %v, error %v", got, err)
			}
		})
	}
}

// TestMonitorRejoins: after the monitor has left the group for a while, there is no
// gap if everything up to the present generation is known, and one if it is not.
func TestMonitorRejoins(t *testing.T) {
	ns := nstest.NewTestNamespace(t)
	c := dial(t, ns)
	m := monitor(t, ns, generation(t, c))
	for i, step := range []struct {
		unknown uint32 // how many generations are not known
		want    error
	}{{0, nil}, {1, ruleset.ErrMissed}, {0, nil}} {
		must(t, m.Leave())
		load(t, c, table(fmt.Sprint("a", i)))
		must(t, m.Join())
		m.Known(generation(t, c) - step.unknown)
		to, got := load(t, c, table(fmt.Sprint("b", i))), received{}
		if at, err := m.CatchUp(t.Context(), to, got.count); !errors.Is(err, step.want) || step.want == nil && at != to {
			t.Errorf("step %d: generation %d of %d, error %v", i, at, to, err)
		}
		if step.want == nil && (len(got) != 2 || got[fmt.Sprint("b", i)] == nil) {
			t.Errorf("step %d: received %v", i, got)
		}
	}
}

// TestMonitorContext: the end of a context, even during the wait for events, makes
// no gap: later events are received.
func TestMonitorContext(t *testing.T) {
	ns := nstest.NewTestNamespace(t)
	c := dial(t, ns)
	now := generation(t, c)
	m := monitor(t, ns, now)
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	soon, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	for _, ctx := range []context.Context{ended, soon} {
		start := time.Now()
		if _, err := m.CatchUp(ctx, now+1, received{}.count); err == nil || !errors.Is(err, ctx.Err()) {
			t.Errorf("%v, want %v", err, ctx.Err())
		}
		if took := time.Since(start); took >= maxDelay {
			t.Errorf("CatchUp returns after %s", took)
		}
	}
	next, got := load(t, c, table("later")), received{}
	if to, err := m.CatchUp(t.Context(), next, got.count); err != nil || to != next || got["later"] == nil {
		t.Errorf("afterwards: generation %d of %d, received %v, error %v", to, next, got, err)
	}
}

// TestWaker: Wait returns after an event and after Wake, even if that came first,
// and the monitor can receive events during a Wait.
func TestWaker(t *testing.T) {
	ns := nstest.NewTestNamespace(t)
	c := dial(t, ns)
	m := monitor(t, ns, generation(t, c))
	w, err := netlink.NewWaker(m.Socket())
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
			t.Fatal("Wait does not return within 20 seconds")
		}
	}
	done := waiting()
	load(t, c, compiled(1))
	wakes(done)
	wakes(waiting()) // the event has not been received yet
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
		t.Errorf("Wait returned without a reason: %v", err)
	case <-time.After(50 * time.Millisecond):
	}
	w.Wake()
	wakes(done)
	must(t, w.Close())
	w.Wake() // too late, but harmless
}
