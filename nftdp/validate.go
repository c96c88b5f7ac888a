package nftdp

import (
	"cmp"
	"errors"
	"fmt"
	"math/big"
	"net/netip"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/nftdp/go-nftdp/internal/compile"
)

// Validate checks the configuration and a complete list of services. It
// reports all problems at once, those of the configuration first and then
// those of the services in their order: the error joins a *FieldError for
// each, and is nil if there are none. It looks at nothing but its arguments.
func (c Config) Validate(services []Service) error {
	taken := newClaims(len(services))
	return joinProblems(append(c.problems(), taken.admit(services)...))
}

func joinProblems(found []*FieldError) error {
	errs := make([]error, len(found))
	for i, p := range found {
		errs[i] = p
	}
	return errors.Join(errs...)
}

// problems are those of the configuration by itself.
func (c Config) problems() []*FieldError {
	var found []*FieldError
	if reason := tableFlaw(c.Table); reason != "" {
		found = append(found, &FieldError{Field: "table", Reason: reason})
	}
	found = appendPrefixProblems(found, "nodeAddrs", c.NodeAddrs)
	found = appendPrefixProblems(found, "internal", c.Internal)
	return appendPrefixProblems(found, "serviceCIDRs", c.ServiceCIDRs)
}

func appendPrefixProblems(found []*FieldError, field string, prefixes []netip.Prefix) []*FieldError {
	for i, p := range prefixes {
		if reason := prefixFlaw(p); reason != "" {
			found = append(found, &FieldError{Field: fmt.Sprintf("%s[%d]", field, i), Reason: reason})
		}
	}
	return found
}

// prefixFlaw says what is wrong with a prefix, or "". IPv4-mapped prefixes
// are refused, not normalised as addresses are: below /96 they mean nothing
// in IPv4, and nobody writes one on purpose.
func prefixFlaw(p netip.Prefix) string {
	switch {
	case !p.IsValid():
		return `is missing: give an address and a length, as in "10.0.0.0/8"`
	case p.Addr().Is4In6() && p.Bits() >= 96:
		return fmt.Sprintf("%v is an IPv4-mapped prefix: write %v", p,
			netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-96))
	case p.Addr().Is4In6():
		return fmt.Sprintf("%v is an IPv4-mapped prefix: write it as an IPv4 prefix", p)
	}
	return ""
}

// maxTableLen is the most bytes of a table's name. The kernel takes 255, but
// a name that is longer than a comment helps nobody.
const maxTableLen = 128

// tableFlaw says what is wrong with a table's name, or "".
func tableFlaw(name string) string {
	if name == "" || name == DefaultTable {
		return ""
	}
	if len(name) > maxTableLen {
		return fmt.Sprintf("has %d bytes: at most %d are possible", len(name), maxTableLen)
	}
	for i, r := range name {
		if !isLetter(r) && (i == 0 || !strings.ContainsRune("0123456789/_.-", r)) {
			return fmt.Sprintf(`%q has %q at byte %d: a letter is needed first, `+
				`then letters, digits and any of "/_.-"`, name, r, i)
		}
	}
	if slices.Contains(strings.Fields(nftWords), name) {
		return fmt.Sprintf("%q is a word of nft's language, so nft could not load its own listing: "+
			"choose another name", name)
	}
	return ""
}

func isLetter(r rune) bool { return 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' }

// nftWords are the names that nft can not read where it expects a table's
// name, since its lexer takes them for keywords and the grammar has no quotes
// there. The kernel would accept them, and then a listing could not be loaded
// back. These are the words that src/scanner.l knows in every start condition
// (or, the last line, after "list") from nft 1.0.6 to 1.1.6; with 1.0.6 all
// were tried in table, add, delete, flush and list commands. "last" is not
// among them, as every version that knows it takes it as a name too.
const nftWords = `
accept add ah all and arp auto-merge bridge cgroup chain comment comp constant
continue counter cpu create ct day dccp define delete describe destroy device
devices dnat drop dst dup dynamic ecn element elements eq esp ether exists
expires export exthdr fib flags flow flowtable flush frag fwd gc-interval ge
geneve get goto gre gretap gt handle hbh hook hour ibriport ibrname icmp icmpv6
igmp iif iifgroup iifname iiftype import include index inet insert interval ip
ip6 ipsec jhash jump le limit list log lshift lt map mark masquerade meta meter
mh missing monitor ne netdev nftrace not notrack numgen obriport obrname offload
oif oifgroup oifname oiftype or osf pkttype policy position priority queue quota
random redefine redirect reject rename replace reset return rshift rt rt0 rt2
rtclassid rule ruleset sctp secmark set size skgid skuid snat socket srh symhash
synproxy table tcp th time timeout tproxy tunnel type typeof udp udplite
undefine update vlan vmap vni vxlan xor xt
chains counters flowtables hooks limits maps meters quotas rules secmarks sets
synproxys tables tunnels
`

// report collects the problems of one service.
type report struct {
	service *Service
	index   int
	found   []*FieldError
}

func (r *report) add(field, reason string) {
	r.found = append(r.found, r.service.problem(r.index, field, reason))
}

// problem is a problem of the service, which is the i-th of its list.
func (s *Service) problem(i int, field, reason string) *FieldError {
	name := s.Name
	if name == "" {
		name = fmt.Sprintf("services[%d]", i)
	}
	return &FieldError{Service: name, Field: field, Reason: reason}
}

// problems are those that the service, the i-th of its list, has by itself.
// A service without any costs no allocation, unless it has very many backends.
func (s *Service) problems(i int) []*FieldError {
	r := report{service: s, index: i}
	r.checkName()
	if s.Protocol > ProtocolSCTP {
		r.add("protocol", unknownFlaw(s.Protocol, protocolWords()))
	}
	var reachable families
	for j := range s.Frontends {
		r.checkFrontend(j)
		reachable |= s.Frontends[j].families()
	}
	if len(s.Frontends) == 0 {
		reachable = ipv4 | ipv6
	}
	for j := range s.Backends {
		r.checkBackend(j, reachable)
	}
	r.checkPool()
	r.checkBalance()
	r.checkSNAT(reachable)
	r.checkTogether()
	return r.found
}

func (r *report) checkBalance() {
	s := r.service
	switch size := int(s.MaglevSize); {
	case s.Scheduler > SchedulerMaglev:
		r.add("scheduler", unknownFlaw(s.Scheduler, schedulerWords()))
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

// checkSNAT wants an address of each family that the service has.
func (r *report) checkSNAT(reachable families) {
	var seen families
	for j, a := range r.service.SNAT {
		field := fmt.Sprintf("snat[%d]", j)
		switch family := familyOf(a); {
		case sourceFlaw(a) != "":
			r.add(field, sourceFlaw(a)+": give a unicast address that leads back to this node")
		case family&seen != 0:
			r.add(field, fmt.Sprintf("%v is a second %v address: one of each family is possible", a, family))
		case family&reachable == 0:
			r.add(field, fmt.Sprintf("%v is %v, but no frontend of the service is: remove it", a, family))
		default:
			seen |= family
		}
	}
}

// sourceFlaw says why an address can not be that of packets, or "".
func sourceFlaw(a netip.Addr) string {
	switch flaw := addrFlaw(a); {
	case !a.IsValid():
		return "is missing"
	case a.Unmap().IsUnspecified():
		return fmt.Sprintf("%v is the unspecified address", a)
	case flaw != "":
		return fmt.Sprintf("%v %s", a, flaw)
	}
	return ""
}

// checkTogether finds fields that exclude each other.
func (r *report) checkTogether() {
	s := r.service
	if s.AffinitySeconds > 0 && s.ranged() {
		r.add("affinitySeconds", "is not possible with port ranges: leave one of them out")
	}
	for j := range s.Backends {
		if s.Backends[j].MaxConns == 0 {
			continue
		}
		field := fmt.Sprintf("backends[%d].maxConns", j)
		if s.AffinitySeconds > 0 {
			r.add(field, "is not possible with affinity: leave one of them out")
		}
		if s.ranged() {
			r.add(field, "is not possible with port ranges: leave one of them out")
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

// checkMaglev wants a slot for every backend.
func (r *report) checkMaglev(slots int) {
	for _, family := range [...]families{ipv4, ipv6} {
		if n := active(r.service.Backends, family); n > slots {
			r.add("maglevSize", fmt.Sprintf("a table of %d slots is too small for %d active %v backends", slots, n, family))
		}
	}
}

func unknownFlaw(v fmt.Stringer, words []string) string {
	return fmt.Sprintf("%v is unknown: use %s", v, choice(words))
}

// checkName lets through what nft carries in the comment of an element. That
// is everything but the double quote, which ends a comment and has no escape:
// with nft 1.0.6 every pair of other ASCII characters, backslashes included,
// leading and trailing spaces, names of spaces alone and every printable
// character of Unicode came out of load, list and load byte for byte
// (TestStockNftKeepsNames). Control and format characters are refused for the
// reader's sake: they garble a listing, or hide in it.
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
	if reason := addrFlaw(f.Addr); reason != "" {
		r.add(fmt.Sprintf("frontends[%d].addr", j), fmt.Sprintf("%v %s: "+
			"give a unicast address that clients can reach, or none for all node addresses", f.Addr, reason))
	}
	if f.Port == 0 {
		r.add(fmt.Sprintf("frontends[%d].port", j), "is 0: give a port from 1 to 65535")
	}
	if f.NoBackend > ActionDrop {
		r.add(fmt.Sprintf("frontends[%d].noBackend", j), unknownFlaw(f.NoBackend, actionWords()))
	}
	if f.Policy > PolicyExternalLocalOnly {
		r.add(fmt.Sprintf("frontends[%d].policy", j), unknownFlaw(f.Policy, policyWords()))
	}
	if f.Masquerade > MasqueradeNever {
		r.add(fmt.Sprintf("frontends[%d].masquerade", j), unknownFlaw(f.Masquerade, masqueradeWords()))
	}
	if f.EndPort > 0 && f.EndPort < f.Port {
		r.add(fmt.Sprintf("frontends[%d].endPort", j), fmt.Sprintf("%d is below port %d: give the last port of the range", f.EndPort, f.Port))
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
		} else if family := familyOf(p.Addr()); family&f.families() == 0 {
			r.add(field, fmt.Sprintf("%v is %v, but the frontend is not: remove it", p, family))
		}
	}
}

func (r *report) checkBackend(j int, reachable families) {
	b := &r.service.Backends[j]
	if reason := backendFlaw(b.Addr, r.service.ranged()); reason != "" {
		r.add(fmt.Sprintf("backends[%d].addr", j), reason)
	} else if family := familyOf(b.Addr.Addr()); family&reachable == 0 {
		r.add(fmt.Sprintf("backends[%d].addr", j), fmt.Sprintf("%v is %v, but no frontend of the service is: "+
			"add one, or remove the backend", b.Addr, family))
	}
	if b.State > StateDown {
		r.add(fmt.Sprintf("backends[%d].state", j), unknownFlaw(b.State, stateWords()))
	}
}

// addrFlaw says why an address can be neither a frontend's nor a backend's, or
// "". An unset or unspecified one is no flaw here.
func addrFlaw(a netip.Addr) string {
	plain := a.Unmap()
	switch {
	case a.Zone() != "":
		return "has a zone, which a rule can not carry"
	case plain.IsMulticast():
		return "is a multicast address"
	case plain.IsLoopback():
		return "is a loopback address"
	case plain == netip.AddrFrom4([4]byte{255, 255, 255, 255}):
		return "is the broadcast address"
	}
	return ""
}

// backendFlaw says why connections can not go to an address and port, or "".
// With a range of ports in the service it has to be without a port.
func backendFlaw(a netip.AddrPort, ranged bool) string {
	const advice = "give the unicast address at which the node reaches the backend"
	if !a.Addr().IsValid() {
		return `is missing: give an address and a port, as in "10.0.0.1:8080"`
	}
	if a.Addr().Unmap().IsUnspecified() {
		return fmt.Sprintf("%v is the unspecified address: %s", a.Addr(), advice)
	}
	if reason := addrFlaw(a.Addr()); reason != "" {
		return fmt.Sprintf("%v %s: %s", a.Addr(), reason, advice)
	}
	switch {
	case ranged && a.Port() != 0:
		return fmt.Sprintf("%v has a port, but the service has a range of ports, which are kept: give port 0", a)
	case !ranged && a.Port() == 0:
		return fmt.Sprintf("%v has port 0: give a port from 1 to 65535", a)
	}
	return ""
}

// checkPool reports backends that stand in the service twice, and more of
// them than a pool has slots.
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
	for _, family := range [...]families{ipv4, ipv6} {
		if n := active(r.service.Backends, family); n > most {
			r.add("backends", fmt.Sprintf("has %d active %v backends: at most %d are possible", n, family, most))
		}
	}
}

func active(backends []Backend, family families) int {
	n := 0
	for i := range backends {
		if b := &backends[i]; b.State == StateActive && familyOf(b.Addr.Addr()) == family {
			n++
		}
	}
	return n
}

// duplicate is a backend with the address and port of an earlier one.
type duplicate struct{ index, first int }

// duplicates compares a few backends with one another, which allocates
// nothing, and looks many up in a map.
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

func unmapped(a netip.AddrPort) netip.AddrPort {
	return netip.AddrPortFrom(a.Addr().Unmap(), a.Port())
}

// families is a set of address families.
type families uint8

const (
	ipv4 families = 1 << iota
	ipv6
)

// String names a single family in words.
func (f families) String() string {
	if f == ipv4 {
		return "IPv4"
	}
	return "IPv6"
}

// familyOf is the family of an address; an IPv4-mapped one is IPv4.
func familyOf(a netip.Addr) families {
	if a.Unmap().Is4() {
		return ipv4
	}
	return ipv6
}

// families are those that the frontend takes connections of.
func (f *Frontend) families() families {
	if !f.Addr.IsValid() {
		return ipv4 | ipv6
	}
	return familyOf(f.Addr)
}
