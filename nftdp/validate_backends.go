package nftdp

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"

	"github.com/nftdp/go-nftdp/internal/ruleset"
)

func (r *report) checkBackend(j int, reachable families) {
	b := &r.service.Backends[j]
	if b.NodePort == 0 {
		r.checkIn("backends", j, "addr", r.backendFlaw(b.Addr, reachable))
	} else if b.Addr != (netip.AddrPort{}) {
		r.checkIn("backends", j, "nodePort", "is not possible with an address: leave one of them out")
	}
	r.checkIn("backends", j, "state", b.State.word().flaw())
	if b.LocalOnly && !b.local() {
		r.checkIn("backends", j, "localOnly", "is of no use without local: set both, or leave it out")
	}
}

// backendFlaw says why connections cannot go to an address and port, or "". With
// a range of ports in the service, a backend has no port. While the ends of a
// range are reversed, its lack of a port may be right.
func (r *report) backendFlaw(a netip.AddrPort, reachable families) string {
	family, ranged := ruleset.FamilyOf(a.Addr()), r.service.ranged()
	switch flaw := hostFlaw(a.Addr()); {
	case !a.IsValid():
		return `is missing: give an address and a port, as in "10.0.0.1:8080", or nodePort`
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
		b, field := &r.service.Backends[d.index], "addr"
		what := b.Addr.String()
		if b.NodePort > 0 {
			field, what = "nodePort", strconv.Itoa(int(b.NodePort))
		}
		r.checkIn("backends", d.index, field, fmt.Sprintf("%s is backends[%d] already: remove one", what, d.first))
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
		if b := &backends[i]; b.State == StateActive {
			if _, ok := b.in(family); ok {
				n++
			}
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
		seen[i] = backends[i].identity()
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
		addr := backends[i].identity()
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
		if backends[i-1].identity().Compare(backends[i].identity()) >= 0 {
			return false
		}
	}
	return true
}

// identity is an address and port that no other backend of a valid service has.
func (b *Backend) identity() netip.AddrPort {
	if b.NodePort > 0 {
		return netip.AddrPortFrom(netip.IPv4Unspecified(), b.NodePort)
	}
	return unmapped(b.Addr)
}

func unmapped(a netip.AddrPort) netip.AddrPort {
	return netip.AddrPortFrom(a.Addr().Unmap(), a.Port())
}
