//go:build linux

package nftdp

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nftdp/go-nftdp/internal/compile"
	"github.com/nftdp/go-nftdp/internal/ruleset"
)

// tampering is a change that others can make to our tables.
type tampering struct {
	name    string
	changes func(held *ruleset.Ruleset) []ruleset.Change
	read    reading // what the repair has to read
}

// inBoth repeats a change in the tables of both families.
func inBoth(change func(*ruleset.Table) []ruleset.Change) func(*ruleset.Ruleset) []ruleset.Change {
	return func(held *ruleset.Ruleset) []ruleset.Change {
		var out []ruleset.Change
		for _, t := range held.Tables {
			for _, c := range change(t) {
				c.Family, c.Table = t.Family, t.Name
				out = append(out, c)
			}
		}
		return out
	}
}

func elementsOf(verb ruleset.Verb, s *ruleset.Set, elements ...ruleset.Element) ruleset.Change {
	return ruleset.Change{Verb: verb, Set: s, Elements: elements}
}

// tamperings returns all kinds of changes.
func tamperings() []tampering {
	accept := ruleset.Rule{ruleset.Verdict{Kind: ruleset.Accept}}
	var out []tampering
	for _, id := range []compile.SetID{ // that someServices have elements in
		compile.Frontends, compile.NodeFrontends, compile.Backends, compile.NodeBackends,
		compile.Masq, compile.NodeMasq, compile.Hairpin,
	} {
		name := compile.Declaration(id).Name
		out = append(out, tampering{"an element of " + name + " deleted", inBoth(func(t *ruleset.Table) []ruleset.Change {
			return []ruleset.Change{elementsOf(ruleset.Delete, t.Set(name), t.Set(name).Elements[0])}
		}), readNothing}, tampering{name + " emptied", inBoth(func(t *ruleset.Table) []ruleset.Change {
			return []ruleset.Change{elementsOf(ruleset.Delete, t.Set(name), t.Set(name).Elements...)}
		}), readNothing}, tampering{"an element of " + name + " added", inBoth(func(t *ruleset.Table) []ruleset.Change {
			return []ruleset.Change{elementsOf(ruleset.Add, t.Set(name), strange(t.Family, t.Set(name)))}
		}), readNothing})
	}
	return append(out,
		tampering{"a backend replaced", inBoth(func(t *ruleset.Table) []ruleset.Change {
			s := t.Set("backends")
			e, o := s.Elements[0], s.Elements[0]
			o.Data = s.Elements[1].Data
			return []ruleset.Change{elementsOf(ruleset.Delete, s, e), elementsOf(ruleset.Add, s, o)}
		}), readNothing},
		tampering{"a comment replaced", inBoth(func(t *ruleset.Table) []ruleset.Change {
			s := t.Set("frontends")
			e, o := s.Elements[0], s.Elements[0]
			o.Comment = "somebody else's"
			return []ruleset.Change{elementsOf(ruleset.Delete, s, e), elementsOf(ruleset.Add, s, o)}
		}), readNothing},
		tampering{"an element deleted and put back", inBoth(func(t *ruleset.Table) []ruleset.Change {
			s := t.Set("masq")
			return []ruleset.Change{elementsOf(ruleset.Delete, s, s.Elements[0]), elementsOf(ruleset.Add, s, s.Elements[0])}
		}), readNothing},
		tampering{"a protocol deleted", inBoth(func(t *ruleset.Table) []ruleset.Change {
			return []ruleset.Change{elementsOf(ruleset.Delete, t.Set("protocols"), t.Set("protocols").Elements[1])}
		}), readRules},
		tampering{"a chain flushed", inBoth(func(t *ruleset.Table) []ruleset.Change {
			return []ruleset.Change{{Verb: ruleset.Flush, Chain: t.Chain("services")}}
		}), readRules},
		tampering{"a rule added", inBoth(func(t *ruleset.Table) []ruleset.Change {
			return []ruleset.Change{{Verb: ruleset.Add, Chain: t.Chain("masquerading"), Rule: accept}}
		}), readRules},
		tampering{"a chain added", inBoth(func(*ruleset.Table) []ruleset.Change {
			c := &ruleset.Chain{Name: "theirs"}
			return []ruleset.Change{{Verb: ruleset.Add, Chain: c}, {Verb: ruleset.Add, Chain: c, Rule: accept}}
		}), readRules},
		tampering{"an element leads to a chain of theirs", inBoth(func(t *ruleset.Table) []ruleset.Change {
			c, s := &ruleset.Chain{Name: "theirs"}, t.Set("frontends")
			e := s.Elements[1]
			e.Verdict = ruleset.Verdict{Kind: ruleset.Goto, Chain: c.Name}
			return []ruleset.Change{{Verb: ruleset.Add, Chain: c}, elementsOf(ruleset.Delete, s, s.Elements[1]), elementsOf(ruleset.Add, s, e)}
		}), readRules},
		tampering{"a base chain deleted", inBoth(func(t *ruleset.Table) []ruleset.Change {
			c := t.Chain("output")
			return []ruleset.Change{{Verb: ruleset.Flush, Chain: c}, {Verb: ruleset.Delete, Chain: c}}
		}), readRules},
		tampering{"a base chain at another hook", inBoth(func(t *ruleset.Table) []ruleset.Change {
			c := t.Chain("output")
			input := &ruleset.Chain{Name: c.Name, Hook: &ruleset.Hook{Num: ruleset.Input, Priority: 100}}
			return []ruleset.Change{{Verb: ruleset.Flush, Chain: c}, {Verb: ruleset.Delete, Chain: c}, {Verb: ruleset.Add, Chain: input}}
		}), readAll}, // the table has to be replaced
		tampering{"a set added", inBoth(func(*ruleset.Table) []ruleset.Change {
			return []ruleset.Change{{Verb: ruleset.Add, Set: &ruleset.Set{Name: "theirs", Key: []ruleset.Type{ruleset.Port}}}}
		}), readAll},
		tampering{"a map replaced by an empty one", inBoth(func(t *ruleset.Table) []ruleset.Change {
			masq := *t.Set("masq")
			masq.Elements = nil
			var out []ruleset.Change
			for _, c := range t.Chains {
				out = append(out, ruleset.Change{Verb: ruleset.Flush, Chain: c})
			}
			return append(out, ruleset.Change{Verb: ruleset.Delete, Set: &masq}, ruleset.Change{Verb: ruleset.Add, Set: &masq})
		}), readAll},
		tampering{"a set of prefixes emptied", inBoth(func(t *ruleset.Table) []ruleset.Change {
			return []ruleset.Change{elementsOf(ruleset.Delete, t.Set("internal"), t.Set("internal").Elements...)}
		}), readRules},
		tampering{"the table deleted", inBoth(func(*ruleset.Table) []ruleset.Change {
			return []ruleset.Change{{Verb: ruleset.Delete}}
		}), readAll},
		tampering{"one family's table deleted", func(held *ruleset.Ruleset) []ruleset.Change {
			t := held.Tables[1]
			return []ruleset.Change{{Verb: ruleset.Delete, Family: t.Family, Table: t.Name}}
		}, readAll},
		tampering{"the table replaced", inBoth(func(t *ruleset.Table) []ruleset.Change {
			return []ruleset.Change{{Verb: ruleset.Delete}, {Verb: ruleset.Add, Comment: t.Comment}}
		}), readAll},
	)
}

// strange returns an element that no service has.
func strange(f ruleset.Family, s *ruleset.Set) ruleset.Element {
	addr := netip.MustParseAddr(map[ruleset.Family]string{ruleset.IPv4: "192.0.2.1", ruleset.IPv6: "2001:db8::1"}[f])
	fill := func(types []ruleset.Type) (out ruleset.Tuple) {
		for _, t := range types {
			switch t {
			case ruleset.Addr:
				out = out.Addr(addr)
			case ruleset.Proto:
				out = out.Proto(6)
			case ruleset.Port:
				out = out.Port(4711)
			case ruleset.Slot:
				out = out.Slot(3)
			}
		}
		return out
	}
	e := ruleset.Element{Key: fill(s.Key), Data: fill(s.Data)}
	if s.Verdict {
		e.Verdict = ruleset.Verdict{Kind: ruleset.Drop}
	}
	return e
}

func keptConfig() Config {
	return Config{Internal: []netip.Prefix{netip.MustParsePrefix("10.180.0.0/16"), netip.MustParsePrefix("fd00:180::/32")}}
}

// TestDriftIsRepaired: whatever others change, Keep repairs it by the events,
// and reads no more than necessary. Then everything is known again.
func TestDriftIsRepaired(t *testing.T) {
	n := newNode(t)
	for _, test := range tamperings() {
		t.Run(test.name, func(t *testing.T) {
			d, spy := n.spied(t, keptConfig())
			services := someServices()
			apply(t, d, services)
			repaired := kept(t, d)
			spy.watched(t, d, 1)
			n.change(t, test.changes(n.read(t, DefaultTable).rules)...)
			n.disturb(t)
			if putBack := strings.Contains(test.name, "put back"); !putBack {
				if drift := receive(t, repaired); drift.Empty() {
					t.Error("nothing was repaired")
				}
			}
			again := updateWith(t, d, Change{}) // waits until Keep has repaired everything
			if !again.Empty() {
				t.Errorf("changes are left:\n%v", again)
			}
			n.wantServices(t, keptConfig(), services)
			if read := spy.reset(); read != test.read {
				t.Errorf("read %d of the tables, want %d", read, test.read)
			}
			updateWith(t, d, Change{Set: []Service{web("d", 4, 2)}, Delete: []string{"a"}})
			apply(t, d, append(slices.Clone(services[1:]), web("d", 4, 2)))
			n.wantServices(t, keptConfig(), append(slices.Clone(services[1:]), web("d", 4, 2)))
			if read := spy.reset(); read != readNothing {
				t.Errorf("read %d of the tables when everything was known", read)
			}
		})
	}
}

// TestTamperedMeanwhile: at whatever moments others change our tables, while
// their earlier changes are repaired, with or without an edit, the kernel
// finally holds the wanted services.
func TestTamperedMeanwhile(t *testing.T) {
	n := newNode(t)
	services := someServices()
	all := tamperings()
	for name, edit := range map[string]struct {
		change Change
		want   []Service
	}{
		"nothing": {Change{}, services},
		"edit":    {Change{Set: []Service{web("d", 4, 2)}}, append(slices.Clone(services), web("d", 4, 2))},
	} {
		t.Run(name, func(t *testing.T) {
			for first := 1; first < 4; first++ {
				everyCheck(t, func(t *testing.T, ctx *checked, happen *func()) {
					d := n.open(t, keptConfig())
					apply(t, d, services)
					held := n.read(t, DefaultTable)
					n.change(t, all[0].changes(held.rules)...)
					planNothing(t, d)
					*happen = func() { n.change(t, all[6].changes(held.rules)...) }
					if _, err := d.Update(checkedAt(ctx, first, func() { n.change(t, all[5].changes(held.rules)...) }), edit.change); err != nil {
						t.Error(err)
					}
					updateWith(t, d, Change{})
					n.wantServices(t, keptConfig(), edit.want)
				})
			}
		})
	}
}

// TestTamperedAndCancelled: after an Update that was cancelled, while others
// changed our tables twice, the Dataplane still repairs those changes.
func TestTamperedAndCancelled(t *testing.T) {
	n := newNode(t)
	services := someServices()
	all := tamperings()
	for last, cancelled := 3, true; cancelled; last++ {
		d := n.open(t, keptConfig())
		apply(t, d, services)
		held := n.read(t, DefaultTable)
		n.change(t, all[0].changes(held.rules)...)
		planNothing(t, d)
		cancelled = false
		ctx := &checked{Context: t.Context(), check: func(check int) error {
			switch {
			case check == 2:
				n.change(t, all[5].changes(held.rules)...)
			case check == last:
				n.change(t, all[6].changes(held.rules)...)
			case check > last:
				cancelled = true
				return context.Canceled
			}
			return nil
		}}
		want := services
		switch plan, err := d.Update(ctx, Change{Set: []Service{web("d", 4, 2)}}); {
		case err == nil, plan != nil && strings.Contains(err.Error(), "services are programmed"): // only flows are left
			want = append(slices.Clone(services), web("d", 4, 2))
		case !cancelled || !errors.Is(err, context.Canceled):
			t.Fatal(err)
		}
		updateWith(t, d, Change{})
		n.wantServices(t, keptConfig(), want)
		if t.Failed() {
			t.Fatalf("after check %d", last)
		}
	}
}

// planNothing makes the Dataplane notice the drift without repairing it.
func planNothing(t *testing.T, d *Dataplane) {
	t.Helper()
	if _, err := d.Plan(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
}

// TestUpdateAmongForeignChanges: if others change other tables, an Update reads
// nothing but the generation.
func TestUpdateAmongForeignChanges(t *testing.T) {
	n := newNode(t)
	d := n.open(t, Config{})
	services := someServices()
	apply(t, d, services)
	checks := func() int {
		ctx := &checked{Context: t.Context(), check: func(int) error { return nil }}
		services[1] = web("b", 2, 1+len(services[1].Backends)%3)
		if _, err := d.Update(ctx, Change{Set: services[1:2]}); err != nil {
			t.Fatal(err)
		}
		return ctx.checks
	}
	quiet := checks()
	for range 5 {
		for range 20 {
			n.disturb(t)
		}
		if got := checks(); got > quiet+3 { // two more if a chain is added, one if a backend is removed
			t.Errorf("%d requests, and %d without other changes", got, quiet)
		}
	}
	n.wantServices(t, Config{}, services)
}

// TestOvertakenAmongForeignChanges: an Update whose commit others overtake is
// repeated without reading anything but the generation.
func TestOvertakenAmongForeignChanges(t *testing.T) {
	n := newNode(t)
	d := n.open(t, Config{})
	services := someServices()
	apply(t, d, services)
	add := func(check int) int {
		ctx := checkedAt(t.Context(), check, func() { n.disturb(t) })
		added := web(fmt.Sprint("d", len(services)), 10+len(services), 3)
		services = append(services, added)
		if _, err := d.Update(ctx, Change{Set: []Service{added}}); err != nil {
			t.Fatal(err)
		}
		return ctx.checks
	}
	quiet := add(0)
	for range 5 {
		n.disturb(t)
		if got := add(quiet); got > 2*quiet+1 { // the last check comes with the commit; one more decides whether to repeat it
			t.Errorf("%d requests, and %d without other changes", got, quiet)
		}
	}
	n.wantServices(t, Config{}, services)
}

// TestUpdateRepairsNothing: an Update leaves other parts of our tables as
// others have changed them. Apply and an empty Update repair them.
func TestUpdateRepairsNothing(t *testing.T) {
	for name, repair := range map[string]func(*testing.T, *Dataplane, []Service) *Plan{
		"apply":        apply,
		"empty update": func(t *testing.T, d *Dataplane, _ []Service) *Plan { t.Helper(); return updateWith(t, d, Change{}) },
	} {
		t.Run(name, func(t *testing.T) {
			n := newNode(t)
			d, spy := n.spied(t, Config{})
			services := append(someServices(), web("d", 4, 2))
			apply(t, d, services)
			all := tamperings()
			added := all[slices.IndexFunc(all, func(x tampering) bool { return x.name == "an element of hairpin added" })]
			n.change(t, added.changes(n.read(t, DefaultTable).rules)...)
			spy.reset()
			services[3] = web("d", 4, 1)
			updateWith(t, d, Change{Set: services[3:]})
			if read := spy.reset(); read != readNothing {
				t.Errorf("Update read %d of the tables", read)
			}
			if left := n.read(t, DefaultTable).PlanTo(mustCompile(t, Config{}, services)); left.Len() != 2 {
				t.Errorf("after Update, changes are left:\n%v", left)
			}
			if plan := repair(t, d, services); plan.Len() != 2 {
				t.Errorf("the repair was\n%v", plan)
			}
			n.wantServices(t, Config{}, services)
		})
	}
}

// TestMissedEvents: after missed events, everything is read.
func TestMissedEvents(t *testing.T) {
	n := newNode(t)
	d, spy := n.spied(t, Config{})
	services := someServices()
	apply(t, d, services)
	if err := spy.SetEventBuffer(1); err != nil { // the kernel has a minimum
		t.Fatal(err)
	}
	kept(t, d)
	spy.watched(t, d, 1)
	for i, test := range tamperings() {
		if test.name == "a set of prefixes emptied" {
			continue // this node has no such set
		}
		held, release := spy.hold()
		services[1] = web("b", 2, 4+i%3)
		updated := make(chan error, 1)
		go func() { _, err := d.Update(t.Context(), Change{Set: services[1:2]}); updated <- err }()
		receive(t, held) // no events are received now
		n.change(t, test.changes(n.read(t, DefaultTable).rules)...)
		for range 20 {
			n.disturb(t)
		}
		release()
		if err := receive(t, updated); err != nil {
			t.Fatal(err)
		}
		eventually(t, func() bool { return spy.reset() == readAll })
		n.eventuallyHolds(t, services)
	}
}

// TestMissedBehindACommit: changes of others are found even if they were
// committed while the monitor had left the group.
func TestMissedBehindACommit(t *testing.T) {
	n := newNode(t)
	d, spy := n.spied(t, Config{})
	services := someServices()
	apply(t, d, services)
	kept(t, d)
	spy.watched(t, d, 1)
	spy.setAround(func(commit func()) {
		spy.setAround(nil)
		commit()
		n.change(t, tamperings()[0].changes(n.read(t, DefaultTable).rules)...)
	})
	big := manyWebs(10, 60) // enough objects to commit without events
	updateWith(t, d, Change{Set: big})
	n.eventuallyHolds(t, append(services, big...))
}

// eventuallyHolds waits until the kernel holds these services and nothing else.
func (n *node) eventuallyHolds(t *testing.T, services []Service) {
	t.Helper()
	want := mustCompile(t, Config{}, services)
	eventually(t, func() bool {
		got, err := n.conn.Read(t.Context(), DefaultTable, ruleset.Families[:], everySet)
		return err == nil && (&Ruleset{rules: got}).PlanTo(want).Empty()
	})
}

// kept runs Keep and returns its repairs. The end of the test checks how Keep
// ends.
func kept(t *testing.T, d *Dataplane) <-chan *Drift {
	t.Helper()
	ctx, stop := context.WithCancel(context.Background())
	repaired, ended := make(chan *Drift, 1000), make(chan error, 1)
	go func() {
		ended <- d.Keep(ctx, func(drift *Drift, err error) {
			if err != nil {
				t.Errorf("keep: %v", err)
			}
			repaired <- drift
		})
	}()
	t.Cleanup(func() {
		stop()
		if err := receive(t, ended); !errors.Is(err, context.Canceled) {
			t.Errorf("keep ended with %v", err)
		}
	})
	return repaired
}

func receive[T any](t *testing.T, from <-chan T) (v T) {
	t.Helper()
	select {
	case v = <-from:
	case <-time.After(20 * time.Second):
		t.Fatal("nothing was received within 20 seconds")
	}
	return v
}

// TestKeep: Keep repairs and reports everything that others change.
func TestKeep(t *testing.T) {
	n := newNode(t)
	services := someServices()
	for _, test := range tamperings() {
		if strings.Contains(test.name, "put back") {
			continue // there is nothing to repair
		}
		t.Run(test.name, func(t *testing.T) {
			d, spy := n.spied(t, keptConfig())
			apply(t, d, services)
			repaired := kept(t, d)
			spy.watched(t, d, 1)
			n.change(t, test.changes(n.read(t, DefaultTable).rules)...)
			drift := receive(t, repaired)
			if drift.Empty() || len(drift.By) != 1 || drift.By[0].Name != nameOfProcess(t) || drift.By[0].PID <= 0 {
				t.Errorf("by %v:\n%v", drift.By, drift)
			}
			n.wantServices(t, keptConfig(), services)
		})
	}
}

// nameOfProcess returns the kernel's name for this process.
func nameOfProcess(t *testing.T) string {
	t.Helper()
	name, err := os.ReadFile("/proc/self/comm")
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(name))
}

// TestKeepFromTheBeginning: Keep repairs earlier changes at once, whether or
// not they are known.
func TestKeepFromTheBeginning(t *testing.T) {
	for name, before := range map[string]func(*testing.T, *Dataplane){
		"unknown": func(*testing.T, *Dataplane) {},
		"known":   planNothing,
	} {
		t.Run(name, func(t *testing.T) {
			n := newNode(t)
			d := n.open(t, Config{})
			apply(t, d, someServices())
			n.load(t, n.read(t, DefaultTable), nothing())
			before(t, d)
			if drift := receive(t, kept(t, d)); drift.Empty() {
				t.Error("nothing was repaired")
			}
			n.wantServices(t, Config{}, someServices())
		})
	}
}

// TestKeepWithOverruns: in a flood of changes many events are missed, but
// everything is repaired.
func TestKeepWithOverruns(t *testing.T) {
	n := newNode(t)
	d, spy := n.spied(t, Config{})
	apply(t, d, someServices())
	if err := spy.SetEventBuffer(1); err != nil {
		t.Fatal(err)
	}
	repaired := kept(t, d)
	held := n.read(t, DefaultTable)
	for range 20 {
		for _, verb := range []ruleset.Verb{ruleset.Add, ruleset.Delete} {
			n.changeAmong(t, func(*ruleset.Ruleset) []ruleset.Change {
				return []ruleset.Change{{Verb: verb, Family: ruleset.IPv4, Table: "disturbing"}}
			})
		}
		n.changeAmong(t, func(got *ruleset.Ruleset) []ruleset.Change {
			return ruleset.Diff(got, &ruleset.Ruleset{Tables: held.rules.Tables[:1]}).Changes()
		})
	}
	receive(t, repaired)
	n.eventuallyHolds(t, someServices())
}

// changeAmong changes rules while others change them, too.
func (n *node) changeAmong(t *testing.T, changes func(*ruleset.Ruleset) []ruleset.Change) {
	t.Helper()
	eventually(t, func() bool {
		generation := n.generation(t)
		held, err := n.conn.Read(t.Context(), DefaultTable, ruleset.Families[:], everySet)
		if err == nil {
			_, err = n.conn.Commit(t.Context(), generation, changes(held))
		}
		if err != nil && !errors.Is(err, ruleset.ErrStale) {
			t.Fatal(err)
		}
		return err == nil
	})
}

func eventually(t *testing.T, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(20 * time.Second); !ok(); <-tick.C {
		if time.Now().After(deadline) {
			t.Fatal("the condition did not hold within 20 seconds")
		}
	}
}

// TestKeepIgnoresOthers: if others change other tables, Keep reads nothing but
// the generation.
func TestKeepIgnoresOthers(t *testing.T) {
	n := newNode(t)
	d, spy := n.spied(t, Config{})
	apply(t, d, someServices())
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		ended <- d.Keep(ctx, func(drift *Drift, err error) { t.Errorf("repaired %v, error %v", drift, err) })
	}()
	spy.watched(t, d, 1)
	for range 200 {
		n.disturb(t)
	}
	apply(t, d, someServices()) // receives all events
	stop()
	if err := receive(t, ended); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if read := spy.reset(); read != readNothing {
		t.Errorf("read %d of the tables", read)
	}
}

// TestWatch: Watch yields plans and changes nothing. Changes by its own
// Dataplane are no drift.
func TestWatch(t *testing.T) {
	n := newNode(t)
	d := n.open(t, Config{})
	ctx, stop := context.WithCancel(t.Context())
	drifts, end := make(chan *Drift, 10), make(chan error, 1)
	go func() {
		for drift, err := range d.Watch(ctx) {
			if err != nil {
				end <- err
				continue
			}
			drifts <- drift
		}
		close(end)
	}()
	for i := range 5 {
		apply(t, d, []Service{web("a", 1, i)})
	}
	held := n.read(t, DefaultTable)
	n.change(t, tamperings()[0].changes(held.rules)...)
	plan := receive(t, drifts)
	if want := n.read(t, DefaultTable).PlanTo(held); plan.String() != want.String() {
		t.Errorf("the plan is\n%vwant\n%v", plan, want)
	}
	n.load(t, n.read(t, DefaultTable), nothing())
	if plan := receive(t, drifts); plan.Len() < 50 || len(plan.By) == 0 {
		t.Errorf("the plan for both tables has %d changes, by %v", plan.Len(), plan.By)
	}
	if got := n.read(t, DefaultTable).String(); got != "" {
		t.Errorf("Watch made changes:\n%s", got)
	}
	apply(t, d, someServices())
	if err := d.Remove(t.Context()); err != nil {
		t.Fatal(err)
	}
	apply(t, d, someServices())
	stop()
	if err := receive(t, end); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if err, open := <-end; open {
		t.Errorf("after the last error: %v", err)
	}
	if len(drifts) > 0 {
		t.Errorf("changes of the Dataplane are yielded as drift:\n%v", <-drifts)
	}
}

// TestWatchLoop: the body of the loop may call methods of the Dataplane, and
// end the loop.
func TestWatchLoop(t *testing.T) {
	n := newNode(t)
	d, spy := n.spied(t, Config{})
	services := someServices()
	apply(t, d, services)
	n.change(t, tamperings()[0].changes(n.read(t, DefaultTable).rules)...)
	rounds := 0
	for drift, err := range d.Watch(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
		if plan := apply(t, d, services); !slices.Equal(sortedLines(plan), sortedLines(drift.Plan)) {
			t.Errorf("Apply made the changes\n%vthe drift was\n%v", plan, drift)
		}
		if rounds++; rounds == 5 {
			break
		}
		n.change(t, tamperings()[rounds].changes(n.read(t, DefaultTable).rules)...)
	}
	if left := spy.wakers.Load(); left > 0 {
		t.Errorf("%d watchers are left", left)
	}
}

// TestWatchEnds: Close ends all watchers.
func TestWatchEnds(t *testing.T) {
	n := newNode(t)
	d, spy := n.spied(t, Config{})
	apply(t, d, someServices())
	ended := make(chan error, 4)
	for range cap(ended) {
		go func() { ended <- d.Keep(context.Background(), nil) }()
	}
	spy.watched(t, d, cap(ended))
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	for range cap(ended) {
		if err := receive(t, ended); !errors.Is(err, ErrClosed) {
			t.Error(err)
		}
	}
	if err := d.Keep(t.Context(), nil); !errors.Is(err, ErrClosed) {
		t.Error(err)
	}
}

// TestKeepAgainstAnother: two processes that repair each other's changes become
// less frequent.
func TestKeepAgainstAnother(t *testing.T) {
	n := newNode(t)
	one, two := n.open(t, Config{}), n.open(t, Config{})
	apply(t, one, someServices())
	first := kept(t, one)
	apply(t, two, []Service{web("z", 9, 1)})
	second := kept(t, two)
	began := time.Now()
	for range 8 {
		receive(t, first)
		receive(t, second)
	}
	// 1 + 2 + 4 + … + 64 milliseconds between eight repairs.
	if took := time.Since(began); took < 127*time.Millisecond/2 {
		t.Errorf("eight repairs of each took %v", took)
	}
}

// TestKeepOfAForeignTable: a table of our name that another program made is
// reported repeatedly, and our table is restored when the other one is deleted.
func TestKeepOfAForeignTable(t *testing.T) {
	n := newNode(t)
	d := n.open(t, Config{})
	apply(t, d, someServices())
	at := ruleset.Change{Family: ruleset.IPv4, Table: DefaultTable}
	remove, add := at, at
	remove.Verb, add.Verb, add.Comment = ruleset.Delete, ruleset.Add, "theirs"
	n.change(t, remove, add)
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	reports := make(chan error, 1000)
	go func() {
		_ = d.Keep(ctx, func(_ *Drift, err error) { reports <- err })
	}()
	for range 3 {
		if err := receive(t, reports); !errors.Is(err, ErrNotOwned) {
			t.Fatal(err)
		}
	}
	n.change(t, remove)
	for err := ErrNotOwned; err != nil; {
		if err = receive(t, reports); err != nil && !errors.Is(err, ErrNotOwned) {
			t.Fatal(err)
		}
	}
	n.wantServices(t, Config{}, someServices())
}

// TestKeepAmongUpdates: while others change our tables and we change services,
// the kernel finally holds the wanted services.
func TestKeepAmongUpdates(t *testing.T) {
	n := newNode(t)
	d := n.open(t, Config{})
	apply(t, d, someServices())
	kept(t, d)
	all := tamperings()
	var want []Service
	for i := range 100 {
		want = []Service{web("a", 1, 1+i%3), web("b", 2, 1+i%2), web(fmt.Sprint("c", i), 3, 2)}
		apply(t, d, want)
		generation := n.generation(t)
		held, err := n.conn.Read(t.Context(), DefaultTable, ruleset.Families[:], everySet)
		if err != nil || len(held.Tables) < 2 || generation != n.generation(t) {
			continue // being repaired
		}
		test := all[i%len(all)]
		if test.name != "a set of prefixes emptied" {
			_, _ = n.conn.Commit(t.Context(), generation, test.changes(held)) // it may be refused: Keep was faster
		}
	}
	n.eventuallyHolds(t, want)
}
