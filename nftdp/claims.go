package nftdp

import (
	"fmt"
	"net/netip"
	"slices"
)

// claim is what only one service can have. A node-wide frontend claims the
// unspecified address of its family, so that it is no conflict when another
// service has its port on one address; neither are a range of ports and a
// single one of them.
type claim struct {
	addr   netip.Addr
	port   uint16 // the first one of a range
	proto  Protocol
	ranged bool
}

// place is where ranges of ports can overlap.
type place struct {
	addr  netip.Addr
	proto Protocol
}

func (c claim) place() place { return place{c.addr, c.proto} }

// claims is the index of who has what: the name of the service for each claim.
type claims struct {
	owner  map[claim]string
	ranges map[place][]portRange
}

type portRange struct{ first, last uint16 }

func newClaims(n int) claims {
	return claims{owner: make(map[claim]string, n), ranges: map[place][]portRange{}}
}

// has reports whether the claim is taken.
func (cl claims) has(c claim) bool {
	_, ok := cl.owner[c]
	return ok
}

// taking is the claim that takes a packet to an address and port: of the port,
// else of a range.
func (cl claims) taking(c claim) (claim, bool) {
	if cl.has(c) {
		return c, true
	}
	return cl.overlapping(c, c.port)
}

// overlapping is the claim of a range that has a port in common with one that
// begins with the claim's.
func (cl claims) overlapping(c claim, last uint16) (claim, bool) {
	for _, r := range cl.ranges[c.place()] {
		if r.first <= last && c.port <= r.last {
			return claim{c.addr, r.first, c.proto, true}, true
		}
	}
	return claim{}, false
}

// conflict is the claim that stands in the way of another one.
func (cl claims) conflict(c claim, last uint16) (claim, bool) {
	if c.ranged {
		return cl.overlapping(c, last)
	}
	return c, cl.has(c)
}

func (cl claims) take(c claim, last uint16, name string) {
	cl.owner[c] = name
	if c.ranged {
		cl.ranges[c.place()] = append(cl.ranges[c.place()], portRange{c.port, last})
	}
}

func (cl claims) release(c claim) {
	delete(cl.owner, c)
	if !c.ranged {
		return
	}
	at := c.place()
	cl.ranges[at] = slices.DeleteFunc(cl.ranges[at], func(r portRange) bool { return r.first == c.port })
	if len(cl.ranges[at]) == 0 {
		delete(cl.ranges, at)
	}
}

// admit validates services and claims their frontends, unless there is a
// problem: then it reports all of them and claims nothing. A service that
// replaces one of the same name needs the former one removed first.
func (cl claims) admit(services []Service) []*FieldError {
	var found []*FieldError
	names := make(map[string]int, len(services))
	for i := range services {
		s := &services[i]
		found = append(found, s.problems(i)...)
		if first, ok := names[s.Name]; !ok {
			names[s.Name] = i
		} else if s.Name != "" {
			found = append(found, s.problem(i, "name",
				fmt.Sprintf("services[%d] has the name of services[%d]: choose another", i, first)))
		}
		found = append(found, cl.add(i, s)...)
	}
	if len(found) > 0 {
		for i := range services {
			cl.remove(&services[i])
		}
	}
	return found
}

// add claims the frontends of the i-th service of a list and reports those
// that a service, itself included, has claimed already. Frontends that are
// wrong by themselves claim nothing.
func (cl claims) add(i int, s *Service) []*FieldError {
	var found []*FieldError
	for j := range s.Frontends {
		for _, reason := range cl.addFrontend(s, &s.Frontends[j]) {
			found = append(found, s.problem(i, fmt.Sprintf("frontends[%d]", j), reason))
		}
	}
	return found
}

// addFrontend claims what is free of a frontend. It gives a reason for each
// service that has some of it: two at most, if they have a family each.
func (cl claims) addFrontend(s *Service, f *Frontend) (reasons []string) {
	if f.Port == 0 || f.last() < f.Port || s.Protocol > ProtocolSCTP || addrFlaw(f.Addr) != "" {
		return nil
	}
	var owner string
	var lost families // to the owner
	for _, family := range [...]families{ipv4, ipv6} {
		c, ok := s.claim(f, family)
		if !ok {
			continue
		}
		at, taken := cl.conflict(c, f.last())
		if !taken {
			cl.take(c, f.last(), s.Name)
			continue
		}
		other := cl.owner[at]
		if lost != 0 && other != owner {
			reasons = append(reasons, takenReason(s.Protocol, f, lost, owner))
			lost = 0
		}
		owner, lost = other, lost|family
	}
	if lost != 0 {
		reasons = append(reasons, takenReason(s.Protocol, f, lost, owner))
	}
	return reasons
}

// takenReason says in words who has what a frontend claims in some families.
func takenReason(proto Protocol, f *Frontend, lost families, owner string) string {
	what := describe(proto, f, lost) + " is already a frontend"
	if f.ranged() {
		what = describe(proto, f, lost) + " has ports in common with a frontend"
	}
	if owner == "" {
		return what + " of a service without a name"
	}
	return fmt.Sprintf("%s of service %q", what, owner)
}

// describe is a frontend in words: "tcp 10.96.0.10:80", "udp node-wide port
// 53", or "udp node-wide port 53 (ip6)" when only a family of it is meant.
func describe(proto Protocol, f *Frontend, in families) string {
	end := ""
	if f.ranged() {
		end = fmt.Sprintf("-%d", f.EndPort)
	}
	if addr := f.Addr.Unmap(); addr.IsValid() && !addr.IsUnspecified() {
		return fmt.Sprintf("%v %v%s", proto, netip.AddrPortFrom(addr, f.Port), end)
	}
	suffix := map[families]string{ipv4: " (ip)", ipv6: " (ip6)"}[in]
	return fmt.Sprintf("%v node-wide port %d%s%s", proto, f.Port, end, suffix)
}

// ranged reports whether the frontend has more than one port.
func (f *Frontend) ranged() bool { return f.EndPort > f.Port }

// last is the frontend's last port.
func (f *Frontend) last() uint16 {
	if f.EndPort == 0 {
		return f.Port
	}
	return f.EndPort
}

// remove gives up the claims of a service; those that others have stay.
func (cl claims) remove(s *Service) {
	for j := range s.Frontends {
		for _, family := range [...]families{ipv4, ipv6} {
			if c, ok := s.claim(&s.Frontends[j], family); ok && cl.has(c) && cl.owner[c] == s.Name {
				cl.release(c)
			}
		}
	}
}

// claim is what a frontend claims in a family, if it has any part in it.
func (s *Service) claim(f *Frontend, family families) (claim, bool) {
	c := claim{addr: f.Addr.Unmap(), port: f.Port, proto: s.Protocol, ranged: f.ranged()}
	if c.addr.IsValid() {
		return c, familyOf(c.addr) == family
	}
	c.addr = netip.IPv6Unspecified()
	if family == ipv4 {
		c.addr = netip.IPv4Unspecified()
	}
	return c, true
}
