//go:build linux

package nftdp

import (
	"errors"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/nftdp/go-nftdp/internal/compile"
	"github.com/nftdp/go-nftdp/internal/ruleset"
)

// dataplanes runs a test with a Dataplane that has applied the services which
// the kernel holds, and with one that has just been opened.
func dataplanes(t *testing.T, held []Service, test func(*testing.T, *node, *Dataplane)) {
	t.Helper()
	for name, known := range map[string]bool{"known": true, "just opened": false} {
		t.Run(name, func(t *testing.T) {
			n := newNode(t)
			d := n.open(t, Config{})
			apply(t, d, held)
			if !known {
				d = n.open(t, Config{})
			}
			test(t, n, d)
		})
	}
}

// TestUpdate: every kind of change. All services that it does not name stay.
func TestUpdate(t *testing.T) {
	a, b, c := web("a", 1, 2), web("b", 2, 2), web("c", 3, 3)
	with := func(s Service, frontends []Frontend) Service { s.Frontends = frontends; return s }
	draining := web("b", 2, 2)
	draining.Backends[0].State = StateDraining
	for _, test := range []struct {
		name   string
		change Change
		want   []Service
		empty  bool
	}{
		{"nothing", Change{}, []Service{a, b, c}, true},
		{"the same", Change{Set: []Service{a, c}}, []Service{a, b, c}, true},
		{"unknown names", Change{Delete: []string{"x", "", "x"}}, []Service{a, b, c}, true},
		{"added", Change{Set: []Service{web("d", 4, 1)}}, []Service{a, b, c, web("d", 4, 1)}, false},
		{"replaced", Change{Set: []Service{web("b", 9, 3)}}, []Service{a, web("b", 9, 3), c}, false},
		{"deleted", Change{Delete: []string{"b", "b"}}, []Service{a, c}, false},
		{"all deleted", Change{Delete: []string{"a", "b", "c"}}, nil, false},
		{"backend added", Change{Set: []Service{web("b", 2, 3)}}, []Service{a, web("b", 2, 3), c}, false},
		{"drained", Change{Set: []Service{draining}}, []Service{a, draining, c}, false},
		{"another protocol", Change{Set: []Service{udp(b)}}, []Service{a, udp(b), c}, false},
		{
			"one deleted, one added",
			Change{Set: []Service{web("d", 1, 1)}, Delete: []string{"a"}},
			[]Service{b, c, web("d", 1, 1)},
			false,
		},
		{
			"renamed",
			Change{Set: []Service{renamed(a, "z")}, Delete: []string{"a"}},
			[]Service{b, c, renamed(a, "z")},
			false,
		},
		{
			"frontends exchanged",
			Change{Set: []Service{with(a, b.Frontends), with(b, a.Frontends)}},
			[]Service{with(a, b.Frontends), with(b, a.Frontends), c},
			false,
		},
		{
			"a frontend handed over",
			Change{Set: []Service{with(a, a.Frontends[1:]), with(b, append(slices.Clone(b.Frontends), a.Frontends[0]))}},
			[]Service{with(a, a.Frontends[1:]), with(b, append(slices.Clone(b.Frontends), a.Frontends[0])), c},
			false,
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			dataplanes(t, []Service{a, b, c}, func(t *testing.T, n *node, d *Dataplane) {
				generation := n.generation(t)
				plan := updateWith(t, d, test.change)
				n.wantServices(t, Config{}, test.want)
				if plan.Empty() != test.empty || test.empty != (n.generation(t) == generation) {
					t.Errorf("from generation %d to %d by the plan\n%v", generation, n.generation(t), plan)
				}
				if plan := updateWith(t, d, test.change); !plan.Empty() {
					t.Errorf("again:\n%v", plan)
				}
				if plan := apply(t, d, test.want); !plan.Empty() {
					t.Errorf("apply finds something to do:\n%v", plan)
				}
			})
		})
	}
}

func udp(s Service) Service { s.Protocol = ProtocolUDP; return s }

func renamed(s Service, name string) Service { s.Name = name; return s }

// TestUpdateRefused: an invalid change changes nothing, not even the index of
// frontends: those that were free before are free afterwards, and claimed ones
// stay claimed.
func TestUpdateRefused(t *testing.T) {
	a, b := web("a", 1, 1), web("b", 2, 2)
	for _, test := range []struct {
		name   string
		change Change
		want   []FieldError
	}{
		{
			"a frontend of another service",
			Change{Set: []Service{web("c", 3, 1), renamed(a, "d")}},
			[]FieldError{
				{Service: "d", Field: "frontends[0]", Reason: `tcp 10.96.0.1:80 is already a frontend of service "a"`},
				{Service: "d", Field: "frontends[1]", Reason: `tcp [fd00:96::1]:80 is already a frontend of service "a"`},
				{Service: "d", Field: "frontends[2]", Reason: `tcp node-wide port 30001 is already a frontend of service "a"`},
			},
		},
		{
			"one frontend for two",
			Change{Set: []Service{{Name: "c", Frontends: fronts(":1")}, {Name: "d", Frontends: fronts("0.0.0.0:1")}}},
			[]FieldError{{Service: "d", Field: "frontends[0]", Reason: `tcp node-wide port 1 (ip) is already a frontend of service "c"`}},
		},
		{
			"in Set and Delete",
			Change{Set: []Service{web("c", 3, 1), web("a", 1, 2)}, Delete: []string{"b", "a"}},
			[]FieldError{{Service: "a", Field: "name", Reason: "is in both Set and Delete: choose one"}},
		},
		{
			"a name twice",
			Change{Set: []Service{web("a", 4, 1), web("a", 5, 1)}, Delete: []string{"b"}},
			[]FieldError{{Service: "a", Field: "name", Reason: "services[1] has the name of services[0]: choose another"}},
		},
		{
			"no name",
			Change{Set: []Service{{Frontends: fronts("10.96.0.9:80")}}, Delete: []string{"a"}},
			[]FieldError{{Service: "services[0]", Field: "name", Reason: "is empty: give every service a name of its own"}},
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			dataplanes(t, []Service{a, b}, func(t *testing.T, n *node, d *Dataplane) {
				generation := n.generation(t)
				for range 2 {
					plan, err := d.Update(t.Context(), test.change)
					if diff := cmp.Diff(test.want, fieldErrors(t, err)); diff != "" || plan != nil {
						t.Errorf("plan %v, errors (-want +got):\n%s", plan, diff)
					}
				}
				if got := n.generation(t); got != generation {
					t.Errorf("the generation moved from %d to %d", generation, got)
				}
				for _, other := range []Service{renamed(a, "x"), renamed(b, "y")} {
					if _, err := d.Update(t.Context(), Change{Set: []Service{other}}); len(fieldErrors(t, err)) != 3 {
						t.Errorf("%q takes the frontends of another service: %v", other.Name, err)
					}
				}
				free := []Service{web("c", 3, 1), web("d", 4, 1), web("e", 5, 1), {Name: "f", Frontends: fronts(":1", "10.96.0.9:80")}}
				updateWith(t, d, Change{Set: free, Delete: []string{"a"}})
				updateWith(t, d, Change{Set: []Service{renamed(a, "z")}})
				n.wantServices(t, Config{}, append(free, b, renamed(a, "z")))
			})
		})
	}
}

// TestJustOpened: as long as a Dataplane has not committed anything, others may
// change the services, and an Update keeps those that they have made.
func TestJustOpened(t *testing.T) {
	a, b, c := web("a", 1, 1), web("b", 2, 2), web("c", 3, 3)
	for name, do := range map[string]func(*Dataplane) error{
		"nothing":   func(*Dataplane) error { return nil },
		"planned":   func(d *Dataplane) error { _, err := d.Plan(t.Context(), nil); return err },
		"inspected": func(d *Dataplane) error { _, err := d.Inspect(t.Context()); return err },
		"refused": func(d *Dataplane) error {
			if _, err := d.Update(t.Context(), Change{Set: []Service{renamed(a, "z")}}); err == nil {
				return errors.New("a frontend of another service is not refused")
			}
			return nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			n := newNode(t)
			other := n.open(t, Config{})
			apply(t, other, []Service{a})
			d := n.open(t, Config{})
			if err := do(d); err != nil {
				t.Fatal(err)
			}
			apply(t, other, []Service{b})
			updateWith(t, d, Change{Set: []Service{c}})
			n.wantServices(t, Config{}, []Service{b, c})
		})
	}
}

// TestApplyError: a refused change is named by service and element, nothing of
// it is applied, and later changes succeed. As a valid change is never refused,
// another process adds an element that conflicts with it, and the Dataplane
// misses that.
func TestApplyError(t *testing.T) {
	a, b := web("a", 1, 1), web("b", 2, 2)
	v4 := ruleset.Tuple{}.Addr(addr("10.96.0.2")).Proto(compile.TCP).Port(80)
	node := ruleset.Tuple{}.Proto(compile.TCP).Port(30002)
	backend := ruleset.Tuple{}.Addr(addr("10.180.0.1")).Port(1)
	for _, test := range []struct {
		name    string
		family  ruleset.Family
		set     string
		element ruleset.Element
		want    string
	}{
		{
			"frontend", ruleset.IPv4, "frontends",
			ruleset.Element{Key: v4, Verdict: ruleset.Verdict{Kind: ruleset.Drop}},
			`add element ip nftdp frontends { 10.96.0.2 . tcp . 80 comment "b" : goto random-2 }`,
		},
		{
			"backend", ruleset.IPv4, "backends",
			ruleset.Element{Key: v4.Slot(1), Data: backend},
			"add element ip nftdp backends { 10.96.0.2 . tcp . 80 . 1 : 10.180.0.201 . 8080 }",
		},
		{
			"node-wide backend", ruleset.IPv4, "node_backends",
			ruleset.Element{Key: node.Slot(0), Data: backend},
			"add element ip nftdp node_backends { tcp . 30002 . 0 : 10.180.0.200 . 8080 }",
		},
		{
			"masquerading", ruleset.IPv6, "node_masq",
			ruleset.Element{Key: node.Addr(addr("fd00:180::c9"))},
			"add element ip6 nftdp node_masq { tcp . 30002 . fd00:180::c9 }",
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			n := newNode(t)
			d, spy := n.spied(t, Config{})
			apply(t, d, []Service{a})
			held := n.read(t, DefaultTable)
			set := held.rules.Table(test.family).Set(test.set)
			theirs := ruleset.Change{
				Verb: ruleset.Add, Family: test.family, Table: DefaultTable, Set: set, Elements: []ruleset.Element{test.element},
			}
			// It exists at every commit, but never when the tables are read.
			spy.setAround(func(commit func()) {
				theirs.Verb = ruleset.Add
				n.change(t, theirs)
				commit()
				theirs.Verb = ruleset.Delete
				n.change(t, theirs)
			})

			plan, err := d.Update(t.Context(), Change{Set: []Service{b}})
			var refused *ApplyError
			if !errors.As(err, &refused) || strings.Contains(plan.String(), "element") {
				t.Fatalf("plan %v, error %v", plan, err)
			}
			if want := (ApplyError{Service: "b", Change: test.want, Err: syscall.EEXIST}); *refused != want {
				t.Errorf("%v, want %v", refused, &want)
			}
			if diff := cmp.Diff(held.status(), n.read(t, DefaultTable).status(), plainAddrs()); diff != "" {
				t.Errorf("services changed (-before +after):\n%s", diff)
			}

			// If it stays, the next Update finds and repairs it.
			spy.setAround(nil)
			theirs.Verb = ruleset.Add
			n.change(t, theirs)
			updateWith(t, d, Change{Set: []Service{web("c", 3, 1)}})
			n.wantServices(t, Config{}, []Service{a, web("c", 3, 1)})
			updateWith(t, d, Change{Set: []Service{b}})
			n.wantServices(t, Config{}, []Service{a, b, web("c", 3, 1)})
		})
	}
}

// updatesWith updates services and expects a number of problems, in which case
// nothing has changed.
func (n *node) updatesWith(t *testing.T, d *Dataplane, problems int, c Change) {
	t.Helper()
	before := n.read(t, DefaultTable).String()
	_, err := d.Update(t.Context(), c)
	if err != nil && problems == 0 {
		t.Fatal(err)
	}
	if problems > 0 {
		if got := len(fieldErrors(t, err)); got != problems {
			t.Errorf("%d problems, want %d: %v", got, problems, err)
		}
		n.wantText(t, DefaultTable, before)
	}
}

// TestRangeClaims: a range that shrinks or is deleted frees its ports, and a
// refused range claims nothing.
func TestRangeClaims(t *testing.T) {
	n := newNode(t)
	d := n.open(t, Config{})
	wide := Service{Name: "a", Frontends: []Frontend{ranged(":80", 90)}}
	narrow := Service{Name: "a", Frontends: []Frontend{ranged(":80", 85)}}
	other := Service{Name: "b", Frontends: []Frontend{ranged("[::]:86", 95), ranged("10.96.0.1:80", 90)}}
	n.updatesWith(t, d, 0, Change{Set: []Service{wide}})
	n.updatesWith(t, d, 1, Change{Set: []Service{other}})
	n.updatesWith(t, d, 0, Change{Set: []Service{narrow}})
	n.updatesWith(t, d, 0, Change{Set: []Service{other}})
	n.wantServices(t, Config{}, []Service{narrow, other})
	for _, c := range []struct {
		front    string
		problems int
	}{{":80", 1}, {"[::]:85", 1}, {"[::]:86", 1}, {"[::]:95", 1}, {"0.0.0.0:86", 0}} {
		front := front(c.front)
		n.updatesWith(t, d, c.problems, Change{Set: []Service{{Name: "c", Frontends: []Frontend{ranged(c.front, front.Port+1)}}}})
	}
	n.updatesWith(t, d, 0, Change{Set: []Service{{Name: "c", Frontends: []Frontend{ranged(":80", 95)}}}, Delete: []string{"a", "b"}})
}

// TestClaims replaces services step by step.
func TestClaims(t *testing.T) {
	a := Service{Name: "a", Frontends: fronts("10.96.0.1:80", ":80")}
	b := Service{Name: "b", Frontends: fronts("10.96.0.2:80")}
	greedy := Service{Name: "b", Frontends: fronts("10.96.0.3:80", "10.96.0.1:80")}
	nameless := Service{Frontends: fronts("10.96.0.4:80")}
	n := newNode(t)
	d := n.open(t, Config{})
	n.updatesWith(t, d, 0, Change{Set: []Service{a, b}})
	n.updatesWith(t, d, 2, Change{Set: []Service{greedy, nameless}}) // that of frontends[1] and that of the name
	n.updatesWith(t, d, 0, Change{Set: []Service{b}})
	n.wantServices(t, Config{}, []Service{a, b})
	n.updatesWith(t, d, 0, Change{Set: []Service{greedy}, Delete: []string{"a"}})
	n.updatesWith(t, d, 0, Change{Set: []Service{{Name: "c", Frontends: fronts("10.96.0.2:80")}}})
	n.updatesWith(t, d, 1, Change{Set: []Service{a}})
}
