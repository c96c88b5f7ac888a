//go:build linux

package nstest

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// linkTimeout bounds the wait for a link. A link is ready within milliseconds;
// a machine under load may take a hundred times as long.
const linkTimeout = 10 * time.Second

// Connect makes a veth pair: aName in namespace a, bName in namespace b, both
// set up. Wait with WaitUp before sending.
func Connect(a *Namespace, aName string, b *Namespace, bName string) error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name = aName
	veth := &netlink.Veth{LinkAttrs: attrs, PeerName: bName, PeerNamespace: netlink.NsFd(int(b.handle))}
	if err := a.links.LinkAdd(veth); err != nil {
		return fmt.Errorf("veth %s/%s to %s/%s: %w", a.Name, aName, b.Name, bName, err)
	}
	return errors.Join(a.setUp(aName), b.setUp(bName))
}

func (n *Namespace) setUp(link string) error {
	return n.withLink(link, n.links.LinkSetUp)
}

func (n *Namespace) withLink(name string, fn func(netlink.Link) error) error {
	link, err := n.links.LinkByName(name)
	if err == nil {
		err = fn(link)
	}
	if err != nil {
		return fmt.Errorf("%s: link %s: %w", n.Name, name, err)
	}
	return nil
}

// AddAddr adds an address to a link, without duplicate address detection. If the link is
// up, the address is the node's own when it returns.
func (n *Namespace) AddAddr(link string, addr netip.Prefix) error {
	a := &netlink.Addr{IPNet: ipNet(addr)}
	if addr.Addr().Is6() {
		a.Flags = unix.IFA_F_NODAD
	}
	return n.withLink(link, func(l netlink.Link) error {
		err := n.links.AddrAdd(l, a)
		if err == nil && addr.Addr().Is6() && l.Attrs().Flags&net.FlagUp != 0 {
			err = n.waitLocal(addr.Addr())
		}
		return err
	})
}

// waitLocal waits until an IPv6 address has its local route, which a worker of the kernel
// adds (addrconf_dad_work).
func (n *Namespace) waitLocal(a netip.Addr) error {
	local := &netlink.Route{Table: unix.RT_TABLE_LOCAL, Dst: ipNet(netip.PrefixFrom(a, a.BitLen()))}
	return poll(func() (string, error) {
		routes, err := n.links.RouteListFiltered(netlink.FAMILY_V6, local, netlink.RT_FILTER_TABLE|netlink.RT_FILTER_DST)
		if errors.Is(err, netlink.ErrDumpInterrupted) || err == nil && len(routes) == 0 {
			return fmt.Sprintf("address %v has no local route", a), nil
		}
		return "", err
	})
}

// DelAddr removes an address from a link.
func (n *Namespace) DelAddr(link string, addr netip.Prefix) error {
	return n.withLink(link, func(l netlink.Link) error {
		return n.links.AddrDel(l, &netlink.Addr{IPNet: ipNet(addr)})
	})
}

// AddLocal makes all addresses of a prefix the node's own, as
// "ip route add local PREFIX dev lo" does. DelLocal ends that.
func (n *Namespace) AddLocal(dst netip.Prefix) error {
	return n.withLink("lo", func(l netlink.Link) error { return n.links.RouteAdd(localRoute(l, dst)) })
}

// DelLocal is the opposite of AddLocal.
func (n *Namespace) DelLocal(dst netip.Prefix) error {
	return n.withLink("lo", func(l netlink.Link) error { return n.links.RouteDel(localRoute(l, dst)) })
}

func localRoute(l netlink.Link, dst netip.Prefix) *netlink.Route {
	return &netlink.Route{
		LinkIndex: l.Attrs().Index, Dst: ipNet(dst), Type: unix.RTN_LOCAL, Table: unix.RT_TABLE_LOCAL, Scope: netlink.SCOPE_HOST,
	}
}

// AddRoute routes a prefix through a link: directly if via is unset, else by
// the gateway via, which needs no route of its own. Source is the address that
// local processes use; it may be unset.
func (n *Namespace) AddRoute(link string, dst netip.Prefix, via, source netip.Addr) error {
	return n.withLink(link, func(l netlink.Link) error {
		route := &netlink.Route{LinkIndex: l.Attrs().Index, Dst: ipNet(dst), Src: source.AsSlice()}
		if via.IsValid() {
			route.Gw, route.Flags = via.AsSlice(), int(netlink.FLAG_ONLINK)
		} else {
			route.Scope = netlink.SCOPE_LINK
		}
		return n.links.RouteAdd(route)
	})
}

// SetMTU sets the size of the largest packet on a link.
func (n *Namespace) SetMTU(link string, mtu int) error {
	return n.withLink(link, func(l netlink.Link) error { return n.links.LinkSetMTU(l, mtu) })
}

// WaitUp waits until all links of the namespace are up and all its addresses
// usable. Packets sent earlier are lost, and TCP repeats them only a second
// later.
func (n *Namespace) WaitUp() error {
	if err := poll(n.notReady); err != nil {
		return fmt.Errorf("%s: %w", n.Name, err)
	}
	return nil
}

// poll waits until nothing is named that is not ready.
func poll(notReady func() (string, error)) error {
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(linkTimeout); ; <-tick.C {
		reason, err := notReady()
		switch {
		case err != nil || reason == "":
			return err
		case time.Now().After(deadline):
			return fmt.Errorf("%s after %v", reason, linkTimeout)
		}
	}
}

// notReady names something that is not ready yet, if anything.
func (n *Namespace) notReady() (string, error) {
	links, err := n.links.LinkList()
	if errors.Is(err, netlink.ErrDumpInterrupted) {
		return "links are changing", nil
	} else if err != nil {
		return "", err
	}
	for _, l := range links {
		if a := l.Attrs(); l.Type() == "veth" && a.OperState != netlink.OperUp {
			return fmt.Sprintf("link %s is %s", a.Name, a.OperState), nil
		}
	}
	addrs, err := n.links.AddrList(nil, netlink.FAMILY_V6)
	if errors.Is(err, netlink.ErrDumpInterrupted) {
		return "addresses are changing", nil
	} else if err != nil {
		return "", err
	}
	for _, a := range addrs {
		if a.Flags&unix.IFA_F_TENTATIVE != 0 {
			return fmt.Sprintf("address %s is tentative", a.IP), nil
		}
	}
	return "", nil
}

// addrs returns the addresses of the namespace except link-local ones.
func (n *Namespace) addrs() ([]netip.Addr, error) {
	list, err := n.links.AddrList(nil, netlink.FAMILY_ALL)
	if err != nil {
		return nil, fmt.Errorf("%s: list addresses: %w", n.Name, err)
	}
	var all []netip.Addr
	for _, a := range list {
		addr, ok := netip.AddrFromSlice(a.IP)
		if addr = addr.Unmap(); ok && !addr.IsLinkLocalUnicast() && !slices.Contains(all, addr) {
			all = append(all, addr)
		}
	}
	return all, nil
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}
