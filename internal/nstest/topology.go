//go:build linux

package nstest

import (
	"errors"
	"fmt"
	"net/netip"
)

// Topology is a client outside, a node and backends ("pods") behind it, each
// in a namespace of its own, in both families:
//
//	Client ── Node ──┬── Backends[0]
//	                 ├── Backends[1] …
//
// The node forwards. Its default route leads to the client, which drops what
// is not for it, and so stands for the rest of the world.
type Topology struct {
	Client   *Namespace
	Node     *Namespace
	Backends []*Namespace // named backend-1, backend-2 …
}

// Addrs are the addresses of a topology in one family.
type Addrs struct {
	Family    string       // "v4" or "v6"
	Client    netip.Addr   // of the client
	ClientNet netip.Prefix // the network between client and node
	Uplink    netip.Addr   // of the node in ClientNet
	Node      netip.Addr   // of the node; clients reach it through Uplink
	PodGW     netip.Addr   // of the node on its links to the backends
	PodNet    netip.Prefix // holds all backends
	ClusterIP netip.Addr   // nobody's: routed to the node
	External  netip.Addr   // nobody's: routed to the node
}

// Families gives the topology's addresses in both families.
func Families() []Addrs { return []Addrs{IPv4(), IPv6()} }

// IPv4 gives the topology's IPv4 addresses.
func IPv4() Addrs {
	return Addrs{
		Family:    "v4",
		Client:    netip.MustParseAddr("203.0.113.122"),
		ClientNet: netip.MustParsePrefix("203.0.113.0/24"),
		Uplink:    netip.MustParseAddr("203.0.113.1"),
		Node:      netip.MustParseAddr("192.168.0.2"),
		PodGW:     netip.MustParseAddr("10.0.0.1"),
		PodNet:    netip.MustParsePrefix("10.180.0.0/16"),
		ClusterIP: netip.MustParseAddr("10.96.0.10"),
		External:  netip.MustParseAddr("1.2.3.4"),
	}
}

// IPv6 gives the topology's IPv6 addresses.
func IPv6() Addrs {
	return Addrs{
		Family:    "v6",
		Client:    netip.MustParseAddr("fd00:203:0:113::122"),
		ClientNet: netip.MustParsePrefix("fd00:203:0:113::/64"),
		Uplink:    netip.MustParseAddr("fd00:203:0:113::1"),
		Node:      netip.MustParseAddr("fd00:192:168::2"),
		PodGW:     netip.MustParseAddr("fd00:10::1"),
		PodNet:    netip.MustParsePrefix("fd00:10:180::/64"),
		ClusterIP: netip.MustParseAddr("fd00:10:96::10"),
		External:  netip.MustParseAddr("fd00:1:2:3::4"),
	}
}

// Backend is the address of Topology.Backends[i].
func (a Addrs) Backend(i int) netip.Addr {
	addr := a.PodNet.Addr()
	for range i + 1 {
		addr = addr.Next()
	}
	return addr
}

// IsNode reports whether the node holds the address.
func (a Addrs) IsNode(addr netip.Addr) bool {
	return addr == a.Node || addr == a.Uplink || addr == a.PodGW
}

// Any is the prefix of all addresses of the family.
func (a Addrs) Any() netip.Prefix {
	if a.Client.Is4() {
		return netip.PrefixFrom(netip.IPv4Unspecified(), 0)
	}
	return netip.PrefixFrom(netip.IPv6Unspecified(), 0)
}

// Names of the links.
const (
	clientLink = "eth0"   // the client's only one
	podLink    = "eth0"   // a backend's only one
	uplinkName = "uplink" // the node's to the client
)

// PodLink is the name of the node's link to Topology.Backends[i].
func PodLink(i int) string { return fmt.Sprintf("pod%d", i+1) }

// NewTopology builds a topology and returns when its links are usable.
func NewTopology(backends int) (*Topology, error) {
	t := &Topology{}
	if err := t.build(backends); err != nil {
		return nil, errors.Join(fmt.Errorf("topology: %w", err), t.Close())
	}
	return t, nil
}

// Close gives up all namespaces. Servers in them are to be closed before.
func (t *Topology) Close() error {
	var errs []error
	for _, n := range t.namespaces() {
		errs = append(errs, n.Close())
	}
	return errors.Join(errs...)
}

func (t *Topology) namespaces() []*Namespace {
	var all []*Namespace
	for _, n := range append([]*Namespace{t.Client, t.Node}, t.Backends...) {
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
	if err := t.makeRouter(); err != nil {
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
	for _, n := range t.namespaces() {
		if err := n.WaitUp(); err != nil {
			return err
		}
	}
	return nil
}

func (t *Topology) makeRouter() error {
	return errors.Join(
		t.Node.Sysctl("net/ipv4/ip_forward", "1"),
		t.Node.Sysctl("net/ipv6/conf/all/forwarding", "1"))
}

func (t *Topology) linkClient() error {
	if err := Connect(t.Client, clientLink, t.Node, uplinkName); err != nil {
		return err
	}
	for _, a := range Families() {
		err := firstError(
			t.Client.AddAddr(clientLink, within(a.Client, a.ClientNet)),
			t.Node.AddAddr(uplinkName, within(a.Uplink, a.ClientNet)),
			t.Node.AddAddr(uplinkName, single(a.Node)),
			t.Client.AddRoute(clientLink, a.Any(), a.Uplink, netip.Addr{}),
			t.Node.AddRoute(uplinkName, a.Any(), a.Client, a.Uplink))
		if err != nil {
			return err
		}
	}
	return nil
}

// addBackend adds a pod as the ptp plug-in of CNI does: an address without a
// network on each end, so that every packet passes through the node.
func (t *Topology) addBackend(i int) error {
	pod, err := New(fmt.Sprintf("backend-%d", i+1))
	if err != nil {
		return err
	}
	t.Backends = append(t.Backends, pod)
	inNode := PodLink(i)
	if err := Connect(pod, podLink, t.Node, inNode); err != nil {
		return err
	}
	for _, a := range Families() {
		err := firstError(
			pod.AddAddr(podLink, single(a.Backend(i))),
			t.Node.AddAddr(inNode, single(a.PodGW)),
			pod.AddRoute(podLink, a.Any(), a.PodGW, netip.Addr{}),
			t.Node.AddRoute(inNode, single(a.Backend(i)), netip.Addr{}, a.PodGW))
		if err != nil {
			return err
		}
	}
	return nil
}

func firstError(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

func single(a netip.Addr) netip.Prefix { return netip.PrefixFrom(a, a.BitLen()) }

func within(a netip.Addr, net netip.Prefix) netip.Prefix { return netip.PrefixFrom(a, net.Bits()) }
