package nftdp

import (
	"fmt"
	"iter"
	"net/netip"

	"github.com/nftdp/go-nftdp/internal/compile"
	"github.com/nftdp/go-nftdp/internal/engine"
	"github.com/nftdp/go-nftdp/internal/ruleset"
)

// claims finds services that claim the same frontend.
type claims struct{ index *compile.Index }

func newClaims(n int) claims { return claims{compile.NewIndex(n)} }

// admit validates services, including that no two have the same name or claim the
// same frontend, and returns all problems.
func (cl claims) admit(services []Service) []*FieldError {
	var found []*FieldError
	names := make(map[string]int, len(services))
	for i := range services {
		found = append(found, cl.admitOne(i, &services[i], names)...)
	}
	return found
}

// admitOne validates the i-th service of a list. The map names has the names of
// those before it.
func (cl claims) admitOne(i int, s *Service, names map[string]int) []*FieldError {
	found := s.problems(i)
	if first, ok := names[s.Name]; !ok {
		names[s.Name] = i
	} else if s.Name != "" {
		found = append(found, s.problem(i, "name",
			fmt.Sprintf("services[%d] has the name of services[%d]: choose another", i, first)))
	}
	return append(found, s.conflicts(i, func(k compile.Key, last uint16) (owner string, taken bool) {
		if owner, taken = cl.index.Conflict(k, last, nil); !taken {
			cl.index.Add(k, last, s.Name)
		}
		return owner, taken
	})...)
}

// conflictErrors returns errors for the conflicts of services with others that stay.
func conflictErrors(services []Service, conflicts engine.ConflictError) []*FieldError {
	type frontend struct {
		service string
		key     compile.Key
	}
	owners := map[frontend]string{}
	for _, c := range conflicts {
		owners[frontend{c.Service.Name, c.Service.Key(c.Frontend)}] = c.Owner
	}
	var found []*FieldError
	for i := range services {
		s := &services[i]
		found = append(found, s.conflicts(i, func(k compile.Key, _ uint16) (string, bool) {
			owner, taken := owners[frontend{s.Name, k}]
			return owner, taken
		})...)
	}
	return found
}

// claimed lowers only the claims of services, which may be invalid otherwise.
func claimed(services []Service) []*compile.Service {
	out := make([]*compile.Service, len(services))
	for i := range services {
		s := &services[i]
		out[i] = &compile.Service{Name: s.Name}
		s.conflicts(i, func(k compile.Key, last uint16) (string, bool) {
			f := &compile.Frontend{Addr: k.Addr, Port: k.Port}
			if k.Ranged {
				f.End = last
			}
			out[i].Proto = k.Proto
			out[i].Frontends = append(out[i].Frontends, f)
			return "", false
		})
	}
	return out
}

// conflicts returns errors for the frontends of the i-th service of a list that some
// service, itself included, claims already: the function owner returns it. Frontends
// that are wrong by themselves are left out.
func (s *Service) conflicts(i int, owner func(k compile.Key, last uint16) (string, bool)) []*FieldError {
	var found []*FieldError
	for j := range s.Frontends {
		for _, reason := range s.frontendConflicts(&s.Frontends[j], owner) {
			found = append(found, s.problem(i, fmt.Sprintf("frontends[%d]", j), reason))
		}
	}
	return found
}

// frontendConflicts returns a reason for each service that claims a part of a
// frontend: at most two, one for each family.
func (s *Service) frontendConflicts(f *Frontend, ownerOf func(k compile.Key, last uint16) (string, bool)) (reasons []string) {
	if f.Port == 0 || f.last() < f.Port || !s.Protocol.word().known() || frontendFlaw(f.Addr) != "" {
		return nil
	}
	var owner string
	var lost families // to the owner
	for k := range s.keys(f) {
		other, taken := ownerOf(k, f.last())
		if !taken {
			continue
		}
		if lost != 0 && other != owner {
			reasons = append(reasons, takenReason(s.Protocol, f, lost, owner))
			lost = 0
		}
		owner, lost = other, lost|only(ruleset.FamilyOf(k.Addr))
	}
	if lost != 0 {
		reasons = append(reasons, takenReason(s.Protocol, f, lost, owner))
	}
	return reasons
}

// takenReason names the service that has already claimed a frontend in some families.
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

// describe names a frontend: "tcp 10.96.0.1:80", "udp node-wide port 53", or "udp
// node-wide port 53 (ip6)" for one family alone.
func describe(proto Protocol, f *Frontend, in families) string {
	end := ""
	if f.ranged() {
		end = fmt.Sprintf("-%d", f.EndPort)
	}
	if addr := f.Addr.Unmap(); addr.IsValid() && !addr.IsUnspecified() {
		return fmt.Sprintf("%v %v%s", proto, netip.AddrPortFrom(addr, f.Port), end)
	}
	suffix := map[families]string{only(ruleset.IPv4): " (ip)", only(ruleset.IPv6): " (ip6)"}[in]
	return fmt.Sprintf("%v node-wide port %d%s%s", proto, f.Port, end, suffix)
}

// ranged reports whether the frontend has more than one port.
func (f *Frontend) ranged() bool { return f.EndPort > f.Port }

// last returns the frontend's last port.
func (f *Frontend) last() uint16 {
	if f.EndPort == 0 {
		return f.Port
	}
	return f.EndPort
}

// keys iterates over what a frontend claims, by family.
func (s *Service) keys(f *Frontend) iter.Seq[compile.Key] {
	return func(yield func(compile.Key) bool) {
		k := compile.Key{Addr: f.Addr.Unmap(), Port: f.Port, Proto: s.Protocol.protoNumber(), Ranged: f.ranged()}
		if k.Addr.IsValid() {
			yield(k)
			return
		}
		for _, family := range ruleset.Families {
			if k.Addr = family.Unspecified(); !yield(k) {
				return
			}
		}
	}
}
