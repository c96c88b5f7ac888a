//go:build linux

package kubernetes_test

import (
	"net/netip"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discovery "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nftdp/go-nftdp/integration/kubernetes/cluster"
)

// serviceCase is a service, its endpoints by the names of pods, and what probes see.
// The service has port 80 in TCP and UDP, both families, and all four pods as endpoints
// unless the case says otherwise.
type serviceCase struct {
	name      string
	change    func(*corev1.Service)
	endpoints string                                  // names of pods
	condition func(pod string, e *discovery.Endpoint) // of each endpoint
	slice     func(*discovery.EndpointSlice)          // before it is written
	probes    []serviceProbe
}

// serviceProbe is a line of a case: who connects, where to, and what may happen.
type serviceProbe struct {
	from string
	to   string // a word of serviceAddr
	want string // outcomes, separated by ", "
}

const (
	allPods  = "pod-a0 pod-a1 pod-b0 pod-b1"
	nodePort = 30080
)

// everyone are outcomes at all four pods from one source.
func everyone(source string) string {
	return at(allPods, source)
}

// at are outcomes at some pods from one source.
func at(pods, source string) string {
	var out []string
	for p := range strings.FieldsSeq(pods) {
		out = append(out, p+" from "+source)
	}
	return strings.Join(out, ", ")
}

// serviceAddr is the address that a probe goes to: "cluster", "external", "lb", "node-a"
// and "node-b" with the node port, or "client", which is nobody's.
func serviceAddr(s *corev1.Service, word string, family int) netip.AddrPort {
	a := cluster.Families()[family]
	word, port, _ := strings.Cut(word, ":")
	number := uint16(80)
	if port != "" {
		number = 81
	}
	switch word {
	case "cluster":
		return netip.AddrPortFrom(netip.MustParseAddr(s.Spec.ClusterIPs[family]), number)
	case "external":
		return netip.AddrPortFrom(external(a, 1), number)
	case "lb":
		return netip.AddrPortFrom(external(a, 2), number)
	case "node-a", "node-b":
		return netip.AddrPortFrom(a.Node(int(word[5]-'a')), nodePort)
	}
	panic("unknown word " + word)
}

// external is an address of a network that load balancers would have.
func external(a cluster.Addrs, n byte) netip.Addr {
	b := a.Externals.Addr().AsSlice()
	b[len(b)-1] = n
	addr, _ := netip.AddrFromSlice(b)
	return addr
}

func dualStack(name string) *corev1.Service {
	return &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: corev1.ServiceSpec{
			IPFamilyPolicy: new(corev1.IPFamilyPolicyRequireDualStack),
			Ports: []corev1.ServicePort{
				{Name: "tcp", Port: 80, Protocol: corev1.ProtocolTCP},
				{Name: "udp", Port: 80, Protocol: corev1.ProtocolUDP},
			},
		},
	}
}

// withNodePort makes it a service of a type that has a node port.
func withNodePort(s *corev1.Service, typ corev1.ServiceType) {
	s.Spec.Type = typ
	for i := range s.Spec.Ports {
		s.Spec.Ports[i].NodePort = nodePort
	}
}

func withLoadBalancer(s *corev1.Service) {
	withNodePort(s, corev1.ServiceTypeLoadBalancer)
	for _, a := range cluster.Families() {
		s.Status.LoadBalancer.Ingress = append(s.Status.LoadBalancer.Ingress,
			corev1.LoadBalancerIngress{IP: external(a, 2).String()})
	}
}

func withExternalIPs(s *corev1.Service) {
	for _, a := range cluster.Families() {
		s.Spec.ExternalIPs = append(s.Spec.ExternalIPs, external(a, 1).String())
	}
}

func externalLocal(s *corev1.Service) {
	s.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal
}

func internalLocal(s *corev1.Service) {
	s.Spec.InternalTrafficPolicy = new(corev1.ServiceInternalTrafficPolicyLocal)
}

func all(changes ...func(*corev1.Service)) func(*corev1.Service) {
	return func(s *corev1.Service) {
		for _, change := range changes {
			change(s)
		}
	}
}

// putService writes a case's objects and returns the service as the API server has it.
func (w *world) putService(tb testing.TB, c serviceCase) *corev1.Service {
	tb.Helper()
	want := dualStack("web")
	if c.change != nil {
		c.change(want)
	}
	service, err := control.PutService(tb.Context(), want)
	if err != nil {
		tb.Fatal(err)
	}
	for _, a := range cluster.Families() {
		slice := cluster.Slice(service, a)
		for pod := range strings.FieldsSeq(c.endpoints) {
			e := w.endpoint(a, pod)
			if c.condition != nil {
				c.condition(pod, &e)
			}
			slice.Endpoints = append(slice.Endpoints, e)
		}
		if c.slice != nil {
			c.slice(slice)
		}
		if err := control.PutSlice(tb.Context(), slice); err != nil {
			tb.Fatal(err)
		}
	}
	return service
}

// endpoint is a pod as an endpoint.
func (w *world) endpoint(a cluster.Addrs, pod string) discovery.Endpoint {
	node := int(pod[4] - 'a')
	return cluster.Endpoint(a.Pod(node, int(pod[5]-'0')), w.Nodes[node].Name)
}

// deleteService deletes what putService has written.
func (w *world) deleteService(tb testing.TB, name string) {
	tb.Helper()
	if err := control.DeleteService(tb.Context(), name); err != nil {
		tb.Fatal(err)
	}
}

// TestServices goes through every type and policy of services with two nodes, both
// families, TCP and UDP.
func TestServices(t *testing.T) {
	w := newServedWorld(t, 2, 2)
	for _, c := range serviceCases() {
		t.Run(c.name, func(t *testing.T) {
			if c.endpoints == "" {
				c.endpoints = allPods
			}
			service := w.putService(t, c)
			defer w.deleteService(t, service.Name)
			w.sync()
			for _, p := range c.probes {
				w.expectBoth(t, service, p)
			}
		})
	}
}

// expectBoth expects a probe's outcome in both families and protocols.
func (w *world) expectBoth(tb testing.TB, s *corev1.Service, p serviceProbe) {
	tb.Helper()
	for family := range cluster.Families() {
		for _, protocol := range []string{"tcp", "udp"} {
			want := strings.Split(p.want, ", ")
			w.expect(tb, p.from, protocol, serviceAddr(s, p.to, family), want...)
		}
	}
}
