//go:build linux

package kubernetes_test

import (
	"errors"
	"net/netip"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nftdp/go-nftdp/integration/kubernetes/cluster"
	"github.com/nftdp/go-nftdp/internal/nstest"
)

// TestDetectLocal tells pods from other clients by where their packets come from. The
// addresses of both mislead: a pod has one that is not of the cluster's, and the client
// outside one that is.
func TestDetectLocal(t *testing.T) {
	t.Run("BridgeInterface", func(t *testing.T) {
		w := newWorld(t, 2, 1)
		if err := w.Nodes[0].Bridge("cni0"); err != nil {
			t.Fatal(err)
		}
		w.detectsLocal(t, "cni0", "--detect-local-mode=BridgeInterface", "--pod-bridge-interface=cni0")
	})
	t.Run("InterfaceNamePrefix", func(t *testing.T) {
		w := newWorld(t, 2, 1)
		w.detectsLocal(t, "pod0", "--detect-local-mode=InterfaceNamePrefix", "--pod-interface-name-prefix=pod")
	})
}

// detectsLocal starts a proxy on the first node, whose link leads to its first pod, and
// wants it to masquerade everybody but pods.
func (w *world) detectsLocal(t *testing.T, link string, flags ...string) {
	t.Helper()
	node := w.Nodes[0]
	w.start(node, cluster.Proxy(*proxyUnderTest), flags...)
	s := w.putService(t, serviceCase{change: all(withLoadBalancer, externalLocal), endpoints: "pod-b0"})
	w.sync()
	for family, a := range cluster.Families() {
		to := serviceAddr(s, "cluster", family)
		pod, client := external(a, 99), a.Pod(8, 0)
		err := errors.Join(
			node.Pods[0].AddAddr("eth0", netip.PrefixFrom(pod, pod.BitLen())),
			node.AddRoute(link, netip.PrefixFrom(pod, pod.BitLen()), netip.Addr{}, a.PodGateway(0)),
			w.Balancer.AddRoute(node.Name, netip.PrefixFrom(pod, pod.BitLen()), a.Node(0), netip.Addr{}),
			w.Client.AddAddr("eth0", netip.PrefixFrom(client, client.BitLen())),
			w.Balancer.AddRoute("client", netip.PrefixFrom(client, client.BitLen()), netip.Addr{}, a.Gateway),
			w.RouteServices(client))
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range []struct {
			from *nstest.Namespace
			src  netip.Addr
			want string
		}{
			{node.Pods[0].Namespace, netip.Addr{}, "pod-b0 from pod-a0"},
			{node.Pods[0].Namespace, pod, "pod-b0 from " + pod.String()},
			{node.Namespace, netip.Addr{}, "pod-b0 from node-a"},
			{w.Client, netip.Addr{}, "pod-b0 from node-a"},
			{w.Client, client, "pod-b0 from node-a"},
		} {
			for _, protocol := range []string{"tcp", "udp"} {
				if got := w.probeFrom(c.from, protocol, c.src, to, patient); got != c.want {
					t.Errorf("%s %s (%v) → %v: %s, want %s", protocol, c.from.Name, c.src, to, got, c.want)
				}
			}
		}
		// Pods reach what is elsewhere by external addresses with policy Local, too.
		w.expect(t, "pod-a0", "tcp", serviceAddr(s, "lb", family), "pod-b0 from pod-a0")
		w.expect(t, "client", "tcp", serviceAddr(s, "lb", family), silence)
	}
}

// TestNodeCIDRLater: the Node gets its prefixes of pods while the agent runs. Until then
// nobody is known to be outside. kube-proxy does not start before.
func TestNodeCIDRLater(t *testing.T) {
	w := newWorld(t, 2)
	node, nodes := w.Nodes[0], control.Client.CoreV1().Nodes()
	late := node.Object()
	spec := late.Spec
	late.Spec = corev1.NodeSpec{}
	err := nodes.Delete(t.Context(), node.Name, metav1.DeleteOptions{})
	late, err2 := nodes.Create(t.Context(), late, metav1.CreateOptions{})
	if err := errors.Join(err, err2); err != nil {
		t.Fatal(err)
	}
	w.start(node, cluster.Agent, "--detect-local-mode=NodeCIDR")
	s := w.putService(t, serviceCase{endpoints: "pod-a1"})
	w.sync()
	for family := range cluster.Families() {
		w.expect(t, "client", "tcp", serviceAddr(s, "cluster", family), "pod-a1 from client")
	}
	late.Spec = spec
	if _, err := nodes.Update(t.Context(), late, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	for family := range cluster.Families() {
		w.becomes("client", "tcp", serviceAddr(s, "cluster", family), "pod-a1 from node-a")
		w.expect(t, "pod-a0", "tcp", serviceAddr(s, "cluster", family), "pod-a1 from pod-a0")
	}
}
