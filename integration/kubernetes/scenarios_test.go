//go:build linux

package kubernetes_test

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discovery "k8s.io/api/discovery/v1"
	networking "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nftdp/go-nftdp/integration/kubernetes/cluster"
)

// A node without a proxy serves nobody, although its pods run. Once it has one, it does.
func TestDeadNode(t *testing.T) {
	w := newWorld(t, 1, 1)
	a, b := w.Nodes[0], w.Nodes[1]
	w.start(a, cluster.Proxy(*proxyUnderTest))
	s := w.putService(t, serviceCase{change: withLoadBalancer, endpoints: "pod-b0"})
	w.sync()

	viaB := serviceAddr(s, "node-b", 0)
	lb := serviceAddr(s, "lb", 0)
	w.expect(t, "client", "tcp", serviceAddr(s, "node-a", 0), "pod-b0 from node-a")
	w.expect(t, "client", "tcp", viaB, refused)
	w.expect(t, "pod-b0", "tcp", serviceAddr(s, "cluster", 0), silence)
	// The balancer goes on to send it half of the connections.
	w.expect(t, "client", "tcp", lb, "pod-b0 from node-a", silence)

	w.start(b, cluster.Proxy(*proxyUnderTest))
	w.becomes("client", "tcp", viaB, "pod-b0 from node-b")
	w.sync()
	w.expect(t, "pod-b0", "tcp", serviceAddr(s, "cluster", 0), "pod-b0 from node-b")
	w.expect(t, "client", "tcp", lb, "pod-b0 from node-a", "pod-b0 from node-b")

	// Its rules work without it.
	w.stop(b)
	w.expect(t, "client", "tcp", viaB, "pod-b0 from node-b")
	if err := b.Cleanup(cluster.Proxy(*proxyUnderTest)); err != nil {
		t.Fatal(err)
	}
	w.expect(t, "client", "tcp", viaB, refused)
}

// While the API server is away, services work as they are. When it is back, proxies
// follow what changes.
func TestRestartOfAPIServer(t *testing.T) {
	w := newServedWorld(t, 2)
	s := w.putService(t, serviceCase{endpoints: "pod-a0"})
	w.sync()
	to := serviceAddr(s, "cluster", 0)
	w.expect(t, "node-a", "tcp", to, "pod-a0 from node-a")

	control.StopAPI()
	w.expect(t, "node-a", "tcp", to, "pod-a0 from node-a")
	if err := control.StartAPI(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.putService(t, serviceCase{endpoints: "pod-a1"})
	w.becomes("node-a", "tcp", to, "pod-a1 from node-a")
	w.sync()
}

// A proxy whose connections to the API server are reset learns of what changed and of
// what was deleted meanwhile.
func TestCutWatches(t *testing.T) {
	w := newServedWorld(t, 2)
	s := w.putService(t, serviceCase{endpoints: "pod-a0"})
	w.sync()
	to := serviceAddr(s, "cluster", 0)
	w.expect(t, "node-a", "tcp", to, "pod-a0 from node-a")

	if err := control.CutWatches(); err != nil {
		t.Fatal(err)
	}
	w.putService(t, serviceCase{endpoints: "pod-a1"})
	if err := control.AllowWatches(); err != nil {
		t.Fatal(err)
	}
	w.becomes("node-a", "tcp", to, "pod-a1 from node-a")

	if err := control.CutWatches(); err != nil {
		t.Fatal(err)
	}
	w.deleteService(t, s.Name)
	if err := control.AllowWatches(); err != nil {
		t.Fatal(err)
	}
	w.becomes("node-a", "tcp", to, silence)
	w.sync()
}

// Of two services with one external address and port one is reached, and the other one
// once the first is deleted. Both are reached at their own addresses all the time.
func TestConflict(t *testing.T) {
	w := newServedWorld(t, 2)
	put := func(name, pod string) *corev1.Service {
		return w.putService(t, serviceCase{
			change:    func(s *corev1.Service) { s.Name = name; withExternalIPs(s) },
			endpoints: pod,
		})
	}
	first, second := put("first", "pod-a0"), put("second", "pod-a1")
	w.sync()
	for family := range cluster.Families() {
		w.expect(t, "node-a", "tcp", serviceAddr(first, "cluster", family), "pod-a0 from node-a")
		w.expect(t, "node-a", "tcp", serviceAddr(second, "cluster", family), "pod-a1 from node-a")
		got := w.probe(w.Client, "tcp", serviceAddr(first, "external", family), patient)
		if got != "pod-a0 from node-a" && got != "pod-a1 from node-a" {
			t.Errorf("at the external address of both: %s", got)
		}
	}
	w.deleteService(t, "first")
	for family := range cluster.Families() {
		w.becomes("client", "tcp", serviceAddr(second, "external", family), "pod-a1 from node-a")
	}
}

// Services that are not for proxies have no effect, and do not hinder others.
func TestNotForProxies(t *testing.T) {
	w := newServedWorld(t, 1)
	out, err := control.Kubectl(`
apiVersion: v1
kind: Service
metadata: {name: headless}
spec: {clusterIP: None, ports: [{port: 80, targetPort: 8080}]}
---
apiVersion: v1
kind: Service
metadata: {name: elsewhere}
spec: {type: ExternalName, externalName: example.org}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: headless, labels: {kubernetes.io/service-name: headless, service.kubernetes.io/headless: ""}}
addressType: IPv4
endpoints: [{addresses: ["10.180.1.10"], nodeName: node-a}]
ports: [{port: 8080, name: ""}]
`, "apply", "-f", "-")
	if err != nil {
		t.Fatal(err)
	}
	for _, object := range []string{"service/headless", "service/elsewhere", "endpointslice.discovery.k8s.io/headless"} {
		if !strings.Contains(out, object+" created") {
			t.Errorf("kubectl apply printed %q, not that it created %s", out, object)
		}
	}
	s := w.putService(t, serviceCase{endpoints: "pod-a0"})
	w.sync()
	w.expect(t, "node-a", "tcp", serviceAddr(s, "cluster", 0), "pod-a0 from node-a")
}

// A client with affinity meets the same backend again, at all addresses of a service
// port.
func TestAffinity(t *testing.T) {
	w := newServedWorld(t, 4)
	s := w.putService(t, serviceCase{
		endpoints: "pod-a0 pod-a1 pod-a2 pod-a3",
		change: func(s *corev1.Service) {
			withLoadBalancer(s)
			withExternalIPs(s)
			s.Spec.SessionAffinity = corev1.ServiceAffinityClientIP
		},
	})
	w.sync()
	for family := range cluster.Families() {
		for _, protocol := range []string{"tcp", "udp"} {
			met := ""
			for word := range strings.FieldsSeq("cluster lb external node-a cluster lb external node-a lb node-a") {
				got := w.probe(w.Client, protocol, serviceAddr(s, word, family), patient)
				if met == "" {
					met = got
				}
				if got != met || !strings.HasSuffix(got, " from node-a") {
					t.Errorf("%s at %s: %s, after %s", protocol, word, got, met)
				}
			}
		}
	}
}

// ServiceCIDRs can be added while proxies run: unallocated addresses of theirs are
// dropped, and services with others work.
func TestServiceCIDR(t *testing.T) {
	w := newServedWorld(t, 1)
	unallocated := netip.AddrPortFrom(netip.MustParseAddr("10.97.255.99"), 80)
	w.sync()
	_, err := control.Client.NetworkingV1().ServiceCIDRs().Create(t.Context(), &networking.ServiceCIDR{
		ObjectMeta: metav1.ObjectMeta{Name: "more"},
		Spec:       networking.ServiceCIDRSpec{CIDRs: []string{cluster.NewServices.String()}},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if *proxyUnderTest == string(cluster.KubeProxy) {
		// It takes note, but programs the prefix with its next full synchronization only.
		w.stop(w.Nodes[0])
		w.start(w.Nodes[0], cluster.KubeProxy)
	}
	// Datagrams of the node itself are refused by its own rule, and by nothing else.
	w.becomes("node-a", "udp", unallocated, forbidden)
	w.eventually("a service has an address of the new prefix", func() error {
		_, err := control.PutService(t.Context(), &corev1.Service{
			ObjectMeta: metav1.ObjectMeta{Name: "new"},
			Spec: corev1.ServiceSpec{ClusterIP: "10.97.0.10", Ports: []corev1.ServicePort{
				{Name: "tcp", Port: 80, Protocol: corev1.ProtocolTCP},
			}},
		})
		return err
	})
	s, err := control.Client.CoreV1().Services(cluster.Space).Get(t.Context(), "new", metav1.GetOptions{})
	slice := cluster.Slice(s, cluster.V4)
	slice.Endpoints = append(slice.Endpoints, w.endpoint(cluster.V4, "pod-a0"))
	if err = errors.Join(err, control.PutSlice(t.Context(), slice)); err != nil {
		t.Fatal(err)
	}
	w.sync()
	w.expect(t, "client", "tcp", netip.MustParseAddrPort("10.97.0.10:80"), "pod-a0 from node-a")
	w.expect(t, "client", "tcp", netip.MustParseAddrPort("10.97.0.10:81"), refused)
	w.deleteService(t, "new")
	w.becomes("node-a", "udp", netip.MustParseAddrPort("10.97.0.10:80"), forbidden)
}

// A node's new address serves node ports without a restart. kube-proxy exits, for it to
// be started again.
func TestNewNodeAddress(t *testing.T) {
	w := newServedWorld(t, 1)
	s := w.putService(t, serviceCase{
		change:    func(s *corev1.Service) { withNodePort(s, corev1.ServiceTypeNodePort) },
		endpoints: "pod-a0",
	})
	w.sync()
	a := cluster.V4.Node(0)
	fresh := cluster.V4.Node(5)
	if err := w.moveNode(a, fresh); err != nil {
		t.Fatal(err)
	}
	if *proxyUnderTest == string(cluster.KubeProxy) {
		w.eventually("kube-proxy exits", func() error {
			if w.proxies[w.Nodes[0]].Running() {
				return errors.New("it runs")
			}
			return nil
		})
		w.start(w.Nodes[0], cluster.KubeProxy)
	}
	w.becomes("client", "tcp", netip.AddrPortFrom(fresh, nodePort), "pod-a0 from node-a")
	w.expect(t, "client", "tcp", netip.AddrPortFrom(a, nodePort), refused)
	w.expect(t, "client", "tcp", serviceAddr(s, "node-a", 1), "pod-a0 from node-a")
}

// moveNode replaces the first node's address by another one; the former one stays on
// the interface.
func (w *world) moveNode(former, fresh netip.Addr) error {
	node := w.Nodes[0]
	err := errors.Join(
		node.AddAddr("eth0", netip.PrefixFrom(fresh, 32)),
		w.Balancer.AddRoute(node.Name, netip.PrefixFrom(fresh, 32), former, netip.Addr{}))
	if err != nil {
		return err
	}
	object, err := control.Client.CoreV1().Nodes().Get(w.t.Context(), node.Name, metav1.GetOptions{})
	if err != nil {
		return err
	}
	object.Status.Addresses[0].Address = fresh.String()
	if _, err = control.Client.CoreV1().Nodes().UpdateStatus(w.t.Context(), object, metav1.UpdateOptions{}); err != nil {
		return fmt.Errorf("new address of %s: %w", node.Name, err)
	}
	return nil
}

func hintZone(zone string) *discovery.EndpointHints {
	return &discovery.EndpointHints{ForZones: []discovery.ForZone{{Name: zone}}}
}
