package nftdp

import (
	"fmt"
	"iter"
	"net/netip"
	"slices"
	"strings"

	"github.com/nftdp/go-nftdp/internal/around"
	"github.com/nftdp/go-nftdp/internal/compile"
	"github.com/nftdp/go-nftdp/internal/ruleset"
)

// examination is a node with the services that are to work on it.
type examination struct {
	*around.Node
	cfg      Config
	services []*compile.Service
	findings []Finding

	links    map[uint32]*around.Link
	index    *compile.Index
	wide     map[ruleset.Family][]netip.Prefix // what node-wide frontends take
	nodeWide [2]bool                           // there are node-wide frontends of the family
	targets  []target
}

// target is a backend of a service, once for each protocol.
type target struct {
	service string
	proto   uint8
	addr    netip.AddrPort
}

func (x *examination) prepare() {
	x.links, x.index, x.wide = map[uint32]*around.Link{}, compile.NewIndex(len(x.services)), map[ruleset.Family][]netip.Prefix{}
	for i := range x.Links {
		x.links[x.Links[i].Index] = &x.Links[i]
	}
	for _, t := range x.Tables {
		x.wide[t.Family] = compile.NodeWide(t)
	}
	seen := map[target]bool{}
	for _, s := range x.services {
		for i, f := range s.Frontends {
			x.index.Add(s.Key(f), f.End, s.Name)
			if f.Addr.IsUnspecified() {
				x.nodeWide[ruleset.FamilyOf(f.Addr).Index()] = true
			}
			if i > 0 && f.SamePools(s.Frontends[i-1]) && f.Port == s.Frontends[i-1].Port {
				continue
			}
			for b := range backendsOf(f) {
				key := target{proto: s.Proto, addr: b}
				if !seen[key] {
					seen[key] = true
					x.targets = append(x.targets, target{s.Name, s.Proto, b})
				}
			}
		}
	}
}

// backendsOf yields the backends that a frontend leads to, some of them twice. That of a
// range of ports has the first one.
func backendsOf(f *compile.Frontend) iter.Seq[netip.AddrPort] {
	return func(yield func(netip.AddrPort) bool) {
		for _, pool := range [...][]netip.AddrPort{f.Pool, f.Internal} {
			for _, b := range pool {
				if b.Port() == 0 {
					b = netip.AddrPortFrom(b.Addr(), f.Port)
				}
				if !yield(b) {
					return
				}
			}
		}
	}
}

// takes reports whether node-wide frontends take one of the node's addresses.
func (x *examination) takes(a netip.Addr) bool {
	f := ruleset.FamilyOf(a)
	if a.IsLoopback() {
		return x.cfg.Localhost
	}
	return !a.IsLinkLocalUnicast() && !a.IsMulticast() &&
		slices.ContainsFunc(x.wide[f], func(p netip.Prefix) bool { return p.Contains(a) })
}

func (x *examination) isLocal(a netip.Addr) bool {
	return slices.ContainsFunc(x.Local, func(p netip.Prefix) bool { return p.Contains(a) })
}

// own lists the node's single addresses of a family that others can reach.
func (x *examination) own(f ruleset.Family) (out []netip.Addr) {
	for _, p := range x.Local {
		if a := p.Addr(); p.IsSingleIP() && ruleset.FamilyOf(a) == f && a.IsGlobalUnicast() {
			out = append(out, a)
		}
	}
	return out
}

// emptyPools finds frontends without backends.
func (x *examination) emptyPools() {
	for _, s := range x.services {
		var none, external []string
		for _, f := range s.Frontends {
			switch at := portText(s.Proto, f.Addr, f.Port); {
			case len(f.Pool) > 0 || f.Empty == compile.Pass:
			case len(f.Internal) > 0:
				external = append(external, at)
			default:
				none = append(none, at)
			}
		}
		if len(none) > 0 {
			x.found(Finding{
				Severity: SeverityWarning, Code: CodeNoBackend, Subject: s.Name,
				Evidence: fmt.Sprintf("%s: no backend is usable: none of the family is active, or none that the policy allows", some(none)),
				Remedy:   "Add a backend of the family, or set one active. With the policy local-only, one has to be on this node",
			})
		}
		if len(external) > 0 {
			x.found(Finding{
				Severity: SeverityWarning, Code: CodeLocalOnlyNone, Subject: s.Name,
				Evidence: fmt.Sprintf("%s: the policy is external-local-only and no usable backend is on this node, so that external clients get no answer", some(external)),
				Remedy:   "Send external clients to nodes with a backend, start one here and mark it local, or change the policy to any-backend",
			})
		}
	}
}

func portText(proto uint8, addr netip.Addr, port uint16) string {
	return fmt.Sprintf("%v %v", protocolOf(proto), netip.AddrPortFrom(addr, port))
}

// nodeAddrs finds addresses of the node that node-wide frontends do not take.
func (x *examination) nodeAddrs() {
	for _, f := range ruleset.Families {
		if !x.nodeWide[f.Index()] {
			continue
		}
		var left, taken, limits []string
		for _, a := range x.own(f) {
			if x.takes(a) {
				taken = append(taken, a.String())
			} else {
				left = append(left, a.String())
			}
		}
		if len(left) == 0 {
			continue
		}
		for _, p := range x.wide[f] {
			limits = append(limits, p.String())
		}
		severity := SeverityNotice
		if len(taken) == 0 {
			severity = SeverityError
		}
		x.found(Finding{
			Severity: severity, Code: CodeNodeAddrsLimit, Subject: "nodeAddrs " + f.String(),
			Evidence: fmt.Sprintf("node-wide frontends are limited to %s, and do not take %s", orElse(some(limits), "no address of the family"), some(left)),
			Remedy:   "Add these addresses to Config.NodeAddrs if clients connect to them, or let clients connect to others",
		})
	}
}

func orElse(s, otherwise string) string {
	if s == "" {
		return otherwise
	}
	return s
}

// claimed returns the service whose frontend takes packets to an address of this node
// or to any other one.
func (x *examination) claimed(proto uint8, at netip.AddrPort) (service string, ok bool) {
	k := compile.Key{Addr: at.Addr(), Port: at.Port(), Proto: proto}
	if found, ok := x.index.Match(k); ok {
		return x.index.Owner(found)
	}
	if !x.isLocal(at.Addr()) || !x.takes(at.Addr()) {
		return "", false
	}
	if found, ok := x.index.Match(k.NodeWide()); ok {
		return x.index.Owner(found)
	}
	return "", false
}

// listens reports whether a process on this node takes packets to one of its addresses.
func (x *examination) listens(proto uint8, at netip.AddrPort) bool {
	return slices.ContainsFunc(x.Listeners, func(l around.Listener) bool { return l.Proto == proto && hears(&l, at) })
}

func hears(l *around.Listener, at netip.AddrPort) bool {
	if l.Addr.Port() != at.Port() {
		return false
	}
	a := l.Addr.Addr()
	return a == at.Addr() || a.IsUnspecified() && (l.Both || a.Is4() == at.Addr().Is4())
}

// sockets finds processes that listen where a frontend takes the packets, unless they
// are its backend.
func (x *examination) sockets() {
	backends := map[target]bool{}
	for _, t := range x.targets {
		if x.isLocal(t.addr.Addr()) {
			backends[target{proto: t.proto, addr: t.addr}] = true
		}
	}
	for i := range x.Listeners {
		l := &x.Listeners[i]
		service, at, ok := x.shadowed(l)
		if !ok || backends[target{proto: l.Proto, addr: at}] {
			continue
		}
		x.found(Finding{
			Severity: SeverityWarning, Code: CodeSocketShadowed, Subject: portText(l.Proto, l.Addr.Addr(), l.Addr.Port()),
			Evidence: fmt.Sprintf("a process on this node listens there, and service %q takes the packets to %v", service, at),
			Remedy:   "Give the process or the frontend another port, or limit the frontend to addresses that the process does not need",
		})
	}
}

// shadowed returns a service that takes packets to an address of a listener.
func (x *examination) shadowed(l *around.Listener) (service string, at netip.AddrPort, ok bool) {
	addrs := []netip.Addr{l.Addr.Addr()}
	if l.Addr.Addr().IsUnspecified() {
		addrs = nil
		for _, f := range ruleset.Families {
			if own := x.own(f); l.Both || l.Addr.Addr().Is4() == (f == ruleset.IPv4) {
				addrs = append(addrs, own...)
			}
		}
	}
	for _, a := range addrs {
		at = netip.AddrPortFrom(a, l.Addr.Port())
		if service, ok = x.claimed(l.Proto, at); ok {
			return service, at, true
		}
	}
	return "", at, false
}

// twice finds frontends that another table of ours has, too.
func (x *examination) twice() {
	for _, t := range x.Others {
		var both []string
		for _, s := range t.Sets {
			id := compile.SetNamed(s.Name)
			for i := range s.Elements {
				if k, ok := compile.FrontendOf(id, t.Family, s.Elements[i].Key); ok {
					if _, ours := x.index.Match(k); ours {
						both = append(both, portText(k.Proto, k.Addr, k.Port))
					}
				}
			}
		}
		if len(both) > 0 {
			x.found(Finding{
				Severity: SeverityError, Code: CodeFrontendTwice, Subject: fmt.Sprintf("table %s %s", t.Family, t.Name),
				Evidence: some(both) + " are frontends there, too: connections go where the table that was made last sends them",
				Remedy:   "Take the services out of one of the tables, or delete the table if no process needs it any more: see docs/processes.md",
			})
		}
	}
}

// loops finds backends that are frontends, unless there is a host or a process.
func (x *examination) loops() {
	for _, t := range x.targets {
		owner, ok := x.claimed(t.proto, t.addr)
		if !ok || x.served(t) {
			continue
		}
		severity := SeverityWarning
		inServices := slices.ContainsFunc(x.cfg.ServiceCIDRs, func(p netip.Prefix) bool { return p.Contains(t.addr.Addr()) })
		if inServices || x.isLocal(t.addr.Addr()) {
			severity = SeverityError
		}
		x.found(Finding{
			Severity: severity, Code: CodeBackendIsFrontend, Subject: fmt.Sprintf("%s -> %v", t.service, t.addr),
			Evidence: fmt.Sprintf("the backend is a frontend of service %q. A connection is translated once, so that it does not reach the backends of that service, and nothing else is seen at this address", owner),
			Remedy:   "List the backends of that service instead of its frontend",
		})
	}
}

// served reports whether something is seen at a backend's address: a process on this
// node, or a host that answers.
func (x *examination) served(t target) bool {
	r := x.Hops[t.addr.Addr()]
	switch {
	case r.Refusal != around.Routed:
		return false
	case r.Local:
		return x.listens(t.proto, t.addr)
	}
	return r.Via == t.addr.Addr() && x.Neighbours[around.Hop{Out: r.Out, Addr: r.Via}] == around.Known
}

// routes finds backends that packets cannot be sent to.
func (x *examination) routes() {
	users := map[netip.Addr][]string{}
	for _, t := range x.targets {
		users[t.addr.Addr()] = append(users[t.addr.Addr()], t.service)
	}
	failed := map[around.Hop][]string{}
	addrs := make([]netip.Addr, 0, len(users))
	for a := range users {
		addrs = append(addrs, a)
	}
	slices.SortFunc(addrs, netip.Addr.Compare)
	for _, a := range addrs {
		r := x.Hops[a]
		hop := around.Hop{Out: r.Out, Addr: r.Via}
		switch {
		case r.Refusal != around.Routed:
			x.found(Finding{
				Severity: SeverityError, Code: CodeNoRouteToBackend, Subject: a.String(),
				Evidence: "the node has no route to this backend of " + some(users[a]),
				Remedy:   fmt.Sprintf("Add a route, correct the rule or the route that refuses it (ip route get %v), or remove the backend", a),
			})
		case !r.Local && !r.Several && x.Neighbours[hop] == around.Failed:
			failed[hop] = append(failed[hop], a.String())
		}
	}
	for hop, behind := range failed {
		x.foundFailed(hop, behind, users[hop.Addr])
	}
}

func (x *examination) foundFailed(hop around.Hop, behind, services []string) {
	evidence := fmt.Sprintf("the backend of %s does not answer on %s", some(services), x.name(hop.Out.Index))
	if len(services) == 0 {
		evidence = fmt.Sprintf("the gateway to %s does not answer on %s", some(behind), x.name(hop.Out.Index))
	}
	x.found(Finding{
		Severity: SeverityError, Code: CodeNeighbourFailed, Subject: hop.Addr.String(), Evidence: evidence,
		Remedy: "Start the host, or correct the address; until then, set its backends down or remove them",
	})
}

func (x *examination) name(link uint32) string {
	if l := x.links[link]; l != nil {
		return l.Name
	}
	return fmt.Sprint("device ", link)
}

// inSysctl is the name of an interface in that of a parameter, where a dot would
// separate words.
func inSysctl(link string) string { return strings.ReplaceAll(link, ".", "/") }
