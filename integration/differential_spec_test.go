//go:build linux

package integration

import (
	"net/netip"
	"slices"
	"strings"

	"github.com/nftdp/go-nftdp/internal/nstest"
	"github.com/nftdp/go-nftdp/internal/ruleset"
	"github.com/nftdp/go-nftdp/nftdp"
)

// probe is the first packet of a connection.
type probe struct {
	from     place
	addrs    nstest.Addrs
	protocol protocol
	src, dst netip.AddrPort
}

// sent reports whether a process on the node sends it.
func (p *probe) sent() bool { return p.from == "N" }

// input is the node's interface by which the packet arrives.
func (p *probe) input() string {
	return map[place]string{
		"C": nodeUplink, "C2": nodeUplink, "L1": nstest.PodLink(0), "L2": nstest.PodLink(1), "R1": nstest.RouterLink, "R2": nstest.RouterLink,
	}[p.from]
}

// onNode reports whether the node holds the address.
func onNode(a nstest.Addrs, addr netip.Addr) bool { return a.IsNode(addr) || addr.IsLoopback() }

// spec derives the fate of packets from the documentation of services and
// configuration alone. It knows no slots, chains or sets.
type spec struct {
	config   nftdp.Config
	services []nftdp.Service
}

// outcomes are all that are allowed. A known backend is the one that the client's
// affinity leads to. Hashes always choose the same one of the outcomes.
func (s *spec) outcomes(p *probe, known netip.AddrPort) (out []ruleset.Outcome) {
	service, f := s.frontend(p)
	switch {
	case f == nil && containsAddr(s.config.ServiceCIDRs, p.dst.Addr()):
		return []ruleset.Outcome{s.unused(p)}
	case f == nil:
		return []ruleset.Outcome{{Dst: p.dst}}
	case containsAddr(f.Deny, p.src.Addr()) || len(f.Allow) > 0 && !containsAddr(f.Allow, p.src.Addr()):
		return []ruleset.Outcome{{Fate: ruleset.Dropped, Dst: p.dst}}
	}
	all, local := pool(service, p, false), pool(service, p, true)
	usable := all
	if f.Policy == nftdp.PolicyLocalOnly || f.Policy == nftdp.PolicyExternalLocalOnly && !s.internal(p) {
		usable = local
	}
	switch {
	case len(usable) == 0 && (f.NoBackend == nftdp.ActionPass || f.NoBackend == nftdp.ActionDefault && !f.Addr.IsValid() && otherFamilyOnly(service, p)):
		return []ruleset.Outcome{{Dst: p.dst}}
	case len(usable) == 0 && (f.NoBackend == nftdp.ActionDrop || f.NoBackend == nftdp.ActionDefault && len(all) > 0):
		return []ruleset.Outcome{{Fate: ruleset.Dropped, Dst: p.dst}}
	case len(usable) == 0:
		return []ruleset.Outcome{rejected(p)}
	case service.Affinity > 0 && known.IsValid():
		usable = []netip.AddrPort{known}
	}
	for _, b := range usable {
		o := ruleset.Outcome{Dst: b}
		o.Masquerade, o.SNAT = s.source(service, f, p, b)
		out = append(out, o)
	}
	return out
}

// unused is what becomes of a packet into the service CIDRs that no frontend takes.
func (s *spec) unused(p *probe) ruleset.Outcome {
	allocated := slices.ContainsFunc(s.services, func(s nftdp.Service) bool {
		return slices.ContainsFunc(s.Frontends, func(f nftdp.Frontend) bool { return f.Addr == p.dst.Addr() })
	})
	if !allocated && s.config.Unallocated == nftdp.ActionDrop {
		return ruleset.Outcome{Fate: ruleset.Dropped, Dst: p.dst}
	}
	return rejected(p)
}

func rejected(p *probe) ruleset.Outcome {
	if p.protocol.proto == nftdp.ProtocolTCP {
		return ruleset.Outcome{Fate: ruleset.Reset, Dst: p.dst}
	}
	return ruleset.Outcome{Fate: ruleset.Unreachable, Dst: p.dst}
}

func containsAddr(prefixes []netip.Prefix, a netip.Addr) bool {
	return slices.ContainsFunc(prefixes, func(p netip.Prefix) bool { return p.Contains(a) })
}

// frontend is the most specific one that takes the packet: an address wins
// over a node-wide frontend, and then a single port over a range.
func (s *spec) frontend(p *probe) (service *nftdp.Service, frontend *nftdp.Frontend) {
	best := 0
	for i := range s.services {
		for j := range s.services[i].Frontends {
			f := &s.services[i].Frontends[j]
			if rank := s.takes(f, p); s.services[i].Protocol == p.protocol.proto && rank > best {
				best, service, frontend = rank, &s.services[i], f
			}
		}
	}
	return service, frontend
}

// takes is 0 if the frontend does not take the packet, and otherwise the greater
// the more specific the frontend is.
func (s *spec) takes(f *nftdp.Frontend, p *probe) int {
	rank := 0
	switch port := p.dst.Port(); {
	case f.EndPort == 0 && port == f.Port:
		rank = 2
	case f.EndPort > 0 && f.Port <= port && port <= f.EndPort:
		rank = 1
	default:
		return 0
	}
	switch {
	case f.Addr == p.dst.Addr():
		return rank + 2
	case f.Addr.IsValid() && (!f.Addr.IsUnspecified() || f.Addr.Is4() != p.dst.Addr().Is4()):
		return 0
	case p.dst.Addr() == loopback(p.addrs) && s.config.Localhost && p.sent():
		return rank
	case p.addrs.IsNode(p.dst.Addr()) && (s.config.NodeAddrs == nil || containsAddr(s.config.NodeAddrs, p.dst.Addr())):
		return rank
	}
	return 0
}

// listed reports whether the client is internal by the configuration.
func (s *spec) listed(p *probe) bool {
	return containsAddr(s.config.Internal, p.src.Addr()) || !p.sent() && slices.ContainsFunc(s.config.InternalInterfaces, func(name string) bool {
		prefix, open := strings.CutSuffix(name, "*")
		return p.input() == name || open && strings.HasPrefix(p.input(), prefix)
	})
}

// internal reports whether the client is internal, or a process on the node.
func (s *spec) internal(p *probe) bool { return s.listed(p) || onNode(p.addrs, p.src.Addr()) }

// otherFamilyOnly reports whether the service has backends, but none of the
// packet's family in any state.
func otherFamilyOnly(s *nftdp.Service, p *probe) bool {
	return len(s.Backends) > 0 && !slices.ContainsFunc(s.Backends, func(b nftdp.Backend) bool { return b.NodePort > 0 || b.Addr.Addr().Is4() == p.dst.Addr().Is4() })
}

// pool is where new connections can go. Backends without a port take them on the
// packet's port. A port of the node has a loopback address for processes on the node,
// and for others the unspecified one.
func pool(s *nftdp.Service, p *probe, local bool) (active []netip.AddrPort) {
	var backups, last, lastBackups []netip.AddrPort
	for _, b := range s.Backends {
		to := b.Addr
		if to.Port() == 0 {
			to = netip.AddrPortFrom(to.Addr(), p.dst.Port())
		}
		if b.NodePort > 0 {
			to, b.Local = netip.AddrPortFrom(p.addrs.Any().Addr(), b.NodePort), true
			if p.sent() {
				to = netip.AddrPortFrom(loopback(p.addrs), b.NodePort)
			}
		}
		switch {
		case b.State != nftdp.StateActive || local && !b.Local || to.Addr().Is4() != p.dst.Addr().Is4():
		case b.LocalOnly && !local && b.Backup:
			lastBackups = append(lastBackups, to)
		case b.LocalOnly && !local:
			last = append(last, to)
		case b.Backup:
			backups = append(backups, to)
		default:
			active = append(active, to)
		}
	}
	for _, in := range [][]netip.AddrPort{active, backups, last} {
		if len(in) > 0 {
			return in
		}
	}
	return lastBackups
}

// source says which source address the backend sees. On the way to a backend on
// the node itself only packets that the node sends are rewritten.
func (s *spec) source(service *nftdp.Service, f *nftdp.Frontend, p *probe, backend netip.AddrPort) (masquerade bool, snat netip.Addr) {
	client := p.src.Addr()
	switch {
	case backend == p.dst || onNode(p.addrs, backend.Addr()) && !p.sent():
		return false, snat
	case backend.Addr().IsUnspecified() || backend.Addr().IsLoopback(): // a port of the node
		return false, snat
	case client == backend.Addr() || client.IsLoopback() || p.dst.Addr().IsLoopback() && f.Addr.IsValid() && !f.Addr.IsUnspecified():
	case f.Masquerade == nftdp.MasqueradeNever:
		return false, snat
	case len(f.MasqueradeClients) > 0:
		if !containsAddr(f.MasqueradeClients, client) {
			return false, snat
		}
	case f.Masquerade == nftdp.MasqueradeAlways:
	case f.Policy != nftdp.PolicyAnyBackend && f.Masquerade != nftdp.MasqueradeExternal:
		if !onNode(p.addrs, client) {
			return false, snat
		}
	case s.listed(p):
		return false, snat
	}
	for _, a := range service.SNAT {
		if a.Is4() == client.Is4() {
			return false, a
		}
	}
	return true, snat
}
