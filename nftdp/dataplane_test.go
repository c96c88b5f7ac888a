//go:build linux

package nftdp

import (
	"errors"
	"math"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netns"

	"github.com/nftdp/go-nftdp/internal/compile"
	"github.com/nftdp/go-nftdp/internal/ruleset"
)

func numberedBackend(base string, n int) Backend {
	return Backend{Addr: netip.AddrPortFrom(numbered(base, n), 8080)}
}

func someServices() []Service {
	return []Service{web("a", 1, 0), web("b", 2, 1), web("c", 3, 3)}
}

// TestApplyTwice: the second Apply of the same services changes nothing.
func TestApplyTwice(t *testing.T) {
	n := newNode(t)
	d := n.open(t, Config{})
	planned, err := d.Plan(t.Context(), someServices())
	if err != nil {
		t.Fatal(err)
	}
	n.wantText(t, DefaultTable, "")

	applied := apply(t, d, someServices())
	if diff := cmp.Diff(sortedLines(planned), sortedLines(applied)); diff != "" {
		t.Errorf("the applied plan differs from Plan (-planned +applied):\n%s", diff)
	}
	n.wantText(t, DefaultTable, mustCompile(t, Config{}, someServices()).String())

	generation := n.generation(t)
	for range 2 {
		services := someServices()
		slices.Reverse(services)
		if plan := apply(t, d, services); !plan.Empty() || plan.Len() != 0 {
			t.Errorf("again: %v", plan)
		}
	}
	if got := n.generation(t); got != generation {
		t.Errorf("an empty plan changed the generation from %d to %d", generation, got)
	}
}

func sortedLines(p *Plan) []string {
	lines := strings.Split(p.String(), "\n")
	slices.Sort(lines)
	return lines
}

// TestAdoption: a new process adopts the tables. Whatever it does with the same
// services commits nothing, so that counters continue.
func TestAdoption(t *testing.T) {
	config := Config{
		Internal:  prefixes("10.0.0.0/9", "10.128.0.0/9", "::/0"),
		NodeAddrs: prefixes("192.168.0.0/24", "255.255.255.0/24"),
	}
	n := newNode(t)
	held := mustCompile(t, config, someServices())
	count(held)
	n.load(t, nothing(), held)
	generation := n.generation(t)
	for name, do := range map[string]func(d *Dataplane) (*Plan, error){
		"plan":                  func(d *Dataplane) (*Plan, error) { return d.Plan(t.Context(), someServices()) },
		"apply":                 func(d *Dataplane) (*Plan, error) { return d.Apply(t.Context(), someServices()) },
		"update":                func(d *Dataplane) (*Plan, error) { return d.Update(t.Context(), Change{Set: someServices()[1:]}) },
		"empty update":          func(d *Dataplane) (*Plan, error) { return d.Update(t.Context(), Change{}) },
		"unknown names deleted": func(d *Dataplane) (*Plan, error) { return d.Update(t.Context(), Change{Delete: []string{"x", "x"}}) },
	} {
		t.Run(name, func(t *testing.T) {
			plan, err := do(n.open(t, config))
			if err != nil || !plan.Empty() {
				t.Errorf("error %v, plan:\n%v", err, plan)
			}
			n.wantText(t, DefaultTable, held.String())
			if got := n.generation(t); got != generation {
				t.Errorf("the generation changed from %d to %d", generation, got)
			}
		})
	}
}

// TestInspect: Inspect reads what the kernel holds, even if the Dataplane has
// not applied anything.
func TestInspect(t *testing.T) {
	n := newNode(t)
	d := n.open(t, Config{})
	status, err := d.Inspect(t.Context())
	if err != nil || len(status) > 0 {
		t.Errorf("without tables: %v, error %v", status, err)
	}
	held := mustCompile(t, Config{}, someServices())
	count(held)
	n.load(t, nothing(), held)
	status, err = d.Inspect(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(held.status(), status, plainAddrs()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	r, err := d.Ruleset(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(held.String(), r.String()); diff != "" {
		t.Errorf("ruleset (-want +got):\n%s", diff)
	}
}

// TestRepair: the next Apply undoes what others have done to our tables.
func TestRepair(t *testing.T) {
	n := newNode(t)
	d := n.open(t, Config{Internal: prefixes("10.0.0.0/8")})
	services := someServices()
	apply(t, d, services)
	want := n.read(t, DefaultTable)
	for name, spoil := range map[string]func(*ruleset.Ruleset){
		"a table is gone":      func(r *ruleset.Ruleset) { r.Tables = r.Tables[1:] },
		"all is gone":          func(r *ruleset.Ruleset) { r.Tables = nil },
		"a set more":           func(r *ruleset.Ruleset) { addSet(r.Tables[0]) },
		"a chain is empty":     func(r *ruleset.Ruleset) { r.Tables[1].Chain("services").Rules = nil },
		"a chain has more":     func(r *ruleset.Ruleset) { repeatRules(r.Tables[0].Chain("masquerading")) },
		"a foreign chain":      func(r *ruleset.Ruleset) { addChain(r.Tables[0]) },
		"elements are gone":    func(r *ruleset.Ruleset) { r.Tables[0].Set("backends").Elements = nil },
		"names are gone":       func(r *ruleset.Ruleset) { comment(r.Tables[1].Set("frontends"), "") },
		"names are others":     func(r *ruleset.Ruleset) { comment(r.Tables[1].Set("node_frontends"), "other") },
		"comments in hairpin":  func(r *ruleset.Ruleset) { comment(r.Tables[0].Set("hairpin"), "mine") },
		"comments in masq":     func(r *ruleset.Ruleset) { comment(r.Tables[0].Set("masq"), "mine") },
		"drops":                func(r *ruleset.Ruleset) { drop(r.Tables[0].Set("frontends")) },
		"intervals are others": func(r *ruleset.Ruleset) { r.Tables[0].Set("internal").Elements = nil },
		"a set counts not":     func(r *ruleset.Ruleset) { r.Tables[0].Set("frontends").Counter = false },
	} {
		t.Run(name, func(t *testing.T) {
			spoilt := ruleset.Apply(want.rules, nil)
			spoil(spoilt)
			n.load(t, n.read(t, DefaultTable), &Ruleset{rules: spoilt})
			if plan := apply(t, d, services); plan.Empty() {
				t.Error("the plan is empty")
			}
			n.wantServices(t, Config{Internal: prefixes("10.0.0.0/8")}, services)
		})
	}
}

func addSet(t *ruleset.Table) {
	t.Sets = append(t.Sets, &ruleset.Set{Name: "more", Key: []ruleset.Type{ruleset.Port}, Verdict: true})
}

func repeatRules(c *ruleset.Chain) { c.Rules = append(c.Rules, c.Rules[0]) }

// addChain adds a chain to which rules and elements of ours lead.
func addChain(t *ruleset.Table) {
	accept := ruleset.Rule{ruleset.Verdict{Kind: ruleset.Accept}}
	t.Chains = append(t.Chains, &ruleset.Chain{Name: "foreign", Rules: []ruleset.Rule{accept}})
	to := ruleset.Verdict{Kind: ruleset.Goto, Chain: "foreign"}
	t.Chain("services").Rules = append(t.Chain("services").Rules, ruleset.Rule{to})
	t.Set("frontends").Elements[0].Verdict = to
}

func comment(s *ruleset.Set, text string) {
	for i := range s.Elements {
		s.Elements[i].Comment = text
	}
}

func drop(s *ruleset.Set) {
	for i := range s.Elements {
		s.Elements[i].Verdict = ruleset.Verdict{Kind: ruleset.Drop}
	}
}

// TestInvalidServices: nothing of an invalid list of services reaches the
// kernel.
func TestInvalidServices(t *testing.T) {
	n := newNode(t)
	d := n.open(t, Config{})
	apply(t, d, someServices())
	generation := n.generation(t)
	wrong := append(someServices(), web("a", 4, 1), Service{Name: "d", Frontends: fronts("10.96.0.1:80")})
	want := fieldErrors(t, Config{}.Validate(wrong))
	for name, do := range map[string]func() (*Plan, error){
		"plan":   func() (*Plan, error) { return d.Plan(t.Context(), wrong) },
		"apply":  func() (*Plan, error) { return d.Apply(t.Context(), wrong) },
		"update": func() (*Plan, error) { return d.Update(t.Context(), Change{Set: wrong}) },
	} {
		plan, err := do()
		if plan != nil {
			t.Errorf("%s: plan %v", name, plan)
		}
		if diff := cmp.Diff(want, fieldErrors(t, err)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
	if got := n.generation(t); got != generation {
		t.Errorf("the generation moved from %d to %d", generation, got)
	}
}

func TestOpenErrors(t *testing.T) {
	n := newNode(t)
	_, err := Config{Table: "table", Internal: []netip.Prefix{{}}}.OpenIn(t.Context(), n.Handle())
	if got := fieldErrors(t, err); len(got) != 2 {
		t.Errorf("%d problems of the configuration, want 2: %v", len(got), err)
	}
	file, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	closed := netns.NsHandle(file.Fd())
	for name, handle := range map[string]netns.NsHandle{
		"closed": netns.None(), "not open": math.MaxInt32, "negative": -2, "another file": closed,
	} {
		if d, err := (Config{}).OpenIn(t.Context(), handle); err == nil {
			t.Errorf("a handle that is %s is accepted as a namespace", name)
			d.Close()
		}
	}
}

// TestNotOwned: every method leaves a table alone that another program, or a
// newer version of this library, has made.
func TestNotOwned(t *testing.T) {
	for name, c := range map[string]struct {
		families []ruleset.Family
		comment  string
		schema   bool
	}{
		"without a comment": {ruleset.Families[:], "", false},
		"IPv6 alone":        {ruleset.Families[1:], "mine", false},
		"a newer schema":    {ruleset.Families[:1], compile.SchemaPrefix + "999", true},
		"no schema we know": {ruleset.Families[1:], compile.SchemaPrefix + "999x", true},
		"no number":         {ruleset.Families[1:], compile.SchemaPrefix, false},
	} {
		t.Run(name, func(t *testing.T) {
			n := newNode(t)
			early := n.open(t, Config{})
			for _, f := range c.families {
				at := ruleset.Change{Verb: ruleset.Add, Family: f, Table: DefaultTable, Comment: c.comment}
				n.change(t, at)
				at.Chain = &ruleset.Chain{Name: "theirs"}
				n.change(t, at)
			}
			generation, text := n.generation(t), n.read(t, DefaultTable).String()

			_, err := Config{}.OpenIn(t.Context(), n.Handle())
			wantNotOwned(t, "open", err, c.schema)
			_, err = early.Plan(t.Context(), nil)
			wantNotOwned(t, "plan", err, c.schema)
			_, err = early.Apply(t.Context(), someServices())
			wantNotOwned(t, "apply", err, c.schema)
			_, err = early.Update(t.Context(), Change{Set: someServices()})
			wantNotOwned(t, "update", err, c.schema)
			_, err = early.Inspect(t.Context())
			wantNotOwned(t, "inspect", err, c.schema)
			wantNotOwned(t, "remove", early.Remove(t.Context()), c.schema)

			n.wantText(t, DefaultTable, text)
			if got := n.generation(t); got != generation {
				t.Errorf("the generation moved from %d to %d", generation, got)
			}
		})
	}
}

func wantNotOwned(t *testing.T, method string, err error, schema bool) {
	t.Helper()
	if !errors.Is(err, ErrNotOwned) || strings.Contains(err.Error(), compile.SchemaPrefix+"999") != schema {
		t.Errorf("%s: %v", method, err)
	}
}

// TestClosed: after Close the rules stay, and all methods return ErrClosed.
func TestClosed(t *testing.T) {
	n := newNode(t)
	d := n.open(t, Config{})
	apply(t, d, someServices())
	for range 2 { // a second Close has no effect
		if err := d.Close(); err != nil {
			t.Fatal(err)
		}
	}
	n.wantServices(t, Config{}, someServices())
	_, err := d.Plan(t.Context(), nil)
	wantClosed(t, "plan", err)
	_, err = d.Apply(t.Context(), nil)
	wantClosed(t, "apply", err)
	_, err = d.Update(t.Context(), Change{})
	wantClosed(t, "update", err)
	_, err = d.Inspect(t.Context())
	wantClosed(t, "inspect", err)
	_, err = d.Ruleset(t.Context())
	wantClosed(t, "ruleset", err)
	wantClosed(t, "remove", d.Remove(t.Context()))
}

func wantClosed(t *testing.T, method string, err error) {
	t.Helper()
	if !errors.Is(err, ErrClosed) {
		t.Errorf("%s: %v", method, err)
	}
}

// TestRemove: Remove deletes only our tables, and the Dataplane can be used
// again.
func TestRemove(t *testing.T) {
	n := newNode(t)
	other := n.open(t, Config{Table: "other"})
	apply(t, other, someServices())
	text := n.read(t, "other").String()

	d := n.open(t, Config{})
	for range 2 { // a second Remove has no effect
		if err := d.Remove(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	apply(t, d, someServices())
	if err := d.Remove(t.Context()); err != nil {
		t.Fatal(err)
	}
	n.wantText(t, DefaultTable, "")
	n.wantText(t, "other", text)

	// Frontends of the former services are free again.
	updateWith(t, d, Change{Set: []Service{web("new", 1, 1)}})
	n.wantServices(t, Config{}, []Service{web("new", 1, 1)})
}

// TestOtherTables: Dataplanes with different tables do not affect each other,
// and leave other tables alone, including counters.
func TestOtherTables(t *testing.T) {
	n := newNode(t)
	one, two := n.open(t, Config{Table: "one"}), n.open(t, Config{Table: "two"})
	foreign := mustCompile(t, Config{Table: "foreign"}, someServices())
	for _, table := range foreign.rules.Tables {
		table.Comment = ""
	}
	count(foreign)
	n.load(t, nothing(), foreign)
	apply(t, one, someServices())
	before := n.read(t, "one").String()

	apply(t, two, someServices())
	updateWith(t, two, Change{Set: []Service{web("b", 2, 5)}, Delete: []string{"a"}})
	apply(t, two, nil)
	if err := two.Remove(t.Context()); err != nil {
		t.Fatal(err)
	}
	n.wantText(t, "one", before)
	n.wantText(t, "foreign", foreign.String())
	updateWith(t, one, Change{Delete: []string{"a"}})
	n.wantServices(t, Config{Table: "one"}, someServices()[1:])
}

// TestConfigChange: another configuration makes another skeleton, which keeps
// the services of the former one.
func TestConfigChange(t *testing.T) {
	n := newNode(t)
	for _, config := range []Config{
		{},
		{NodeAddrs: prefixes("192.168.0.0/24")},
		{NodeAddrs: prefixes("192.168.0.0/16", "fd00::/64"), Internal: prefixes("10.0.0.0/9", "fd00::/16")},
		{NodeAddrs: prefixes("192.168.0.0/25", "192.168.0.128/25"), Internal: prefixes("10.0.0.0/8", "fd00::/64")},
		{NodeAddrs: prefixes("::/0"), Internal: prefixes("0.0.0.0/0", "::/0")},
		{Internal: prefixes("0.0.0.0/1", "128.0.0.0/1", "8000::/1")},
		{},
	} {
		d := n.open(t, config)
		apply(t, d, someServices())
		n.wantServices(t, config, someServices())
	}
}
