package kube

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/netip"
	"slices"
	"time"

	v1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/nftdp/go-nftdp/nftdp"
)

// LabelProxyName is the label of Services that another proxy than kube-proxy serves.
const LabelProxyName = "service.kubernetes.io/service-proxy-name"

// Problem is something in an object of the API server that cannot be served, or not as
// it is. The rest of the object is served.
type Problem struct {
	// Object is the Service at which it is reported.
	Object types.NamespacedName
	// Reason is a word for an Event, Message a sentence.
	Reason, Message string
}

// Error returns the problem with its object.
func (p Problem) Error() string { return fmt.Sprintf("service %s: %s", p.Object, p.Message) }

// Serves reports whether a Service is for this proxy, and has addresses at all.
func (o Options) Serves(svc *v1.Service) bool {
	_, headless := svc.Labels[v1.IsHeadlessService]
	return svc.Labels[LabelProxyName] == o.ProxyName && !headless &&
		svc.Spec.Type != v1.ServiceTypeExternalName &&
		svc.Spec.ClusterIP != v1.ClusterIPNone && svc.Spec.ClusterIP != ""
}

// Services returns a service for each port of a Service, whose EndpointSlices may be
// given in any order. The node may be nil while it is not known. Problems concern parts
// that are left out; the services are always valid by themselves.
func (o Options) Services(svc *v1.Service, slices []*discoveryv1.EndpointSlice, node *v1.Node) ([]nftdp.Service, []Problem) {
	if !o.Serves(svc) {
		return nil, nil
	}
	t := translation{
		Options: o, svc: svc, node: node, name: types.NamespacedName{Namespace: svc.Namespace, Name: svc.Name},
		pods: o.pods(node),
	}
	t.annotations = t.readAnnotations()
	endpoints := t.endpoints(slices)
	var out []nftdp.Service
	for i := range svc.Spec.Ports {
		if s, ok := t.port(&svc.Spec.Ports[i], endpoints); ok {
			out = append(out, s)
		}
	}
	return out, t.problems
}

// translation is that of one Service.
type translation struct {
	Options
	svc         *v1.Service
	name        types.NamespacedName
	node        *v1.Node
	pods        []netip.Prefix
	annotations annotations
	problems    []Problem
}

func (t *translation) problem(reason, format string, args ...any) {
	t.problems = append(t.problems, Problem{t.name, reason, fmt.Sprintf(format, args...)})
}

// port returns the service of one port.
func (t *translation) port(p *v1.ServicePort, endpoints []endpoint) (nftdp.Service, bool) {
	s := nftdp.Service{
		Name: ServiceName(t.name, p.Name), Scheduler: t.annotations.scheduler, CutStale: t.annotations.cutStale,
	}
	if p.Name != "" && len(validation.IsDNS1123Label(p.Name)) > 0 { // which the API server refuses
		t.problem("InvalidPortName", "port %d: name %q: use lower-case letters, digits and hyphens", p.Port, p.Name)
		return s, false
	}
	switch p.Protocol {
	case v1.ProtocolTCP, "":
	case v1.ProtocolUDP:
		s.Protocol = nftdp.ProtocolUDP
	case v1.ProtocolSCTP:
		s.Protocol = nftdp.ProtocolSCTP
	default:
		t.problem("UnknownProtocol", "port %d: protocol %q: use TCP, UDP or SCTP", p.Port, p.Protocol)
		return s, false
	}
	s.Affinity = t.affinity()
	s.Frontends = t.frontends(p)
	if len(s.Frontends) == 0 {
		return s, false
	}
	s.Backends = t.backends(p, endpoints, s.Frontends)
	return s, true
}

// ServiceName returns the name of the service of a port in listings, flows and
// counters: namespace/name:port, as kube-proxy writes it. Names are at most 143 bytes,
// and one of more than nftdp.MaxNameLen ends in a hash of the whole.
func ServiceName(of types.NamespacedName, port string) string {
	name := of.String()
	if port != "" {
		name += ":" + port
	}
	if len(name) <= nftdp.MaxNameLen {
		return name
	}
	const digits = 16
	sum := sha256.Sum256([]byte(name))
	return name[:nftdp.MaxNameLen-digits-1] + "~" + hex.EncodeToString(sum[:digits/2])
}

// affinity returns how long a client comes back to its backend.
func (t *translation) affinity() nftdp.Duration {
	if t.svc.Spec.SessionAffinity != v1.ServiceAffinityClientIP {
		return 0
	}
	seconds := v1.DefaultClientIPServiceAffinitySeconds
	if c := t.svc.Spec.SessionAffinityConfig; c != nil && c.ClientIP != nil && c.ClientIP.TimeoutSeconds != nil {
		seconds = *c.ClientIP.TimeoutSeconds
	}
	return nftdp.Duration(time.Duration(max(seconds, 1)) * time.Second)
}

// frontends returns where the clients of a port connect to.
func (t *translation) frontends(p *v1.ServicePort) (out []nftdp.Frontend) {
	port, ok := portOf(int(p.Port))
	if !ok {
		t.problem("InvalidPort", "port %d: use 1 to 65535", p.Port)
		return nil
	}
	add := func(addr netip.Addr, like nftdp.Frontend) {
		like.Addr = addr
		if like.Port == 0 {
			like.Port = port
		}
		same := func(f nftdp.Frontend) bool { return f.Addr == like.Addr && f.Port == like.Port }
		if !slices.ContainsFunc(out, same) {
			out = append(out, like)
		}
	}
	for _, a := range t.addrs("clusterIP", t.clusterIPs()) {
		add(a, t.cluster(a))
	}
	for _, a := range t.inFamilies("externalIP", t.svc.Spec.ExternalIPs) {
		add(a, t.external())
	}
	vips := t.inFamilies("load balancer address", t.loadBalancerIPs())
	for _, a := range vips {
		f := t.external()
		f.Allow = t.sourceRanges(a, vips)
		add(a, f)
	}
	for _, family := range t.families() {
		if p.NodePort > 0 && t.nodePorts() {
			f := t.external()
			f.Port, f.Allow = uint16(p.NodePort), allowed(t.annotations.nodePortAllow, family)
			add(family, f)
		}
		for _, node := range t.annotations.nodeIPPorts {
			if node.leadsTo(p) {
				f := t.external()
				f.Port, f.Allow = node.port, allowed(t.annotations.nodePortAllow, family)
				add(family, f)
			}
		}
	}
	return out
}

func portOf(n int) (uint16, bool) { return uint16(n), n > 0 && n < 1<<16 }

func (t *translation) nodePorts() bool {
	return t.svc.Spec.Type == v1.ServiceTypeNodePort || t.svc.Spec.Type == v1.ServiceTypeLoadBalancer
}

// families returns the unspecified address of each family of the Service.
func (t *translation) families() (out []netip.Addr) {
	for _, a := range t.clusterIPs() {
		addr, ok := parseAddr(a)
		if !ok {
			continue
		}
		unspecified := netip.IPv4Unspecified()
		if addr.Is6() {
			unspecified = netip.IPv6Unspecified()
		}
		if !slices.Contains(out, unspecified) {
			out = append(out, unspecified)
		}
	}
	return out
}

func (t *translation) clusterIPs() []string {
	if len(t.svc.Spec.ClusterIPs) > 0 {
		return t.svc.Spec.ClusterIPs
	}
	return []string{t.svc.Spec.ClusterIP}
}

// loadBalancerIPs returns the addresses for which the load balancer sends packets with
// the destination that its clients have chosen.
func (t *translation) loadBalancerIPs() (out []string) {
	for _, in := range t.svc.Status.LoadBalancer.Ingress {
		if in.IP != "" && (in.IPMode == nil || *in.IPMode != v1.LoadBalancerIPModeProxy) {
			out = append(out, in.IP)
		}
	}
	return out
}

// addrs parses addresses, and leaves out those that no frontend can have.
func (t *translation) addrs(what string, texts []string) (out []netip.Addr) {
	for _, text := range texts {
		a, ok := parseAddr(text)
		switch {
		case !ok:
			t.problem("InvalidAddress", "%s %q is not an IP address", what, text)
		case a.IsUnspecified(), a.IsLoopback(), a.IsMulticast(), a.IsLinkLocalUnicast(), a == netip.AddrFrom4([4]byte{255, 255, 255, 255}):
			t.problem("InvalidAddress", "%s %s cannot be served: it is unspecified, loopback, link-local, multicast or broadcast", what, text)
		default:
			out = append(out, a)
		}
	}
	return out
}

// inFamilies parses addresses of clients outside. kube-proxy serves them in the families
// of the ClusterIPs only, whatever EndpointSlices there are, and packets to others pass.
func (t *translation) inFamilies(what string, texts []string) []netip.Addr {
	families := t.families()
	return slices.DeleteFunc(t.addrs(what, texts), func(a netip.Addr) bool {
		other := !slices.ContainsFunc(families, func(f netip.Addr) bool { return f.Is4() == a.Is4() })
		if other {
			t.problem("OtherFamily", "%s %s is not served: the Service has no ClusterIP of its family", what, a)
		}
		return other
	})
}

// cluster returns the frontend of a ClusterIP, but for its address and port. Where pods
// of the family are not known, nobody is known to be outside of the cluster.
func (t *translation) cluster(addr netip.Addr) (f nftdp.Frontend) {
	switch {
	case t.MasqueradeAll:
		f.Masquerade = nftdp.MasqueradeAlways
	case t.podInterfaces() != nil, slices.ContainsFunc(t.pods, func(p netip.Prefix) bool { return p.Addr().Is4() == addr.Is4() }):
		f.Masquerade = nftdp.MasqueradeExternal
	default:
		f.Masquerade = nftdp.MasqueradeNever
	}
	if p := t.svc.Spec.InternalTrafficPolicy; p != nil && *p == v1.ServiceInternalTrafficPolicyLocal {
		f.Policy = nftdp.PolicyLocalOnly
	}
	return f
}

// external returns a frontend for clients outside the cluster, but for its address and
// port.
func (t *translation) external() (f nftdp.Frontend) {
	if t.svc.Spec.ExternalTrafficPolicy == v1.ServiceExternalTrafficPolicyLocal {
		f.Policy = nftdp.PolicyExternalLocalOnly
	} else {
		f.Masquerade = nftdp.MasqueradeAlways
	}
	return f
}

// nobody is a list of clients that contains none, in the family of an address.
func nobody(like netip.Addr) []netip.Prefix {
	if like.Is4() {
		return []netip.Prefix{netip.PrefixFrom(netip.IPv4Unspecified(), 32)}
	}
	return []netip.Prefix{netip.PrefixFrom(netip.IPv6Unspecified(), 128)}
}

// allowed returns those clients of a list that are of an address's family. A list
// without any of them allows nobody there, and an empty one everybody.
func allowed(list []netip.Prefix, like netip.Addr) (out []netip.Prefix) {
	for _, p := range list {
		if p.Addr().Is4() == like.Is4() {
			out = append(out, p)
		}
	}
	if len(out) == 0 && len(list) > 0 {
		return nobody(like)
	}
	return out
}

// sourceRanges returns the clients that may connect to one of the load balancer's
// addresses; none means all. Ranges of one family only close the addresses of the other
// one, unless they are open to everybody.
func (t *translation) sourceRanges(vip netip.Addr, vips []netip.Addr) (allow []netip.Prefix) {
	all, node := false, false
	for _, text := range t.svc.Spec.LoadBalancerSourceRanges {
		p, valid := parsePrefix(text)
		switch {
		case !valid:
			t.problem("InvalidSourceRange", "source range %q is not a prefix", text)
		case p.Addr().Is4() != vip.Is4():
			all = all || p.Bits() == 0
		case p.Bits() == 0:
			return nil
		default:
			allow = append(allow, p)
			node = node || slices.ContainsFunc(primaryAddrs(t.node), p.Contains)
		}
	}
	switch {
	case len(allow) == 0 && (all || len(t.svc.Spec.LoadBalancerSourceRanges) == 0):
		return nil
	case len(allow) == 0:
		return nobody(vip)
	case node: // what the node sends to these addresses may have one of them as its source
		for _, v := range vips {
			if v.Is4() == vip.Is4() {
				allow = append(allow, netip.PrefixFrom(v, v.BitLen()))
			}
		}
	}
	return allow
}

// usesLocal reports whether a policy restricts some connections to backends on the node.
func usesLocal(frontends []nftdp.Frontend) bool {
	return slices.ContainsFunc(frontends, func(f nftdp.Frontend) bool { return f.Policy != nftdp.PolicyAnyBackend })
}
