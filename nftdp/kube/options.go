package kube

import (
	"net/netip"
	"slices"

	v1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"

	"github.com/nftdp/go-nftdp/nftdp"
)

// Options says which part of a cluster's services this node serves, and how. The
// names are those of kube-proxy's flags.
type Options struct {
	// NodeName is the name of this node's Node object.
	NodeName string
	// ProxyName is the value of the label service.kubernetes.io/service-proxy-name
	// of the Services that are served. If it is empty, those without the label are.
	// With a name another proxy serves the others: unused addresses and ports of
	// ServiceCIDRs are then left to that, for which they may be in use.
	ProxyName string
	// NodePortAddresses are the node's addresses that take connections to node
	// ports: "primary" for the addresses of the Node object, "localhost" for
	// 127.0.0.1 and ::1 besides, "all" for every address of the node, or prefixes.
	// Empty means "primary".
	NodePortAddresses []string
	// DetectLocal says which clients are pods, for which nothing is masqueraded.
	DetectLocal DetectLocal
	// ClusterCIDRs are the prefixes of all pods, for DetectLocalClusterCIDR. The other
	// ways ignore them, as kube-proxy does.
	ClusterCIDRs []netip.Prefix
	// PodBridgeInterface is the bridge of the node's pods ("cni0"), for
	// DetectLocalBridgeInterface.
	PodBridgeInterface string
	// PodInterfaceNamePrefix is how the names of the node's interfaces to pods begin
	// ("veth"), for DetectLocalInterfaceNamePrefix.
	PodInterfaceNamePrefix string
	// MasqueradeAll masquerades all connections to ClusterIPs, those of pods too.
	MasqueradeAll bool
}

// DetectLocal is how pods are told from other clients.
type DetectLocal string

// The ways to tell.
const (
	// DetectLocalNone does not: nobody is masqueraded towards a ClusterIP, and no
	// pod is exempt from a policy.
	DetectLocalNone DetectLocal = ""
	// DetectLocalClusterCIDR looks for the client in Options.ClusterCIDRs.
	DetectLocalClusterCIDR DetectLocal = "ClusterCIDR"
	// DetectLocalNodeCIDR looks for the client in the Node's podCIDRs, which may come
	// while the proxy runs.
	DetectLocalNodeCIDR DetectLocal = "NodeCIDR"
	// DetectLocalBridgeInterface asks whether the packet comes from the bridge
	// Options.PodBridgeInterface. The node itself is no pod.
	DetectLocalBridgeInterface DetectLocal = "BridgeInterface"
	// DetectLocalInterfaceNamePrefix asks whether the packet comes from an interface
	// whose name begins with Options.PodInterfaceNamePrefix. The node itself is no pod.
	DetectLocalInterfaceNamePrefix DetectLocal = "InterfaceNamePrefix"
)

// Words of Options.NodePortAddresses.
const (
	nodePortsPrimary   = "primary"
	nodePortsLocalhost = "localhost"
	nodePortsAll       = "all"
)

// Config returns the configuration of the node's Dataplane. The node may be nil while it
// is not known. Of a ServiceCIDR those prefixes count that can be parsed.
func (o Options) Config(node *v1.Node, cidrs []*networkingv1.ServiceCIDR) nftdp.Config {
	var c nftdp.Config
	ports := o.nodePorts(node)
	c.NodeAddrs, c.Localhost = ports.addrs(), ports.localhost
	c.Internal, c.InternalInterfaces = o.pods(node), o.podInterfaces()
	if o.ownsNetworks() {
		c.ServiceCIDRs = prefixesOf(cidrs)
	}
	if len(c.ServiceCIDRs) > 0 {
		c.Unallocated = nftdp.ActionDrop
	}
	return c
}

// nodePorts is what Options.NodePortAddresses means on a node.
type nodePorts struct {
	all, localhost bool
	prefixes       []netip.Prefix // the others, in their order
}

func (o Options) nodePorts(node *v1.Node) (n nodePorts) {
	words := o.NodePortAddresses
	if len(words) == 0 {
		words = []string{nodePortsPrimary}
	}
	for _, w := range words {
		switch w {
		case nodePortsAll:
			n.all = true
		case nodePortsLocalhost:
			n.localhost = true
		case nodePortsPrimary:
			for _, a := range primaryAddrs(node) {
				n.prefixes = append(n.prefixes, netip.PrefixFrom(a, a.BitLen()))
			}
		default:
			if p, ok := parsePrefix(w); ok {
				n.prefixes = append(n.prefixes, p)
			}
		}
	}
	return n
}

// addrs returns the prefixes of the node's addresses that take node ports; nil stands
// for all of its addresses.
func (n nodePorts) addrs() []netip.Prefix {
	if n.all {
		return nil
	}
	out := slices.DeleteFunc(n.prefixes, func(p netip.Prefix) bool { return !takesNodePorts(p) })
	if len(out) == 0 { // no address, which no prefixes at all would not mean
		return nobody(netip.IPv4Unspecified())
	}
	return out
}

// ownsNetworks reports whether nobody else serves addresses of the ServiceCIDRs.
func (o Options) ownsNetworks() bool { return o.ProxyName == "" }

func prefixesOf(cidrs []*networkingv1.ServiceCIDR) (out []netip.Prefix) {
	for _, cidr := range cidrs {
		if cidr.DeletionTimestamp != nil {
			continue
		}
		for _, text := range cidr.Spec.CIDRs {
			if p, ok := parsePrefix(text); ok && !slices.Contains(out, p) {
				out = append(out, p)
			}
		}
	}
	slices.SortFunc(out, comparePrefixes)
	return out
}

// pods returns the prefixes of those clients that count as pods.
func (o Options) pods(node *v1.Node) []netip.Prefix {
	switch {
	case o.DetectLocal == DetectLocalClusterCIDR:
		return o.ClusterCIDRs
	case o.DetectLocal == DetectLocalNodeCIDR && node != nil:
		var out []netip.Prefix
		for _, text := range node.Spec.PodCIDRs {
			if p, ok := parsePrefix(text); ok {
				out = append(out, p)
			}
		}
		return out
	}
	return nil
}

// podInterfaces returns those interfaces whose clients count as pods.
func (o Options) podInterfaces() []string {
	switch o.DetectLocal {
	case DetectLocalBridgeInterface:
		return []string{o.PodBridgeInterface}
	case DetectLocalInterfaceNamePrefix:
		return []string{o.PodInterfaceNamePrefix + "*"}
	case DetectLocalNone, DetectLocalClusterCIDR, DetectLocalNodeCIDR:
	}
	return nil
}

// primaryAddrs returns the node's first address of each family, an internal one
// where there is one, and none that cannot take connections to node ports.
func primaryAddrs(node *v1.Node) (out []netip.Addr) {
	if node == nil {
		return nil
	}
	for _, is4 := range []bool{true, false} {
	types:
		for _, typ := range []v1.NodeAddressType{v1.NodeInternalIP, v1.NodeExternalIP} {
			for _, a := range node.Status.Addresses {
				if addr, ok := parseAddr(a.Address); ok && a.Type == typ && addr.Is4() == is4 && takesNodePorts(netip.PrefixFrom(addr, addr.BitLen())) {
					out = append(out, addr)
					break types
				}
			}
		}
	}
	return out
}

func comparePrefixes(a, b netip.Prefix) int {
	if c := a.Addr().Compare(b.Addr()); c != 0 {
		return c
	}
	return a.Bits() - b.Bits()
}
