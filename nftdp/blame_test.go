package nftdp

import (
	"fmt"
	"math"
	"net/netip"
	"slices"
	"testing"
)

// FuzzBlame: every problem of services names one of them, and without those that are
// named the list is valid. So a program can leave them out, and program the others.
func FuzzBlame(f *testing.F) {
	addRandom(f, 300)
	f.Fuzz(func(t *testing.T, data []byte) {
		d := &dice{data}
		services := append(d.services(), d.services()...)
		for i := range services {
			if d.roll(3) > 0 {
				services[i].Name += fmt.Sprint(i)
			}
			d.makeWrong(&services[i])
		}
		c := d.config()
		named := map[string]bool{}
		for _, p := range fieldErrors(t, c.Validate(services)) {
			if p.Service == "" {
				t.Errorf("a problem of no service: %v", &p)
			}
			named[p.Service] = true
		}
		left := slices.Collect(func(yield func(Service) bool) {
			for i := range services {
				if !named[services[i].label(i)] && !yield(services[i]) {
					return
				}
			}
		})
		if err := c.Validate(left); err != nil {
			t.Errorf("problems are left: %v\n%s", err, asJSON(left))
		}
	})
}

// makeWrong sometimes makes one field of a service wrong.
func (d *dice) makeWrong(s *Service) {
	if len(s.Frontends) == 0 || len(s.Backends) == 0 || d.roll(3) > 0 {
		return
	}
	front, back := &s.Frontends[d.roll(len(s.Frontends))], &s.Backends[d.roll(len(s.Backends))]
	one(d, []func(){
		func() { s.Name = "" },
		func() { s.Name = string(make([]byte, MaxNameLen+1)) },
		func() { s.Protocol, s.Scheduler = 9, 9 },
		func() { s.Affinity = -1 },
		func() { s.MaglevSize = 4 },
		func() { s.SNAT = append(s.SNAT, netip.Addr{}) },
		func() { front.Port = 0 },
		func() { front.Addr = addr("224.0.0.1") },
		func() { front.EndPort, front.Port = 1, math.MaxUint16 },
		func() { front.Allow = append(front.Allow, netip.Prefix{}) },
		func() { front.Policy, front.Masquerade, front.NoBackend = 9, 9, 9 },
		func() { back.Addr = netip.AddrPort{} },
		func() { back.Addr = netip.MustParseAddrPort("127.0.0.1:80") },
		func() { back.State, back.LocalOnly, back.Local = 9, true, false },
		func() { back.MaxConns, s.Affinity = 1, aSecond },
		func() { s.Backends = append(s.Backends, *back) },
		func() { s.Frontends = append(s.Frontends, *front) },
	})()
}
