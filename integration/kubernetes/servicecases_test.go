//go:build linux

package kubernetes_test

import (
	"strings"

	corev1 "k8s.io/api/core/v1"
	discovery "k8s.io/api/discovery/v1"

	"github.com/nftdp/go-nftdp/integration/kubernetes/cluster"
)

// serviceCases are the types, policies and conditions of services.
func serviceCases() []serviceCase {
	cases := []serviceCase{
		{
			name: "ClusterIP",
			probes: []serviceProbe{
				{"pod-a0", "cluster", "pod-a0 from node-a, " + at("pod-a1 pod-b0 pod-b1", "pod-a0")},
				{"node-b", "cluster", everyone("node-b")},
				{"client", "cluster", everyone("node-a")},
				{"pod-a0", "cluster:81", refused},
			},
		},
		{
			name: "NodePort", change: func(s *corev1.Service) { withNodePort(s, corev1.ServiceTypeNodePort) },
			probes: []serviceProbe{
				{"client", "node-a", everyone("node-a")},
				{"client", "node-b", everyone("node-b")},
				{"pod-a0", "node-a", everyone("node-a")},
				{"pod-a0", "node-b", everyone("node-b")},
				{"node-a", "node-a", everyone("node-a")},
			},
		},
		{
			name: "LoadBalancer and externalIPs", change: all(withLoadBalancer, withExternalIPs),
			probes: []serviceProbe{
				{"client", "lb", everyone("node-a") + ", " + everyone("node-b")},
				{"client", "external", everyone("node-a") + ", " + everyone("node-b")},
				{"pod-b0", "lb", everyone("node-b")},
				{"node-a", "external", everyone("node-a")},
			},
		},
		{
			name: "external policy Local", change: all(withLoadBalancer, withExternalIPs, externalLocal),
			endpoints: "pod-b0 pod-b1",
			probes: []serviceProbe{
				{"client", "node-a", silence},
				{"client", "node-b", at("pod-b0 pod-b1", "client")},
				// The balancer does not ask who has endpoints.
				{"client", "lb", at("pod-b0 pod-b1", "client") + ", " + silence},
				{"client", "external", at("pod-b0 pod-b1", "client") + ", " + silence},
				{"client", "cluster", at("pod-b0 pod-b1", "node-a")},
				// Pods and the node itself use all endpoints.
				{"pod-a0", "lb", at("pod-b0 pod-b1", "pod-a0")},
				{"pod-a0", "node-a", at("pod-b0 pod-b1", "pod-a0")},
				{"node-a", "lb", at("pod-b0 pod-b1", "node-a")},
				{"node-a", "node-a", at("pod-b0 pod-b1", "node-a")},
			},
		},
		{
			name: "internal policy Local", change: internalLocal, endpoints: "pod-b0 pod-b1",
			probes: []serviceProbe{
				{"pod-a0", "cluster", silence},
				{"node-a", "cluster", silence},
				{"pod-b0", "cluster", "pod-b0 from node-b, pod-b1 from pod-b0"},
				{"node-b", "cluster", at("pod-b0 pod-b1", "node-b")},
			},
		},
		{
			name: "internal policy Local, client outside", change: internalLocal, endpoints: "pod-a1 pod-b0",
			probes: []serviceProbe{{"client", "cluster", "pod-a1 from node-a"}},
		},
	}
	return append(append(cases, endpointCases()...), addressCases()...)
}

// endpointCases are about conditions of endpoints.
func endpointCases() []serviceCase {
	terminating := func(serving bool) func(string, *discovery.Endpoint) {
		return func(_ string, e *discovery.Endpoint) {
			e.Conditions = discovery.EndpointConditions{Ready: new(false), Serving: &serving, Terminating: new(true)}
		}
	}
	return []serviceCase{
		{
			name: "no endpoints", change: withLoadBalancer, slice: func(s *discovery.EndpointSlice) { s.Endpoints = nil },
			probes: []serviceProbe{
				{"pod-a0", "cluster", refused},
				{"node-a", "cluster", refused},
				{"client", "node-a", refused},
				{"client", "lb", refused},
			},
		},
		{
			name: "conditions that are not set", condition: func(_ string, e *discovery.Endpoint) { e.Conditions = discovery.EndpointConditions{} },
			probes: []serviceProbe{{"node-a", "cluster", everyone("node-a")}},
		},
		{
			name: "one of four ready", condition: func(pod string, e *discovery.Endpoint) { e.Conditions.Ready = new(pod == "pod-b1") },
			probes: []serviceProbe{{"node-a", "cluster", "pod-b1 from node-a"}},
		},
		{
			name: "all terminating, but serving", condition: terminating(true),
			probes: []serviceProbe{{"node-a", "cluster", everyone("node-a")}},
		},
		{
			name: "all terminating and not serving", condition: terminating(false),
			probes: []serviceProbe{{"node-a", "cluster", refused}},
		},
		{
			name: "the local one terminating, policy Local", change: all(withLoadBalancer, externalLocal), endpoints: "pod-a0 pod-b0",
			condition: func(pod string, e *discovery.Endpoint) {
				if pod == "pod-a0" {
					terminating(true)(pod, e)
				}
			},
			probes: []serviceProbe{
				{"client", "node-a", "pod-a0 from client"},
				{"client", "cluster", "pod-b0 from node-a"},
			},
		},
		{
			name: "a zone's hints",
			condition: func(pod string, e *discovery.Endpoint) {
				e.Hints = &discovery.EndpointHints{ForZones: []discovery.ForZone{{Name: "zone-node-" + pod[4:5]}}}
			},
			probes: []serviceProbe{
				{"node-a", "cluster", at("pod-a0 pod-a1", "node-a")},
				{"node-b", "cluster", at("pod-b0 pod-b1", "node-b")},
			},
		},
		{
			name: "a node's hints before a zone's",
			condition: func(pod string, e *discovery.Endpoint) {
				e.Hints = &discovery.EndpointHints{
					ForZones: []discovery.ForZone{{Name: "zone-node-" + pod[4:5]}},
					ForNodes: []discovery.ForNode{{Name: map[string]string{"0": "node-a", "1": "node-b"}[pod[5:]]}},
				}
			},
			probes: []serviceProbe{
				{"node-a", "cluster", at("pod-a0 pod-b0", "node-a")},
				{"node-b", "cluster", at("pod-a1 pod-b1", "node-b")},
			},
		},
		{
			name: "one endpoint without hints",
			condition: func(pod string, e *discovery.Endpoint) {
				if pod != "pod-b1" {
					e.Hints = &discovery.EndpointHints{ForZones: []discovery.ForZone{{Name: "zone-node-" + pod[4:5]}}}
				}
			},
			probes: []serviceProbe{{"node-a", "cluster", everyone("node-a")}},
		},
	}
}

// addressCases are about what services are and where they may be reached from.
func addressCases() []serviceCase {
	return []serviceCase{
		{
			name: "ipMode Proxy", change: func(s *corev1.Service) {
				withLoadBalancer(s)
				for i := range s.Status.LoadBalancer.Ingress {
					s.Status.LoadBalancer.Ingress[i].IPMode = new(corev1.LoadBalancerIPModeProxy)
				}
			},
			probes: []serviceProbe{{"node-a", "node-a", everyone("node-a")}, {"client", "lb", silence}},
		},
		{
			name: "source ranges", change: func(s *corev1.Service) {
				withLoadBalancer(s)
				s.Spec.LoadBalancerSourceRanges = []string{"203.0.113.0/25", cluster.V6.Client.String() + "/128"}
			},
			probes: []serviceProbe{
				{"client", "lb", everyone("node-a") + ", " + everyone("node-b")},
				{"pod-a0", "lb", silence},
				{"pod-a0", "node-a", everyone("node-a")},
				{"pod-a0", "cluster", "pod-a0 from node-a, " + at("pod-a1 pod-b0 pod-b1", "pod-a0")},
			},
		},
		{
			name: "source ranges without the client", change: func(s *corev1.Service) {
				withLoadBalancer(s)
				s.Spec.LoadBalancerSourceRanges = []string{cluster.V4.PodCIDR(0).String(), cluster.V6.PodCIDR(0).String()}
			},
			probes: []serviceProbe{{"client", "lb", silence}, {"client", "node-a", everyone("node-a")}, {"pod-a0", "lb", everyone("node-a")}},
		},
		{
			name: "another proxy's label", change: func(s *corev1.Service) {
				withNodePort(s, corev1.ServiceTypeNodePort)
				s.Labels = map[string]string{"service.kubernetes.io/service-proxy-name": "other"}
			},
			probes: []serviceProbe{{"client", "node-a", refused}},
		},
		{
			name: "a port without number and one without name", change: func(s *corev1.Service) { withNodePort(s, corev1.ServiceTypeNodePort) },
			slice:  func(s *discovery.EndpointSlice) { s.Ports[0].Port, s.Ports[1].Port = nil, nil },
			probes: []serviceProbe{{"client", "node-a", refused}},
		},
		{
			name:   "slices of a service without selector by another name",
			slice:  func(s *discovery.EndpointSlice) { s.Name = "x-" + strings.ToLower(string(s.AddressType)) },
			probes: []serviceProbe{{"node-a", "cluster", everyone("node-a")}},
		},
	}
}
