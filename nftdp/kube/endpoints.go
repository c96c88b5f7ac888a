package kube

import (
	"net/netip"
	"slices"

	v1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"

	"github.com/nftdp/go-nftdp/nftdp"
)

// endpoint is one of an EndpointSlice, with what a port of the slice says of it.
type endpoint struct {
	addr                        netip.AddrPort
	port                        string // the name of the port
	protocol                    v1.Protocol
	ready, serving, terminating bool
	local                       bool
	nodeHints, zoneHints        []string
	weight                      uint16
	backup                      bool
}

// endpoints reads the usable endpoints of all slices, each once for each port. Of an
// address that is listed several times, the last one that is not terminating counts,
// also if it is not ready: the address may have passed from a terminating pod to it.
func (t *translation) endpoints(all []*discoveryv1.EndpointSlice) []endpoint {
	type key struct {
		port     string
		protocol v1.Protocol
		addr     netip.AddrPort
	}
	at := map[key]int{}
	var out []endpoint
	sorted := slices.Clone(all)
	slices.SortFunc(sorted, func(a, b *discoveryv1.EndpointSlice) int { return compareText(a.Name, b.Name) })
	for _, s := range sorted {
		if s.DeletionTimestamp != nil || s.AddressType == discoveryv1.AddressTypeFQDN {
			continue
		}
		weight, backup := t.sliceAnnotations(s)
		for _, p := range s.Ports {
			if p.Port == nil || p.Name == nil {
				continue
			}
			port, ok := portOf(int(*p.Port))
			if !ok {
				continue
			}
			for i := range s.Endpoints {
				e, ok := t.endpoint(&s.Endpoints[i])
				if !ok {
					continue
				}
				e.addr = netip.AddrPortFrom(e.addr.Addr(), port)
				e.port, e.protocol, e.weight, e.backup = *p.Name, v1.ProtocolTCP, weight, backup
				if p.Protocol != nil {
					e.protocol = *p.Protocol
				}
				k := key{e.port, e.protocol, e.addr}
				if j, twice := at[k]; !twice {
					at[k] = len(out)
					out = append(out, e)
				} else if !e.terminating {
					out[j] = e
				}
			}
		}
	}
	return slices.DeleteFunc(out, func(e endpoint) bool { return !e.serving && !e.ready })
}

func compareText(a, b string) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

// endpoint reads an endpoint, whose addresses are of one backend: the first counts.
func (t *translation) endpoint(e *discoveryv1.Endpoint) (out endpoint, ok bool) {
	if len(e.Addresses) == 0 {
		return out, false
	}
	a, ok := parseAddr(e.Addresses[0])
	if !ok || a.IsUnspecified() || a.IsLoopback() || a.IsMulticast() || a.IsLinkLocalUnicast() {
		t.problem("InvalidEndpoint", "endpoint %q is not an address that the node can reach", e.Addresses[0])
		return out, false
	}
	is := func(condition *bool, unset bool) bool {
		if condition == nil {
			return unset
		}
		return *condition
	}
	out = endpoint{
		addr:  netip.AddrPortFrom(a, 0),
		ready: is(e.Conditions.Ready, true), serving: is(e.Conditions.Serving, true), terminating: is(e.Conditions.Terminating, false),
		local: e.NodeName != nil && *e.NodeName == t.NodeName && t.NodeName != "",
	}
	if e.Hints != nil {
		for _, n := range e.Hints.ForNodes {
			out.nodeHints = append(out.nodeHints, n.Name)
		}
		for _, z := range e.Hints.ForZones {
			out.zoneHints = append(out.zoneHints, z.Name)
		}
	}
	return out, true
}

// backends returns those of a port, in the families of its frontends. Endpoints that are
// ready are active. Those that terminate and still serve are backups: they are used
// while no other is ready, on this node or at all, as the policy wants it. Ready
// endpoints that are meant for other nodes get no new connections, but keep their flows;
// if they are on this node, those connections that a policy restricts to it reach them.
func (t *translation) backends(p *v1.ServicePort, all []endpoint, frontends []nftdp.Frontend) (out []nftdp.Backend) {
	var mine []endpoint
	for _, e := range all {
		if e.port == p.Name && (e.protocol == p.Protocol || p.Protocol == "" && e.protocol == v1.ProtocolTCP) && hasFamily(frontends, e.addr.Addr()) {
			mine = append(mine, e)
		}
	}
	meant := map[bool]func(*endpoint) bool{false: t.topology(mine, false), true: t.topology(mine, true)}
	for i := range mine {
		e := &mine[i]
		b := nftdp.Backend{Addr: e.addr, Local: e.local, Weight: e.weight, Backup: e.backup}
		switch {
		case !e.ready && e.terminating:
			b.Backup = true
		case !e.ready:
			b.State = nftdp.StateDraining // it serves, but wants no new connections
		case !meant[e.addr.Addr().Is4()](e) && e.local && usesLocal(frontends):
			b.LocalOnly = true
		case !meant[e.addr.Addr().Is4()](e):
			b.State = nftdp.StateDraining
		}
		out = append(out, b)
	}
	return out
}

func hasFamily(frontends []nftdp.Frontend, a netip.Addr) bool {
	return slices.ContainsFunc(frontends, func(f nftdp.Frontend) bool { return f.Addr.Is4() == a.Is4() })
}

// topology returns which ready endpoints of a family are meant for this node, by the
// hints alone: if every ready endpoint has hints for nodes, and some are for this node,
// those; else, likewise, those for its zone; else all.
func (t *translation) topology(all []endpoint, is4 bool) func(*endpoint) bool {
	zone := ""
	if t.node != nil {
		zone = t.node.Labels[v1.LabelTopologyZone]
	}
	for _, of := range []struct {
		hints func(*endpoint) []string
		want  string
	}{
		{func(e *endpoint) []string { return e.nodeHints }, t.NodeName},
		{func(e *endpoint) []string { return e.zoneHints }, zone},
	} {
		every, some := true, false
		for i := range all {
			if e := &all[i]; e.ready && e.addr.Addr().Is4() == is4 {
				every = every && len(of.hints(e)) > 0
				some = some || slices.Contains(of.hints(e), of.want)
			}
		}
		if every && some {
			return func(e *endpoint) bool { return slices.Contains(of.hints(e), of.want) }
		}
	}
	return func(*endpoint) bool { return true }
}
