//go:build linux

package cluster

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"

	"github.com/nftdp/go-nftdp/internal/nstest"
)

// Addrs are the addresses of a network in one family.
type Addrs struct {
	Client    netip.Addr   // of the client outside
	Gateway   netip.Addr   // of the balancer, on all its links
	NodeNet   netip.Prefix // holds the nodes
	PodNet    netip.Prefix // holds all pods
	PodBits   int          // of a node's part of PodNet
	Services  netip.Prefix // of ClusterIPs
	Externals netip.Prefix // of load balancers and external addresses
}

// V4 and V6 are the addresses of every network.
var (
	V4 = Addrs{
		Client:    netip.MustParseAddr("203.0.113.122"),
		Gateway:   netip.MustParseAddr("192.168.0.1"),
		NodeNet:   netip.MustParsePrefix("192.168.0.0/24"),
		PodNet:    netip.MustParsePrefix("10.180.0.0/16"),
		PodBits:   24,
		Services:  netip.MustParsePrefix("10.96.0.0/16"),
		Externals: netip.MustParsePrefix("198.18.0.0/16"),
	}
	V6 = Addrs{
		Client:    netip.MustParseAddr("fd00:203:0:113::122"),
		Gateway:   netip.MustParseAddr("fd00:192:168::1"),
		NodeNet:   netip.MustParsePrefix("fd00:192:168::/64"),
		PodNet:    netip.MustParsePrefix("fd00:10:180::/48"),
		PodBits:   64,
		Services:  netip.MustParsePrefix("fd00:10:96::/108"),
		Externals: netip.MustParsePrefix("fd00:198:18::/112"),
	}
	// NewServices are prefixes of ClusterIPs that a test can add. They are routed as
	// the others are.
	NewServices = netip.MustParsePrefix("10.97.0.0/16")
)

// Families are the addresses in both families.
func Families() []Addrs { return []Addrs{V4, V6} }

// Node is the address of a node, counted from 0.
func (a Addrs) Node(i int) netip.Addr { return nth(a.NodeNet.Addr(), 10+i) }

// PodCIDR is the prefix of a node's pods.
func (a Addrs) PodCIDR(node int) netip.Prefix {
	b := a.PodNet.Addr().AsSlice()
	b[a.PodBits/8-1] = byte(node + 1)
	addr, _ := netip.AddrFromSlice(b)
	return netip.PrefixFrom(addr, a.PodBits)
}

// Pod is the address of a pod, counted from 0 on each node.
func (a Addrs) Pod(node, i int) netip.Addr { return nth(a.PodCIDR(node).Addr(), 10+i) }

// PodGateway is the address of a node on the links to its pods.
func (a Addrs) PodGateway(node int) netip.Addr { return nth(a.PodCIDR(node).Addr(), 1) }

func (a Addrs) any() netip.Prefix {
	if a.Client.Is4() {
		return netip.PrefixFrom(netip.IPv4Unspecified(), 0)
	}
	return netip.PrefixFrom(netip.IPv6Unspecified(), 0)
}

// Network is a client, nodes with pods, and between them a balancer, which routes:
//
//	Client ── Balancer ──┬── Nodes[0] ──┬── Pods[0]
//	                     │              └── Pods[1] …
//	                     └── Nodes[1] …
//
// It sends packets to external addresses to any node (see Balance), chosen by a hash of
// addresses and ports, without asking which nodes work; what the client sends to
// ClusterIPs goes to the first.
type Network struct {
	Client   *nstest.Namespace
	Balancer *nstest.Namespace
	Nodes    []*Node
}

// Node is a namespace in which an agent can run.
type Node struct {
	*nstest.Namespace
	Index int
	Pods  []*Pod

	kubeconfig string
	dir        string
	bin        Binaries
}

// Pod is a namespace with a server on Port in TCP, UDP and SCTP, which answers its name and
// the client's address.
type Pod struct {
	*nstest.Namespace
	server *nstest.Server
}

// Port is where pods answer.
const Port = 8080

// NewNetwork builds a network with some pods on each node, and connects the nodes with
// the control plane.
func (c *Control) NewNetwork(podsOnNodes ...int) (*Network, error) {
	n := &Network{}
	if err := n.build(c, podsOnNodes); err != nil {
		return nil, errors.Join(fmt.Errorf("network: %w", err), n.Close())
	}
	return n, nil
}

func (n *Network) build(c *Control, podsOnNodes []int) (err error) {
	if n.Client, err = nstest.New("client"); err != nil {
		return err
	}
	if n.Balancer, err = nstest.New("balancer"); err != nil {
		return err
	}
	err = errors.Join(forward(n.Balancer),
		n.Balancer.Sysctl("net/ipv4/fib_multipath_hash_policy", "1"),
		n.Balancer.Sysctl("net/ipv6/fib_multipath_hash_policy", "1"),
		attach(n.Client, n.Balancer, "client", func(a Addrs) (netip.Addr, netip.Addr) { return a.Client, a.Gateway }))
	for i, pods := range podsOnNodes {
		err = errors.Join(err, n.addNode(c, i, pods))
	}
	if err != nil {
		return err
	}
	return errors.Join(n.Balance(n.Nodes...), n.waitUp())
}

func (n *Network) addNode(c *Control, i, pods int) error {
	ns, err := nstest.New(fmt.Sprintf("node-%c", 'a'+i))
	if err != nil {
		return err
	}
	node := &Node{Namespace: ns, Index: i, kubeconfig: c.kubeconfig(), dir: c.dir, bin: c.bin}
	n.Nodes = append(n.Nodes, node)
	link := ns.Name
	err = errors.Join(forward(ns),
		attach(ns, n.Balancer, link, func(a Addrs) (netip.Addr, netip.Addr) { return a.Node(i), a.Gateway }))
	for _, a := range Families() {
		err = errors.Join(err, n.Balancer.AddRoute(link, a.PodCIDR(i), a.Node(i), netip.Addr{}))
	}
	if i == 0 && err == nil {
		err = errors.Join(n.RouteServices(V4.Client), n.RouteServices(V6.Client))
	}
	if err != nil {
		return err
	}
	for range pods {
		if _, err := node.AddPod(); err != nil {
			return err
		}
	}
	return c.connect(ns)
}

// RouteServices routes what comes from an address of the client to ClusterIPs to the first
// node. What comes from a node without a proxy leads nowhere.
func (n *Network) RouteServices(client netip.Addr) error {
	links := n.Balancer.Links()
	to, err := links.LinkByName(n.Nodes[0].Name)
	if err != nil {
		return err
	}
	table, family, prefixes := 100, V6, []netip.Prefix{V6.Services}
	if client.Is4() {
		family, prefixes = V4, []netip.Prefix{V4.Services, NewServices}
	}
	rule := netlink.NewRule()
	rule.Src, rule.Table = ipNet(single(client)), table
	if err = links.RuleAdd(rule); err != nil {
		return fmt.Errorf("rule: %w", err)
	}
	for _, p := range prefixes {
		err = errors.Join(err, links.RouteReplace(&netlink.Route{
			LinkIndex: to.Attrs().Index, Dst: ipNet(p), Gw: family.Node(0).AsSlice(), Flags: int(netlink.FLAG_ONLINK), Table: table,
		}))
	}
	return err
}

// Bridge connects the node's pods by a bridge, instead of by a link each. Its ports send
// back what came by them, as the bridge plug-in of CNI sets it (hairpinMode): with the
// kernel's br_netfilter, a pod that meets itself needs it.
func (n *Node) Bridge(name string) error {
	links := n.Links()
	bridge := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: name}}
	if err := errors.Join(links.LinkAdd(bridge), links.LinkSetUp(bridge)); err != nil {
		return fmt.Errorf("bridge %s: %w", name, err)
	}
	for _, a := range Families() {
		if err := n.AddAddr(name, single(a.PodGateway(n.Index))); err != nil {
			return err
		}
	}
	for i := range n.Pods {
		link, err := links.LinkByName(fmt.Sprintf("pod%d", i))
		if err != nil {
			return err
		}
		err = errors.Join(links.LinkSetMaster(link, bridge), links.LinkSetHairpin(link, true))
		for _, a := range Families() {
			err = errors.Join(err, links.RouteReplace(&netlink.Route{
				LinkIndex: bridge.Index, Dst: ipNet(single(a.Pod(n.Index, i))), Scope: netlink.SCOPE_LINK, Src: a.PodGateway(n.Index).AsSlice(),
			}))
		}
		if err != nil {
			return fmt.Errorf("pod %d on bridge %s: %w", i, name, err)
		}
	}
	return n.WaitUp()
}

// AddPod adds a pod, which is ready when it returns.
func (n *Node) AddPod() (*Pod, error) {
	i := len(n.Pods)
	ns, err := nstest.New(fmt.Sprintf("pod-%c%d", 'a'+n.Index, i))
	if err != nil {
		return nil, err
	}
	p := &Pod{Namespace: ns}
	n.Pods = append(n.Pods, p)
	err = attach(ns, n.Namespace, fmt.Sprintf("pod%d", i),
		func(a Addrs) (netip.Addr, netip.Addr) { return a.Pod(n.Index, i), a.PodGateway(n.Index) })
	if err != nil {
		return nil, err
	}
	if err := errors.Join(ns.WaitUp(), n.WaitUp()); err != nil {
		return nil, err
	}
	p.server, err = nstest.Serve(ns, ns.Name, Port, "tcp", "udp", "sctp")
	return p, err
}

// StopServer ends the pod's server and its connections: nothing listens any more.
func (p *Pod) StopServer() error {
	s := p.server
	p.server = nil
	if s == nil {
		return nil
	}
	return s.Close()
}

// Balance routes the external addresses to nodes, all alike.
func (n *Network) Balance(nodes ...*Node) error {
	links := n.Balancer.Links()
	for _, a := range Families() {
		route := &netlink.Route{Dst: ipNet(a.Externals)}
		for _, node := range nodes {
			link, err := links.LinkByName(node.Name)
			if err != nil {
				return err
			}
			route.MultiPath = append(route.MultiPath, &netlink.NexthopInfo{
				LinkIndex: link.Attrs().Index, Gw: a.Node(node.Index).AsSlice(), Flags: int(netlink.FLAG_ONLINK),
			})
		}
		if err := links.RouteReplace(route); err != nil {
			return fmt.Errorf("balance %v: %w", a.Externals, err)
		}
	}
	return nil
}

func (n *Network) waitUp() error {
	err := errors.Join(n.Client.WaitUp(), n.Balancer.WaitUp())
	for _, node := range n.Nodes {
		err = errors.Join(err, node.WaitUp())
	}
	return err
}

// Close ends the network. Stop the processes in it before.
func (n *Network) Close() error {
	var errs []error
	for _, node := range n.Nodes {
		for _, pod := range node.Pods {
			errs = append(errs, pod.StopServer(), pod.Close())
		}
		errs = append(errs, node.Close())
	}
	for _, ns := range []*nstest.Namespace{n.Client, n.Balancer} {
		if ns != nil {
			errs = append(errs, ns.Close())
		}
	}
	return errors.Join(errs...)
}
