//go:build linux

package lab

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"

	"github.com/nftdp/go-nftdp/internal/nstest"
)

// Pair is two gateways between clients and backends, with an Ethernet segment on
// either side, in both families:
//
//	client ── outside ──┬── gateway-1 ──┬── inside ──┬── backend-1
//	                    └── gateway-2 ──┘            └── backend-2 …
//
// Clients connect to an address outside, and backends have their default route
// through one inside. Both belong to the gateways together: Move moves them.
type Pair struct {
	Client   *nstest.Namespace
	Gateways [2]*nstest.Namespace
	Backends []*nstest.Namespace
	segments *nstest.Namespace // its bridges are the segments
	ports    int
}

// Side is an Ethernet segment, by the name that links to it have.
type Side string

// The sides of the gateways.
const (
	Outside Side = "outside"
	Inside  Side = "inside"
)

// Virtual is the address of a family that the gateways have together on a side.
func (s Side) Virtual(a nstest.Addrs) netip.Addr {
	if s == Outside {
		return a.Uplink
	}
	return a.PodGW
}

// NewPair builds a network beside that of the lab. The first gateway has all
// addresses.
func (l *Lab) NewPair(backends int) (*Pair, error) {
	p := &Pair{Backends: make([]*nstest.Namespace, backends)}
	l.AtEnd(p.close)
	all := map[string]**nstest.Namespace{
		"segments": &p.segments, "client": &p.Client, "gateway-1": &p.Gateways[0], "gateway-2": &p.Gateways[1],
	}
	for i := range p.Backends {
		all[fmt.Sprintf("backend-%d", i+1)] = &p.Backends[i]
	}
	for name, ns := range all {
		var err error
		if *ns, err = nstest.New(name); err != nil {
			return nil, err
		}
	}
	if err := p.connect(); err != nil {
		return nil, err
	}
	return p, p.waitUp()
}

// connect makes the segments, and connects everybody. Each gateway also has an address
// of its own on either side.
func (p *Pair) connect() error {
	for _, side := range []Side{Outside, Inside} {
		attrs := netlink.NewLinkAttrs()
		attrs.Name = string(side)
		bridge := &netlink.Bridge{LinkAttrs: attrs}
		if err := errors.Join(p.segments.Links().LinkAdd(bridge), p.segments.Links().LinkSetUp(bridge)); err != nil {
			return err
		}
	}
	err := p.attach(p.Client, Outside, func(a nstest.Addrs) netip.Addr { return a.Client })
	for i, pod := range p.Backends {
		err = errors.Join(err, p.attach(pod, Inside, func(a nstest.Addrs) netip.Addr { return a.Backend(i) }))
		for _, a := range nstest.Families() {
			err = errors.Join(err, pod.AddRoute(string(Inside), a.Any(), Inside.Virtual(a), netip.Addr{}))
		}
	}
	own := [2]func(nstest.Addrs) netip.Addr{
		func(a nstest.Addrs) netip.Addr { return a.Uplink.Next() },
		func(a nstest.Addrs) netip.Addr { return a.Uplink.Next().Next() },
	}
	for i, gateway := range p.Gateways {
		err = errors.Join(err,
			p.attach(gateway, Outside, own[i]),
			p.attach(gateway, Inside, func(a nstest.Addrs) netip.Addr { return a.Remote(i) }))
	}
	first := p.Gateways[0]
	return errors.Join(err, take(first, Outside), take(first, Inside))
}

// attach connects a namespace to a segment, with an address in its network.
func (p *Pair) attach(ns *nstest.Namespace, side Side, addr func(nstest.Addrs) netip.Addr) error {
	p.ports++
	port := fmt.Sprint("port", p.ports)
	if err := nstest.Connect(ns, string(side), p.segments, port); err != nil {
		return err
	}
	links := p.segments.Links()
	link, err := links.LinkByName(port)
	if err != nil {
		return err
	}
	bridge, err := links.LinkByName(string(side))
	if err != nil {
		return err
	}
	if err := links.LinkSetMaster(link, bridge); err != nil {
		return err
	}
	for _, a := range nstest.Families() {
		net := a.ClientNet
		if side == Inside {
			net = a.PodNet
		}
		err = errors.Join(err, ns.AddAddr(string(side), netip.PrefixFrom(addr(a), net.Bits())))
	}
	return err
}

// Move moves the address of a side, in both families, from the first gateway to the
// second one, as VRRP does: the new one adds it and says so to its neighbours, and
// the old one has it no more.
func (p *Pair) Move(side Side) error {
	err := take(p.Gateways[1], side)
	for _, a := range nstest.Families() {
		err = errors.Join(err, p.Gateways[0].DelAddr(string(side), single(side.Virtual(a))))
	}
	return err
}

// Crash ends the first gateway, and the second one takes all addresses.
func (p *Pair) Crash() error {
	return errors.Join(p.Unplug(), take(p.Gateways[1], Outside), take(p.Gateways[1], Inside))
}

// AddClients adds some addresses to the client and returns all that it has in
// the family.
func (p *Pair) AddClients(a nstest.Addrs, n int) ([]netip.Addr, error) {
	return addClients(p.Client, string(Outside), a, n)
}

// take gives the address of a side to a gateway.
func take(gateway *nstest.Namespace, side Side) error {
	for _, a := range nstest.Families() {
		addr := side.Virtual(a)
		if err := errors.Join(gateway.AddAddr(string(side), single(addr)), announce(gateway, string(side), addr)); err != nil {
			return err
		}
	}
	return nil
}

// Unplug ends the first gateway: no packet leaves it any more.
func (p *Pair) Unplug() error {
	links := p.Gateways[0].Links()
	for _, side := range []Side{Outside, Inside} {
		link, err := links.LinkByName(string(side))
		if err != nil {
			return err
		}
		if err := links.LinkSetDown(link); err != nil {
			return err
		}
	}
	return nil
}

func (p *Pair) namespaces() []*nstest.Namespace {
	all := append([]*nstest.Namespace{p.segments, p.Client}, append(p.Gateways[:], p.Backends...)...)
	return slices.DeleteFunc(all, func(n *nstest.Namespace) bool { return n == nil })
}

func (p *Pair) waitUp() error {
	for _, n := range p.namespaces() {
		if err := n.WaitUp(); err != nil {
			return err
		}
	}
	return nil
}

func (p *Pair) close() error {
	var errs []error
	for _, n := range p.namespaces() {
		errs = append(errs, n.Close())
	}
	return errors.Join(errs...)
}

func single(a netip.Addr) netip.Prefix { return netip.PrefixFrom(a, a.BitLen()) }
