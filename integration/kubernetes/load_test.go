//go:build linux

package kubernetes_test

import (
	"fmt"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discovery "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nftdp/go-nftdp/integration/kubernetes/cluster"
	"github.com/nftdp/go-nftdp/internal/nstest"
)

// load makes connections, one after the other from each client, until it ends.
type load struct {
	stop     chan struct{}
	clients  sync.WaitGroup
	answered atomic.Int64
	mu       sync.Mutex
	failed   []string
}

// pace is the time between two connections of a client: the tests want to see whether
// one fails, and other processes to run.
const pace = 20 * time.Millisecond

// load starts clients in namespaces, in TCP and UDP and in both families, at the words
// of serviceAddr.
func (w *world) load(s *corev1.Service, targets map[string][]string) *load {
	l := &load{stop: make(chan struct{})}
	for from, words := range targets {
		for _, word := range words {
			for family := range cluster.Families() {
				for _, protocol := range []string{"tcp", "udp"} {
					to := serviceAddr(s, word, family)
					l.clients.Go(func() { l.run(w.from(from), protocol, to) })
				}
			}
		}
	}
	return l
}

func (l *load) run(from *nstest.Namespace, protocol string, to netip.AddrPort) {
	next := time.NewTicker(pace)
	defer next.Stop()
	for {
		select {
		case <-l.stop:
			return
		case <-next.C:
		}
		begin := time.Now()
		if _, err := nstest.Dial(from, protocol, netip.Addr{}, to, patient); err != nil {
			l.mu.Lock()
			l.failed = append(l.failed, fmt.Sprintf("%s %s %s → %v: %v",
				begin.Format("15:04:05.000"), from.Name, protocol, to, err))
			l.mu.Unlock()
			continue
		}
		l.answered.Add(1)
	}
}

// end stops the clients and wants that every connection was answered.
func (l *load) end(t *testing.T) {
	t.Helper()
	close(l.stop)
	l.clients.Wait()
	t.Logf("%d connections", l.answered.Load())
	if l.answered.Load() == 0 {
		t.Error("no connection was made")
	}
	for _, f := range l.failed[:min(len(l.failed), 20)] {
		t.Errorf("failed: %s", f)
	}
	if len(l.failed) > 0 {
		t.Errorf("%d connections failed", len(l.failed))
	}
}

// everywhere are the clients and addresses of a load on a service with all of them.
func everywhere() map[string][]string {
	return map[string][]string{
		"client": {"lb", "external", "node-a", "node-b"}, "pod-a0": {"cluster"}, "node-b": {"cluster"},
	}
}

// TestRollingUpdate replaces all endpoints of a service again and again, as a Deployment
// does it: a new pod is ready, then a former one terminates, which serves until the
// proxies know. Meanwhile no connection fails.
func TestRollingUpdate(t *testing.T) {
	w := newServedWorld(t, 1, 1)
	c := serviceCase{change: all(withLoadBalancer, withExternalIPs), endpoints: "pod-a0 pod-b0"}
	s := w.putService(t, c)
	w.sync()
	// The first pods are only clients, once they are replaced.
	l := w.load(s, everywhere())
	for round := 1; round <= 4; round++ {
		for _, node := range w.Nodes {
			if _, err := node.AddPod(); err != nil {
				t.Fatal(err)
			}
			w.replace(c, round, node.Name[5:])
		}
	}
	l.end(t)
	for _, word := range []string{"cluster", "node-b"} {
		w.expect(t, "node-b", "tcp", serviceAddr(s, word, 0), "pod-a4 from node-b", "pod-b4 from node-b")
	}
}

// replace replaces a pod of a node by its next one, number round.
func (w *world) replace(c serviceCase, round int, node string) {
	w.t.Helper()
	former, fresh := fmt.Sprintf("pod-%s%d", node, round-1), fmt.Sprintf("pod-%s%d", node, round)
	other := fmt.Sprintf("pod-b%d", round-1)
	if node == "b" {
		other = fmt.Sprintf("pod-a%d", round)
	}
	c.endpoints = former + " " + fresh + " " + other
	w.putService(w.t, c)
	w.sync()
	terminating := c
	terminating.condition = func(pod string, e *discovery.Endpoint) {
		if pod == former {
			e.Conditions = discovery.EndpointConditions{Ready: new(false), Serving: new(true), Terminating: new(true)}
		}
	}
	w.putService(w.t, terminating)
	w.sync()
	c.endpoints = fresh + " " + other
	w.putService(w.t, c)
	w.sync()
	if round > 1 {
		if err := w.pod(former).StopServer(); err != nil {
			w.t.Fatal(err)
		}
	}
}

func (w *world) pod(name string) *cluster.Pod {
	for _, node := range w.Nodes {
		for _, pod := range node.Pods {
			if pod.Name == name {
				return pod
			}
		}
	}
	w.t.Fatal("no pod " + name)
	return nil
}

// TestTakeover replaces kube-proxy on running nodes: the agent starts beside it, and
// when it has programmed its tables, kube-proxy stops and removes its rules. No connection fails, and
// none of those that exist ends.
func TestTakeover(t *testing.T) {
	w := newWorld(t, 2, 2)
	for _, node := range w.Nodes {
		w.start(node, cluster.KubeProxy)
	}
	c := serviceCase{change: all(withLoadBalancer, withExternalIPs), endpoints: allPods}
	s := w.putService(t, c)
	w.sync()
	conns := w.hold(s, everywhere())
	l := w.load(s, everywhere())
	for _, node := range w.Nodes {
		kubeProxy := w.proxies[node]
		w.start(node, cluster.Agent)
		for _, addr := range s.Spec.ClusterIPs {
			w.has(node, cluster.Agent, addr, true)
		}
		if err := kubeProxy.Stop(); err != nil {
			t.Fatal(err)
		}
		if err := node.Cleanup(cluster.KubeProxy); err != nil {
			t.Fatal(err)
		}
	}
	w.sync()
	l.end(t)
	for from, conn := range conns {
		if err := conn.Echo("still here", patient); err != nil {
			t.Errorf("the connection %s has ended: %v", from, err)
		}
	}
	c.endpoints = "pod-b1"
	w.putService(t, c)
	w.sync()
	w.expect(t, "client", "tcp", serviceAddr(s, "node-a", 0), "pod-b1 from node-a")
}

// hold makes connections that last until the end of the test.
func (w *world) hold(s *corev1.Service, targets map[string][]string) map[string]*nstest.Conn {
	w.t.Helper()
	conns := map[string]*nstest.Conn{}
	for from, words := range targets {
		for _, word := range words {
			for family := range cluster.Families() {
				to := serviceAddr(s, word, family)
				c, err := nstest.DialTCP(w.from(from), netip.Addr{}, to, patient)
				if err != nil {
					w.t.Fatal(err)
				}
				w.t.Cleanup(func() { _ = c.Close() })
				conns[fmt.Sprintf("%s → %v", from, to)] = c
			}
		}
	}
	return conns
}

// TestThousandServices reaches each of 1,000 services, and none once all are deleted.
func TestThousandServices(t *testing.T) {
	w := newServedWorld(t, 2)
	addrs, err := control.PutMany(t.Context(), 1000, func(a cluster.Addrs, _ int) []discovery.Endpoint {
		return []discovery.Endpoint{w.endpoint(a, "pod-a1")}
	})
	if err != nil {
		t.Fatal(err)
	}
	w.sync()
	for _, addr := range addrs {
		w.expect(t, "node-a", "tcp", addr, "pod-a1 from node-a")
	}
	if err := control.ClearServices(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.sync()
	services, err := control.Client.CoreV1().Services(cluster.Space).List(t.Context(), metav1.ListOptions{})
	if err != nil || len(services.Items) != 2 {
		t.Fatalf("%d services are left, %v", len(services.Items), err)
	}
	w.expect(t, "node-a", "udp", addrs[500], forbidden)
}
