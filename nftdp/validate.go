package nftdp

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"math/big"
	"net/netip"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/nftdp/go-nftdp/internal/compile"
	"github.com/nftdp/go-nftdp/internal/ruleset"
)

// Validate checks the configuration and a complete list of services. It reports
// all problems at once, first those of the configuration and then those of the
// services in their order: the error joins a *FieldError for each, and is nil if
// there are none. It does not access the kernel.
func (c Config) Validate(services []Service) error {
	return joinProblems(append(c.problems(), c.problemsOf(services)...))
}

func joinProblems(found []*FieldError) error {
	errs := make([]error, len(found))
	for i, p := range found {
		errs[i] = p
	}
	return errors.Join(errs...)
}

// report collects the problems of one service.
type report struct {
	service  *Service
	index    int
	reversed bool // a frontend's EndPort is below its Port
	found    []*FieldError
}

func (r *report) add(field, reason string) {
	r.found = append(r.found, r.service.problem(r.index, field, reason))
}

// check adds a problem if there is a reason.
func (r *report) check(field, reason string) {
	if reason != "" {
		r.add(field, reason)
	}
}

// checkIn does so for a field of the j-th element of a list.
func (r *report) checkIn(list string, j int, field, reason string) {
	if reason != "" {
		r.add(fmt.Sprintf("%s[%d].%s", list, j, field), reason)
	}
}

// problem returns a problem of the service, the i-th of its list.
func (s *Service) problem(i int, field, reason string) *FieldError {
	return &FieldError{Service: s.label(i), Field: field, Reason: reason}
}

// label is what errors call the i-th service of a list.
func (s *Service) label(i int) string {
	if s.Name == "" {
		return fmt.Sprintf("services[%d]", i)
	}
	return s.Name
}

// problems are those that the service, the i-th of its list, has by itself.
// A service without any costs no allocation, unless it has very many backends.
func (s *Service) problems(i int) []*FieldError {
	r := report{service: s, index: i}
	r.checkName()
	r.check("protocol", s.Protocol.word().flaw())
	r.check("scheduler", s.Scheduler.word().flaw())
	var reachable families
	for j := range s.Frontends {
		r.checkFrontend(j)
		reachable |= s.Frontends[j].families()
	}
	if len(s.Frontends) == 0 {
		reachable = bothFamilies
	}
	for j := range s.Backends {
		r.checkBackend(j, reachable)
	}
	r.checkPool()
	r.checkScheduler()
	r.checkAffinity()
	r.checkSNAT(reachable)
	r.checkTogether()
	return r.found
}

func (r *report) checkScheduler() {
	s := r.service
	switch size := int(s.MaglevSize); {
	case !s.Scheduler.word().known():
	case size > 0 && s.Scheduler != SchedulerMaglev:
		r.add("maglevSize", fmt.Sprintf("is of no use with scheduler %v: leave it out, or choose maglev", s.Scheduler))
	case size > s.maxSlots() && s.ranged():
		r.add("maglevSize", fmt.Sprintf("%d is more than the %d slots that are possible", size, s.maxSlots()))
	case size > 0 && (!big.NewInt(int64(size)).ProbablyPrime(0)):
		r.add("maglevSize", fmt.Sprintf("%d is not a prime up to %d, as 251, 1021, 4093, 16381 and 65521 are", size, compile.MaxMaglevSize))
	case s.Scheduler == SchedulerMaglev:
		r.checkMaglev(cmp.Or(size, s.maxSlots()))
	}
}

// checkAffinity accepts what a uint32 of seconds can hold.
func (r *report) checkAffinity() {
	const most = Duration(math.MaxUint32 * time.Second)
	switch d := r.service.Affinity; {
	case d < 0:
		r.add("affinity", fmt.Sprintf("%v is negative: leave it out, or write at least 1s", d))
	case d%Duration(time.Second) != 0:
		r.add("affinity", fmt.Sprintf("%v is not a whole number of seconds", d))
	case d > most:
		r.add("affinity", fmt.Sprintf("%v is too long: at most %v is possible", d, most))
	}
}

// checkSNAT accepts one address of each family that the service has.
func (r *report) checkSNAT(reachable families) {
	var seen families
	for j, a := range r.service.SNAT {
		field := fmt.Sprintf("snat[%d]", j)
		switch family := ruleset.FamilyOf(a); {
		case hostFlaw(a) != "":
			r.add(field, hostFlaw(a)+": give a unicast address that leads back to this node")
		case seen.has(family):
			r.add(field, fmt.Sprintf("%v is a second %s address: one of each family is possible", a, familyName(family)))
		case !reachable.has(family):
			r.add(field, fmt.Sprintf("%v is %s, but no frontend of the service is: remove it", a, familyName(family)))
		default:
			seen |= only(family)
		}
	}
}

// checkTogether finds fields that exclude each other.
func (r *report) checkTogether() {
	s := r.service
	if s.Affinity > 0 && s.ranged() {
		r.add("affinity", "is not possible with port ranges: leave one of them out")
	}
	for j := range s.Backends {
		for _, own := range [...]struct {
			chain bool // the backend has a chain of its own
			field string
		}{{s.Backends[j].MaxConns > 0, "maxConns"}, {s.Backends[j].NodePort > 0, "nodePort"}} {
			if own.chain && s.Affinity > 0 {
				r.checkIn("backends", j, own.field, "is not possible with affinity: leave one of them out")
			}
			if own.chain && s.ranged() {
				r.checkIn("backends", j, own.field, "is not possible with port ranges: leave one of them out")
			}
		}
	}
}

// ranged reports whether the service has a range of ports.
func (s *Service) ranged() bool {
	for i := range s.Frontends {
		if s.Frontends[i].ranged() {
			return true
		}
	}
	return false
}

// maxSlots is the most that a pool of the service can have.
func (s *Service) maxSlots() int {
	if s.ranged() {
		return compile.MaxRangeSlots
	}
	return compile.MaxMaglevSize
}

// checkName accepts what nft keeps in the comment of an element. That is
// everything except the double quote, which ends a comment and has no escape: with
// nft 1.0.6 every pair of other ASCII characters, including backslashes, leading
// and trailing spaces, names of spaces alone and every printable character of
// Unicode survived load, list and load byte for byte (TestStockNftKeepsNames).
// Control and format characters are refused because they garble a listing, or
// hide in it.
func (r *report) checkName() {
	name := r.service.Name
	if name == "" {
		r.add("name", "is empty: give every service a name of its own")
	}
	if len(name) > MaxNameLen {
		r.add("name", fmt.Sprintf("has %d bytes: at most %d fit into a comment", len(name), MaxNameLen))
	}
	for i, c := range name {
		if c == utf8.RuneError && !strings.HasPrefix(name[i:], string(utf8.RuneError)) {
			r.add("name", fmt.Sprintf("has %q at byte %d: it must be UTF-8", name[i:i+1], i))
			return
		}
		if c == '"' || !unicode.IsPrint(c) {
			r.add("name", fmt.Sprintf("has %q at byte %d: only printable characters and spaces "+
				"are possible, and no double quote", c, i))
			return
		}
	}
}

func (r *report) checkFrontend(j int) {
	f := &r.service.Frontends[j]
	if reason := frontendFlaw(f.Addr); reason != "" {
		r.add(fmt.Sprintf("frontends[%d].addr", j), fmt.Sprintf("%v %s: "+
			"give a unicast address that clients can reach, or none for all node addresses", f.Addr, reason))
	}
	if f.Port == 0 {
		r.checkIn("frontends", j, "port", "is 0: give a port from 1 to 65535")
	}
	r.checkIn("frontends", j, "noBackend", f.NoBackend.word().flaw())
	r.checkIn("frontends", j, "policy", f.Policy.word().flaw())
	r.checkIn("frontends", j, "masquerade", f.Masquerade.word().flaw())
	if f.EndPort > 0 && f.EndPort < f.Port {
		r.reversed = true
		r.add(fmt.Sprintf("frontends[%d].endPort", j), fmt.Sprintf("%d is below port %d: give the last port of the range", f.EndPort, f.Port))
	}
	r.checkClients(j, "masqueradeClients", f.MasqueradeClients)
	if len(f.MasqueradeClients) > 0 && f.Masquerade != MasqueradeAuto && f.Masquerade.word().known() {
		r.checkIn("frontends", j, "masqueradeClients", fmt.Sprintf("is not possible with masquerade %v: leave one of them out", f.Masquerade))
	}
	r.checkClients(j, "allow", f.Allow)
	r.checkClients(j, "deny", f.Deny)
}

func (r *report) checkClients(j int, list string, prefixes []netip.Prefix) {
	f := &r.service.Frontends[j]
	for i, p := range prefixes {
		field := fmt.Sprintf("frontends[%d].%s[%d]", j, list, i)
		if reason := prefixFlaw(p); reason != "" {
			r.add(field, reason)
		} else if family := ruleset.FamilyOf(p.Addr()); !f.families().has(family) {
			r.add(field, fmt.Sprintf("%v is %s, but the frontend is not: remove it", p, familyName(family)))
		}
	}
}

// frontendFlaw says why an address can be neither that of a frontend nor that of a
// backend, or "". To be missing, unspecified or a loopback address is not a flaw
// here.
func frontendFlaw(a netip.Addr) string {
	plain := a.Unmap()
	switch {
	case a.Zone() != "":
		return "has a zone, which a rule cannot carry"
	case plain.IsMulticast():
		return "is a multicast address"
	case plain.Is6() && plain.IsLinkLocalUnicast():
		return "is a link-local IPv6 address, to which clients send packets that the kernel does not forward"
	case plain == netip.AddrFrom4([4]byte{255, 255, 255, 255}):
		return "is the broadcast address"
	}
	return ""
}

// hostFlaw says why an address cannot be that of one machine, or "".
func hostFlaw(a netip.Addr) string {
	switch flaw := frontendFlaw(a); {
	case !a.IsValid():
		return "is missing"
	case a.Unmap().IsUnspecified():
		return fmt.Sprintf("%v is the unspecified address", a)
	case a.Unmap().IsLoopback():
		return fmt.Sprintf("%v is a loopback address", a)
	case flaw != "":
		return fmt.Sprintf("%v %s", a, flaw)
	}
	return ""
}

// families is a set of address families: a bit for each, at its index.
type families uint8

const bothFamilies families = 1<<len(ruleset.Families) - 1

func only(f ruleset.Family) families { return 1 << f.Index() }

func (fs families) has(f ruleset.Family) bool { return fs&only(f) != 0 }

// familyName is the family as errors name it.
func familyName(f ruleset.Family) string { return [...]string{"IPv4", "IPv6"}[f.Index()] }

// families are those whose connections the frontend takes.
func (f *Frontend) families() families {
	if !f.Addr.IsValid() {
		return bothFamilies
	}
	return only(ruleset.FamilyOf(f.Addr))
}
