//go:build linux

package nftdp

import (
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/nftdp/go-nftdp/internal/ruleset"
)

// TestSetState: SetState is an Update with the same states, for services of every
// feature, on top of what was set before, and for several owners.
func TestSetState(t *testing.T) {
	calls := 0
	for seed := range uint64(60) {
		d := dice{randomBytes(seed, 4096)}
		config := d.config()
		services := d.services()
		if seed%3 == 0 {
			config.Owner = "a"
			for i := range services {
				services[i].Name = "a/" + services[i].Name
			}
		}
		if config.Validate(services) != nil || len(services) == 0 {
			continue
		}
		n := newNode(t)
		one, other := n.open(t, config), newNode(t).open(t, config)
		apply(t, one, services)
		if seed%2 == 0 { // Then the next Apply reads the tables, and finds the services in them.
			apply(t, n.open(t, Config{Table: "beside"}), nil)
			apply(t, one, services)
		}
		apply(t, other, services)
		for range 5 {
			i, state := d.roll(len(services)), []State{StateActive, StateDraining, StateDown}[d.roll(3)]
			s := services[i].clone()
			var addrs []netip.AddrPort
			for j := range s.Backends {
				if d.roll(2) == 0 {
					s.Backends[j].State = state
					addrs = append(addrs, addrOf(&s.Backends[j], d.roll(2) == 0))
				}
			}
			if config.Validate([]Service{*s}) != nil {
				continue
			}
			services[i] = *s
			want, err := other.Update(t.Context(), Change{Set: services[i : i+1]})
			if err != nil {
				t.Fatal(err)
			}
			calls++
			got, err := one.SetState(t.Context(), s.Name, state, addrs...)
			if err != nil {
				t.Fatal(err)
			}
			if got.String() != want.String() {
				t.Errorf("seed %d: %s: %v of %v: SetState changes\n%s\nand Update\n%s", seed, asJSON(s), state, addrs, got, want)
			}
		}
		if plan, err := one.Apply(t.Context(), services); err != nil || !plan.Empty() {
			t.Errorf("seed %d: Apply afterwards changes %v (%v)", seed, plan, err)
		}
	}
	if calls < 100 {
		t.Errorf("only %d calls were compared", calls)
	}
}

// addrOf returns the address by which a backend is named: that of a port of the node is
// unspecified, in either family.
func addrOf(b *Backend, six bool) netip.AddrPort {
	addr, ok := b.in(ruleset.IPv6)
	if v4, is4 := b.in(ruleset.IPv4); is4 && (!six || !ok) {
		return v4
	}
	return addr
}

// TestSetStateErrors: what is unknown is refused, and nothing is changed.
func TestSetStateErrors(t *testing.T) {
	n := newNode(t)
	late := n.open(t, Config{})
	d := n.open(t, Config{})
	services := someServices()
	apply(t, d, services)
	held := n.generation(t)
	b := services[1].Backends[0].Addr
	for _, test := range []struct {
		d       *Dataplane
		service string
		state   State
		backend netip.AddrPort
		want    string
	}{
		{d, "nobody", StateDown, b, "is not a service that this Dataplane has set"},
		{late, services[1].Name, StateDown, b, "is not a service that this Dataplane has set"},
		{d, services[1].Name, StateDown, netip.MustParseAddrPort("192.0.2.99:1"), "192.0.2.99:1 is not one of them"},
		{d, services[1].Name, State(9), b, "9"},
	} {
		if _, err := test.d.SetState(t.Context(), test.service, test.state, test.backend); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s %v %v: error %v, want %q", test.service, test.state, test.backend, err, test.want)
		}
	}
	if got := n.generation(t); got != held {
		t.Error("something was changed")
	}
}

// TestSetStateOfCallers: the Dataplane goes by what a service was when it was set,
// not by what the caller has made of its slices since.
func TestSetStateOfCallers(t *testing.T) {
	n := newNode(t)
	d := n.open(t, Config{})
	services := someServices()
	apply(t, d, services)
	addr := services[1].Backends[0].Addr
	services[1].Backends[0] = numberedBackend("10.9.9.9", 9)
	services[1].Frontends[0].Port++
	if _, err := d.SetState(t.Context(), services[1].Name, StateDown, addr); err != nil {
		t.Error(err)
	}
	want := someServices()
	want[1].Backends[0].State = StateDown
	if plan := apply(t, d, want); !plan.Empty() {
		t.Errorf("differs from an Apply of the same:\n%v", plan)
	}
}

// TestSetStateConcurrent: states that are set at the same time, beside Updates of other
// services, are all there in the end.
func TestSetStateConcurrent(t *testing.T) {
	d := newNode(t).open(t, Config{})
	many := web("many", 1, 40)
	apply(t, d, []Service{many, web("other", 2, 3)})
	var all sync.WaitGroup
	for _, b := range many.Backends {
		all.Go(func() {
			if _, err := d.SetState(t.Context(), many.Name, StateDown, b.Addr); err != nil {
				t.Error(err)
			}
		})
		all.Go(func() {
			other := web("other", 2, 3)
			other.Backends = slices.Clone(other.Backends[:2])
			if _, err := d.Update(t.Context(), Change{Set: []Service{other}}); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	for i := range many.Backends {
		many.Backends[i].State = StateDown
	}
	if plan, err := d.Update(t.Context(), Change{Set: []Service{many}}); err != nil || !plan.Empty() {
		t.Errorf("differs from all of them being down: %v (%v)", plan, err)
	}
}

// TestClone: a clone is equal, and shares no slice of any field.
func TestClone(t *testing.T) {
	var s Service
	fill(t, reflect.ValueOf(&s).Elem())
	clone := s.clone()
	if diff := cmp.Diff(asJSON(s), asJSON(clone)); diff != "" {
		t.Errorf("the clone differs:\n%s", diff)
	}
	wantUnshared(t, "Service", reflect.ValueOf(&s).Elem(), reflect.ValueOf(clone).Elem())
}

// fill makes every slice of our types one with an element.
func fill(t *testing.T, v reflect.Value) {
	t.Helper()
	switch {
	case v.Kind() == reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 1, 1))
		fill(t, v.Index(0))
	case v.Kind() == reflect.Struct && v.Type().PkgPath() == reflect.TypeFor[Service]().PkgPath():
		for _, field := range v.Fields() {
			fill(t, field)
		}
	case v.Kind() == reflect.Map || v.Kind() == reflect.Pointer:
		t.Errorf("%v: clone does not know how to copy it", v.Type())
	}
}

func wantUnshared(t *testing.T, path string, a, b reflect.Value) {
	t.Helper()
	switch {
	case a.Kind() == reflect.Slice:
		if a.UnsafePointer() == b.UnsafePointer() {
			t.Errorf("%s is shared", path)
		}
		wantUnshared(t, path, a.Index(0), b.Index(0))
	case a.Kind() == reflect.Struct && a.Type().PkgPath() == reflect.TypeFor[Service]().PkgPath():
		for i := range a.NumField() {
			wantUnshared(t, path+"."+a.Type().Field(i).Name, a.Field(i), b.Field(i))
		}
	}
}
