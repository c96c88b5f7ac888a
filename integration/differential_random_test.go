//go:build linux

package integration

import (
	"math/rand/v2"
	"net/netip"
	"slices"

	"github.com/nftdp/go-nftdp/internal/nstest"
	"github.com/nftdp/go-nftdp/nftdp"
)

// dice make random choices from few values, so that services share addresses,
// ports and backends.
type dice struct{ *rand.Rand }

func oneOf[T any](d dice, choices ...T) T { return choices[d.IntN(len(choices))] }

// some returns up to n of the choices, with repetitions; nil if there are none.
func some[T any](d dice, n int, choices ...T) (out []T) {
	for range d.IntN(n + 1) {
		out = append(out, oneOf(d, choices...))
	}
	return out
}

func (d dice) family() nstest.Addrs { return oneOf(d, nstest.Families()...) }

// probedPorts are the ports on which all pods serve. The node serves on the first
// nodePorts of them.
var probedPorts = []uint16{9001, 9002, 80, 81, 82, 30000, 30001, 30002}

const nodePorts = 2

// hiddenAddr belongs to nobody. Everybody sends replies to it to the node.
func hiddenAddr(a nstest.Addrs) netip.Addr { return a.External.Next() }

func serviceNet(a nstest.Addrs) netip.Prefix {
	return netip.PrefixFrom(a.ClusterIP, a.ClusterIP.BitLen()-8).Masked()
}

func (d dice) config() nftdp.Config {
	var nodes, internal, services []netip.Prefix
	for _, a := range nstest.Families() {
		nodes = append(nodes, single(a.Node), single(a.PodGW), a.ClientNet)
		internal = append(internal, a.PodNet, a.RemoteNet, a.ClientNet, single(a.Client), single(a.Backend(0)))
		services = append(services, serviceNet(a), single(a.External))
	}
	return nftdp.Config{
		NodeAddrs: some(d, d.IntN(3), nodes...), Internal: some(d, 3, internal...),
		ServiceCIDRs: some(d, d.IntN(3), services...), Localhost: d.IntN(2) == 0,
		InternalInterfaces: some(d, d.IntN(3), nstest.PodLink(0), "pod*", nstest.RouterLink, "upl*"),
		Unallocated:        oneOf(d, nftdp.ActionDefault, nftdp.ActionReject, nftdp.ActionDrop),
	}
}

// services are some that are valid together.
func (d dice) services() (all []nftdp.Service) {
	for _, name := range []string{"a", "b", "c", "d", "e", "f", "g"} {
		all = append(all, d.service(name, all))
	}
	return all
}

// service is valid together with others. Whatever is not is left out.
func (d dice) service(name string, others []nftdp.Service) nftdp.Service {
	s := nftdp.Service{
		Name: name, Protocol: oneOf(d, nftdp.ProtocolTCP, nftdp.ProtocolUDP),
		Scheduler: oneOf(d, append(schedulers(), nftdp.SchedulerRandom, nftdp.SchedulerRandom, nftdp.SchedulerRoundRobin)...),
	}
	valid := func() bool { return (nftdp.Config{}).Validate(append(slices.Clip(others), s)) == nil }
	ranged := d.IntN(4) == 0
	for range 1 + d.IntN(4) {
		s.Frontends = append(s.Frontends, d.frontend(ranged))
		if !valid() {
			s.Frontends = s.Frontends[:len(s.Frontends)-1]
		}
	}
	ranged = slices.ContainsFunc(s.Frontends, func(f nftdp.Frontend) bool { return f.EndPort > 0 })
	if s.Scheduler == nftdp.SchedulerMaglev {
		s.MaglevSize = oneOf[uint16](d, 13, 17, 251)
	}
	if !ranged && d.IntN(5) == 0 {
		s.Affinity = anHour
	}
	limited := !ranged && s.Affinity == 0 && d.IntN(4) == 0
	for range d.IntN(14) {
		s.Backends = append(s.Backends, d.backend(ranged, limited))
		if !valid() {
			s.Backends = s.Backends[:len(s.Backends)-1]
		}
	}
	for _, a := range nstest.Families() {
		if s.SNAT = append(s.SNAT, hiddenAddr(a)); d.IntN(3) > 0 || !valid() {
			s.SNAT = s.SNAT[:len(s.SNAT)-1]
		}
	}
	return s
}

func (d dice) frontend(ranged bool) nftdp.Frontend {
	a := d.family()
	f := nftdp.Frontend{
		Addr: oneOf(d, netip.Addr{}, netip.Addr{}, a.Any().Addr(),
			a.ClusterIP, a.ClusterIP, unassigned(a), a.External, a.Node, a.PodGW, loopback(a), loopbacks(a)[len(loopbacks(a))-1]),
		Port:       oneOf[uint16](d, 80, 81, 30000),
		Policy:     oneOf(d, nftdp.PolicyAnyBackend, nftdp.PolicyAnyBackend, nftdp.PolicyLocalOnly, nftdp.PolicyExternalLocalOnly),
		Masquerade: oneOf(d, nftdp.MasqueradeAuto, nftdp.MasqueradeAuto, nftdp.MasqueradeAlways, nftdp.MasqueradeNever, nftdp.MasqueradeExternal),
		NoBackend:  oneOf(d, nftdp.ActionDefault, nftdp.ActionReject, nftdp.ActionDrop, nftdp.ActionPass),
	}
	if ranged && d.IntN(3) > 0 {
		f.EndPort = f.Port + uint16(1+d.IntN(2))
	}
	var clients []netip.Prefix
	for _, a := range nstest.Families() {
		if !f.Addr.IsValid() || f.Addr.Is4() == a.Client.Is4() {
			clients = append(clients, a.ClientNet, single(a.Client), a.PodNet, a.RemoteNet, single(a.Backend(1)), single(a.Node))
		}
	}
	if d.IntN(5) == 0 {
		f.Allow = some(d, 3, clients...)
	}
	if d.IntN(5) == 0 {
		f.Deny = some(d, 2, clients...)
	}
	if f.Masquerade == nftdp.MasqueradeAuto && d.IntN(3) == 0 {
		f.MasqueradeClients = some(d, 3, clients...)
	}
	for _, list := range []*[]netip.Prefix{&f.Allow, &f.Deny, &f.MasqueradeClients} {
		if len(*list) > 0 && d.IntN(4) == 0 {
			*list = append(*list, manyClients((*list)[0].Addr())...)
		}
	}
	return f
}

// manyClients returns addresses of nobody in the family of an address, so many that a
// list with them is a set, not rules.
func manyClients(like netip.Addr) (out []netip.Prefix) {
	a := netip.MustParseAddr("198.18.0.0")
	if like.Is6() {
		a = netip.MustParseAddr("2001:db8:18::")
	}
	for range 17 {
		out = append(out, single(a))
		a = a.Next()
	}
	return out
}

func (d dice) backend(ranged, limited bool) nftdp.Backend {
	at := oneOf[place](d, "L1", "L2", "R1", "R2", "L1", "L2", "R1", "R2", "N")
	b := nftdp.Backend{
		Addr:   netip.AddrPortFrom(at.addr(d.family()), oneOf(d, probedPorts[:nodePorts]...)),
		State:  oneOf(d, nftdp.StateActive, nftdp.StateActive, nftdp.StateActive, nftdp.StateActive, nftdp.StateActive, nftdp.StateActive, nftdp.StateDraining, nftdp.StateDown),
		Weight: oneOf[uint16](d, 0, 0, 1, 2, 3), Backup: d.IntN(6) == 0,
		Local: at[0] != 'R',
	}
	b.LocalOnly = b.Local && d.IntN(4) == 0
	if ranged {
		b.Addr = netip.AddrPortFrom(b.Addr.Addr(), 0)
	}
	if !ranged && d.IntN(6) == 0 {
		b.Addr, b.NodePort, b.Local = netip.AddrPort{}, b.Addr.Port(), d.IntN(2) == 0
	}
	if limited && d.IntN(2) == 0 {
		b.MaxConns = 10000
	}
	return b
}

// probe is a packet to a frontend of a service, or near one.
func (d dice) probe(services []nftdp.Service) probe {
	s := oneOf(d, services...)
	if t := oneOf(d, services...); len(t.Backends) > len(s.Backends) {
		s = t // the one with more backends to choose from
	}
	p := probe{from: oneOf[place](d, "C", "C", "C2", "N", "N", "L1", "L2", "R1", "R2"), addrs: d.family()}
	p.protocol = protocol{"tcp", nftdp.ProtocolTCP}
	if (s.Protocol == nftdp.ProtocolUDP) != (d.IntN(20) == 0) {
		p.protocol = protocol{"udp", nftdp.ProtocolUDP}
	}
	to, port := netip.Addr{}, uint16(80)
	if len(s.Frontends) > 0 {
		f := oneOf(d, s.Frontends...)
		to, port = f.Addr, f.Port+uint16(d.IntN(max(int(f.EndPort)-int(f.Port), 0)+1))
		if to.IsValid() && to.Is4() != p.addrs.Client.Is4() {
			p.addrs = otherFamily(p.addrs)
		}
	}
	if to.IsLoopback() {
		p.from = "N" // nobody else can send there
	}
	p.dst = netip.AddrPortFrom(d.destination(&p, to), d.port(port))
	p.src = netip.AddrPortFrom(d.source(&p), 0)
	return p
}

func otherFamily(a nstest.Addrs) nstest.Addrs {
	if a.Client.Is4() {
		return nstest.IPv6()
	}
	return nstest.IPv4()
}

// port is mostly the frontend's.
func (d dice) port(p uint16) uint16 {
	switch d.IntN(12) {
	case 0:
		return p - 1
	case 1:
		return p + 1
	case 2:
		return oneOf(d, probedPorts...)
	}
	return p
}

// destination is mostly the frontend's address.
func (d dice) destination(p *probe, frontend netip.Addr) netip.Addr {
	a := p.addrs
	if d.IntN(10) == 0 {
		return oneOf(d, a.ClusterIP, unassigned(a), unassigned(a).Next(), a.External, a.Node, a.Uplink, a.PodGW, a.Backend(0), a.Remote(1))
	}
	if frontend.IsValid() && !frontend.IsUnspecified() {
		return frontend
	}
	if p.sent() && d.IntN(2) == 0 {
		return oneOf(d, loopbacks(a)...)
	}
	return oneOf(d, a.Node, a.Uplink, a.PodGW)
}

// source is an address of the place. For a loopback destination it is the same.
func (d dice) source(p *probe) netip.Addr {
	switch {
	case p.dst.Addr().IsLoopback():
		return p.dst.Addr()
	case p.sent():
		return oneOf(d, p.addrs.Node, p.addrs.Uplink, p.addrs.PodGW)
	}
	return p.from.addr(p.addrs)
}
