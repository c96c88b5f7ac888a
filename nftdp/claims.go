package nftdp

import (
	"fmt"
	"net/netip"
)

// claim is what only one service can have. A node-wide frontend claims the
// unspecified address of its family, so that it is no conflict when another
// service has its port on one address.
type claim struct {
	addr  netip.Addr
	port  uint16
	proto Protocol
}

// claims is the index of who has what: the name of the service for each claim.
type claims map[claim]string

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
	if f.Port == 0 || s.Protocol > SCTP || addrFlaw(f.Addr) != "" {
		return nil
	}
	var owner string
	var lost families // to the owner
	for _, family := range [...]families{ipv4, ipv6} {
		c, ok := s.claim(f, family)
		if !ok {
			continue
		}
		other, taken := cl[c]
		if !taken {
			cl[c] = s.Name
			continue
		}
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
	if owner == "" {
		return describe(proto, f, lost) + " is already a frontend of a service without a name"
	}
	return fmt.Sprintf("%s is already a frontend of service %q", describe(proto, f, lost), owner)
}

// describe is a frontend in words: "tcp 10.96.0.10:80", "udp node-wide port
// 53", or "udp node-wide port 53 (ip6)" when only a family of it is meant.
func describe(proto Protocol, f *Frontend, in families) string {
	if addr := f.Addr.Unmap(); addr.IsValid() && !addr.IsUnspecified() {
		return fmt.Sprintf("%v %v", proto, netip.AddrPortFrom(addr, f.Port))
	}
	suffix := map[families]string{ipv4: " (ip)", ipv6: " (ip6)"}[in]
	return fmt.Sprintf("%v node-wide port %d%s", proto, f.Port, suffix)
}

// remove gives up the claims of a service; those that others have stay.
func (cl claims) remove(s *Service) {
	for j := range s.Frontends {
		for _, family := range [...]families{ipv4, ipv6} {
			if c, ok := s.claim(&s.Frontends[j], family); ok && cl[c] == s.Name {
				delete(cl, c)
			}
		}
	}
}

// claim is what a frontend claims in a family, if it has any part in it.
func (s *Service) claim(f *Frontend, family families) (claim, bool) {
	c := claim{addr: f.Addr.Unmap(), port: f.Port, proto: s.Protocol}
	if c.addr.IsValid() {
		return c, familyOf(c.addr) == family
	}
	c.addr = netip.IPv6Unspecified()
	if family == ipv4 {
		c.addr = netip.IPv4Unspecified()
	}
	return c, true
}
