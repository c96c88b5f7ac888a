package nftdp

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/nftdp/go-nftdp/internal/ruleset"
)

func (r *report) checkBackend(j int, reachable families) {
	b := &r.service.Backends[j]
	r.checkIn("backends", j, "addr", r.backendFlaw(b.Addr, reachable))
	r.checkIn("backends", j, "state", b.State.word().flaw())
}

// backendFlaw says why connections cannot go to an address and port, or "". With
// a range of ports in the service, a backend has no port. While the ends of a
// range are reversed, its lack of a port may be right.
func (r *report) backendFlaw(a netip.AddrPort, reachable families) string {
	family, ranged := ruleset.FamilyOf(a.Addr()), r.service.ranged()
	switch flaw := hostFlaw(a.Addr()); {
	case !a.IsValid():
		return `is missing: give an address and a port, as in "10.0.0.1:8080"`
	case flaw != "":
		return flaw + ": give the unicast address at which the node reaches the backend"
	case ranged && a.Port() != 0:
		return fmt.Sprintf("%v has a port, but the service has a range of ports, which are kept: give port 0", a)
	case !ranged && !r.reversed && a.Port() == 0:
		return fmt.Sprintf("%v has port 0: give a port from 1 to 65535", a)
	case !reachable.has(family):
		return fmt.Sprintf("%v is %s, but no frontend of the service is: add one, or remove the backend", a, familyName(family))
	}
	return ""
}

// checkPool reports backends that the service has twice, and more backends than a
// pool has slots.
func (r *report) checkPool() {
	for _, d := range duplicates(r.service.Backends) {
		r.add(fmt.Sprintf("backends[%d].addr", d.index),
			fmt.Sprintf("%v is backends[%d] already: remove one", r.service.Backends[d.index].Addr, d.first))
	}
	most := MaxBackends
	if len(r.service.Backends) > MaxRangeBackends && r.service.ranged() {
		most = MaxRangeBackends
	}
	if len(r.service.Backends) <= most {
		return
	}
	for _, family := range ruleset.Families {
		if n := active(r.service.Backends, family); n > most {
			r.add("backends", fmt.Sprintf("has %d active %s backends: at most %d are possible", n, familyName(family), most))
		}
	}
}

// checkMaglev requires a slot for every backend.
func (r *report) checkMaglev(slots int) {
	for _, family := range ruleset.Families {
		if n := active(r.service.Backends, family); n > slots {
			r.add("maglevSize", fmt.Sprintf("a table of %d slots is too small for %d active %s backends", slots, n, familyName(family)))
		}
	}
}

// active is the number of backends of a family that take new connections.
func active(backends []Backend, family ruleset.Family) int {
	n := 0
	for i := range backends {
		if b := &backends[i]; b.State == StateActive && b.Addr.IsValid() && ruleset.FamilyOf(b.Addr.Addr()) == family {
			n++
		}
	}
	return n
}

// duplicate is a backend with the address and port of an earlier one.
type duplicate struct{ index, first int }

// duplicates compares a few backends with each other, which allocates nothing, and
// looks up many in a map.
func duplicates(backends []Backend) []duplicate {
	const few = 32
	if len(backends) > few {
		return manyDuplicates(backends)
	}
	var found []duplicate
	var seen [few]netip.AddrPort
	for i := range backends {
		seen[i] = unmapped(backends[i].Addr)
		first := slices.Index(seen[:i], seen[i])
		if first >= 0 && seen[i].IsValid() {
			found = append(found, duplicate{i, first})
		}
	}
	return found
}

func manyDuplicates(backends []Backend) []duplicate {
	if ascending(backends) {
		return nil
	}
	var found []duplicate
	seen := make(map[netip.AddrPort]int, len(backends))
	for i := range backends {
		addr := unmapped(backends[i].Addr)
		if first, ok := seen[addr]; !ok {
			seen[addr] = i
		} else if addr.IsValid() {
			found = append(found, duplicate{i, first})
		}
	}
	return found
}

// ascending reports whether each backend's address and port are greater than those
// of the one before, as in most lists that a program has made.
func ascending(backends []Backend) bool {
	for i := 1; i < len(backends); i++ {
		if unmapped(backends[i-1].Addr).Compare(unmapped(backends[i].Addr)) >= 0 {
			return false
		}
	}
	return true
}

func unmapped(a netip.AddrPort) netip.AddrPort {
	return netip.AddrPortFrom(a.Addr().Unmap(), a.Port())
}
