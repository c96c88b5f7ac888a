package kube

import (
	"net/netip"
	"strings"
	"testing"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"

	"github.com/nftdp/go-nftdp/nftdp"
)

// shared are options with which the tables have the same configuration all the time, as
// those who share them need it.
var shared = Options{NodeName: "here", NodePortAddresses: []string{"all"}}

// newSharedCluster is a node on whose tables the Services of the namespace "default" are
// not alone.
func newSharedCluster(t *testing.T, objects ...runtime.Object) *cluster {
	t.Helper()
	return newClusterWith(t, shared, "default", func(*fake.Clientset) {}, objects...)
}

// foreign is a service of another program that shares the tables.
func foreign(t *testing.T, c *cluster, addr string) (remove func()) {
	t.Helper()
	config := shared.Config(nil, nil)
	config.Owner = "cni"
	plane, err := c.node.Open(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	change := func(change nftdp.Change) {
		if _, err := plane.Update(t.Context(), change); err != nil {
			t.Fatal(err)
		}
	}
	change(nftdp.Change{Set: []nftdp.Service{{
		Name: "cni/foreign", Frontends: []nftdp.Frontend{{Addr: netip.MustParseAddr(addr), Port: 80}},
		Backends: []nftdp.Backend{{Addr: netip.MustParseAddrPort("10.180.0.99:8080")}},
	}}})
	return func() { change(nftdp.Change{Delete: []string{"cni/foreign"}}) }
}

// TestRefused: a Service that the Dataplane refuses hinders no other one, is counted and
// reported, and is served when what stands against it is gone.
func TestRefused(t *testing.T) {
	c := newSharedCluster(t, here("192.0.2.1"), web("web", "10.96.0.1"), sliceOf("web", "10.180.0.1"))
	c.wantAnswer(t, "10.96.0.1:80", "10.180.0.1:8080")
	remove := foreign(t, c, "10.96.0.2")

	late := web("late", "10.96.0.2")
	late.Spec.Ports[0].NodePort = 30551
	c.create(t, late, sliceOf("late", "10.180.0.2"))
	other := web("other", "10.96.0.3")
	other.Spec.Ports[0].NodePort = 30552
	c.create(t, other, sliceOf("other", "10.180.0.3"))
	c.wantAnswer(t, "10.96.0.3:80", "10.180.0.3:8080")
	if s := c.waitSync(t, func(s Sync) bool { return s.Refused == 1 && s.Err == nil }); s.Full {
		t.Error("everything was applied again")
	}
	c.wantAnswer(t, "10.96.0.2:80", "10.180.0.99:8080")
	p := c.waitProblem(t)
	if p.Reason != "Refused" || p.Object.Name != "late" || !strings.Contains(p.Message, `"cni/foreign"`) {
		t.Errorf("%+v", p)
	}

	remove()
	c.waitSync(t, func(s Sync) bool { return s.Refused == 0 })
	c.wantAnswer(t, "10.96.0.2:80", "10.180.0.2:8080")
	c.wantAnswer(t, "192.0.2.1:30551", "10.180.0.2:8080")
	if more := len(c.problems); more > 0 {
		t.Errorf("reported again: %+v", <-c.problems)
	}
}

// TestRefusedChange: a Service whose change is refused stays as it was, but gives up what
// belongs to another one now.
func TestRefusedChange(t *testing.T) {
	older, younger := web("older", "10.96.0.1"), web("younger", "10.96.0.2")
	older.CreationTimestamp, younger.CreationTimestamp = metav1.Unix(1, 0), metav1.Unix(2, 0)
	younger.Spec.Ports[0].NodePort, younger.Spec.ExternalIPs = 30551, []string{"198.51.100.1"}
	c := newSharedCluster(t, here("192.0.2.1"), older, sliceOf("older", "10.180.0.1"), younger, sliceOf("younger", "10.180.0.2"))
	c.wantAnswer(t, "198.51.100.1:80", "10.180.0.2:8080")
	remove := foreign(t, c, "198.51.100.2")
	change := func(s *v1.Service, addrs ...string) {
		s.Spec.ExternalIPs = addrs
		if _, err := c.CoreV1().Services("default").Update(t.Context(), s, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	change(younger, "198.51.100.1", "198.51.100.2")
	c.waitSync(t, func(s Sync) bool { return s.Refused == 1 })
	c.wantAnswer(t, "198.51.100.1:80", "10.180.0.2:8080")
	change(older, "198.51.100.1")
	c.wantAnswer(t, "198.51.100.1:80", "10.180.0.1:8080")
	c.wantAnswer(t, "10.96.0.2:80", "10.180.0.2:8080")
	remove()
	c.wantAnswer(t, "198.51.100.2:80", "10.180.0.2:8080")
}
