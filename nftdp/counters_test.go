//go:build linux

package nftdp

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestCountersGoOn: the counters of a frontend, and of a backend behind it,
// outlive every change that keeps both.
func TestCountersGoOn(t *testing.T) {
	three := web("s", 1, 3)
	middleGone := web("s", 1, 3)
	middleGone.Backends = append(middleGone.Backends[:2:2], middleGone.Backends[4:]...)
	heavy := web("s", 1, 3)
	heavy.Backends[0].Weight, heavy.Backends[1].Weight = 4, 4
	big := Service{Name: "big", Frontends: fronts("10.96.0.9:80"), Backends: manyBackends(1100)}
	named := func(name string, services ...Service) Service { return renamed(services[0], name) }
	balanced := func(s Service, b Scheduler, size uint16) Service { s.Scheduler, s.MaglevSize = b, size; return s }
	for _, c := range []struct {
		name   string
		is     []Service
		next   []Service
		config Config // later
	}{
		{"slots shift, another class", []Service{three}, []Service{middleGone}, Config{}},
		{"one more backend, another class", []Service{middleGone}, []Service{three}, Config{}},
		{"weights change", []Service{three}, []Service{heavy}, Config{}},
		{"weights change back", []Service{heavy}, []Service{three}, Config{}},
		{"round-robin", []Service{heavy}, []Service{balanced(heavy, SchedulerRoundRobin, 0)}, Config{}},
		{"maglev", []Service{heavy}, []Service{balanced(three, SchedulerMaglev, 13)}, Config{}},
		{"maglev, one removed", []Service{balanced(three, SchedulerMaglev, 13)}, []Service{balanced(middleGone, SchedulerMaglev, 13)}, Config{}},
		{"no longer maglev", []Service{balanced(three, SchedulerMaglev, 251)}, []Service{three}, Config{}},
		{"maps replaced", []Service{three}, []Service{three, big}, Config{}},
		{"renamed", []Service{three}, []Service{named("z", three)}, Config{}},
		{"handed over", []Service{three, {Name: "z"}}, []Service{{Name: "s"}, named("z", three)}, Config{}},
		{"backends removed", []Service{three}, []Service{web("s", 1, 0)}, Config{}},
		{"others added and removed", []Service{three, web("t", 2, 3)}, []Service{three, web("u", 3, 1)}, Config{}},
		{"another configuration", []Service{three}, []Service{middleGone}, Config{NodeAddrs: prefixes("10.0.0.0/8")}},
	} {
		t.Run(c.name, func(t *testing.T) {
			for how, change := range map[string]func(*testing.T, *node){
				"apply": func(t *testing.T, n *node) { apply(t, n.open(t, c.config), c.next) },
				"apply, known": func(t *testing.T, n *node) {
					d := n.open(t, c.config)
					apply(t, d, c.is)
					apply(t, d, c.next)
				},
				"update": func(t *testing.T, n *node) { updateWith(t, n.open(t, c.config), difference(c.is, c.next)) },
				"update, known": func(t *testing.T, n *node) {
					d := n.open(t, c.config)
					apply(t, d, c.is)
					updateWith(t, d, difference(c.is, c.next))
				},
			} {
				t.Run(how, func(t *testing.T) {
					n := newNode(t)
					held := mustCompile(t, Config{}, c.is)
					count(held)
					n.load(t, nothing(), held)
					change(t, n)
					n.wantServices(t, c.config, c.next)
					want := wantCounts(held, mustCompile(t, c.config, c.next))
					if diff := cmp.Diff(want, countsOf(n.read(t, DefaultTable))); diff != "" {
						t.Errorf("counts (-want +got):\n%s", diff)
					}
				})
			}
		})
	}
}

// difference returns the Change from some services to others.
func difference(is, next []Service) Change {
	c := Change{Set: next}
	named := map[string]bool{}
	for _, s := range next {
		named[s.Name] = true
	}
	for _, s := range is {
		if !named[s.Name] {
			c.Delete = append(c.Delete, s.Name)
		}
	}
	return c
}
