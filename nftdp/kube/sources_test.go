package kube

import (
	"errors"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	v1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
)

// withCIDRs makes an API server have ServiceCIDRs.
func withCIDRs(c *fake.Clientset) {
	c.Resources = []*metav1.APIResourceList{{
		GroupVersion: networkingv1.SchemeGroupVersion.String(), APIResources: []metav1.APIResource{{Name: "servicecidrs"}},
	}}
}

// TestServiceCIDRsUnknown: if the API server does not say at the beginning whether it has
// ServiceCIDRs, services work, and ServiceCIDRs are followed as soon as it does.
func TestServiceCIDRsUnknown(t *testing.T) {
	var failing atomic.Bool
	failing.Store(true)
	prepare := func(c *fake.Clientset) {
		withCIDRs(c)
		c.PrependReactor("get", "resource", func(clienttesting.Action) (bool, runtime.Object, error) {
			if failing.Load() {
				return true, nil, errors.New("the server is starting")
			}
			return false, nil, nil
		})
	}
	cidr := &networkingv1.ServiceCIDR{ObjectMeta: metav1.ObjectMeta{Name: "all"}, Spec: networkingv1.ServiceCIDRSpec{CIDRs: []string{"10.96.0.0/16"}}}
	c := newClusterWith(t, Options{NodeName: "here"}, "", prepare, here("192.0.2.1"), web("web", "10.96.0.1"), sliceOf("web", "10.180.0.1"), cidr)
	c.wantAnswer(t, "10.96.0.1:80", "10.180.0.1:8080")
	c.wantAnswer(t, "10.96.0.99:80", "10.96.0.99:80") // it passes
	failing.Store(false)
	c.wantAnswer(t, "10.96.0.99:80", "")
}

// TestForbidden: a role that lacks a rule ends the program with an error that names it.
func TestForbidden(t *testing.T) {
	for _, what := range []string{"services", "endpointslices", "nodes", "servicecidrs"} {
		t.Run(what, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				client := fake.NewClientset(here("192.0.2.1"))
				withCIDRs(client)
				client.PrependReactor("list", what, func(clienttesting.Action) (bool, runtime.Object, error) {
					return true, nil, apierrors.NewForbidden(schema.GroupResource{Resource: what}, "", errors.New("no rule allows it"))
				})
				err := runController(t, client)
				if !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), "list and watch "+what) {
					t.Errorf("the error is %v", err)
				}
			})
		})
	}
}

// TestSyncCounts: each change of an object counts once, and no other one.
func TestSyncCounts(t *testing.T) {
	c := newCluster(t, Options{NodeName: "here"}, here("192.0.2.1"), web("web", "10.96.0.1"), sliceOf("web", "10.180.0.1"))
	first := c.waitSync(t, func(s Sync) bool { return s.Full })
	if first.Services != 1 || first.Slices != 1 {
		t.Errorf("at the beginning %+v", first)
	}
	total := func() (services, slices int) {
		for services+slices < 1 {
			s := c.waitSync(t, func(Sync) bool { return true })
			services, slices = services+s.Services, slices+s.Slices
		}
		return services, slices
	}
	if _, err := c.DiscoveryV1().EndpointSlices("default").Update(t.Context(), sliceOf("web", "10.180.0.2"), metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	if services, slices := total(); services != 0 || slices != 1 {
		t.Errorf("a slice changed: %d services, %d slices", services, slices)
	}
	changed := web("web", "10.96.0.1")
	changed.Spec.ExternalIPs = []string{"198.51.100.1"}
	if _, err := c.CoreV1().Services("default").Update(t.Context(), changed, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	if services, slices := total(); services != 1 || slices != 0 {
		t.Errorf("a Service changed: %d services, %d slices", services, slices)
	}
}

// TestSliceMoves: a slice that passes from one Service to another one serves that, and no
// longer the first.
func TestSliceMoves(t *testing.T) {
	other := web("other", "10.96.0.2")
	other.Spec.Ports[0].NodePort = 30551
	c := newCluster(t, Options{NodeName: "here"}, here("192.0.2.1"), web("web", "10.96.0.1"), other, sliceOf("web", "10.180.0.1"))
	c.wantAnswer(t, "10.96.0.1:80", "10.180.0.1:8080")
	moved := sliceOf("web", "10.180.0.1")
	moved.Labels[discoveryv1.LabelServiceName] = "other"
	if _, err := c.DiscoveryV1().EndpointSlices("default").Update(t.Context(), moved, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	c.wantAnswer(t, "10.96.0.2:80", "10.180.0.1:8080")
	c.wantAnswer(t, "10.96.0.1:80", "")
}

// Semantics 14: without addresses of the Node, services wait for half a minute, and no
// longer.
func TestWaitsForAddresses(t *testing.T) {
	for _, test := range []struct {
		name  string
		after time.Duration // when the addresses come; 0: never
		want  time.Duration
	}{
		{"never", 0, 30 * time.Second},
		{"soon", 7 * time.Second, 7 * time.Second},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				bare := here("192.0.2.1")
				bare.Status.Addresses = nil
				c := newCluster(t, Options{NodeName: "here"}, bare, web("web", "10.96.0.1"), sliceOf("web", "10.180.0.1"))
				begin := time.Now()
				if test.after > 0 {
					<-time.After(test.after)
					if _, err := c.CoreV1().Nodes().Update(t.Context(), here("192.0.2.1"), metav1.UpdateOptions{}); err != nil {
						t.Fatal(err)
					}
				}
				s := c.waitSync(t, func(s Sync) bool { return s.Full })
				if got := s.Began.Sub(begin).Round(time.Second); got != test.want {
					t.Errorf("services are served after %v, want %v", got, test.want)
				}
				c.wantAnswer(t, "10.96.0.1:80", "10.180.0.1:8080")
				if test.after > 0 {
					c.wantAnswer(t, "192.0.2.1:30644", "10.180.0.1:8080")
				}
			})
		})
	}
}

// Semantics 14: a synchronization has the times of what caused changes of endpoints.
func TestTriggerTimes(t *testing.T) {
	c := newCluster(t, Options{NodeName: "here"}, here("192.0.2.1"), web("web", "10.96.0.1"), sliceOf("web", "10.180.0.1"))
	if s := c.waitSync(t, func(s Sync) bool { return s.Full }); len(s.Triggers) != 0 {
		t.Errorf("triggers without annotations: %v", s.Triggers)
	}
	at := time.Now().Add(time.Second).UTC().Truncate(time.Microsecond) // earlier ones do not count
	changed := sliceOf("web", "10.180.0.2")
	changed.Annotations = map[string]string{v1.EndpointsLastChangeTriggerTime: at.Format(time.RFC3339Nano)}
	if _, err := c.DiscoveryV1().EndpointSlices("default").Update(t.Context(), changed, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	s := c.waitSync(t, func(s Sync) bool { return s.Slices > 0 })
	if !slices.EqualFunc(s.Triggers[v1.IPv4Protocol], []time.Time{at}, time.Time.Equal) || len(s.Triggers) != 1 {
		t.Errorf("triggers %v, want %v", s.Triggers, at)
	}
}

// Semantics 14: what the caches hold has no managedFields.
func TestManagedFields(t *testing.T) {
	svc := web("web", "10.96.0.1")
	svc.ManagedFields = []metav1.ManagedFieldsEntry{{Manager: "kubectl", FieldsV1: metav1.NewFieldsV1(`{"f:spec":{}}`)}}
	for _, object := range []any{svc, "not an object"} {
		got, err := trim(object)
		if err != nil {
			t.Fatal(err)
		}
		if s, ok := got.(*v1.Service); ok && (s.ManagedFields != nil || s.Spec.ClusterIP != "10.96.0.1") {
			t.Errorf("%+v", s)
		}
	}
}
