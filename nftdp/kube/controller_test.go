package kube

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"

	"github.com/nftdp/go-nftdp/nftdp"
	"github.com/nftdp/go-nftdp/nftdp/nftdptest"
)

// web is a Service with a ClusterIP and a node port.
func web(name, ip string) *v1.Service {
	return &v1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name},
		Spec: v1.ServiceSpec{
			Type: v1.ServiceTypeNodePort, ClusterIP: ip, ClusterIPs: []string{ip},
			Ports: []v1.ServicePort{{Name: "http", Port: 80, NodePort: 30644, Protocol: v1.ProtocolTCP}},
		},
	}
}

// sliceOf is an EndpointSlice of ready endpoints on the node "here".
func sliceOf(service string, addrs ...string) *discoveryv1.EndpointSlice {
	s := &discoveryv1.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: "default", Name: service + "-abc", Labels: map[string]string{discoveryv1.LabelServiceName: service},
		},
		AddressType: discoveryv1.AddressTypeIPv4,
		Ports:       []discoveryv1.EndpointPort{{Name: new("http"), Port: new(int32(8080)), Protocol: new(v1.ProtocolTCP)}},
	}
	for _, a := range addrs {
		s.Endpoints = append(s.Endpoints, discoveryv1.Endpoint{Addresses: []string{a}, NodeName: new("here")})
	}
	return s
}

func here(addr string) *v1.Node {
	return &v1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: "here"},
		Status:     v1.NodeStatus{Addresses: []v1.NodeAddress{{Type: v1.NodeInternalIP, Address: addr}}},
	}
}

// cluster is an API server in memory, and a node that a Controller runs on.
type cluster struct {
	*fake.Clientset
	node     *nftdptest.Node
	syncs    chan Sync
	problems chan Problem

	controller *Controller

	port uint16 // of the next client
}

func newCluster(t *testing.T, o Options, objects ...runtime.Object) *cluster {
	t.Helper()
	return newClusterWith(t, o, "", func(*fake.Clientset) {}, objects...)
}

// newClusterWith is newCluster with an API server that is prepared before anybody asks it.
func newClusterWith(t *testing.T, o Options, owner string, prepare func(*fake.Clientset), objects ...runtime.Object) *cluster {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	c := &cluster{
		Clientset: fake.NewClientset(objects...), node: nftdptest.NewNode(netip.MustParseAddr("192.0.2.1")),
		syncs: make(chan Sync, 100), problems: make(chan Problem, 100),
	}
	watched := watches(c.Clientset)
	prepare(c.Clientset)
	config := o.Config(nil, nil)
	config.Owner = owner
	plane, err := c.node.Open(ctx, config)
	if err != nil {
		t.Fatal(err)
	}
	k, err := NewController(o, ControllerConfig{
		Client: c, Dataplane: plane, Config: config, Logger: logTo(t),
		Observe: func(s Sync) { c.syncs <- s }, Problem: func(p Problem) { c.problems <- p },
	})
	if err != nil {
		t.Fatal(err)
	}
	c.controller = k
	done := make(chan error)
	go func() { done <- k.Run(ctx) }()
	for of := map[string]bool{}; !of["services"] || !of["endpointslices"] || !of["nodes"]; {
		of[<-watched] = true
	}
	t.Cleanup(func() {
		cancel()
		for {
			select {
			case <-c.syncs: // nobody else reads them any more
			case err := <-done:
				if !errors.Is(err, context.Canceled) {
					t.Error(err)
				}
				return
			}
		}
	})
	return c
}

// watches returns the kinds of objects for which a watch has begun. What changes before
// that is lost, as this API server has no resource versions.
func watches(c *fake.Clientset) <-chan string {
	begun := make(chan string, 100)
	c.PrependWatchReactor("*", func(a clienttesting.Action) (bool, watch.Interface, error) {
		w, err := c.Tracker().Watch(a.GetResource(), a.GetNamespace())
		begun <- a.GetResource().Resource
		return true, w, err
	})
	return begun
}

func logTo(t *testing.T) *slog.Logger {
	t.Helper()
	return slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug}))
}

// runController runs a Controller until it ends by itself.
func runController(t *testing.T, client kubernetes.Interface) error {
	t.Helper()
	o := Options{NodeName: "here"}
	plane, err := nftdptest.NewNode().Open(t.Context(), o.Config(nil, nil))
	if err != nil {
		t.Fatal(err)
	}
	k, err := NewController(o, ControllerConfig{Client: client, Dataplane: plane, Config: o.Config(nil, nil), Logger: logTo(t)})
	if err != nil {
		t.Fatal(err)
	}
	return k.Run(t.Context())
}

func (c *cluster) create(t *testing.T, svc *v1.Service, slice *discoveryv1.EndpointSlice) {
	t.Helper()
	if _, err := c.CoreV1().Services(svc.Namespace).Create(t.Context(), svc, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := c.DiscoveryV1().EndpointSlices(slice.Namespace).Create(t.Context(), slice, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
}

// patience bounds every wait for something that has to happen.
const patience = 60 * time.Second

// waitSync waits for a synchronization.
func (c *cluster) waitSync(t *testing.T, want func(Sync) bool) Sync {
	t.Helper()
	deadline := time.After(patience)
	for {
		select {
		case s := <-c.syncs:
			if want(s) {
				return s
			}
		case <-deadline:
			t.Fatal("the synchronization that is wanted has not come")
		}
	}
}

func (c *cluster) waitProblem(t *testing.T) Problem {
	t.Helper()
	select {
	case p := <-c.problems:
		return p
	case <-time.After(patience):
		t.Fatal("no problem was reported")
		return Problem{}
	}
}

// wantAnswer waits until a client's connection has an outcome.
func (c *cluster) wantAnswer(t *testing.T, to, backend string) {
	t.Helper()
	deadline := time.After(patience)
	for {
		c.port++
		got := c.node.Send(nftdptest.Packet{
			Protocol: nftdp.ProtocolTCP, Source: netip.AddrPortFrom(netip.MustParseAddr("203.0.113.9"), 1024+c.port), Destination: netip.MustParseAddrPort(to),
		})
		if got.Verdict == nftdptest.VerdictDelivered && got.Destination.String() == backend || got.Verdict != nftdptest.VerdictDelivered && backend == "" {
			return
		}
		select {
		case <-c.syncs:
		case <-deadline:
			t.Fatalf("%s leads to %v, want %s", to, got, backend)
		}
	}
}

// TestController: what is in the API server at the beginning, and what changes, is what
// packets find.
func TestController(t *testing.T) {
	c := newCluster(t, Options{NodeName: "here"}, here("192.0.2.1"), web("web", "10.96.0.1"), sliceOf("web", "10.180.0.1"))
	c.wantAnswer(t, "10.96.0.1:80", "10.180.0.1:8080")
	c.wantAnswer(t, "192.0.2.1:30644", "10.180.0.1:8080")

	slices := c.DiscoveryV1().EndpointSlices("default")
	if _, err := slices.Update(t.Context(), sliceOf("web", "10.180.0.2"), metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	c.wantAnswer(t, "10.96.0.1:80", "10.180.0.2:8080")

	services := c.CoreV1().Services("default")
	if err := services.Delete(t.Context(), "web", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	c.wantAnswer(t, "192.0.2.1:30644", "192.0.2.1:30644")
}

// TestConflict: of two Services with one external address the older one has it, and the
// other one when that is deleted. Neither disturbs anything else.
func TestConflict(t *testing.T) {
	older, younger := web("older", "10.96.0.1"), web("younger", "10.96.0.2")
	older.CreationTimestamp, younger.CreationTimestamp = metav1.Unix(1, 0), metav1.Unix(2, 0)
	older.Spec.ExternalIPs, younger.Spec.ExternalIPs = []string{"198.51.100.1"}, []string{"198.51.100.1"}
	younger.Spec.Ports[0].NodePort = 30551
	c := newCluster(t, Options{NodeName: "here"}, here("192.0.2.1"), younger, sliceOf("younger", "10.180.0.2"), older, sliceOf("older", "10.180.0.1"))
	c.wantAnswer(t, "198.51.100.1:80", "10.180.0.1:8080")
	c.wantAnswer(t, "10.96.0.2:80", "10.180.0.2:8080")
	if err := c.CoreV1().Services("default").Delete(t.Context(), "older", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	c.wantAnswer(t, "198.51.100.1:80", "10.180.0.2:8080")
}

// TestNodeChanges: node ports follow the node's addresses.
func TestNodeChanges(t *testing.T) {
	c := newCluster(t, Options{NodeName: "here"}, here("192.0.2.77"), web("web", "10.96.0.1"), sliceOf("web", "10.180.0.1"))
	c.wantAnswer(t, "10.96.0.1:80", "10.180.0.1:8080")
	c.wantAnswer(t, "192.0.2.1:30644", "192.0.2.1:30644")
	if _, err := c.CoreV1().Nodes().Update(t.Context(), here("192.0.2.1"), metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	c.wantAnswer(t, "192.0.2.1:30644", "10.180.0.1:8080")
}
