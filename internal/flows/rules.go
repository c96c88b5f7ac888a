package flows

import (
	"net/netip"
	"slices"

	"github.com/nftdp/go-nftdp/internal/compile"
	"github.com/nftdp/go-nftdp/internal/conntrack"
	"github.com/nftdp/go-nftdp/internal/ruleset"
)

// rules answers how the rules of many services treat flows. It compiles one
// service at a time, when a flow to it appears.
type rules struct {
	cfg   compile.Config
	find  finder
	local func(netip.Addr) bool
	ways  map[*compile.Service]*ways // nil: packets that no service takes
}

// finder is compile.Directory.Find.
type finder func(compile.Key) (s *compile.Service, wide bool)

// rulesOf returns the rules of services, on a node with these addresses.
func rulesOf(cfg compile.Config, find finder, local func(netip.Addr) bool) *rules {
	return &rules{cfg, find, local, map[*compile.Service]*ways{}}
}

// rulesFound returns rules that were read from the kernel.
func rulesFound(found *ruleset.Ruleset, local func(netip.Addr) bool) *rules {
	r := rulesOf(compile.Config{}, func(compile.Key) (*compile.Service, bool) { return nil, false }, local)
	r.ways[nil] = newWays(found, local)
	return r
}

// treatment compares a flow with what would become of its first packet now.
type treatment struct {
	service     *compile.Service // that has a frontend of the address and port
	wide        bool             // a node-wide one
	taken       bool             // the packet is for a frontend, even if it is refused
	refused     bool             // it is dropped or rejected
	destination bool             // the flow leads to where the packet may be led
	source      bool             // and its source is treated alike:
	masquerade  bool             // it is masqueraded,
	snat        bool             // or rewritten to the address of the service
}

// same reports whether the flow is treated as its first packet would be.
func (t *treatment) same() bool { return t.destination && t.source }

// treat compares a flow with the rules.
func (r *rules) treat(f *conntrack.Flow) (t treatment, err error) {
	t.service, t.wide = r.find(compile.Key{Addr: f.Dst.Addr(), Port: f.Dst.Port(), Proto: f.Proto})
	w := r.ways[t.service]
	if w == nil {
		s := t.service
		if s != nil {
			s = withKept(s, slices.Concat(s.Draining, s.Reserve)...)
		}
		w = waysTo(r.cfg, s, r.local)
		r.ways[t.service] = w
	}
	end, destination, source, err := w.treat(f)
	t.taken, t.destination, t.source = end.Comment != "", destination, source
	t.refused = end.Fate != ruleset.Passed
	t.masquerade, t.snat = end.Masquerade, end.SNAT.IsValid()
	return t, err
}

// addrSet is a set of addresses, such as those of the node.
type addrSet struct {
	addrs map[netip.Addr]bool
	nets  []netip.Prefix // of several addresses each
}

func newAddrSet(prefixes []netip.Prefix) *addrSet {
	out := &addrSet{addrs: map[netip.Addr]bool{}}
	for _, p := range prefixes {
		if p.IsSingleIP() {
			out.addrs[p.Addr()] = true
		} else {
			out.nets = append(out.nets, p)
		}
	}
	return out
}

func (s *addrSet) has(a netip.Addr) bool { return s.addrs[a] || inAny(s.nets, a) }

func (s *addrSet) empty() bool { return len(s.addrs)+len(s.nets) == 0 }

func inAny(prefixes []netip.Prefix, a netip.Addr) bool {
	for _, p := range prefixes {
		if p.Contains(a) {
			return true
		}
	}
	return false
}

// backends is a set of backends. One without a port stands for all ports, and one with
// an unspecified address for all addresses of the node.
type backends map[netip.AddrPort]bool

func newBackends(lists ...[]netip.AddrPort) backends {
	out := backends{}
	for _, list := range lists {
		for _, b := range list {
			out[b] = true
		}
	}
	return out
}

// has reports whether an address and port, which may be the node's own, are those of a
// backend.
func (b backends) has(a netip.AddrPort, local func(netip.Addr) bool) bool {
	if len(b) == 0 {
		return false
	}
	return b[a] || b[netip.AddrPortFrom(a.Addr(), 0)] ||
		b[netip.AddrPortFrom(ruleset.FamilyOf(a.Addr()).Unspecified(), a.Port())] && local(a.Addr())
}

// ofNode reports whether a port of the node is among them.
func (b backends) ofNode() bool {
	for a := range b {
		if a.Addr().IsUnspecified() {
			return true
		}
	}
	return false
}

// usable returns the backends that a service's flows may lead to: those that get
// new flows, and those that keep established ones.
func usable(s *compile.Service) backends { return newBackends(s.Backends(), s.Draining, s.Reserve) }
