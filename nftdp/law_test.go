package nftdp

import (
	"cmp"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/nftdp/go-nftdp/internal/compile"
	"github.com/nftdp/go-nftdp/internal/ruleset"
)

// FuzzPlanTo: a plan leads from any services to any others, and is empty if
// they compile to the same, whatever the arrangement of pools.
func FuzzPlanTo(f *testing.F) {
	addRandom(f, 200)
	f.Fuzz(func(t *testing.T, data []byte) {
		d := &dice{data}
		was, is := d.services(), d.services()
		t.Cleanup(func() {
			if t.Failed() {
				t.Logf("from %s\nto %s", asJSON(was), asJSON(is))
			}
		})
		former, config := d.config(), d.config()
		a, b := mustCompile(t, former, was), mustCompile(t, config, is)
		before := a.String() + b.String()
		plan := a.PlanTo(b)
		got := &Ruleset{rules: ruleset.Apply(a.rules, plan.changes)}

		if diff := gocmp.Diff(withoutSizes(b.like(a)), withoutSizes(got)); diff != "" {
			t.Errorf("the plan makes another ruleset (-want +got):\n%s\nplan:\n%v", diff, plan)
		}
		wantNoPlan(t, a, a)
		wantNoPlan(t, got, b)
		wantNoPlan(t, got, mustCompile(t, config, d.reordered(is)))
		wantNoPlan(t, b.like(a), got)
		if a.String()+b.String() != before {
			t.Error("the rulesets changed")
		}
		if lines := strings.Count(plan.String(), "\n"); lines != plan.Len() || plan.Empty() != (lines == 0) {
			t.Errorf("a plan of %d lines has Len %d and Empty %t", lines, plan.Len(), plan.Empty())
		}
	})
}

func wantNoPlan(t *testing.T, from, to *Ruleset) {
	t.Helper()
	if plan := from.PlanTo(to); !plan.Empty() {
		t.Errorf("changes are left:\n%v", plan)
	}
}

// withoutSizes returns the text without the declared sizes of sets, which are
// kept if they are large enough.
func withoutSizes(r *Ruleset) string {
	return regexp.MustCompile(`(?m)^\t\tsize \d+\n`).ReplaceAllString(r.String(), "")
}

// FuzzCompileOrder: the order of services, frontends and backends makes no
// difference.
func FuzzCompileOrder(f *testing.F) {
	addRandom(f, 100)
	f.Fuzz(func(t *testing.T, data []byte) {
		d := &dice{data}
		services, config := d.services(), d.config()
		a, b := mustCompile(t, config, services), mustCompile(t, config, d.reordered(services))
		if diff := gocmp.Diff(a.String(), b.String()); diff != "" {
			t.Errorf("another order, another ruleset (-one +other):\n%s\n%s", diff, asJSON(services))
		}
		wantNoPlan(t, a, b)
	})
}

// FuzzStatus: the status of a ruleset has the services that it was compiled
// from.
func FuzzStatus(f *testing.F) {
	addRandom(f, 100)
	f.Fuzz(func(t *testing.T, data []byte) {
		d := &dice{data}
		services := d.services()
		want, got := map[string]ServiceStatus{}, map[string]ServiceStatus{}
		balance := map[string]Scheduler{}
		for i := range services {
			balance[services[i].Name] = services[i].Scheduler
			if s := statusOf(&services[i]); len(s.Frontends) > 0 {
				withoutTables(&s, services[i].Scheduler)
				want[s.Name] = s
			}
		}
		for _, s := range mustCompile(t, d.config(), services).status() {
			withoutTables(&s, balance[s.Name])
			got[s.Name] = s
		}
		sorted := cmpopts.SortSlices(func(a, b FrontendStatus) bool {
			return cmp.Or(a.Addr.Compare(b.Addr), int(a.Port)-int(b.Port), int(a.EndPort)-int(b.EndPort)) < 0
		})
		sortedBackends := cmpopts.SortSlices(func(a, b BackendStatus) bool { return a.Addr.Compare(b.Addr) < 0 })
		if diff := gocmp.Diff(want, got, sorted, sortedBackends, plainAddrs(), cmpopts.EquateEmpty()); diff != "" {
			t.Errorf("status (-want +got):\n%s\n%s", diff, asJSON(services))
		}
	})
}

// statusOf derives the status of a service from the documentation of the model
// alone.
func statusOf(s *Service) ServiceStatus {
	out := ServiceStatus{Name: s.Name, Protocol: s.Protocol}
	for _, f := range s.Frontends {
		addrs := []netip.Addr{f.Addr.Unmap()}
		if !f.Addr.IsValid() {
			addrs = []netip.Addr{netip.IPv4Unspecified(), netip.IPv6Unspecified()}
		}
		for _, a := range addrs {
			out.Frontends = append(out.Frontends, frontendStatusOf(s, a, f))
		}
	}
	return out
}

func frontendStatusOf(s *Service, a netip.Addr, f Frontend) FrontendStatus {
	out := FrontendStatus{Addr: a, Port: f.Port}
	if f.EndPort > f.Port {
		out.EndPort = f.EndPort
	}
	all := usable(s, a, func(b Backend) bool { return !b.LocalOnly })
	if len(all) == 0 {
		all = usable(s, a, func(Backend) bool { return true })
	}
	local := usable(s, a, func(b Backend) bool { return b.Local || b.NodePort > 0 })
	pools := [][]Backend{all}
	switch {
	case f.Policy == PolicyLocalOnly, f.Policy == PolicyExternalLocalOnly && slices.Equal(local, all):
		pools = [][]Backend{local}
	case f.Policy == PolicyExternalLocalOnly:
		pools = [][]Backend{local, all}
	}
	if len(pools[0]) == 0 {
		action := f.NoBackend
		switch {
		case action == ActionDefault && len(all) > 0:
			action = ActionDrop
		case action == ActionDefault && !f.Addr.IsValid() && otherFamilyOnly(s, a):
			action = ActionPass
		case action == ActionDefault:
			action = ActionReject
		}
		out.NoBackend = &action
	}
	slots := map[netip.AddrPort]int{}
	for _, pool := range pools {
		addShares(slots, pool, &out)
	}
	for addr, n := range slots {
		out.Backends = append(out.Backends, BackendStatus{Addr: addr, Slots: n})
	}
	return out
}

// otherFamilyOnly reports whether all backends, of which there are some, are not of
// the address's family.
func otherFamilyOnly(s *Service, a netip.Addr) bool {
	return len(s.Backends) > 0 && !slices.ContainsFunc(s.Backends, func(b Backend) bool { return b.at(a).IsValid() })
}

// at returns where the backend has the connections to an address, or nothing if it is
// of the other family.
func (b *Backend) at(a netip.Addr) netip.AddrPort {
	unspecified := netip.IPv6Unspecified()
	if a.Is4() {
		unspecified = netip.IPv4Unspecified()
	}
	switch own := b.Addr.Addr().Unmap(); {
	case b.NodePort > 0:
		return netip.AddrPortFrom(unspecified, b.NodePort)
	case own.Is4() == a.Is4():
		return netip.AddrPortFrom(own, b.Addr.Port())
	}
	return netip.AddrPort{}
}

// usable returns those of the chosen backends that new connections may go to.
func usable(s *Service, a netip.Addr, chosen func(Backend) bool) []Backend {
	found := slices.DeleteFunc(slices.Clone(s.Backends), func(b Backend) bool {
		return b.State != StateActive || !chosen(b) || !b.at(a).IsValid()
	})
	if slices.ContainsFunc(found, func(b Backend) bool { return !b.Backup }) {
		found = slices.DeleteFunc(found, func(b Backend) bool { return b.Backup })
	}
	return found
}

// addShares adds the slots of a pool. The weights are divided by their greatest
// common divisor before they become slots.
func addShares(slots map[netip.AddrPort]int, pool []Backend, f *FrontendStatus) {
	divisor := 0
	for _, b := range pool {
		for n := int(max(b.Weight, 1)); n > 0; {
			divisor, n = n, divisor%n
		}
	}
	for _, b := range pool {
		at := b.at(f.Addr)
		port := at.Port()
		if port == 0 && f.EndPort == 0 {
			port = f.Port
		}
		slots[netip.AddrPortFrom(at.Addr(), port)] += int(max(b.Weight, 1)) / divisor
	}
}

// withoutTables leaves out the shares of Maglev, which the tests of its tables
// check.
func withoutTables(s *ServiceStatus, balance Scheduler) {
	for i := range s.Frontends {
		for j := range s.Frontends[i].Backends {
			if balance == SchedulerMaglev {
				s.Frontends[i].Backends[j].Slots = 0
			}
		}
	}
}

func plainAddrs() gocmp.Option { return cmpopts.EquateComparable(netip.Addr{}, netip.AddrPort{}) }

// FuzzCounters: a plan carries over the counters of every frontend, and of
// every backend behind it, that exists before and after, and starts others at
// zero.
func FuzzCounters(f *testing.F) {
	addRandom(f, 200)
	f.Fuzz(func(t *testing.T, data []byte) {
		d := &dice{data}
		was, is := d.services(), d.services()
		a, b := mustCompile(t, d.config(), was), mustCompile(t, d.config(), is)
		count(a)
		plan := a.PlanTo(b)
		got := &Ruleset{rules: ruleset.Apply(a.rules, plan.changes)}
		if diff := gocmp.Diff(wantCounts(a, b), countsOf(got)); diff != "" {
			t.Errorf("counts (-want +got):\n%s\nfrom %s\nto %s\nplan:\n%v", diff, asJSON(was), asJSON(is), plan)
		}
	})
}

// count sets every counter of a ruleset to a different number.
func count(r *Ruleset) {
	n := uint64(0)
	for _, t := range r.rules.Tables {
		for _, s := range t.Sets {
			for i := range s.Elements {
				if s.Counter {
					n++
					s.Elements[i].Packets, s.Elements[i].Bytes = n, 60*n
				}
			}
		}
	}
}

// counted identifies a frontend, or a backend behind it. A range is identified
// by its first port. A backend with another limit is another backend, and so is one
// of a service that also leads to a port of the node.
type counted struct {
	protocol uint8
	frontend string
	backend  string
}

// countsOf returns the values of all counters.
func countsOf(r *Ruleset) map[counted]Counter {
	out := map[counted]Counter{}
	for _, s := range compile.Holds(r.rules) {
		for _, f := range s.Slots {
			key := counted{protocol: s.Proto, frontend: fmt.Sprintf("%v %d range:%t", f.Addr, f.Port, f.End > 0)}
			out[key] = Counter{f.Packets, f.Bytes}
			for _, b := range f.Slots {
				key.backend = b.Addr.String()
				if len(s.Limits) > 0 || s.ToNode {
					limit := s.Limits[b.Addr]
					key.backend += fmt.Sprintf(" limit:%d drop:%t", limit, limit > 0 && f.Empty == compile.Drop)
				}
				c := out[key]
				out[key] = Counter{c.Connections + b.Packets, c.Bytes + b.Bytes}
			}
		}
	}
	return out
}

// wantCounts returns the counts of b, carried over from a.
func wantCounts(a, b *Ruleset) map[counted]Counter {
	former, out := countsOf(a), countsOf(b)
	for key := range out {
		out[key] = former[key]
	}
	return out
}
