//go:build linux

package nftdp

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/nftdp/go-nftdp/internal/compile"
	"github.com/nftdp/go-nftdp/internal/engine"
	"github.com/nftdp/go-nftdp/internal/kernel"
	"github.com/nftdp/go-nftdp/internal/ruleset"
)

// FuzzSplit: when a change is split, every batch is within the limit, each
// intermediate state has every service entirely as before or as wanted, and the
// last state is the wanted one.
func FuzzSplit(f *testing.F) {
	addRandom(f, 200)
	f.Fuzz(func(t *testing.T, data []byte) {
		d := &dice{data}
		limit := 2500 + 40*d.roll(256)
		was, is, config := d.services(), d.services(), d.config()
		former := config
		if d.roll(4) == 0 {
			former = d.config()
			// Chains that are about to be deleted keep the rules of the former one.
			former.Localhost, former.InternalInterfaces = config.Localhost, config.InternalInterfaces
			// The rules of the next one come ahead of the services. Until the addresses of
			// a service follow, its unused ports are dropped instead of rejected.
			if former.lower().DropUnallocated != config.lower().DropUnallocated {
				former.ServiceCIDRs, former.Unallocated = config.ServiceCIDRs, config.Unallocated
			}
		}
		a, b := mustCompile(t, former, was), mustCompile(t, config, is)
		if d.roll(4) == 0 {
			a = nothing()
		}
		check := betweenStates(a, b, former, config)
		got := a.rules
		splitter := splitterFor(is, limit)
		for _, stage := range ruleset.Diff(a.rules, b.rules).Stages() {
			batches, err := splitter.Split(stage)
			if errors.Is(err, syscall.EMSGSIZE) {
				return // a single service is too big
			}
			if err != nil {
				t.Fatal(err)
			}
			for _, batch := range batches {
				size, err := splitter.Size(batch)
				if err != nil || size > limit {
					t.Errorf("a batch of %d bytes, with a limit of %d, error %v", size, limit, err)
				}
				got = ruleset.Apply(got, batch)
				wantApart(t, got)
				if err := check(got); err != nil {
					t.Fatalf("%v\nfrom %s\nto %s\nafter\n%v", err, asJSON(was), asJSON(is), &Plan{batch})
				}
			}
		}
		if diff := cmp.Diff(withoutSizes(b), withoutSizes(&Ruleset{rules: got})); diff != "" {
			t.Errorf("the batches make another ruleset (-want +got):\n%s", diff)
		}
	})
}

// wantApart checks that intervals do not overlap, since a kernel would refuse
// them.
func wantApart(t *testing.T, r *ruleset.Ruleset) {
	t.Helper()
	for _, table := range r.Tables {
		for _, id := range []compile.SetID{compile.FrontendRanges, compile.NodeFrontendRanges} {
			seen := compile.NewIndex(0)
			set := table.Set(compile.Declaration(id).Name)
			for i := range set.Elements {
				e := &set.Elements[i]
				k, _ := compile.KeyOf(&ruleset.Change{Family: table.Family, Set: set}, e)
				if other, ok := seen.Conflict(k, compile.LastPort(e), nil); ok {
					t.Errorf("%s: ranges of %v and of service %q overlap", set.Name, k, other)
				}
				seen.Add(k, compile.LastPort(e), e.Comment)
			}
		}
	}
}

// splitterFor returns a Splitter for a socket that can send a number of bytes.
func splitterFor(services []Service, limit int) *engine.Splitter {
	state := compile.New(compile.Config{}, lowerAll(services))
	return &engine.Splitter{
		Owner: func(k compile.Key) string { name, _ := state.Index().Owner(k); return name },
		Size:  (*kernel.Conn)(nil).Size,
		Big:   &ruleset.TooBigError{Size: 100_000, Limit: limit, Errno: syscall.EMSGSIZE},
	}
}

// betweenStates returns a check of the intermediate states from a to b: every
// service is as in one of them, with everything that it needs in one of the
// configurations. Elements for postrouting may be left over.
func betweenStates(a, b *Ruleset, configs ...Config) func(*ruleset.Ruleset) error {
	known := map[string][]*compile.Service{}
	for _, r := range []*Ruleset{a, b} {
		status := r.status()
		for i, h := range compile.Holds(r.rules) {
			known[asJSON(status[i])] = append(known[asJSON(status[i])], &h.Service)
		}
	}
	return func(r *ruleset.Ruleset) error {
		for _, s := range (&Ruleset{rules: r}).status() {
			if known[asJSON(s)] == nil {
				return fmt.Errorf("this service is neither the former nor the next one: %s", asJSON(s))
			}
			if err := coversOne(r, known[asJSON(s)], configs); err != nil {
				return err
			}
		}
		return noStrays(r, configs[0])
	}
}

// coversOne checks that the ruleset has everything that one of the services
// needs.
func coversOne(r *ruleset.Ruleset, services []*compile.Service, configs []Config) error {
	var errs []error
	for _, c := range configs {
		for _, s := range services {
			changes := ruleset.Diff(r, compile.New(c.lower(), []*compile.Service{s}).Ruleset()).Changes()
			i := slices.IndexFunc(changes, func(c ruleset.Change) bool { return c.Verb == ruleset.Add })
			if i < 0 {
				return nil
			}
			errs = append(errs, fmt.Errorf("service %q needs: %s", s.Name, &changes[i]))
		}
	}
	return errors.Join(errs...)
}

// noStrays checks that every slot of a pool belongs to a frontend. Other
// leftovers are harmless, as no frontend leads to them.
func noStrays(r *ruleset.Ruleset, c Config) error {
	var services []*compile.Service
	for _, h := range compile.Holds(r) {
		services = append(services, &h.Service)
	}
	for _, change := range ruleset.Diff(r, compile.New(c.lower(), services).Ruleset()).Changes() {
		if len(change.Elements) > 0 && compile.SetNamed(change.Set.Name) < compile.Masq {
			return fmt.Errorf("a stray slot, as the services would have: %s", &change)
		}
	}
	return nil
}

// TestSplitLimits: a change that cannot be split is an error that names the
// sizes.
func TestSplitLimits(t *testing.T) {
	big := Service{Name: "big", Frontends: fronts("10.96.0.1:80"), Backends: manyBackends(200)}
	grown := Service{Name: "big", Frontends: fronts("10.96.0.1:80"), Backends: manyBackends(1500)}
	for _, c := range []struct {
		name     string
		from, to *Ruleset
	}{
		{"one big service", mustCompile(t, Config{}, nil), mustCompile(t, Config{}, []Service{big})},
		{"a map is replaced", mustCompile(t, Config{}, []Service{big}), mustCompile(t, Config{}, []Service{grown})},
		{"a table is replaced", mustCompile(t, Config{Table: "a"}, nil), mustCompile(t, Config{Table: "b"}, nil)},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := splitterFor(nil, 8000).Split(c.from.PlanTo(c.to).changes)
			var big *ruleset.TooBigError
			if !errors.As(err, &big) || big.Limit != 8000 || big.Size <= big.Limit || !errors.Is(err, syscall.EMSGSIZE) {
				t.Errorf("%v", err)
			}
		})
	}
}

// TestBigService: a service that does not fit by itself is named, and the others can
// be applied without it.
func TestBigService(t *testing.T) {
	n := newNode(t)
	d, spy := n.spied(t, Config{})
	apply(t, d, nil)
	spy.limit = 8000
	small := Service{Name: "small", Frontends: fronts("10.96.0.2:80"), Backends: manyBackends(3)}
	big := Service{Name: "big", Frontends: fronts("10.96.0.1:80"), Backends: manyBackends(200)}
	_, err := d.Apply(t.Context(), []Service{big, small})
	p, ok := errors.AsType[*FieldError](err)
	if !ok || p.Service != "big" || !errors.Is(err, syscall.EMSGSIZE) {
		t.Fatalf("%v", err)
	}
	apply(t, d, []Service{small})
}

// TestSplitByService: elements of different services can be in different
// batches, even if the frontends, which have the services' names, do not
// change.
func TestSplitByService(t *testing.T) {
	was, is := manyWebs(0, 30), manyWebs(0, 30)
	for i := range is {
		for j := range is[i].Backends {
			b := &is[i].Backends[j]
			b.Addr = netip.AddrPortFrom(b.Addr.Addr(), 8081)
		}
	}
	plan := mustCompile(t, Config{}, was).PlanTo(mustCompile(t, Config{}, is))
	if strings.Contains(plan.String(), "frontends") {
		t.Fatal("the change has frontends, without which it has to be for this test")
	}
	batches, err := splitterFor(is, 4000).Split(plan.changes)
	if err != nil || len(batches) < 5 {
		t.Errorf("%d batches, error %v", len(batches), err)
	}
}

// TestSplitChains: chains and sets of services need not fit into one batch.
func TestSplitChains(t *testing.T) {
	var services []Service
	for i := range 60 {
		s := web(fmt.Sprint("web ", i), i, 2)
		s.Scheduler = SchedulerRoundRobin
		for j := range s.Frontends {
			s.Frontends[j].Deny = []netip.Prefix{netip.PrefixFrom(numbered("10.1.0.0", i), 32)}
			if s.Frontends[j].Addr.Is6() {
				s.Frontends[j].Deny = []netip.Prefix{netip.PrefixFrom(numbered("fd00:1::", i), 128)}
			}
		}
		services = append(services, s)
	}
	const limit = 50_000 // the skeleton alone has 30,000
	n := newNode(t)
	d, spy := n.spied(t, Config{})
	spy.limit = limit
	for _, wanted := range [][]Service{services, nil, services[:1], services} {
		apply(t, d, wanted)
		n.wantServices(t, Config{}, wanted)
	}
}

// TestSplitRanges: services that take over parts of each other's ranges are in
// one batch, while other services can be in another.
func TestSplitRanges(t *testing.T) {
	service := func(name, addr string, port, last uint16) Service {
		return Service{Name: name, Frontends: []Frontend{ranged(fmt.Sprintf("%s:%d", addr, port), last)}, Backends: backs("10.8.0.1:0")}
	}
	was, is := []Service{
		service("a", "10.96.0.1", 80, 90), service("b", "10.96.0.1", 100, 110), service("c", "10.96.0.1", 120, 130),
		service("d", "10.96.0.2", 80, 90),
	}, []Service{
		service("a", "10.96.0.1", 70, 84), service("b", "10.96.0.1", 85, 99), service("c", "10.96.0.1", 100, 109),
		service("d", "10.96.0.2", 81, 91),
	}
	plan := mustCompile(t, Config{}, was).PlanTo(mustCompile(t, Config{}, is))
	splitter := splitterFor(is, 0)
	elements := slices.DeleteFunc(slices.Clone(plan.changes), func(c ruleset.Change) bool { return len(c.Elements) == 0 })
	all, err := splitter.Size(elements)
	if err != nil {
		t.Fatal(err)
	}
	splitter.Big.Limit = all * 9 / 10 // the others fit without d
	batches, err := splitter.Split(elements)
	if err != nil {
		t.Fatal(err)
	}
	with := map[string]int{} // the batch of each service
	for i, batch := range batches {
		for _, c := range batch {
			for _, e := range c.Elements {
				if at, ok := with[e.Comment]; e.Comment != "" && ok && at != i {
					t.Errorf("service %s is in batches %d and %d", e.Comment, at, i)
				}
				with[e.Comment] = i
			}
		}
	}
	if with["a"] != with["b"] || with["b"] != with["c"] {
		t.Errorf("a is in batch %d, b in %d, c in %d", with["a"], with["b"], with["c"])
	}
	if with["d"] == with["a"] {
		t.Error("d is in the batch of the others")
	}
}

// TestSendParts: a change that is sent in small parts can be stopped after each
// of them, and the next Apply continues. The prefixes of the former
// configuration would overlap with those of the next one.
func TestSendParts(t *testing.T) {
	was := manyWebs(0, 30)
	is := append(manyWebs(10, 50), renamed(web("", 3, 2), "handed over"))
	former, config := Config{Internal: prefixes("10.0.0.0/9")}, Config{Internal: prefixes("10.0.0.0/8")}
	check := betweenStates(mustCompile(t, former, was), mustCompile(t, config, is), former, config)
	for stop := 1; ; stop++ {
		n := newNode(t)
		apply(t, n.open(t, former), was)
		d, spy := n.spied(t, config)
		spy.limit = 12_000
		held := n.read(t, DefaultTable)
		ctx := &checked{Context: t.Context(), check: func(int) error {
			if spy.batches >= stop {
				return context.Canceled
			}
			return nil
		}}
		plan, err := d.Apply(ctx, is)
		got := n.read(t, DefaultTable)
		if err := check(got.rules); err != nil {
			t.Fatalf("stopped after %d parts: %v", stop, err)
		}
		if diff := cmp.Diff(withoutSizes(got), withoutSizes(&Ruleset{rules: ruleset.Apply(held.rules, plan.changes)})); diff != "" {
			t.Errorf("stopped after %d parts, the plan is not what was committed (-kernel +plan):\n%s", stop, diff)
		}
		if err == nil {
			n.wantServices(t, config, is)
			if spy.batches < 5 {
				t.Errorf("only %d parts", spy.batches)
			}
			return
		}
		if !errors.Is(err, context.Canceled) {
			t.Fatal(err)
		}
		spy.limit = 0
		apply(t, d, is)
		n.wantServices(t, config, is)
	}
}

// manyWebs returns services with numbers from first up to last.
func manyWebs(first, last int) (all []Service) {
	for i := first; i < last; i++ {
		all = append(all, web(fmt.Sprint("web ", i), i, i%5))
	}
	return all
}

// TestStages: chains of new pools are committed ahead of the elements that lead
// to them, elements for postrouting are deleted behind, and no change is lost
// or repeated.
func TestStages(t *testing.T) {
	three, one := mustCompile(t, Config{}, []Service{web("a", 1, 3)}), mustCompile(t, Config{}, []Service{web("a", 1, 1)})
	limited := mustCompile(t, Config{NodeAddrs: prefixes("10.0.0.0/8")}, []Service{web("a", 1, 1)})
	ports := func(first, last uint16, backends ...string) *Ruleset {
		s := Service{Name: "range", Frontends: []Frontend{{Addr: netip.MustParseAddr("10.96.0.1"), Port: first, EndPort: last}}}
		for _, b := range backends {
			s.Backends = append(s.Backends, Backend{Addr: netip.AddrPortFrom(netip.MustParseAddr(b), 0)})
		}
		return mustCompile(t, Config{}, []Service{s})
	}
	altered := &Ruleset{rules: ruleset.Apply(three.rules, nil)}
	comment(altered.rules.Tables[0].Set("masq"), "mine")
	for _, c := range []struct {
		name     string
		from, to *Ruleset
		want     int // batches
	}{
		{"nothing", one, one, 0},
		{"a new table", nothing(), three, 1},
		{"more backends", one, three, 2},
		{"fewer backends", three, one, 3},
		{"fewer backends, and limited to some addresses", three, limited, 3},
		{"more backends, and no longer limited", limited, three, 2},
		{"altered by others", altered, three, 1},
		{"removed", three, nothing(), 1},
		{"a range replaced by another one", ports(5000, 5100, "10.180.0.1"), ports(4900, 5050, "10.180.0.1"), 2},
		{"more backends of a range, whose chain stays", ports(5000, 5100, "10.180.0.1"), ports(5000, 5100, "10.180.0.1", "10.180.0.2"), 1},
		{"replaced", three, mustCompile(t, Config{Protect: true}, []Service{web("a", 1, 3)}), 2},
	} {
		t.Run(c.name, func(t *testing.T) {
			plan := c.from.PlanTo(c.to)
			tx := ruleset.Diff(c.from.rules, c.to.rules)
			batches, ahead := tx.Stages(), len(tx.Ahead) > 0
			if len(batches) != c.want {
				t.Errorf("%d batches, want %d", len(batches), c.want)
			}
			got := c.from.rules
			var all []ruleset.Change
			for i, batch := range batches {
				text := (&Plan{batch}).String()
				first, last := i == 0 && ahead && c.want > 1, i == 2
				if first && regexp.MustCompile(`element .*(frontends|backends|masq|hairpin) `).MatchString(text) || last && !addsNothing(batch) {
					t.Errorf("batch %d:\n%s", i, text)
				}
				got = ruleset.Apply(got, batch)
				all = append(all, batch...)
			}
			if diff := cmp.Diff(sortedLines(plan), sortedLines(&Plan{all})); diff != "" {
				t.Errorf("(-planned +sent):\n%s", diff)
			}
			wantNoPlan(t, &Ruleset{rules: got}, c.to)
		})
	}
}

func addsNothing(changes []ruleset.Change) bool {
	return !slices.ContainsFunc(changes, func(c ruleset.Change) bool { return c.Verb == ruleset.Add })
}

// TestManyElements loads 500,000 elements. With CAP_NET_ADMIN in the initial
// user namespace they are one batch, otherwise as many batches as
// net.core.wmem_max requires.
func TestManyElements(t *testing.T) {
	if testing.Short() {
		t.Skip("half a million elements, and -short is set")
	}
	loadElements(t, 500_000)
}

func loadElements(t *testing.T, elements int) {
	t.Helper()
	n := newNode(t)
	d := n.open(t, Config{})
	services := manyElements(elements)
	generation := n.generation(t)
	plan := apply(t, d, services)
	if plan.Len() < elements {
		t.Errorf("the plan has %d changes", plan.Len())
	}
	size, err := n.conn.Size(plan.changes)
	if err != nil {
		t.Fatal(err)
	}
	limit, err := n.conn.MaxBatch(size)
	if err != nil {
		t.Fatal(err)
	}
	batches := n.generation(t) - generation
	t.Logf("%d bytes in %d batches; the limit is %d bytes", size, batches, limit)
	if (limit >= size) != (batches == 1) {
		t.Errorf("%d batches for %d bytes, with a limit of %d", batches, size, limit)
	}
	if left, err := n.open(t, Config{}).Plan(t.Context(), services); err != nil || !left.Empty() {
		t.Errorf("the kernel holds another ruleset: %d changes are left, error %v", left.Len(), err)
	}
	if one := updateWith(t, d, Change{Set: []Service{web("one", 1, 2)}}); one.Len() > 50 {
		t.Errorf("one more service is a plan of %d changes", one.Len())
	}
}

// manyElements returns services with at least this number of elements together.
// As the time to dump a set grows with the square of its size, the elements are
// spread over all maps.
func manyElements(n int) []Service {
	const backends = 30 // of each family, behind two frontends each
	services := make([]Service, n/(4*backends)+1)
	for i := range services {
		s := &services[i]
		*s = Service{Name: fmt.Sprint("service ", i), Frontends: []Frontend{
			{Addr: numbered("10.0.0.0", i), Port: 80}, {Addr: numbered("fd00::", i), Port: 80}, {Port: uint16(i + 1)},
		}}
		for j := range backends {
			s.Backends = append(s.Backends, numberedBackend("11.0.0.0", i+j), numberedBackend("fd01::", i+j))
		}
	}
	return services
}

// TestLimitedBuffer loads more than fits into the send buffer of a process with
// capabilities in a user namespace only, by running this test again in one.
func TestLimitedBuffer(t *testing.T) {
	const inside = "NFTDP_TEST_LIMITED_BUFFER"
	if os.Getenv(inside) != "" {
		loadElements(t, 125_000)
		return
	}
	newNode(t) // skips or fails the test without network namespaces
	again := exec.CommandContext(t.Context(), "/proc/self/exe", "-test.run", "^TestLimitedBuffer$", "-test.v")
	again.Env = append(os.Environ(), inside+"=1")
	again.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNET,
		UidMappings: []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}},
		Pdeathsig:   syscall.SIGKILL,
	}
	out, err := again.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "--- PASS: TestLimitedBuffer ") {
		t.Fatalf("%v\n%s", err, out)
	}
	t.Logf("%s", out)
}
