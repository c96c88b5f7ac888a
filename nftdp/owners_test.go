//go:build linux

package nftdp

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/nftdp/go-nftdp/internal/compile"
	"github.com/nftdp/go-nftdp/internal/ruleset"
)

// compiled is what services of all owners compile to together.
func compiled(c Config, services []Service) *Ruleset {
	state := compile.New(c.lower(), lowerAll(services))
	return &Ruleset{rules: state.Ruleset(), state: state}
}

// wantShared checks that the kernel holds exactly these services of all owners.
func (n *node) wantShared(t *testing.T, c Config, services ...Service) {
	t.Helper()
	if plan := n.read(t, c.table()).PlanTo(compiled(c, services)); !plan.Empty() {
		t.Errorf("the kernel holds another ruleset, changes are left:\n%v", plan)
	}
}

// owned returns a service with the name that an owner gives it.
func owned(owner string, s Service) Service { return renamed(s, owner+"/"+s.Name) }

// TestOwners: each owner's methods concern its own services.
func TestOwners(t *testing.T) {
	n := newNode(t)
	ca, cb := Config{Owner: "a"}, Config{Owner: "b"}
	a, b := n.open(t, ca), n.open(t, cb)
	a1, a2, b1, b2 := owned("a", web("1", 1, 2)), owned("a", web("2", 2, 3)), owned("b", web("1", 3, 2)), owned("b", web("2", 4, 4))
	apply(t, a, []Service{a1})
	apply(t, b, []Service{b1, b2})
	n.wantShared(t, ca, a1, b1, b2)
	updateWith(t, a, Change{Set: []Service{a2}})
	n.wantShared(t, ca, a1, a2, b1, b2)
	apply(t, b, []Service{b2})
	n.wantShared(t, ca, a1, a2, b2)
	updateWith(t, a, Change{Delete: []string{"a/1"}})
	n.wantAtLeast(t, ca, a2, b2)
	updateWith(t, n.open(t, ca), Change{Set: []Service{a1}, Delete: []string{"a/2", "a/unknown"}})
	n.wantShared(t, ca, a1, b2)
	apply(t, a, []Service{a2})
	n.wantShared(t, ca, a2, b2)
	apply(t, b, nil)
	n.wantShared(t, ca, a2)
	if err := b.Remove(t.Context()); err != nil {
		t.Error(err)
	}
	n.wantShared(t, ca, a2)
	apply(t, b, []Service{b1})
	if err := a.Remove(t.Context()); err != nil {
		t.Error(err)
	}
	n.wantShared(t, ca, b1)
	if err := b.Remove(t.Context()); err != nil {
		t.Error(err)
	}
	n.wantText(t, DefaultTable, "")
}

// TestOwnersConflict: a frontend of another owner is a conflict that names the
// service, whether the other one was there at the last reading or not.
func TestOwnersConflict(t *testing.T) {
	n := newNode(t)
	ca, cb := Config{Owner: "a"}, Config{Owner: "b"}
	ranged := func(name string, from, to uint16) Service {
		return Service{Name: name, Frontends: []Frontend{{Port: from, EndPort: to}}, Backends: []Backend{{Addr: netip.AddrPortFrom(addr("10.180.0.1"), 0)}, {Addr: netip.AddrPortFrom(addr("fd00:180::1"), 0)}}}
	}
	for name, c := range map[string]struct{ theirs, ours Service }{
		"port":  {web("1", 1, 1), web("2", 1, 2)},
		"range": {ranged("1", 100, 200), ranged("2", 150, 250)},
	} {
		t.Run(name, func(t *testing.T) {
			a, b := n.open(t, ca), n.open(t, cb)
			apply(t, a, nil)
			apply(t, b, []Service{owned("b", c.theirs)})
			try := map[string]func(*Dataplane) error{
				"update": func(d *Dataplane) error {
					_, err := d.Update(t.Context(), Change{Set: []Service{owned("a", c.ours)}})
					return err
				},
				"apply": func(d *Dataplane) error { _, err := d.Apply(t.Context(), []Service{owned("a", c.ours)}); return err },
				"plan":  func(d *Dataplane) error { _, err := d.Plan(t.Context(), []Service{owned("a", c.ours)}); return err },
			}
			for method, f := range try {
				for which, d := range map[string]*Dataplane{"old": a, "new": n.open(t, ca)} {
					err := f(d)
					if field, ok := errors.AsType[*FieldError](err); !ok || field.Service != "a/2" || !strings.Contains(field.Reason, `"b/1"`) {
						t.Errorf("%s, %s: error is %v", which, method, err)
					}
				}
			}
			apply(t, b, nil)
			for method, f := range try {
				if err := f(a); err != nil {
					t.Errorf("%s: the frontend is free, but %v", method, err)
				}
			}
			n.wantShared(t, ca, owned("a", c.ours))
			apply(t, a, nil)
		})
	}
}

// TestOwnersConflictOfOne: two services of one owner conflict, also if the second one is
// another process's and the tables are read.
func TestOwnersConflictOfOne(t *testing.T) {
	n := newNode(t)
	c := Config{Owner: "a"}
	theirs := owned("a", web("2", 2, 1))
	apply(t, n.open(t, c), []Service{theirs})
	ours := n.open(t, c)
	var list []Service
	for i := range 8 { // so that some of them come before the other one in any order
		list = append(list, owned("a", web(fmt.Sprint("1", i), 10+i, 1)))
	}
	if _, err := ours.Update(t.Context(), Change{Set: list}); err != nil {
		t.Fatal(err)
	}
	for _, s := range list {
		theirs.Frontends = s.Frontends
		_, err := ours.Update(t.Context(), Change{Set: []Service{theirs}})
		if field, ok := errors.AsType[*FieldError](err); !ok || field.Service != "a/2" || !strings.Contains(field.Reason, s.Name) {
			t.Errorf("frontend of %s: error is %v", s.Name, err)
		}
	}
}

// TestOtherConfig: nobody's tables are replaced because another process has another
// configuration, until it takes them over.
func TestOtherConfig(t *testing.T) {
	n := newNode(t)
	held := Config{Owner: "a", Internal: prefixes("10.0.0.0/8")}
	a1 := owned("a", web("1", 1, 2))
	a := n.open(t, held)
	apply(t, a, []Service{a1})
	text := n.read(t, DefaultTable).String()
	b1 := owned("b", web("1", 2, 2))
	for want, c := range map[string]Config{
		"another value of localhost:":                           {Owner: "b", Internal: held.Internal, Localhost: true},
		"another value of affinitySize, internal:":              {Owner: "b", AffinitySize: 7},
		"another value of nodeAddrs, serviceCIDRs:":             {Owner: "b", Internal: held.Internal, NodeAddrs: held.Internal, ServiceCIDRs: held.Internal},
		"another value of internal, serviceCIDRs, unallocated:": {Owner: "b", ServiceCIDRs: held.Internal, Unallocated: ActionDrop},
		"its services have owners: set Config.Owner":            {},
		"protect: is not possible with owner, since it kee":     {Owner: "b", Protect: true},
	} {
		d, err := c.OpenIn(t.Context(), n.Handle())
		services := []Service{b1}
		if err == nil {
			defer closeOf(t, d)
			if _, err = d.Update(t.Context(), Change{Set: services}); !errors.Is(err, ErrOtherConfig) {
				t.Errorf("update: %v", err)
			}
			if _, err = d.Plan(t.Context(), services); !errors.Is(err, ErrOtherConfig) {
				t.Errorf("plan: %v", err)
			}
			if err = d.Remove(t.Context()); !errors.Is(err, ErrOtherConfig) {
				t.Errorf("remove: %v", err)
			}
			_, err = d.Apply(t.Context(), services)
		}
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("want %q, got %v", want, err)
		}
		n.wantText(t, DefaultTable, text)
	}

	// The order of prefixes, and prefixes inside others, make no difference.
	same := Config{Owner: "b", Internal: prefixes("10.1.0.0/16", "10.0.0.1/8")}
	apply(t, n.open(t, same), []Service{b1})
	n.wantShared(t, held, a1, b1)

	changed := Config{Owner: "b", Localhost: true}
	b := n.open(t, changed)
	if _, err := b.TakeOver(t.Context(), []Service{b1}); err != nil {
		t.Fatal(err)
	}
	n.wantShared(t, changed, a1, b1)
	if _, err := a.Apply(t.Context(), []Service{a1}); !errors.Is(err, ErrOtherConfig) {
		t.Errorf("apply: %v", err)
	}

	// Tables of one list, and back.
	alone := n.open(t, Config{})
	if _, err := alone.TakeOver(t.Context(), []Service{web("ns/1", 3, 1)}); err != nil {
		t.Fatal(err)
	}
	n.wantServices(t, Config{}, []Service{web("ns/1", 3, 1)})
	if _, err := n.open(t, held).Update(t.Context(), Change{Set: []Service{a1}}); !errors.Is(err, ErrOtherConfig) ||
		!strings.Contains(err.Error(), "its services have no owners") {
		t.Errorf("update: %v", err)
	}
	if _, err := n.open(t, held).TakeOver(t.Context(), []Service{a1}); err != nil {
		t.Fatal(err)
	}
	n.wantShared(t, held, a1)
}

// TestTakeOverChains: the chains that only services of other owners use follow the new
// configuration when their owner applies them, and not before.
func TestTakeOverChains(t *testing.T) {
	for name, changed := range map[string]Config{
		"localhost":  {Localhost: true},
		"interfaces": {InternalInterfaces: []string{"cni0"}},
	} {
		t.Run(name, func(t *testing.T) {
			n := newNode(t)
			a1, b1 := owned("a", web("1", 1, 2)), owned("b", web("1", 2, 2))
			for i := range a1.Frontends {
				a1.Frontends[i].Policy = PolicyExternalLocalOnly
			}
			a1.Backends[0].Local, a1.Backends[1].Local = true, true
			apply(t, n.open(t, Config{Owner: "a"}), []Service{a1})
			ca, cb := changed, changed
			ca.Owner, cb.Owner = "a", "b"
			if _, err := n.open(t, cb).TakeOver(t.Context(), []Service{b1}); err != nil {
				t.Fatal(err)
			}
			if n.read(t, DefaultTable).PlanTo(compiled(ca, []Service{a1, b1})).Empty() {
				t.Error("the chains of the other owner have changed")
			}
			apply(t, n.open(t, ca), []Service{a1})
			n.wantShared(t, ca, a1, b1)
		})
	}
}

// TestOwnersAtRandom: after whatever several owners do in turns, several processes
// for each of them, and others to the tables, everything that belongs to somebody
// is there, and nothing else once somebody has applied everything.
func TestOwnersAtRandom(t *testing.T) {
	first := *firstSeed
	if first == 0 {
		first = uint64(rand.Uint32())
	}
	for seed := first; seed < first+uint64(*sequences); seed++ {
		s := &shares{dice: &dice{randomBytes(seed, 20_000)}, node: newNode(t), held: map[string]Service{}}
		s.config = s.dice.config()
		for range 40 {
			if s.step(t); t.Failed() {
				t.Fatalf("repeat with go test -run TestOwnersAtRandom -sequences 1 -seed %d; steps:\n%s", seed, s.log)
			}
		}
		s.finish(t)
		if t.Failed() {
			t.Fatalf("repeat with go test -run TestOwnersAtRandom -sequences 1 -seed %d; steps:\n%s", seed, s.log)
		}
	}
}

// shares is the expected state of tables that owners share.
type shares struct {
	*dice
	node   *node
	config Config // without the owner
	open   [3]*Dataplane
	mine   [3]map[string]bool // what the Dataplane has set itself
	held   map[string]Service
	log    string
}

func (s *shares) all() (out []Service) {
	for _, name := range slices.Sorted(keysOf(s.held)) {
		out = append(out, s.held[name])
	}
	return out
}

func keysOf[V any](m map[string]V) func(func(string) bool) {
	return func(yield func(string) bool) {
		for k := range m {
			if !yield(k) {
				return
			}
		}
	}
}

// others are the services that do not belong to an owner.
func (s *shares) others(owner string) (out []Service) {
	for _, o := range s.all() {
		if compile.OwnerOf(o.Name) != owner {
			out = append(out, o)
		}
	}
	return out
}

func (s *shares) step(t *testing.T) {
	t.Helper()
	i := s.roll(len(s.open))
	owner := string(rune('a' + i))
	if s.open[i] == nil || s.roll(6) == 0 {
		s.log += fmt.Sprintf("open %s\n", owner)
		s.open[i], s.mine[i] = s.node.open(t, s.configOf(owner)), map[string]bool{}
	}
	switch s.roll(8) {
	case 0:
		s.log += "disturb\n"
		s.node.disturb(t)
	case 1, 2:
		var list []Service
		for _, name := range []string{"1", "2", "3"} {
			if s.roll(3) > 0 {
				list = append(list, s.service(owner+"/"+name, append(s.others(owner), list...)))
			}
		}
		s.log += fmt.Sprintf("apply %s %s\n", owner, asJSON(list))
		apply(t, s.open[i], list)
		for name := range s.held {
			if compile.OwnerOf(name) == owner {
				delete(s.held, name)
			}
		}
		s.mine[i] = map[string]bool{}
		for _, svc := range list {
			s.held[svc.Name], s.mine[i][svc.Name] = svc, true
		}
	default:
		s.update(t, i, owner)
	}
	if s.open[i] != nil && len(s.held) > 0 {
		s.check(t)
	}
}

func (s *shares) update(t *testing.T, i int, owner string) {
	t.Helper()
	var c Change
	for _, name := range []string{"1", "2", "3", "4"} {
		name = owner + "/" + name
		switch s.roll(4) {
		case 0:
			if old := s.held[name]; old.Name != "" && !s.mine[i][name] && s.roll(2) == 0 {
				continue
			}
			others := slices.DeleteFunc(s.all(), func(o Service) bool { return o.Name == name })
			c.Set = append(c.Set, s.service(name, append(others, c.Set...)))
		case 1:
			c.Delete = append(c.Delete, name)
		}
	}
	for _, svc := range c.Set { // an Update cannot find out about deleted services that others have replaced
		s.held[svc.Name], s.mine[i][svc.Name] = svc, true
	}
	for _, name := range c.Delete {
		delete(s.held, name)
		delete(s.mine[i], name)
	}
	s.log += fmt.Sprintf("update %s %s\n", owner, asJSON(c))
	updateWith(t, s.open[i], c)
}

// check compares the services that the kernel holds, and finds nothing missing: what
// nobody needs any more may be there.
func (s *shares) check(t *testing.T) {
	t.Helper()
	s.node.wantAtLeast(t, s.configOf("x"), s.all()...)
}

func (s *shares) configOf(owner string) Config {
	c := s.config
	c.Owner = owner
	return c
}

// wantAtLeast checks that the kernel holds exactly these services, and perhaps
// objects that services share and that none of them needs.
func (n *node) wantAtLeast(t *testing.T, c Config, services ...Service) {
	t.Helper()
	plan := n.read(t, c.table()).PlanTo(compiled(c, services))
	for _, c := range plan.changes {
		id := compile.NumSets
		if c.Set != nil {
			id = compile.SetNamed(c.Set.Name)
		}
		unused := c.Verb != ruleset.Add && (c.Chain != nil || id >= compile.Hairpin || id.Shard() && len(c.Elements) == 0)
		if !unused {
			t.Errorf("the kernel holds another ruleset: %v", &c)
		}
	}
}

// finish has one owner apply what it has, by a process that knows nothing, and
// checks that nothing superfluous is left.
func (s *shares) finish(t *testing.T) {
	t.Helper()
	owner := string(rune('a' + s.roll(3)))
	list := slices.DeleteFunc(s.all(), func(o Service) bool { return compile.OwnerOf(o.Name) != owner })
	apply(t, s.node.open(t, s.configOf(owner)), list)
	s.node.wantShared(t, s.configOf("x"), s.all()...)
}

// TestOwnersAtOnce: owners that change their services all at the same time, some by
// processes that begin with nothing, lose nothing and are not refused.
func TestOwnersAtOnce(t *testing.T) {
	n := newNode(t)
	c := Config{Owner: "0"}
	var all sync.WaitGroup
	var want []Service
	const owners, rounds = 6, 25
	for i := range owners {
		owner := fmt.Sprint(i)
		services := func(round int) (out []Service) {
			for j := range 1 + round%3 {
				out = append(out, owned(owner, web(fmt.Sprint(j), 10*i+j, 1+(round+j)%4)))
			}
			return out
		}
		want = append(want, services(rounds-1)...)
		all.Go(func() {
			d := n.open(t, Config{Owner: owner})
			for round := range rounds {
				var err error
				switch {
				case i%3 == 0 || round == rounds-1:
					_, err = d.Apply(t.Context(), services(round))
				case i%3 == 1:
					_, err = d.Update(t.Context(), Change{Set: services(round)})
				default:
					fresh, failed := Config{Owner: owner}.OpenIn(t.Context(), n.Handle())
					if failed != nil {
						t.Error(failed)
						return
					}
					_, err = fresh.Update(t.Context(), Change{Set: services(round)})
					err = errors.Join(err, fresh.Close())
				}
				if err != nil {
					t.Errorf("owner %s, round %d: %v", owner, round, err)
				}
			}
		})
	}
	all.Wait()
	apply(t, n.open(t, c), slices.DeleteFunc(slices.Clone(want), func(s Service) bool { return !c.owns(s.Name) }))
	n.wantShared(t, c, want...)
}

// TestOwnersKeep: Keep repairs what concerns its own services and the fixed parts,
// whatever others do to theirs, and leaves those alone.
func TestOwnersKeep(t *testing.T) {
	n := newNode(t)
	ca, cb := Config{Owner: "a"}, Config{Owner: "b"}
	a, b := n.open(t, ca), n.open(t, cb)
	a1, b1 := owned("a", web("1", 1, 2)), owned("b", web("1", 2, 3))
	apply(t, a, []Service{a1})
	apply(t, b, []Service{b1})
	ctx, cancel := context.WithCancel(t.Context())
	var keeping sync.WaitGroup
	repairs := make(chan *Drift, 1000)
	for _, d := range []*Dataplane{a} {
		keeping.Go(func() {
			_ = d.Keep(ctx, func(found *Drift, err error) {
				if err != nil {
					t.Error(err)
				}
				repairs <- found
			})
		})
	}
	defer keeping.Wait()
	defer cancel()

	// What b does is no drift of a's.
	for i := range 10 {
		updateWith(t, b, Change{Set: []Service{owned("b", web("1", 2, 1+i%4)), owned("b", web(fmt.Sprint(2+i), 3+i, 5))}})
	}
	apply(t, b, []Service{b1})
	n.wantShared(t, ca, a1, b1)

	// Damage to a's services is repaired, that to b's is not.
	held := n.read(t, DefaultTable)
	damage := held.PlanTo(compiled(ca, []Service{b1}))
	n.change(t, onlyElements(damage)...)
	eventually(t, func() bool { return n.read(t, DefaultTable).PlanTo(compiled(ca, []Service{a1, b1})).Empty() })
	n.change(t, onlyElements(held.PlanTo(compiled(ca, []Service{a1})))...)
	n.change(t, ruleset.Change{Verb: ruleset.Flush, Family: ruleset.IPv6, Table: DefaultTable, Chain: &ruleset.Chain{Name: "services"}})
	eventually(t, func() bool {
		left := n.read(t, DefaultTable).PlanTo(compiled(ca, []Service{a1, b1}))
		return !slices.ContainsFunc(left.changes, func(c ruleset.Change) bool { return c.Rule != nil && c.Chain.Name == "services" })
	})
	apply(t, b, []Service{b1})
	n.wantShared(t, ca, a1, b1)

	// After a flush each restores its own.
	n.change(t, ruleset.Diff(n.read(t, DefaultTable).rules, &ruleset.Ruleset{}).Now...)
	eventually(t, func() bool { return n.read(t, DefaultTable).PlanTo(compiled(ca, []Service{a1})).Empty() })
	apply(t, b, []Service{b1})
	n.wantShared(t, ca, a1, b1)
	cancel()
	keeping.Wait()
	if n := len(repairs); n > 6 {
		t.Errorf("%d repairs", n)
	}
	close(repairs)
	for r := range repairs {
		if strings.Contains(r.String(), "b/") {
			t.Errorf("a repaired services of b:\n%v", r)
		}
	}
}

// TestOwnersKeepTogether: two owners that both keep their services restore all of
// them, and the fixed parts once, after whatever happens to the tables.
func TestOwnersKeepTogether(t *testing.T) {
	n := newNode(t)
	c := Config{Owner: "a", Localhost: true}
	ctx, cancel := context.WithCancel(t.Context())
	var keeping sync.WaitGroup
	defer keeping.Wait()
	defer cancel()
	var all []Service
	for i, owner := range []string{"a", "b"} {
		c.Owner = owner
		d := n.open(t, c)
		s := owned(owner, web("1", i, 2+i))
		all = append(all, s)
		apply(t, d, []Service{s})
		keeping.Go(func() {
			_ = d.Keep(ctx, func(_ *Drift, err error) {
				if err != nil {
					t.Error(err)
				}
			})
		})
	}
	whole := n.read(t, DefaultTable)
	for i := range 12 {
		now := n.read(t, DefaultTable)
		switch i % 4 {
		case 0: // nft flush ruleset
			n.change(t, now.PlanTo(nothing()).changes...)
		case 1: // one family
			n.change(t, ruleset.Change{Verb: ruleset.Delete, Family: ruleset.IPv6, Table: DefaultTable})
		case 2:
			n.change(t, ruleset.Change{Verb: ruleset.Flush, Family: ruleset.IPv4, Table: DefaultTable, Chain: whole.rules.Tables[0].Chain("services")})
		case 3: // all elements
			n.change(t, onlyElements(now.PlanTo(compiled(c, nil)))...)
		}
		eventually(t, func() bool { return n.read(t, DefaultTable).PlanTo(compiled(c, all)).Empty() })
	}
}

// onlyElements are the changes of elements alone.
func onlyElements(p *Plan) (out []ruleset.Change) {
	for _, c := range p.changes {
		if len(c.Elements) > 0 {
			out = append(out, c)
		}
	}
	return out
}

// TestOwnersPlan: the plan of an Apply is what it does.
func TestOwnersPlan(t *testing.T) {
	n := newNode(t)
	apply(t, n.open(t, Config{Owner: "b"}), []Service{owned("b", web("1", 1, 2))})
	a := n.open(t, Config{Owner: "a"})
	for _, list := range [][]Service{{owned("a", web("1", 2, 2))}, {owned("a", web("2", 3, 4))}, nil} {
		planned, err := a.Plan(t.Context(), list)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(sortedLines(planned), sortedLines(apply(t, a, list))); diff != "" {
			t.Error(diff)
		}
		if plan := apply(t, a, list); !plan.Empty() {
			t.Error(plan)
		}
	}
}
