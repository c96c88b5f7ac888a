package kube_test

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nftdp/go-nftdp/nftdp"
	"github.com/nftdp/go-nftdp/nftdp/kube"
	"github.com/nftdp/go-nftdp/nftdp/nftdptest"
)

// The clients of the tests, each in both families: a pod of this node, machines outside of
// the cluster, and this node itself, also with the addresses of its load balancers.
var clients = map[string][2]netip.Addr{
	"pod":           {netip.MustParseAddr("10.180.0.200"), netip.MustParseAddr("fd00:10:180::c8")},
	"outside":       {netip.MustParseAddr("203.0.113.9"), netip.MustParseAddr("2001:db8:113::9")},
	"elsewhere":     {netip.MustParseAddr("203.0.113.130"), netip.MustParseAddr("2001:db8:113:1::9")},
	"node":          {netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8:2::1")},
	"loadBalancer":  {netip.MustParseAddr("198.51.100.2"), netip.MustParseAddr("2001:db8:51::2")},
	"loadBalancer2": {netip.MustParseAddr("198.51.100.3"), netip.MustParseAddr("2001:db8:51::3")},
}

// world is what the API server has, and how this node is set up.
type world struct {
	options  kube.Options
	node     *v1.Node
	others   []netip.Addr // addresses of this node that its Node object does not have
	cidrs    []*networkingv1.ServiceCIDR
	services []*v1.Service
	slices   []*discoveryv1.EndpointSlice
}

// newWorld is a node in zone "a" that knows its pods, with a Service of both families.
func newWorld(change ...func(*world)) *world {
	w := &world{
		options: kube.Options{
			NodeName: "here", DetectLocal: kube.DetectLocalClusterCIDR,
			ClusterCIDRs: []netip.Prefix{netip.MustParsePrefix("10.180.0.0/16"), netip.MustParsePrefix("fd00:10:180::/64")},
		},
		node: &v1.Node{
			ObjectMeta: metav1.ObjectMeta{Name: "here", Labels: map[string]string{v1.LabelTopologyZone: "a"}},
			Status: v1.NodeStatus{Addresses: []v1.NodeAddress{
				{Type: v1.NodeHostName, Address: "here"}, {Type: v1.NodeInternalIP, Address: "192.0.2.1"}, {Type: v1.NodeInternalIP, Address: "2001:db8:2::1"},
			}},
		},
		cidrs: []*networkingv1.ServiceCIDR{{Spec: networkingv1.ServiceCIDRSpec{CIDRs: []string{"10.96.0.0/16", "fd00:10:96::/112"}}}},
		services: []*v1.Service{{
			ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web"},
			Spec: v1.ServiceSpec{
				Type: v1.ServiceTypeLoadBalancer, ClusterIP: "10.96.0.1", ClusterIPs: []string{"10.96.0.1", "fd00:10:96::1"},
				ExternalIPs: []string{"198.51.100.1", "2001:db8:51::1"},
				Ports:       []v1.ServicePort{{Name: "http", Port: 80, NodePort: 30644, Protocol: v1.ProtocolTCP}},
			},
			Status: v1.ServiceStatus{LoadBalancer: v1.LoadBalancerStatus{Ingress: []v1.LoadBalancerIngress{{IP: "198.51.100.2"}, {IP: "2001:db8:51::2"}}}},
		}},
	}
	w.slices = []*discoveryv1.EndpointSlice{slice4("1", pod(1, "here"), pod(2, "there")), slice6("2", pod(1, "here"), pod(2, "there"))}
	for _, f := range change {
		f(w)
	}
	return w
}

// pod is a ready endpoint; its address follows from the slice.
func pod(n int, node string, change ...func(*discoveryv1.Endpoint)) discoveryv1.Endpoint {
	e := discoveryv1.Endpoint{Addresses: []string{fmt.Sprint(n)}, NodeName: &node}
	for _, f := range change {
		f(&e)
	}
	return e
}

func conditions(ready, serving, terminating *bool) func(*discoveryv1.Endpoint) {
	return func(e *discoveryv1.Endpoint) {
		e.Conditions = discoveryv1.EndpointConditions{Ready: ready, Serving: serving, Terminating: terminating}
	}
}

var (
	yes, no     = new(true), new(false)
	terminating = conditions(no, yes, yes)
	unready     = conditions(no, no, no)
)

func hints(node, zone string) func(*discoveryv1.Endpoint) {
	return func(e *discoveryv1.Endpoint) {
		e.Hints = &discoveryv1.EndpointHints{}
		if node != "" {
			e.Hints.ForNodes = []discoveryv1.ForNode{{Name: node}}
		}
		if zone != "" {
			e.Hints.ForZones = []discoveryv1.ForZone{{Name: zone}}
		}
	}
}

func slice4(name string, endpoints ...discoveryv1.Endpoint) *discoveryv1.EndpointSlice {
	return sliceOf(name, discoveryv1.AddressTypeIPv4, "10.180.0.", endpoints)
}

func slice6(name string, endpoints ...discoveryv1.Endpoint) *discoveryv1.EndpointSlice {
	return sliceOf(name, discoveryv1.AddressTypeIPv6, "fd00:10:180::", endpoints)
}

func sliceOf(name string, family discoveryv1.AddressType, prefix string, endpoints []discoveryv1.Endpoint) *discoveryv1.EndpointSlice {
	s := &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Namespace: "default", Name: "web-" + name, Labels: map[string]string{discoveryv1.LabelServiceName: "web"}},
		AddressType: family,
		Ports:       []discoveryv1.EndpointPort{{Name: new("http"), Port: new(int32(8080)), Protocol: new(v1.ProtocolTCP)}},
	}
	for _, e := range endpoints {
		e.Addresses = []string{prefix + e.Addresses[0], "192.0.2.222"}
		s.Endpoints = append(s.Endpoints, e)
	}
	return s
}

// replaceSlices gives both families the same endpoints.
func replaceSlices(endpoints ...discoveryv1.Endpoint) func(*world) {
	return func(w *world) {
		w.slices = []*discoveryv1.EndpointSlice{slice4("1", endpoints...), slice6("2", endpoints...)}
	}
}

func spec(change func(*v1.ServiceSpec)) func(*world) {
	return func(w *world) { change(&w.services[0].Spec) }
}

func externalLocal(s *v1.ServiceSpec) {
	s.ExternalTrafficPolicy = v1.ServiceExternalTrafficPolicyLocal
}

func internalLocal(s *v1.ServiceSpec) {
	s.InternalTrafficPolicy = new(v1.ServiceInternalTrafficPolicyLocal)
}

// translate returns what the world means.
func (w *world) translate(tb testing.TB) (nftdp.Config, []nftdp.Service, []kube.Problem) {
	tb.Helper()
	var services []nftdp.Service
	var problems []kube.Problem
	for _, svc := range w.services {
		var mine []*discoveryv1.EndpointSlice
		for _, s := range w.slices {
			if s.Namespace == svc.Namespace && s.Labels[discoveryv1.LabelServiceName] == svc.Name {
				mine = append(mine, s)
			}
		}
		s, p := w.options.Services(svc, mine, w.node)
		services, problems = append(services, s...), append(problems, p...)
	}
	return w.options.Config(w.node, w.cidrs), services, problems
}

// program returns a node in memory that serves the world.
func (w *world) program(t *testing.T) (*nftdptest.Node, *nftdp.Dataplane) {
	t.Helper()
	config, services, _ := w.translate(t)
	node := nftdptest.NewNode(append([]netip.Addr{clients["node"][0], clients["node"][1]}, w.others...)...)
	plane, err := node.Open(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := plane.Apply(t.Context(), services); err != nil {
		t.Fatal(err)
	}
	return node, plane
}

// Where the clients of the tests connect to, in both families.
var places = map[string][2]string{
	"clusterIP":     {"10.96.0.1:80", "[fd00:10:96::1]:80"},
	"externalIP":    {"198.51.100.1:80", "[2001:db8:51::1]:80"},
	"loadBalancer":  {"198.51.100.2:80", "[2001:db8:51::2]:80"},
	"loadBalancer2": {"198.51.100.3:80", "[2001:db8:51::3]:80"},
	"nodePort":      {"192.0.2.1:30644", "[2001:db8:2::1]:30644"},
	"secondary":     {"192.0.3.1:30644", "[2001:db8:3::1]:30644"},
	"unusedPort":    {"10.96.0.1:81", "[fd00:10:96::1]:81"},
	"unallocated":   {"10.96.0.99:80", "[fd00:10:96::99]:80"},
	"localhost":     {"127.0.0.1:30644", "[::1]:30644"},
	"nodeHTTPS":     {"192.0.2.1:443", "[2001:db8:2::1]:443"},
}

// answer says what becomes of a TCP connection: the last number of each backend that it may
// reach, "masqueraded" if that sees an address of the node, or why it reaches none.
func answer(node *nftdptest.Node, client netip.Addr, to netip.AddrPort) string {
	return answerBy(node, "", client, to)
}

// answerBy is answer for a client whose packets come by an interface.
func answerBy(node *nftdptest.Node, by string, client netip.Addr, to netip.AddrPort) string {
	return answerTo(node, nftdptest.Packet{Protocol: nftdp.ProtocolTCP, Source: netip.AddrPortFrom(client, 40000), Destination: to, Interface: by}, func(backend netip.AddrPort) string {
		text := backend.Addr().String()
		return text[strings.LastIndexAny(text, ".:")+1:]
	})
}

// answerTo is answer for a packet, with backends in words of the caller. If only some of them
// see an address of the node, it is "partly masqueraded".
func answerTo(node *nftdptest.Node, p nftdptest.Packet, word func(backend netip.AddrPort) string) string {
	var backends []string
	how, masqueraded := "", 0
	outcomes := node.Outcomes(p)
	for _, o := range outcomes {
		switch {
		case o.Verdict == nftdptest.VerdictDropped:
			how = "dropped"
		case o.Verdict != nftdptest.VerdictDelivered:
			how = "rejected"
		case o.Service == "":
			how = "passes"
		default:
			backends = append(backends, word(o.Destination))
			if o.Masqueraded {
				how, masqueraded = "masqueraded", masqueraded+1
			}
		}
	}
	if masqueraded > 0 && masqueraded < len(outcomes) {
		how = "partly masqueraded"
	}
	slices.Sort(backends)
	return strings.TrimSpace(strings.Join(slices.Compact(backends), ",") + " " + how)
}

// want checks lines such as "pod nodePort: 1,2 masqueraded" in both families.
func (w *world) want(t *testing.T, lines ...string) {
	t.Helper()
	node, _ := w.program(t)
	for _, line := range lines {
		way, want, _ := strings.Cut(line, ": ")
		client, place, _ := strings.Cut(way, " ")
		for family, to := range places[place] {
			if got := answer(node, clients[client][family], netip.MustParseAddrPort(to)); got != want {
				t.Errorf("%s (%s): %s, want %s", way, to, got, want)
			}
		}
	}
}

// served lists the names of the services.
func (w *world) served(t *testing.T) (out []string) {
	t.Helper()
	_, services, _ := w.translate(t)
	for _, s := range services {
		out = append(out, s.Name)
	}
	return out
}

// Semantics 1: Services of other proxies, headless ones and ExternalName are not ours.
func TestSkipsServices(t *testing.T) {
	for name, change := range map[string]func(*world){
		"other proxy":   func(w *world) { w.services[0].Labels = map[string]string{kube.LabelProxyName: "cilium"} },
		"headless":      func(w *world) { w.services[0].Labels = map[string]string{v1.IsHeadlessService: ""} },
		"None":          spec(func(s *v1.ServiceSpec) { s.ClusterIP, s.ClusterIPs = v1.ClusterIPNone, []string{v1.ClusterIPNone} }),
		"no address":    spec(func(s *v1.ServiceSpec) { s.ClusterIP, s.ClusterIPs = "", nil }),
		"ExternalName":  spec(func(s *v1.ServiceSpec) { s.Type = v1.ServiceTypeExternalName }),
		"we are others": func(w *world) { w.options.ProxyName = "nftdp" },
	} {
		if got := newWorld(change).served(t); len(got) > 0 {
			t.Errorf("%s: serves %v", name, got)
		}
	}
	if got := newWorld(func(w *world) {
		w.options.ProxyName, w.services[0].Labels = "nftdp", map[string]string{kube.LabelProxyName: "nftdp"}
	}).served(t); len(got) != 1 {
		t.Errorf("our own label: serves %v", got)
	}
}

// Semantics 2: what conditions mean that are not set; the first address; ports without
// a name or number; an endpoint that is in two slices.
func TestEndpointConditions(t *testing.T) {
	for _, test := range []struct {
		name                        string
		ready, serving, terminating *bool
		want                        string
	}{
		{"nothing set", nil, nil, nil, "1"},
		{"ready", yes, nil, nil, "1"},
		{"not ready, serving", no, yes, no, "rejected"},
		{"not ready, serving not set", no, nil, nil, "rejected"},
		{"terminating, serving", no, yes, yes, "1"},
		{"terminating, serving not set", no, nil, yes, "1"},
		{"terminating, not serving", no, no, yes, "rejected"},
	} {
		t.Run(test.name, func(t *testing.T) {
			newWorld(replaceSlices(pod(1, "here", conditions(test.ready, test.serving, test.terminating)))).want(t, "pod clusterIP: "+test.want)
		})
	}
	t.Run("ports", func(t *testing.T) {
		newWorld(func(w *world) { w.slices[0].Ports[0].Name, w.slices[1].Ports[0].Name = nil, nil }).want(t, "pod clusterIP: rejected")
		newWorld(func(w *world) { w.slices[0].Ports[0].Port, w.slices[1].Ports[0].Port = nil, nil }).want(t, "pod clusterIP: rejected")
	})
	t.Run("two slices", func(t *testing.T) {
		dying, alive := slice4("a", pod(1, "here", terminating)), slice4("b", pod(1, "here"))
		for _, order := range [][]*discoveryv1.EndpointSlice{{dying, alive}, {alive, dying}} {
			w := newWorld(func(w *world) { w.slices = append(order, slice6("c", pod(1, "here")), slice4("d", pod(2, "there"))) })
			_, services, _ := w.translate(t)
			if got := services[0].Backends; len(got) != 3 || got[0].Backup {
				t.Errorf("%v", got)
			}
		}
	})
}

// Semantics 3: terminating endpoints are used where no ready one is left, for all
// endpoints and for local ones separately.
func TestTerminatingFallback(t *testing.T) {
	newWorld(replaceSlices(pod(1, "here", terminating), pod(2, "there")), spec(externalLocal)).want(t,
		"pod clusterIP: 2", "outside externalIP: 1", "outside nodePort: 1", "pod externalIP: 2")
	newWorld(replaceSlices(pod(1, "here", terminating), pod(2, "there", terminating)), spec(externalLocal)).want(t,
		"pod clusterIP: 1,2", "outside externalIP: 1")
	newWorld(replaceSlices(pod(1, "here", terminating), pod(3, "here"), pod(2, "there")), spec(externalLocal)).want(t,
		"pod clusterIP: 2,3", "outside externalIP: 3")
}

// Semantics 4: hints for this node, then for its zone, else everything; the field
// trafficDistribution by itself does nothing.
func TestTopology(t *testing.T) {
	node := func(n int, on string) discoveryv1.Endpoint { return pod(n, "there", hints(on, "")) }
	zone := func(n int, in string) discoveryv1.Endpoint { return pod(n, "there", hints("", in)) }
	for _, test := range []struct {
		name, want string
		endpoints  []discoveryv1.Endpoint
	}{
		{"this node", "1", []discoveryv1.Endpoint{node(1, "here"), node(2, "there")}},
		{"no hint for this node", "1,2", []discoveryv1.Endpoint{node(1, "there"), node(2, "there")}},
		{"one has no hint", "1,2", []discoveryv1.Endpoint{node(1, "here"), pod(2, "there")}},
		{"one that is not ready has no hint", "1", []discoveryv1.Endpoint{node(1, "here"), node(2, "there"), pod(3, "there", unready)}},
		{"zone", "1", []discoveryv1.Endpoint{zone(1, "a"), zone(2, "b")}},
		{"other zones", "1,2", []discoveryv1.Endpoint{zone(1, "b"), zone(2, "c")}},
		{"node before zone", "2", []discoveryv1.Endpoint{pod(1, "there", hints("there", "a")), pod(2, "there", hints("here", "b"))}},
		{"zone if not the node", "1", []discoveryv1.Endpoint{pod(1, "there", hints("there", "a")), pod(2, "there", hints("there", "b"))}},
	} {
		t.Run(test.name, func(t *testing.T) {
			newWorld(replaceSlices(test.endpoints...)).want(t, "pod clusterIP: "+test.want)
		})
	}
	t.Run("trafficDistribution", func(t *testing.T) {
		newWorld(spec(func(s *v1.ServiceSpec) { s.TrafficDistribution = new(v1.ServiceTrafficDistributionPreferSameNode) })).want(t, "pod clusterIP: 1,2")
	})
	t.Run("the label changes", func(t *testing.T) {
		w := newWorld(replaceSlices(zone(1, "a"), zone(2, "b")))
		w.node.Labels[v1.LabelTopologyZone] = "b"
		w.want(t, "pod clusterIP: 2")
	})
	t.Run("local policy ignores hints", func(t *testing.T) {
		newWorld(spec(externalLocal), replaceSlices(pod(1, "here", hints("", "b")), pod(2, "there", hints("", "a")))).want(t,
			"outside externalIP: 1", "pod clusterIP: 2", "pod externalIP: 2")
	})
}

// Semantics 5: no endpoint at all is a rejection, no local one silence.
func TestNoEndpoints(t *testing.T) {
	newWorld(func(w *world) { w.slices = nil }, spec(externalLocal), spec(internalLocal)).want(t,
		"pod clusterIP: rejected", "outside externalIP: rejected", "outside nodePort: rejected", "outside loadBalancer: rejected")
	newWorld(replaceSlices(pod(2, "there")), spec(externalLocal), spec(internalLocal)).want(t,
		"pod clusterIP: dropped", "node clusterIP: dropped", "outside externalIP: dropped", "outside nodePort: dropped", "outside loadBalancer: dropped")
	newWorld(replaceSlices(pod(2, "there", unready)), spec(externalLocal)).want(t, "outside nodePort: rejected")
}

// Semantics 6: with the external policy Local, pods and the node use all endpoints.
func TestShortCircuit(t *testing.T) {
	newWorld(spec(externalLocal)).want(t,
		"pod externalIP: 1,2", "pod loadBalancer: 1,2", "pod nodePort: 1,2",
		"node externalIP: 1,2 masqueraded", "node loadBalancer: 1,2 masqueraded", "node nodePort: 1,2 masqueraded",
		"outside externalIP: 1", "outside loadBalancer: 1", "outside nodePort: 1")
}

// Semantics 7: an address of mode Proxy is not served, those beside it are; addresses of
// a family without ClusterIP are reported.
func TestLoadBalancerModes(t *testing.T) {
	newWorld(func(w *world) {
		for i := range w.services[0].Status.LoadBalancer.Ingress {
			w.services[0].Status.LoadBalancer.Ingress[i].IPMode = new(v1.LoadBalancerIPModeProxy)
		}
	}).want(t, "outside loadBalancer: passes", "outside externalIP: 1,2 masqueraded")
	newWorld(func(w *world) {
		w.services[0].Status.LoadBalancer.Ingress[0].IPMode = new(v1.LoadBalancerIPModeVIP)
	}).want(t, "outside loadBalancer: 1,2 masqueraded")
	w := newWorld(spec(func(s *v1.ServiceSpec) { s.ClusterIPs = s.ClusterIPs[:1] }))
	_, _, problems := w.translate(t)
	if len(problems) != 2 || problems[0].Reason != "OtherFamily" {
		t.Errorf("%v", problems)
	}
	node, _ := w.program(t)
	if got := answer(node, clients["outside"][1], netip.MustParseAddrPort(places["loadBalancer"][1])); got != "passes" {
		t.Errorf("address of another family: %s", got)
	}
}

// Semantics 8: source ranges hold for the addresses of the load balancer alone.
func TestSourceRanges(t *testing.T) {
	ranges := func(list ...string) func(*world) {
		return spec(func(s *v1.ServiceSpec) { s.LoadBalancerSourceRanges = list })
	}
	newWorld(ranges(" 203.0.113.0/24 ", "2001:db8:113::/64")).want(t,
		"outside loadBalancer: 1,2 masqueraded", "pod loadBalancer: dropped", "node loadBalancer: dropped",
		"pod nodePort: 1,2 masqueraded", "pod externalIP: 1,2 masqueraded", "pod clusterIP: 1,2")
	newWorld(ranges("198.18.0.0/15", "2001:db8:18::/48")).want(t,
		"outside loadBalancer: dropped", "outside nodePort: 1,2 masqueraded", "outside externalIP: 1,2 masqueraded")
	newWorld(ranges("198.18.0.0/15", "0.0.0.0/0")).want(t, "outside loadBalancer: 1,2 masqueraded", "pod loadBalancer: 1,2 masqueraded")
	newWorld(ranges("192.0.2.0/24", "2001:db8:2::/64")).want(t, "node loadBalancer: 1,2 masqueraded", "outside loadBalancer: dropped")
	newWorld(ranges("nonsense")).want(t, "outside loadBalancer: dropped", "outside externalIP: 1,2 masqueraded")
}

// Semantics 9: which addresses of the node take node ports.
func TestNodePortAddresses(t *testing.T) {
	with := func(list ...string) *world { return newWorld(func(w *world) { w.options.NodePortAddresses = list }) }
	with().want(t, "outside nodePort: 1,2 masqueraded", "node localhost: passes")
	with("primary", "localhost").want(t, "outside nodePort: 1,2 masqueraded", "node localhost: 1,2 masqueraded")
	with("localhost").want(t, "outside nodePort: passes", "node localhost: 1,2 masqueraded")
	with("all").want(t, "outside nodePort: 1,2 masqueraded", "node localhost: passes")
	with("192.0.2.0/24", "2001:db8:2::/64").want(t, "outside nodePort: 1,2 masqueraded")
	with("192.168.0.0/16", "2001:db8:3::/64").want(t, "outside nodePort: passes")
	newWorld(func(w *world) { w.node = nil }).want(t, "outside nodePort: passes", "pod clusterIP: 1,2")
}

// Semantics 10: unused ports of a ClusterIP are rejected, unallocated addresses dropped,
// in every ServiceCIDR that there is.
func TestServiceCIDRs(t *testing.T) {
	newWorld().want(t, "pod unusedPort: rejected", "pod unallocated: dropped", "node unallocated: dropped")
	newWorld(func(w *world) { w.cidrs = nil }).want(t, "pod unusedPort: passes", "pod unallocated: passes")
	w := newWorld(func(w *world) {
		w.cidrs = append(w.cidrs, &networkingv1.ServiceCIDR{Spec: networkingv1.ServiceCIDRSpec{CIDRs: []string{"10.97.0.0/16"}}})
	})
	node, _ := w.program(t)
	if got := answer(node, clients["pod"][0], netip.MustParseAddrPort("10.97.0.1:80")); got != "dropped" {
		t.Errorf("a second ServiceCIDR: %s", got)
	}
}

// Semantics 11: a UDP flow does not stay at an endpoint that is gone, also if it was the
// last one.
func TestUDPFlows(t *testing.T) {
	udp := func(w *world) {
		w.services[0].Spec.Ports[0].Protocol = v1.ProtocolUDP
		for _, s := range w.slices {
			s.Ports[0].Protocol = new(v1.ProtocolUDP)
		}
	}
	node, plane := newWorld(replaceSlices(pod(1, "here")), udp).program(t)
	send := func() nftdptest.Outcome {
		return node.Send(nftdptest.Packet{
			Protocol: nftdp.ProtocolUDP, Source: netip.AddrPortFrom(clients["pod"][0], 40000), Destination: netip.MustParseAddrPort("10.96.0.1:80"),
		})
	}
	apply := func(w *world) {
		_, services, _ := w.translate(t)
		if _, err := plane.Apply(t.Context(), services); err != nil {
			t.Fatal(err)
		}
	}
	if got := send().Destination.String(); got != "10.180.0.1:8080" {
		t.Fatal(got)
	}
	apply(newWorld(replaceSlices(pod(2, "there"), pod(1, "here", conditions(no, no, yes))), udp))
	if got := send().Destination.String(); got != "10.180.0.2:8080" {
		t.Errorf("after a change: %s", got)
	}
	apply(newWorld(func(w *world) { w.slices = nil }, udp))
	if got := send().Verdict; got != nftdptest.VerdictUnreachable {
		t.Errorf("without endpoints: %s", got)
	}
	apply(newWorld(replaceSlices(pod(3, "there")), udp))
	if got := send().Destination.String(); got != "10.180.0.3:8080" {
		t.Errorf("after that: %s", got)
	}
}

// Semantics 12: a client comes back to its endpoint, for as long as the Service says.
func TestAffinity(t *testing.T) {
	w := newWorld(spec(func(s *v1.ServiceSpec) { s.SessionAffinity = v1.ServiceAffinityClientIP }))
	_, services, _ := w.translate(t)
	if got := services[0].Affinity; got != nftdp.Duration(3*time.Hour) {
		t.Errorf("by default %v", got)
	}
	w.services[0].Spec.SessionAffinityConfig = &v1.SessionAffinityConfig{ClientIP: &v1.ClientIPConfig{TimeoutSeconds: new(int32(60))}}
	node, _ := w.program(t)
	send := func(port uint16) netip.AddrPort {
		return node.Send(nftdptest.Packet{Source: netip.AddrPortFrom(clients["pod"][0], port), Destination: netip.MustParseAddrPort("10.96.0.1:80")}).Destination
	}
	first := send(40000)
	for port := uint16(40001); port < 40010; port++ {
		if got := send(port); got != first {
			t.Errorf("%v, then %v", first, got)
		}
	}
}

// Semantics 13: another address of the node, or none any more, is another configuration.
func TestNodeAddresses(t *testing.T) {
	w := newWorld()
	w.node.Status.Addresses[1].Address = "192.0.2.7"
	config, _, _ := w.translate(t)
	if got := fmt.Sprint(config.NodeAddrs); got != "[192.0.2.7/32 2001:db8:2::1/128]" {
		t.Error(got)
	}
	w.node.Status.Addresses = nil
	config, _, _ = w.translate(t)
	if got := fmt.Sprint(config.NodeAddrs); got != "[0.0.0.0/32]" {
		t.Error(got)
	}
}

// Semantics 16: names, as long as Kubernetes allows them.
func TestNames(t *testing.T) {
	w := newWorld()
	if got := w.served(t); !slices.Equal(got, []string{"default/web:http"}) {
		t.Errorf("%v", got)
	}
	long := func(end string) *v1.Service {
		s := w.services[0].DeepCopy()
		s.Namespace, s.Name = strings.Repeat("n", 63), strings.Repeat("s", 63)
		s.Spec.Ports[0].Name = strings.Repeat("p", 14) + end
		return s
	}
	w.services = []*v1.Service{long("1")}
	other, _ := w.options.Services(long("2"), nil, w.node)
	if got := w.served(t); len(got[0]) > nftdp.MaxNameLen || got[0] == other[0].Name {
		t.Errorf("%v and %v", got, other[0].Name)
	}
	w.program(t)
}

// A Service of which a part is wrong serves the rest.
func TestProblems(t *testing.T) {
	w := newWorld(func(w *world) {
		s := w.services[0]
		s.Spec.ExternalIPs = []string{"127.0.0.1", "nonsense", "198.51.100.1"}
		s.Spec.Ports = append(s.Spec.Ports, v1.ServicePort{Name: "odd", Port: 81, Protocol: "DCCP"}, v1.ServicePort{Name: "none", Port: 0})
		w.slices[0].Endpoints = append(w.slices[0].Endpoints, discoveryv1.Endpoint{Addresses: []string{"127.0.0.1"}}, discoveryv1.Endpoint{})
	})
	_, _, problems := w.translate(t)
	var reasons []string
	for _, p := range problems {
		reasons = append(reasons, p.Reason)
	}
	slices.Sort(reasons)
	if want := []string{"InvalidAddress", "InvalidAddress", "InvalidEndpoint", "InvalidPort", "UnknownProtocol"}; !slices.Equal(slices.Compact(slices.Clone(reasons)), slices.Compact(want)) {
		t.Errorf("%v", problems)
	}
	node, _ := w.program(t)
	if got := answer(node, clients["outside"][0], netip.MustParseAddrPort("198.51.100.1:80")); got != "1,2 masqueraded" {
		t.Error(got)
	}
}
