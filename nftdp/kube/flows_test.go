package kube_test

import (
	"cmp"
	"net/netip"
	"regexp"
	"strings"
	"testing"

	v1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/nftdp/go-nftdp/nftdp"
	"github.com/nftdp/go-nftdp/nftdp/kube"
	"github.com/nftdp/go-nftdp/nftdp/nftdptest"
)

// Kubernetes tests kube-proxy by fifteen tables of packets: from whom, to which address, and
// what becomes of them (pkg/proxy/nftables/proxier_test.go of 1.37.2, where runPacketFlowTests
// is called; the tables of its iptables mode are the same but for node ports). The tests here
// have the names of those there, and the clients and addresses of this package, in both
// families. What they say beyond those there was read in kube-proxy's rules.

// flows checks a table: a row for each client, a column for each place, with at least two
// blanks between cells.
func (w *world) flows(t *testing.T, table string) {
	t.Helper()
	cells := func(row string) []string {
		return regexp.MustCompile(`\s{2,}`).Split(strings.TrimSpace(row), -1)
	}
	rows := strings.Split(strings.TrimSpace(table), "\n")
	columns := cells(rows[0])
	var lines []string
	for _, row := range rows[1:] {
		row := cells(row)
		for i := range columns[1:] {
			lines = append(lines, row[0]+" "+columns[i+1]+": "+row[i+1])
		}
	}
	w.want(t, lines...)
}

// without is the world after its EndpointSlices are deleted.
func (w *world) without() *world {
	w.slices = nil
	return w
}

// TestFlowsNoEndpointsReject: nobody is left waiting, also at an address of this node.
func TestFlowsNoEndpointsReject(t *testing.T) {
	newWorld(func(w *world) {
		w.others = []netip.Addr{netip.MustParseAddr("198.51.100.1"), netip.MustParseAddr("2001:db8:51::1")}
	}).without().flows(t, `
		client   clusterIP  externalIP  nodePort  loadBalancer
		pod      rejected   rejected    rejected  rejected
		outside  rejected   rejected    rejected  rejected
		node     rejected   rejected    rejected  rejected`)
}

// TestFlowsClusterIPGeneral: Services beside each other with other protocols, ports and
// target ports.
func TestFlowsClusterIPGeneral(t *testing.T) {
	w := newWorld(func(w *world) {
		add := func(name, cluster string, endpoints []discoveryv1.Endpoint, ports ...v1.ServicePort) {
			svc := &v1.Service{Spec: v1.ServiceSpec{ClusterIP: cluster, Ports: ports}}
			svc.Namespace, svc.Name = "default", name
			slice := slice4(name, endpoints...)
			slice.Labels[discoveryv1.LabelServiceName], slice.Ports = name, nil
			for _, p := range ports {
				target := cmp.Or(p.TargetPort.IntVal, p.Port)
				slice.Ports = append(slice.Ports, discoveryv1.EndpointPort{Name: &p.Name, Protocol: &p.Protocol, Port: &target})
			}
			w.services, w.slices = append(w.services, svc), append(w.slices, slice)
		}
		w.services, w.slices = nil, nil
		add("one", "10.96.0.1", []discoveryv1.Endpoint{pod(1, "here")},
			v1.ServicePort{Name: "http", Port: 80, Protocol: v1.ProtocolTCP})
		add("two", "10.96.0.2", []discoveryv1.Endpoint{pod(1, "here"), pod(2, "there")},
			v1.ServicePort{Name: "http", Port: 80, Protocol: v1.ProtocolTCP},
			v1.ServicePort{Name: "https", Port: 443, Protocol: v1.ProtocolTCP, TargetPort: intstr.FromInt32(8443)},
			v1.ServicePort{Name: "dns-udp", Port: 53, Protocol: v1.ProtocolUDP},
			v1.ServicePort{Name: "dns-tcp", Port: 53, Protocol: v1.ProtocolTCP, TargetPort: intstr.FromInt32(5353)},
			v1.ServicePort{Name: "dns-sctp", Port: 53, Protocol: v1.ProtocolSCTP, TargetPort: intstr.FromInt32(5354)})
	})
	node, _ := w.program(t)
	for _, test := range []struct {
		protocol         nftdp.Protocol
		client, to, want string
	}{
		{nftdp.ProtocolTCP, "10.180.0.200", "10.96.0.1:80", "10.180.0.1:80"},
		{nftdp.ProtocolTCP, "10.180.0.1", "10.96.0.1:80", "10.180.0.1:80 masqueraded"},
		{nftdp.ProtocolTCP, "10.180.0.200", "10.96.0.2:80", "10.180.0.1:80,10.180.0.2:80"},
		{nftdp.ProtocolTCP, "10.180.0.1", "10.96.0.2:80", "10.180.0.1:80,10.180.0.2:80 partly masqueraded"},
		{nftdp.ProtocolTCP, "10.180.0.200", "10.96.0.2:443", "10.180.0.1:8443,10.180.0.2:8443"},
		{nftdp.ProtocolTCP, "10.180.0.200", "10.96.0.2:53", "10.180.0.1:5353,10.180.0.2:5353"},
		{nftdp.ProtocolUDP, "10.180.0.200", "10.96.0.2:53", "10.180.0.1:53,10.180.0.2:53"},
		{nftdp.ProtocolSCTP, "10.180.0.200", "10.96.0.2:53", "10.180.0.1:5354,10.180.0.2:5354"},
		{nftdp.ProtocolUDP, "10.180.0.200", "10.96.0.2:80", "rejected"},
		{nftdp.ProtocolTCP, "10.180.0.200", "10.96.0.1:443", "rejected"},
		{nftdp.ProtocolTCP, "10.180.0.200", "10.96.0.50:80", "dropped"},
	} {
		p := nftdptest.Packet{Protocol: test.protocol, Source: netip.AddrPortFrom(netip.MustParseAddr(test.client), 40000), Destination: netip.MustParseAddrPort(test.to)}
		if got := answerTo(node, p, netip.AddrPort.String); got != test.want {
			t.Errorf("%v from %s to %s: %s, want %s", test.protocol, test.client, test.to, got, test.want)
		}
	}
}

// TestFlowsLoadBalancer: source ranges hold for each address of the load balancer, and for no
// node port. If they allow the node's address, they allow those of the load balancer.
func TestFlowsLoadBalancer(t *testing.T) {
	newWorld(replaceSlices(pod(1, "here")), func(w *world) {
		s := w.services[0]
		s.Spec.LoadBalancerSourceRanges = []string{"192.0.2.0/24", " 203.0.113.0/25", "2001:db8:2::/64", " 2001:db8:113::/64"}
		s.Status.LoadBalancer.Ingress = append(s.Status.LoadBalancer.Ingress, v1.LoadBalancerIngress{IP: "198.51.100.3"}, v1.LoadBalancerIngress{IP: "2001:db8:51::3"})
	}).flows(t, `
		client         clusterIP      nodePort       loadBalancer   loadBalancer2
		pod            1              1 masqueraded  dropped        dropped
		node           1 masqueraded  1 masqueraded  1 masqueraded  1 masqueraded
		outside        1 masqueraded  1 masqueraded  1 masqueraded  1 masqueraded
		elsewhere      1 masqueraded  1 masqueraded  dropped        dropped
		loadBalancer   1 masqueraded  1 masqueraded  1 masqueraded  1 masqueraded
		loadBalancer2  1 masqueraded  1 masqueraded  1 masqueraded  1 masqueraded`)
}

// TestFlowsNodePorts: by default at the addresses of the Node object.
func TestFlowsNodePorts(t *testing.T) {
	for secondary, addresses := range map[string][]string{
		"passes":          nil,
		"1,2 masqueraded": {"192.0.2.0/24", "192.0.3.0/24", "2001:db8:2::/64", "2001:db8:3::1/128"},
	} {
		newWorld(replaceSlices(pod(1, "there"), pod(2, "here")), func(w *world) {
			w.others = []netip.Addr{netip.MustParseAddr("192.0.3.1"), netip.MustParseAddr("2001:db8:3::1")}
			w.options.NodePortAddresses = addresses
		}).flows(t, `
			client   clusterIP        nodePort         secondary
			pod      1,2              1,2 masqueraded  `+secondary+`
			node     1,2 masqueraded  1,2 masqueraded  `+secondary+`
			outside  1,2 masqueraded  1,2 masqueraded  `+secondary)
	}
}

// TestFlowsExternalTrafficPolicyLocal: clients outside reach endpoints of this node, as they
// are; pods reach all.
func TestFlowsExternalTrafficPolicyLocal(t *testing.T) {
	newWorld(spec(externalLocal), replaceSlices(pod(1, "there"), pod(2, "here"))).flows(t, `
		client   clusterIP        externalIP  nodePort  loadBalancer
		pod      1,2              1,2         1,2       1,2
		outside  1,2 masqueraded  2           2         2`)
}

// TestFlowsExternalTrafficPolicyCluster: everybody reaches all endpoints, and is masqueraded.
func TestFlowsExternalTrafficPolicyCluster(t *testing.T) {
	newWorld(replaceSlices(pod(1, "there"), pod(2, "here"))).flows(t, `
		client   clusterIP        externalIP       nodePort         loadBalancer
		pod      1,2              1,2 masqueraded  1,2 masqueraded  1,2 masqueraded
		outside  1,2 masqueraded  1,2 masqueraded  1,2 masqueraded  1,2 masqueraded`)
}

// TestFlowsInternalTrafficPolicy: with Local silence if only other nodes have endpoints, and
// a rejection if none has.
func TestFlowsInternalTrafficPolicy(t *testing.T) {
	anywhere := func(*v1.ServiceSpec) {}
	for _, test := range []struct {
		policy func(*v1.ServiceSpec)
		nodes  string
		want   string
	}{
		{anywhere, "here there elsewhere", "1,2,3"},
		{internalLocal, "here there elsewhere", "1"},
		{internalLocal, "here here elsewhere", "1,2"},
		{internalLocal, "there there elsewhere", "dropped"},
	} {
		var endpoints []discoveryv1.Endpoint
		for i, on := range strings.Fields(test.nodes) {
			endpoints = append(endpoints, pod(i+1, on))
		}
		w := newWorld(spec(test.policy), replaceSlices(endpoints...))
		w.want(t, "pod clusterIP: "+test.want)
		w.without().want(t, "pod clusterIP: rejected")
	}
}

// gone is an endpoint that terminates and does not serve any more.
var gone = conditions(no, no, yes)

// TestFlowsTerminatingEndpointsTrafficPolicyLocal: those that serve are used if this node has
// no ready one, whatever other nodes have.
func TestFlowsTerminatingEndpointsTrafficPolicyLocal(t *testing.T) {
	terminatingFlows(t, spec(externalLocal), []terminatingCase{
		{"1,2,5", "1,2", []discoveryv1.Endpoint{pod(1, "here"), pod(2, "here"), pod(3, "here", terminating), pod(4, "here", gone), pod(5, "there")}},
		{"5", "2,3", []discoveryv1.Endpoint{pod(2, "here", terminating), pod(3, "here", terminating), pod(4, "here", gone), pod(5, "there")}},
		{"5", "dropped", []discoveryv1.Endpoint{pod(5, "there", terminating)}},
		{"rejected", "rejected", []discoveryv1.Endpoint{pod(5, "here", gone), pod(5, "there", gone)}},
	})
}

// TestFlowsTerminatingEndpointsTrafficPolicyCluster: those that serve are used if there is no
// ready one anywhere.
func TestFlowsTerminatingEndpointsTrafficPolicyCluster(t *testing.T) {
	terminatingFlows(t, func(*world) {}, []terminatingCase{
		{"1,2,5", "1,2,5 masqueraded", []discoveryv1.Endpoint{pod(1, "here"), pod(2, "here"), pod(3, "there", terminating), pod(4, "there", gone), pod(5, "there")}},
		{"2,3,5", "2,3,5 masqueraded", []discoveryv1.Endpoint{pod(2, "here", terminating), pod(3, "here", terminating), pod(4, "there", gone), pod(5, "there", terminating)}},
		{"5", "5 masqueraded", []discoveryv1.Endpoint{pod(5, "there", terminating)}},
		{"rejected", "rejected", []discoveryv1.Endpoint{pod(5, "here", gone), pod(5, "there", gone)}},
	})
}

// terminatingCase is what a pod gets at the ClusterIP, and a client outside at the load
// balancer's address, with these endpoints.
type terminatingCase struct {
	cluster, loadBalancer string
	endpoints             []discoveryv1.Endpoint
}

func terminatingFlows(t *testing.T, policy func(*world), cases []terminatingCase) {
	t.Helper()
	for _, test := range cases {
		w := newWorld(policy, replaceSlices(test.endpoints...))
		w.want(t, "pod clusterIP: "+test.cluster, "outside loadBalancer: "+test.loadBalancer)
		w.without().want(t, "pod clusterIP: rejected", "outside loadBalancer: rejected")
	}
}

// TestFlowsInternalExternalMasquerade: who is masqueraded where, with each policy, with and
// without knowing the pods, and if everybody is to be.
func TestFlowsInternalExternalMasquerade(t *testing.T) {
	for _, test := range []struct {
		masqueradeAll, detect bool
		// A Service with both policies Cluster; external policy Local; internal policy Local.
		cluster, external, internal string
	}{
		{
			false, true, `
			client   clusterIP        nodePort         loadBalancer
			pod      1,2              1,2 masqueraded  1,2 masqueraded
			node     1,2 masqueraded  1,2 masqueraded  1,2 masqueraded
			outside  1,2 masqueraded  1,2 masqueraded  1,2 masqueraded`, `
			client   clusterIP        nodePort         loadBalancer
			pod      1,2              1,2              1,2
			node     1,2 masqueraded  1,2 masqueraded  1,2 masqueraded
			outside  1,2 masqueraded  1                1`, `
			client   clusterIP        nodePort         loadBalancer
			pod      1                1,2 masqueraded  1,2 masqueraded
			node     1 masqueraded    1,2 masqueraded  1,2 masqueraded
			outside  1 masqueraded    1,2 masqueraded  1,2 masqueraded`,
		},
		{
			false, false, `
			client   clusterIP        nodePort         loadBalancer
			pod      1,2              1,2 masqueraded  1,2 masqueraded
			node     1,2              1,2 masqueraded  1,2 masqueraded
			outside  1,2              1,2 masqueraded  1,2 masqueraded`, `
			client   clusterIP        nodePort         loadBalancer
			pod      1,2              1                1
			node     1,2              1,2 masqueraded  1,2 masqueraded
			outside  1,2              1                1`, `
			client   clusterIP        nodePort         loadBalancer
			pod      1                1,2 masqueraded  1,2 masqueraded
			node     1                1,2 masqueraded  1,2 masqueraded
			outside  1                1,2 masqueraded  1,2 masqueraded`,
		},
		{
			true, true, `
			client   clusterIP        nodePort         loadBalancer
			pod      1,2 masqueraded  1,2 masqueraded  1,2 masqueraded
			node     1,2 masqueraded  1,2 masqueraded  1,2 masqueraded
			outside  1,2 masqueraded  1,2 masqueraded  1,2 masqueraded`, `
			client   clusterIP        nodePort         loadBalancer
			pod      1,2 masqueraded  1,2              1,2
			node     1,2 masqueraded  1,2 masqueraded  1,2 masqueraded
			outside  1,2 masqueraded  1                1`, `
			client   clusterIP        nodePort         loadBalancer
			pod      1 masqueraded    1,2 masqueraded  1,2 masqueraded
			node     1 masqueraded    1,2 masqueraded  1,2 masqueraded
			outside  1 masqueraded    1,2 masqueraded  1,2 masqueraded`,
		},
		{
			true, false, `
			client   clusterIP        nodePort         loadBalancer
			pod      1,2 masqueraded  1,2 masqueraded  1,2 masqueraded
			node     1,2 masqueraded  1,2 masqueraded  1,2 masqueraded
			outside  1,2 masqueraded  1,2 masqueraded  1,2 masqueraded`, `
			client   clusterIP        nodePort         loadBalancer
			pod      1,2 masqueraded  1                1
			node     1,2 masqueraded  1,2 masqueraded  1,2 masqueraded
			outside  1,2 masqueraded  1                1`, `
			client   clusterIP        nodePort         loadBalancer
			pod      1 masqueraded    1,2 masqueraded  1,2 masqueraded
			node     1 masqueraded    1,2 masqueraded  1,2 masqueraded
			outside  1 masqueraded    1,2 masqueraded  1,2 masqueraded`,
		},
	} {
		options := func(w *world) {
			w.options.MasqueradeAll = test.masqueradeAll
			if !test.detect {
				w.options.DetectLocal = kube.DetectLocalNone
			}
		}
		newWorld(options).flows(t, test.cluster)
		newWorld(options, spec(externalLocal)).flows(t, test.external)
		newWorld(options, spec(internalLocal)).flows(t, test.internal)
	}
}
