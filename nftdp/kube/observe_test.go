package kube

import (
	"errors"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/client-go/tools/events"
)

var webName = types.NamespacedName{Namespace: "default", Name: "web"}

// TestStatus: a change is pending from when it is noticed until it is programmed, a
// failed one still; what is noticed meanwhile is pending from its own time.
func TestStatus(t *testing.T) {
	var q queue
	q.init()
	q.begin(false)
	q.service(webName)
	if s := q.status(); s.Synced || !s.Pending.IsZero() || s.Services != 1 || s.ServiceChanges != 1 || s.Updated.IsZero() {
		t.Errorf("while the objects are read: %+v", s)
	}
	q.begin(true)
	first := q.status().Pending
	if first.IsZero() {
		t.Fatal("nothing is pending when the objects were read")
	}
	work, err := q.next(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	q.slice(nil, sliceOf("web", "10.180.0.1"))
	if s := q.status(); s.Pending != first || s.Services != 0 || s.Slices != 1 || s.Queued.Before(first) {
		t.Errorf("in flight: %+v, want pending since %v", s, first)
	}
	q.again(work)
	if s := q.status(); s.Pending != first || s.Services != 1 || s.Slices != 1 {
		t.Errorf("after a failure: %+v, want pending since %v", s, first)
	}
	if _, err = q.next(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	q.service(webName)
	ended := time.Now()
	q.done(ended)
	if s := q.status(); !s.Pending.After(first) || s.Updated != ended {
		t.Errorf("with a later change: %+v, want it pending", s)
	}
	if _, err = q.next(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	q.done(ended)
	if s := q.status(); !s.Pending.IsZero() || s.ServiceChanges != 2 || s.SliceChanges != 1 {
		t.Errorf("at the end: %+v, want nothing pending", s)
	}
}

// TestTriggers: the time of what caused a change counts once, not for deletions, and not
// if it was before the start.
func TestTriggers(t *testing.T) {
	var q queue
	q.init()
	at := func(when time.Time) *discoveryv1.EndpointSlice {
		s := sliceOf("web", "10.180.0.1")
		s.Annotations = map[string]string{v1.EndpointsLastChangeTriggerTime: when.Format(time.RFC3339Nano)}
		return s
	}
	now := time.Now()
	before, first, second := at(now.Add(-time.Hour)), at(now.Add(time.Second)), at(now.Add(2*time.Second))
	q.slice(nil, before)
	q.slice(before, first)
	q.slice(first, first)
	q.slice(first, second)
	q.slice(second, nil)
	if got := len(q.work.triggers[v1.IPv4Protocol]); got != 2 {
		t.Errorf("%d triggers, want 2: %v", got, q.work.triggers)
	}
	if got := q.status().SliceChanges; got != 5 {
		t.Errorf("%d changes, want 5", got)
	}
}

// TestServiceState: health checks count addresses of ready endpoints on this node, and
// policies that leave a port without an endpoint are noticed.
func TestServiceState(t *testing.T) {
	o := Options{NodeName: "here"}
	svc := web("web", "10.96.0.1")
	svc.Spec.Type, svc.Spec.ExternalTrafficPolicy, svc.Spec.HealthCheckNodePort = v1.ServiceTypeLoadBalancer, v1.ServiceExternalTrafficPolicyLocal, 30700
	internal := v1.ServiceInternalTrafficPolicyLocal
	svc.Spec.InternalTrafficPolicy = &internal
	slice := sliceOf("web", "10.180.0.1", "10.180.0.2", "10.180.0.3", "10.180.0.4")
	slice.Ports = append(slice.Ports, discoveryv1.EndpointPort{Name: new("other"), Port: new(int32(9090)), Protocol: new(v1.ProtocolTCP)})
	slice.Endpoints[1].NodeName = new("there")
	slice.Endpoints[2].Conditions.Ready = new(false)
	get := func() *ServiceState {
		all := []*discoveryv1.EndpointSlice{slice}
		services, _ := o.Services(svc, all, here("192.0.2.1"))
		return o.state(svc, all, services)
	}
	s := get()
	if s.HealthCheckPort != 30700 || len(s.Local) != 1 || s.Local[v1.IPv4Protocol] != 2 || len(s.NoLocal) != 0 {
		t.Errorf("got %+v, want 2 local IPv4 endpoints at port 30700", s)
	}
	for i := range slice.Endpoints {
		slice.Endpoints[i].NodeName = new("there")
	}
	s = get()
	if s.Local[v1.IPv4Protocol] != 0 || s.NoLocal[Traffic{true, v1.IPv4Protocol}] != 1 || s.NoLocal[Traffic{false, v1.IPv4Protocol}] != 1 {
		t.Errorf("without local endpoints: %+v", s)
	}
	slice.Endpoints = nil
	if s := get(); len(s.NoLocal) != 0 {
		t.Errorf("without any endpoint no policy is the reason: %+v", s)
	}
	svc.Spec.ExternalTrafficPolicy = v1.ServiceExternalTrafficPolicyCluster
	if s := get(); s.HealthCheckPort != 0 {
		t.Errorf("policy Cluster: %+v, want no health check", s)
	}
}

// TestHealthCheckAddrs: where kube-proxy binds.
func TestHealthCheckAddrs(t *testing.T) {
	var interfaces []netip.Addr
	for _, a := range []string{"127.0.0.1", "192.0.2.1", "192.0.2.9", "10.0.0.1", "::1", "2001:db8::1", "fe80::1"} {
		interfaces = append(interfaces, netip.MustParseAddr(a))
	}
	node := here("192.0.2.1")
	for _, test := range []struct {
		words, v4, v6 string
		node          *v1.Node
	}{
		{"", "192.0.2.1", "::", node},
		{"", "0.0.0.0", "::", nil},
		{"all", "0.0.0.0", "::", node},
		{"localhost", "127.0.0.1", "::1", node},
		{"primary,localhost", "127.0.0.1,192.0.2.1", "::1", node},
		{"192.0.2.0/24", "192.0.2.1,192.0.2.9", "::", node},
		{"192.0.2.0/24,0.0.0.0/0", "0.0.0.0", "::", node},
		{"198.51.100.0/24,2001:db8::/32", "", "2001:db8::1", node},
	} {
		o := Options{NodeName: "here"}
		if test.words != "" {
			o.NodePortAddresses = strings.Split(test.words, ",")
		}
		for family, want := range map[v1.IPFamily]string{v1.IPv4Protocol: test.v4, v1.IPv6Protocol: test.v6} {
			var got []string
			for _, a := range o.HealthCheckAddrs(family, test.node, interfaces) {
				got = append(got, a.String())
			}
			slices.Sort(got)
			if strings.Join(got, ",") != want {
				t.Errorf("%q, %s: %v, want %s", test.words, family, got, want)
			}
		}
	}
}

// TestEvents: problems of a Service and services that are refused have a Warning Event.
func TestEvents(t *testing.T) {
	ctx := t.Context()
	svc := web("web", "10.96.0.1")
	recorder := events.NewFakeRecorder(10)
	factory := informers.NewSharedInformerFactory(fake.NewClientset(svc), 0)
	k := &Controller{
		events: recorder, log: slog.New(slog.DiscardHandler), onProblem: func(Problem) {},
		sources: sources{services: factory.Core().V1().Services().Lister()},
	}
	if err := factory.Core().V1().Services().Informer().GetIndexer().Add(svc); err != nil {
		t.Fatal(err)
	}
	refused := Problem{webName, "Refused", "service default/web:http: backends[0].addr: is wrong"}
	w := &wanted{claimant: claimant{name: webName}}
	k.report(w, []Problem{refused})
	k.report(w, []Problem{refused}) // is known
	k.record(Problem{webName, "InvalidAddress", strings.Repeat("%d", maxNote)})
	k.record(Problem{types.NamespacedName{Name: "gone"}, "InvalidAddress", "nobody sees this"})
	for _, want := range []string{"Warning Refused service default/web:http", "Warning InvalidAddress %d%d"} {
		select {
		case got := <-recorder.Events:
			if !strings.HasPrefix(got, want) || len(got) > maxNote+len(want) {
				t.Errorf("Event %q, want %q", got, want)
			}
		case <-ctx.Done():
			t.Fatal(ctx.Err())
		}
	}
	if len(recorder.Events) > 0 {
		t.Errorf("one more Event: %s", <-recorder.Events)
	}
}

// TestSyncStates: a synchronization tells what has become of the Services.
func TestSyncStates(t *testing.T) {
	c := newCluster(t, Options{NodeName: "here"}, here("192.0.2.1"), web("web", "10.96.0.1"), sliceOf("web", "10.180.0.1"))
	wait := func(what string, done func(Sync) bool) {
		t.Helper()
		deadline := time.After(time.Minute)
		for {
			select {
			case s := <-c.syncs:
				if done(s) {
					return
				}
			case <-deadline:
				t.Fatal("no synchronization:", what)
			}
		}
	}
	wait("the first", func(s Sync) bool {
		return s.Full && s.States[webName] != nil && !s.Ended.Before(s.Began) && errors.Join(s.Err, s.Behind) == nil
	})
	if node, ok := c.controller.Node(); !ok || node == nil || node.Name != "here" {
		t.Errorf("Node: %v %v", node, ok)
	}
	if err := c.CoreV1().Services("default").Delete(t.Context(), "web", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	wait("the deletion", func(s Sync) bool { state, looked := s.States[webName]; return looked && state == nil })
	if err := c.CoreV1().Nodes().Delete(t.Context(), "here", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	wait("the Node's deletion", func(Sync) bool { node, ok := c.controller.Node(); return ok && node == nil })
}
