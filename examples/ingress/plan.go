//go:build linux

package main

import "net/netip"

// Addresses and ports, as a cloud and a cluster assign them.
var (
	clientAddr = netip.MustParseAddr("198.51.100.7")
	publicAddr = netip.MustParseAddr("203.0.113.10") // of the load balancer
	podNet     = netip.MustParsePrefix("10.244.0.0/16")

	nodes = []node{
		{
			name: "node-a", addr: netip.MustParseAddr("192.168.0.2"),
			pods: netip.MustParsePrefix("10.244.1.0/24"), gateway: netip.MustParseAddr("10.244.1.1"),
			ingress: netip.MustParseAddr("10.244.1.2"), app: netip.MustParseAddr("10.244.1.3"),
		},
		{
			name: "node-b", addr: netip.MustParseAddr("192.168.0.3"),
			pods: netip.MustParsePrefix("10.244.2.0/24"), gateway: netip.MustParseAddr("10.244.2.1"),
			ingress: netip.MustParseAddr("10.244.2.2"), app: netip.MustParseAddr("10.244.2.3"),
		},
	}

	// apps are on one node each, behind a ClusterIP.
	apps = []app{
		{name: "app-a", clusterIP: netip.MustParseAddr("10.96.0.20"), pod: nodes[0].app},
		{name: "app-b", clusterIP: netip.MustParseAddr("10.96.0.21"), pod: nodes[1].app},
	}
)

// node is a machine of the cluster, with a pod of the ingress and one of an
// application.
type node struct {
	name         string
	addr         netip.Addr
	pods         netip.Prefix
	gateway      netip.Addr // of the pods: the node's address towards them
	ingress, app netip.Addr
}

// app is an application.
type app struct {
	name           string
	clusterIP, pod netip.Addr
}

// port is one that the world connects to, and where it leads.
type port struct {
	name     string
	number   uint16 // of the load balancer, and of each node
	nodePort uint16 // of each node: what the load balancer probes
	podPort  uint16 // on which the ingress listens, in its pod
}

var ports = []port{
	{name: "http", number: 80, nodePort: 30644, podPort: 8080},
	{name: "https", number: 443, nodePort: 30551, podPort: 8443},
}

const appPort = 8080
