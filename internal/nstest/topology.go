//go:build linux

package nstest

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
)

// Topology is a client outside, a node and backends ("pods") behind it, each
// in a namespace of its own, in both families:
//
//	Client ── Node ──┬── Backends[0]
//	                 ├── Backends[1] …
//	                 └── Router ─── Remotes[0] … (AddRemotes)
//
// The node forwards. Its default route leads to the client, which drops what
// is not for it, and so stands for the rest of the world.
type Topology struct {
	Client   *Namespace
	Node     *Namespace
	Backends []*Namespace // named backend-1, backend-2 …
	Router   *Namespace   // another node, nil without Remotes
	Remotes  []*Namespace // its pods, named remote-1, remote-2 …
}

// Addrs are the addresses of a topology in one family.
type Addrs struct {
	Family    string       // "v4" or "v6"
	Client    netip.Addr   // of the client
	Client2   netip.Addr   // nobody's: another address in ClientNet
	ClientNet netip.Prefix // the network between client and node
	Uplink    netip.Addr   // of the node in ClientNet
	Node      netip.Addr   // of the node; clients reach it through Uplink
	PodGW     netip.Addr   // of the node on its links to the backends
	PodNet    netip.Prefix // holds all backends, and RemoteNet
	Router    netip.Addr   // of the other node
	RemoteNet netip.Prefix // holds the other node's pods
	ClusterIP netip.Addr   // nobody's: routed to the node
	External  netip.Addr   // nobody's: routed to the node
}

// Families returns the topology's addresses in both families.
func Families() []Addrs { return []Addrs{IPv4(), IPv6()} }

// IPv4 returns the topology's IPv4 addresses.
func IPv4() Addrs {
	return Addrs{
		Family:    "v4",
		Client:    netip.MustParseAddr("203.0.113.122"),
		Client2:   netip.MustParseAddr("203.0.113.200"),
		ClientNet: netip.MustParsePrefix("203.0.113.0/24"),
		Uplink:    netip.MustParseAddr("203.0.113.1"),
		Node:      netip.MustParseAddr("192.168.0.2"),
		PodGW:     netip.MustParseAddr("10.0.0.1"),
		PodNet:    netip.MustParsePrefix("10.180.0.0/16"),
		Router:    netip.MustParseAddr("192.168.0.3"),
		RemoteNet: netip.MustParsePrefix("10.180.2.0/24"),
		ClusterIP: netip.MustParseAddr("10.96.0.10"),
		External:  netip.MustParseAddr("1.2.3.4"),
	}
}

// IPv6 returns the topology's IPv6 addresses.
func IPv6() Addrs {
	return Addrs{
		Family:    "v6",
		Client:    netip.MustParseAddr("fd00:203:0:113::122"),
		Client2:   netip.MustParseAddr("fd00:203:0:113:8000::200"),
		ClientNet: netip.MustParsePrefix("fd00:203:0:113::/64"),
		Uplink:    netip.MustParseAddr("fd00:203:0:113::1"),
		Node:      netip.MustParseAddr("fd00:192:168::2"),
		PodGW:     netip.MustParseAddr("fd00:10::1"),
		PodNet:    netip.MustParsePrefix("fd00:10:180::/64"),
		Router:    netip.MustParseAddr("fd00:192:168::3"),
		RemoteNet: netip.MustParsePrefix("fd00:10:180::2:0/112"),
		ClusterIP: netip.MustParseAddr("fd00:10:96::10"),
		External:  netip.MustParseAddr("fd00:1:2:3::4"),
	}
}

// Backend returns the address of Topology.Backends[i].
func (a Addrs) Backend(i int) netip.Addr { return nth(a.PodNet, i+1) }

// Remote returns the address of Topology.Remotes[i].
func (a Addrs) Remote(i int) netip.Addr { return nth(a.RemoteNet, i+1) }

// nth returns an address of a network, counted from its first, which is 0.
func nth(net netip.Prefix, n int) netip.Addr {
	addr := net.Addr()
	for range n {
		addr = addr.Next()
	}
	return addr
}

// IsNode reports whether the node holds the address.
func (a Addrs) IsNode(addr netip.Addr) bool {
	return addr == a.Node || addr == a.Uplink || addr == a.PodGW
}

// Any returns the prefix of all addresses of the family.
func (a Addrs) Any() netip.Prefix {
	if a.Client.Is4() {
		return netip.PrefixFrom(netip.IPv4Unspecified(), 0)
	}
	return netip.PrefixFrom(netip.IPv6Unspecified(), 0)
}

// Names of the links.
const (
	ClientLink = "eth0"   // the client's only one
	podLink    = "eth0"   // a backend's only one
	uplinkName = "uplink" // the node's to the client
	RouterLink = "router" // the node's to the router
)

// PodLink returns the name of the node's link to Topology.Backends[i].
func PodLink(i int) string { return fmt.Sprintf("pod%d", i+1) }

// NewTopology builds a topology and returns when its links are usable.
func NewTopology(backends int) (*Topology, error) {
	t := &Topology{}
	if err := t.build(backends); err != nil {
		return nil, errors.Join(fmt.Errorf("topology: %w", err), t.Close())
	}
	return t, nil
}

// Close closes all namespaces. Close the servers in them before.
func (t *Topology) Close() error {
	var errs []error
	for _, n := range t.namespaces() {
		errs = append(errs, n.Close())
	}
	return errors.Join(errs...)
}

func (t *Topology) namespaces() []*Namespace {
	var all []*Namespace
	for _, n := range slices.Concat([]*Namespace{t.Client, t.Node, t.Router}, t.Backends, t.Remotes) {
		if n != nil {
			all = append(all, n)
		}
	}
	return all
}

func (t *Topology) build(backends int) (err error) {
	if t.Client, err = New("client"); err != nil {
		return err
	}
	if t.Node, err = New("node"); err != nil {
		return err
	}
	if err := t.Node.forward(); err != nil {
		return err
	}
	if err := t.linkClient(); err != nil {
		return err
	}
	for i := range backends {
		if err := t.addBackend(i); err != nil {
			return err
		}
	}
	return t.waitUp()
}

func (t *Topology) waitUp() error {
	for _, n := range t.namespaces() {
		if err := n.WaitUp(); err != nil {
			return err
		}
	}
	return nil
}

func (n *Namespace) forward() error {
	return errors.Join(
		n.Sysctl("net/ipv4/ip_forward", "1"),
		n.Sysctl("net/ipv6/conf/all/forwarding", "1"))
}

func (t *Topology) linkClient() error {
	if err := Connect(t.Client, ClientLink, t.Node, uplinkName); err != nil {
		return err
	}
	for _, a := range Families() {
		err := errors.Join(
			t.Client.AddAddr(ClientLink, within(a.Client, a.ClientNet)),
			t.Node.AddAddr(uplinkName, within(a.Uplink, a.ClientNet)),
			t.Node.AddAddr(uplinkName, single(a.Node)),
			t.Client.AddRoute(ClientLink, a.Any(), a.Uplink, netip.Addr{}),
			t.Node.AddRoute(uplinkName, a.Any(), a.Client, a.Uplink))
		if err != nil {
			return err
		}
	}
	return nil
}

// addBackend adds a pod of the node.
func (t *Topology) addBackend(i int) error {
	pod, err := New(fmt.Sprintf("backend-%d", i+1))
	if err != nil {
		return err
	}
	t.Backends = append(t.Backends, pod)
	return attach(pod, t.Node, PodLink(i), func(a Addrs) (netip.Addr, netip.Addr) { return a.Backend(i), a.PodGW })
}

// AddRemotes adds another node, if there is none yet, and pods on it. All their
// packets pass through the node of the topology, so that replies do, too.
func (t *Topology) AddRemotes(n int) error {
	if err := t.addRouter(); err != nil {
		return fmt.Errorf("router: %w", err)
	}
	for range n {
		i := len(t.Remotes)
		pod, err := New(fmt.Sprintf("remote-%d", i+1))
		if err != nil {
			return err
		}
		t.Remotes = append(t.Remotes, pod)
		err = attach(pod, t.Router, PodLink(i), func(a Addrs) (netip.Addr, netip.Addr) { return a.Remote(i), a.Router })
		if err != nil {
			return err
		}
	}
	return t.waitUp()
}

func (t *Topology) addRouter() (err error) {
	if t.Router != nil {
		return nil
	}
	if t.Router, err = New("router"); err != nil {
		return err
	}
	err = errors.Join(
		t.Router.forward(),
		attach(t.Router, t.Node, RouterLink, func(a Addrs) (netip.Addr, netip.Addr) { return a.Router, a.PodGW }))
	for _, a := range Families() {
		err = errors.Join(err, t.Node.AddRoute(RouterLink, a.RemoteNet, a.Router, a.PodGW))
	}
	return err
}

// attach connects a pod to a router as the ptp plug-in of CNI does: an address
// without a network on each end, so that every packet passes through the
// router. Addrs returns the pod's address and the router's.
func attach(pod, router *Namespace, inRouter string, addrs func(Addrs) (addr, gateway netip.Addr)) error {
	if err := Connect(pod, podLink, router, inRouter); err != nil {
		return err
	}
	for _, a := range Families() {
		addr, gateway := addrs(a)
		err := errors.Join(
			pod.AddAddr(podLink, single(addr)),
			router.AddAddr(inRouter, single(gateway)),
			pod.AddRoute(podLink, a.Any(), gateway, netip.Addr{}),
			router.AddRoute(inRouter, single(addr), netip.Addr{}, gateway))
		if err != nil {
			return err
		}
	}
	return nil
}

func single(a netip.Addr) netip.Prefix { return netip.PrefixFrom(a, a.BitLen()) }

func within(a netip.Addr, net netip.Prefix) netip.Prefix { return netip.PrefixFrom(a, net.Bits()) }
