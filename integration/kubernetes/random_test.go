//go:build linux

package kubernetes_test

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	discovery "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nftdp/go-nftdp/integration/kubernetes/cluster"
)

// random makes objects that the API server accepts, and prefers what is rare elsewhere.
type random struct {
	*rand.Rand
	externals byte  // the last part of the address that was handed out last
	nodePort  int32 // the one that was handed out last
	zones     []string
}

// randomService is a service with its slices, which may be of either family.
type randomService struct {
	service *corev1.Service
	slices  []*discovery.EndpointSlice
	// If it has an external address that others have as well, shared is that, and own one
	// of the same kind that nobody else has.
	shared, own netip.Addr
}

// chance is true once in n times.
func (r *random) chance(n int) bool { return r.IntN(n) == 0 }

func pick[T any](r *random, from ...T) T { return from[r.IntN(len(from))] }

// addrs picks one family or the other.
func (r *random) addrs() cluster.Addrs { return pick(r, cluster.V4, cluster.V6) }

// services are those of one world.
func (r *random) services(world int) []randomService {
	var out []randomService
	for i := range 3 + r.IntN(3) {
		out = append(out, randomService{service: r.service(fmt.Sprintf("w%d-%d", world, i))})
	}
	if r.chance(2) {
		r.conflict(out)
	}
	for i := range out {
		out[i].slices = r.slices(out[i].service)
	}
	return out
}

// conflict gives some services one external address and port, each as an external or a
// load balancer's address.
func (r *random) conflict(services []randomService) {
	a, protocol, claimants := r.addrs(), pick(r, corev1.ProtocolTCP, corev1.ProtocolUDP), 2+r.IntN(2)
	shared := r.external(a)
	for _, i := range r.Perm(len(services)) {
		s := &services[i]
		if claimants == 0 || !served(s.service, a) {
			continue
		}
		claimants--
		s.shared, s.own = shared, r.external(a)
		s.service.Spec.Ports[0].Protocol = protocol
		for _, addr := range []string{s.shared.String(), s.own.String()} {
			if s.service.Spec.Type == corev1.ServiceTypeLoadBalancer {
				s.service.Status.LoadBalancer.Ingress = append(s.service.Status.LoadBalancer.Ingress, corev1.LoadBalancerIngress{IP: addr})
			} else {
				s.service.Spec.ExternalIPs = append(s.service.Spec.ExternalIPs, addr)
			}
		}
	}
}

// served reports whether proxies serve external addresses of a family for a service.
func served(s *corev1.Service, a cluster.Addrs) bool {
	family := corev1.IPv4Protocol
	if a.Client.Is6() {
		family = corev1.IPv6Protocol
	}
	return s.Spec.Type != corev1.ServiceTypeExternalName && s.Spec.ClusterIP != corev1.ClusterIPNone && len(s.Labels) == 0 &&
		(s.Spec.IPFamilyPolicy != nil || slices.Contains(s.Spec.IPFamilies, family))
}

func (r *random) service(name string) *corev1.Service {
	s := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: name}}
	if r.chance(20) {
		s.Spec.Type, s.Spec.ExternalName = corev1.ServiceTypeExternalName, "example.org"
		return s
	}
	r.families(s)
	r.ports(s)
	if r.chance(15) {
		s.Spec.ClusterIP = corev1.ClusterIPNone
		return s
	}
	if r.chance(15) {
		s.Labels = map[string]string{"service.kubernetes.io/service-proxy-name": "other"}
	}
	if r.chance(3) {
		s.Spec.InternalTrafficPolicy = new(corev1.ServiceInternalTrafficPolicyLocal)
	}
	if r.chance(4) {
		s.Spec.SessionAffinity = corev1.ServiceAffinityClientIP
	}
	if r.chance(3) {
		// Those with which one client meets all endpoints, as with kube-proxy.
		s.Annotations = map[string]string{"nftdp.github.io/scheduler": pick(r, "round-robin", "source-port-hash")}
	}
	s.Spec.PublishNotReadyAddresses = r.chance(6)
	for range r.IntN(3) {
		s.Spec.ExternalIPs = append(s.Spec.ExternalIPs, r.external(r.addrs()).String())
	}
	r.outside(s)
	return s
}

func (r *random) families(s *corev1.Service) {
	switch r.IntN(4) {
	case 0:
		s.Spec.IPFamilies = []corev1.IPFamily{corev1.IPv4Protocol}
	case 1:
		s.Spec.IPFamilies = []corev1.IPFamily{corev1.IPv6Protocol}
	default:
		s.Spec.IPFamilyPolicy = new(corev1.IPFamilyPolicyRequireDualStack)
	}
}

func (r *random) ports(s *corev1.Service) {
	protocol := func() corev1.Protocol {
		return pick(r, corev1.ProtocolTCP, corev1.ProtocolTCP, corev1.ProtocolUDP, corev1.ProtocolUDP, corev1.ProtocolSCTP)
	}
	s.Spec.Ports = []corev1.ServicePort{{Name: "a", Port: 80, Protocol: protocol()}}
	if r.chance(2) {
		s.Spec.Ports = append(s.Spec.Ports,
			corev1.ServicePort{Name: "b", Port: int32(pick(r, 443, 5353)), Protocol: protocol()})
	}
}

// outside makes it a service of another type, sometimes, with what belongs to it.
func (r *random) outside(s *corev1.Service) {
	switch r.IntN(4) {
	case 0:
	case 1:
		s.Spec.Type = corev1.ServiceTypeNodePort
	default:
		s.Spec.Type = corev1.ServiceTypeLoadBalancer
		r.loadBalancer(s)
	}
	if s.Spec.Type == "" && len(s.Spec.ExternalIPs) == 0 {
		return
	}
	if r.chance(2) {
		s.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal
	}
	if s.Spec.Type == "" || s.Spec.AllocateLoadBalancerNodePorts != nil {
		return
	}
	for i := range s.Spec.Ports {
		r.nodePort++
		s.Spec.Ports[i].NodePort = r.nodePort
	}
}

func (r *random) loadBalancer(s *corev1.Service) {
	if r.chance(6) {
		s.Spec.AllocateLoadBalancerNodePorts = new(false)
	}
	for range r.IntN(3) {
		ingress := corev1.LoadBalancerIngress{IP: r.external(r.addrs()).String()}
		if r.chance(2) {
			ingress.IPMode = new(pick(r, corev1.LoadBalancerIPModeVIP, corev1.LoadBalancerIPModeVIP, corev1.LoadBalancerIPModeProxy))
		}
		s.Status.LoadBalancer.Ingress = append(s.Status.LoadBalancer.Ingress, ingress)
	}
	if r.chance(2) {
		for range 1 + r.IntN(3) {
			s.Spec.LoadBalancerSourceRanges = append(s.Spec.LoadBalancerSourceRanges, r.sourceRange())
		}
	}
}

// sourceRange has one or several of the clients, or nobody.
func (r *random) sourceRange() string {
	a := r.addrs()
	return pick(r, netip.PrefixFrom(a.Client, a.Client.BitLen()).String(), a.PodCIDR(0).String(), " "+a.PodNet.String()+" ",
		netip.PrefixFrom(a.Node(0), a.Client.BitLen()).String(), netip.PrefixFrom(a.Client, 0).Masked().String(),
		netip.PrefixFrom(a.Node(9), a.Client.BitLen()).String())
}

// external is an address that no other service of the world has.
func (r *random) external(a cluster.Addrs) netip.Addr {
	r.externals++
	return external(a, r.externals)
}

// slices are none, one or several of each family, whatever the service has.
func (r *random) slices(s *corev1.Service) []*discovery.EndpointSlice {
	var out []*discovery.EndpointSlice
	hints := r.chance(2)
	running, leaving := map[string]bool{}, map[string]bool{}
	for _, a := range cluster.Families() {
		for i := range pick(r, 0, 1, 1, 1, 1, 2) {
			slice := cluster.Slice(s, a)
			slice.Name = fmt.Sprintf("%s-%d", slice.Name, i)
			r.slicePorts(slice)
			for range r.IntN(5) {
				e := r.endpoint(a, hints)
				// Which of several counts that do not terminate is undefined.
				if terminating := e.Conditions.Terminating; terminating == nil || !*terminating {
					if running[e.Addresses[0]] {
						continue
					}
					running[e.Addresses[0]] = true
				} else if leaving[e.Addresses[0]] {
					continue
				} else {
					leaving[e.Addresses[0]] = true
				}
				slice.Endpoints = append(slice.Endpoints, e)
			}
			out = append(out, slice)
		}
	}
	return out
}

func (r *random) slicePorts(slice *discovery.EndpointSlice) {
	if len(slice.Ports) > 0 && r.chance(12) {
		switch r.IntN(3) {
		case 0:
			slice.Ports[0].Port = nil
		case 1:
			slice.Ports[0].Name = new("other")
		case 2:
			slice.Ports = slice.Ports[1:]
		}
	}
	if r.chance(15) {
		slice.Labels[corev1.IsHeadlessService] = ""
	}
}

func (r *random) endpoint(a cluster.Addrs, hints bool) discovery.Endpoint {
	node := r.IntN(2)
	e := cluster.Endpoint(a.Pod(node, r.IntN(2)), []string{"node-a", "node-b"}[node])
	e.Conditions = discovery.EndpointConditions{}
	r.condition(&e.Conditions)
	if r.chance(15) {
		e.NodeName = nil
	}
	if hints && !r.chance(8) {
		e.Hints = &discovery.EndpointHints{}
		for _, zone := range r.zones {
			if r.chance(2) {
				e.Hints.ForZones = append(e.Hints.ForZones, discovery.ForZone{Name: zone})
			}
		}
		if r.chance(2) {
			e.Hints.ForNodes = []discovery.ForNode{{Name: pick(r, "node-a", "node-b")}}
		}
	}
	return e
}

// condition is ready half of the time.
func (r *random) condition(c *discovery.EndpointConditions) {
	switch r.IntN(6) {
	case 0, 1:
		c.Ready = new(true)
	case 2: // nothing is said
	case 3:
		c.Ready, c.Serving, c.Terminating = new(false), new(true), new(true)
	case 4:
		c.Ready, c.Serving, c.Terminating = new(false), new(false), new(r.chance(2))
	case 5:
		state := func() *bool { return pick(r, nil, new(true), new(false)) }
		c.Ready, c.Serving, c.Terminating = state(), state(), state()
	}
}
