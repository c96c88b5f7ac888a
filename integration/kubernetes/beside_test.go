//go:build linux

package kubernetes_test

import (
	"fmt"
	"net/http"
	"net/netip"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/nftdp/go-nftdp/integration/kubernetes/cluster"
)

// TestBesideKubeProxy runs the agent, as the overlay has it, on a node with a kube-proxy
// of the usual flags. Each serves the Services that are its own, at its own ports, and
// neither disturbs the other when it starts or stops.
func TestBesideKubeProxy(t *testing.T) {
	m := applyManifests(t, "overlays/beside-kube-proxy")
	w := newWorld(t, 2)
	node := w.Nodes[0]
	kubeProxy := w.start(node, cluster.KubeProxy)
	w.sync()
	w.granted(agentAccount, m.role.Rules, m.role.Rules)
	agent := m.run(w, node, agentAccount)
	w.proxies[node] = kubeProxy // sync waits for it: the sentinel is its own
	t.Cleanup(func() {
		if err := agent.Stop(); err != nil {
			t.Error(err)
		}
		if t.Failed() {
			t.Logf("the agent printed:\n%s", agent.Tail())
		}
	})

	theirs := w.putService(t, serviceCase{change: withLoadBalancer, endpoints: "pod-a0"})
	ours := w.putService(t, serviceCase{change: all(named("ours"), withExternalIPs, labelOurs), endpoints: "pod-a1"})
	empty := w.putService(t, serviceCase{change: all(named("empty"), labelOurs)})
	w.sync()
	check := func(what string) {
		t.Helper()
		for family := range cluster.Families() {
			w.becomes("pod-a0", "tcp", serviceAddr(ours, "cluster", family), "pod-a1 from pod-a0")
			w.becomes("pod-a0", "tcp", serviceAddr(empty, "cluster", family), refused)
			for _, protocol := range []string{"tcp", "udp"} {
				for _, p := range []struct {
					from string
					to   netip.AddrPort
					want string
				}{
					{"client", serviceAddr(theirs, "lb", family), "pod-a0 from node-a"},
					{"client", serviceAddr(theirs, "node-a", family), "pod-a0 from node-a"},
					{"pod-a1", serviceAddr(theirs, "cluster", family), "pod-a0 from pod-a1"},
					{"client", serviceAddr(ours, "external", family), "pod-a1 from node-a"},
					{"client", serviceAddr(ours, "cluster", family), "pod-a1 from node-a"},
					{"pod-a0", serviceAddr(ours, "cluster", family), "pod-a1 from pod-a0"},
					{"node-a", serviceAddr(ours, "cluster", family), "pod-a1 from node-a"},
					{"client", serviceAddr(empty, "cluster", family), refused},
				} {
					w.expect(t, p.from, protocol, p.to, p.want)
				}
			}
		}
		if t.Failed() {
			t.Fatal(what)
		}
	}
	check("both run")
	for i := range cluster.Families() {
		w.programs(ours.Spec.ClusterIPs[i], cluster.Agent)
		w.programs(theirs.Spec.ClusterIPs[i], cluster.KubeProxy)
	}
	w.wantAnswers(node, "http://127.0.0.1:10256/livez", http.StatusOK, `"healthy":true`)
	w.passesProbes(m, node, 10356)
	w.wantAnswers(node, "http://127.0.0.1:10249/metrics", http.StatusOK, "kubeproxy_sync_proxy_rules_last_timestamp_seconds")
	w.wantAnswers(node, "http://127.0.0.1:10349/metrics", http.StatusOK, "nftdp_")
	w.provokeEvents(labelOurs)
	w.usesItsRights(m)

	// The label hands a Service over, and back.
	web := serviceCase{change: all(withLoadBalancer, labelOurs), endpoints: "pod-a0"}
	w.putService(t, web)
	w.programs(theirs.Spec.ClusterIPs[0], cluster.Agent)
	check("the other Service is the agent's, too")
	web.change = withLoadBalancer
	w.putService(t, web)
	w.programs(theirs.Spec.ClusterIPs[0], cluster.KubeProxy)
	check("it is kube-proxy's again")

	// One is restarted while the other one is away.
	if err := agent.Stop(); err != nil {
		t.Fatal(err)
	}
	check("the agent has stopped")
	w.stop(node)
	w.start(node, cluster.KubeProxy)
	w.sync()
	check("kube-proxy has been restarted")
	w.stop(node)
	if err := node.Cleanup(cluster.KubeProxy); err != nil {
		t.Fatal(err)
	}
	for family := range cluster.Families() {
		w.expect(t, "client", "tcp", serviceAddr(ours, "external", family), "pod-a1 from node-a")
		w.expect(t, "client", "tcp", serviceAddr(theirs, "node-a", family), refused)
	}
}

// programs waits until one proxy has an address in its tables, and the other one has not.
func (w *world) programs(addr string, proxy cluster.Proxy) {
	w.t.Helper()
	for _, p := range []cluster.Proxy{cluster.Agent, cluster.KubeProxy} {
		w.has(w.Nodes[0], p, addr, p == proxy)
	}
}

// until waits until something is so, or is not so.
func (w *world) until(what string, want bool, is func() (bool, error)) {
	w.t.Helper()
	w.eventually(fmt.Sprintf("%s: %v", what, want), func() error {
		got, err := is()
		if err == nil && got != want {
			err = fmt.Errorf("it is %v", got)
		}
		return err
	})
}

// has waits until a node's proxy has an address in its tables, or has it no more.
func (w *world) has(node *cluster.Node, p cluster.Proxy, addr string, want bool) {
	w.t.Helper()
	w.until(fmt.Sprintf("%s has %s", p, addr), want, func() (bool, error) { return node.Programmed(p, netip.MustParseAddr(addr)) })
}

func named(name string) func(*corev1.Service) {
	return func(s *corev1.Service) { s.Name = name }
}

// labelOurs makes it a Service of the agent's.
func labelOurs(s *corev1.Service) {
	s.Labels = map[string]string{"service.kubernetes.io/service-proxy-name": "nftdp"}
}
