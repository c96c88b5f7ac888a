package kube

import (
	"net/netip"
	"slices"

	v1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/nftdp/go-nftdp/nftdp"
)

// ServiceState is what health checks and metrics say of a Service.
type ServiceState struct {
	// HealthCheckPort is the port at which load balancers ask whether this node has
	// endpoints; 0: they do not.
	HealthCheckPort uint16
	// Local counts the addresses on this node with ready endpoints, in each family of
	// the Service. It is nil if HealthCheckPort is 0.
	Local map[v1.IPFamily]int
	// NoLocal counts the ports of the Service that a policy leaves without an endpoint
	// although there are some on other nodes.
	NoLocal map[Traffic]int
}

// Traffic is what a policy is about: connections from inside or outside of the cluster,
// in one family.
type Traffic struct {
	External bool
	Family   v1.IPFamily
}

// Families are both families, in the order in which they are listed.
func Families() []v1.IPFamily { return []v1.IPFamily{v1.IPv4Protocol, v1.IPv6Protocol} }

func familyOf(a netip.Addr) v1.IPFamily {
	if a.Is4() {
		return v1.IPv4Protocol
	}
	return v1.IPv6Protocol
}

// state returns the state of a Service, which was translated to services.
func (o Options) state(svc *v1.Service, of []*discoveryv1.EndpointSlice, services []nftdp.Service) *ServiceState {
	s := &ServiceState{NoLocal: noLocal(services)}
	wanted := svc.Spec.Type == v1.ServiceTypeLoadBalancer && svc.Spec.ExternalTrafficPolicy == v1.ServiceExternalTrafficPolicyLocal
	port, ok := portOf(int(svc.Spec.HealthCheckNodePort))
	if !wanted || !ok || !o.Serves(svc) {
		return s
	}
	t := translation{Options: o, svc: svc, name: types.NamespacedName{Namespace: svc.Namespace, Name: svc.Name}}
	s.HealthCheckPort, s.Local = port, map[v1.IPFamily]int{}
	for _, family := range t.families() {
		s.Local[familyOf(family)] = 0
	}
	seen := map[netip.Addr]bool{}
	for _, e := range t.endpoints(of) {
		addr := e.addr.Addr()
		if _, served := s.Local[familyOf(addr)]; served && e.ready && e.local && !seen[addr] {
			seen[addr] = true
			s.Local[familyOf(addr)]++
		}
	}
	return s
}

// noLocal counts the services without a usable backend on this node to which a policy
// restricts connections, while there are others. It is nil if there are none.
func noLocal(services []nftdp.Service) (out map[Traffic]int) {
	for i := range services {
		for _, traffic := range restricted(services[i].Frontends) {
			some, local := false, false
			for _, b := range services[i].Backends {
				if b.State == nftdp.StateActive && familyOf(b.Addr.Addr()) == traffic.Family {
					some, local = true, local || b.Local
				}
			}
			if some && !local {
				if out == nil {
					out = map[Traffic]int{}
				}
				out[traffic]++
			}
		}
	}
	return out
}

// restricted lists what the policies of frontends restrict to this node, each once.
func restricted(frontends []nftdp.Frontend) (out []Traffic) {
	for _, f := range frontends {
		t := Traffic{External: f.Policy == nftdp.PolicyExternalLocalOnly, Family: familyOf(f.Addr)}
		if f.Policy != nftdp.PolicyAnyBackend && !slices.Contains(out, t) {
			out = append(out, t)
		}
	}
	return out
}

// HealthCheckAddrs returns where the health check ports of Services are bound in a
// family, which is where kube-proxy binds them: to those addresses of the node's
// interfaces that NodePortAddresses names, or to all of them, by the unspecified
// address, if it names every address or none of the family. The node may be nil.
func (o Options) HealthCheckAddrs(family v1.IPFamily, node *v1.Node, interfaces []netip.Addr) (out []netip.Addr) {
	every := netip.IPv4Unspecified()
	if family == v1.IPv6Protocol {
		every = netip.IPv6Unspecified()
	}
	var prefixes []netip.Prefix
	for _, p := range o.nodePorts(node).allPrefixes() {
		if familyOf(p.Addr()) == family {
			prefixes = append(prefixes, p)
		}
	}
	if len(prefixes) == 0 || slices.ContainsFunc(prefixes, func(p netip.Prefix) bool { return p.Bits() == 0 }) {
		return []netip.Addr{every}
	}
	for _, a := range interfaces {
		named := slices.ContainsFunc(prefixes, func(p netip.Prefix) bool { return p.Contains(a) })
		if named && !a.IsLinkLocalUnicast() && !slices.Contains(out, a) {
			out = append(out, a)
		}
	}
	return out
}

// allPrefixes returns all that NodePortAddresses means as prefixes.
func (n nodePorts) allPrefixes() []netip.Prefix {
	out := n.prefixes
	if n.all {
		out = append(out, netip.PrefixFrom(netip.IPv4Unspecified(), 0), netip.PrefixFrom(netip.IPv6Unspecified(), 0))
	}
	if n.localhost {
		out = append(out, netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128"))
	}
	return out
}
