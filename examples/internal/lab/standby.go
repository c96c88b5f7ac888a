//go:build linux

package lab

import (
	"errors"
	"net/netip"

	"github.com/nftdp/go-nftdp/internal/nstest"
)

// AddClients adds some addresses to the client and returns all that it has in
// the family.
func (l *Lab) AddClients(a nstest.Addrs, n int) ([]netip.Addr, error) {
	clients := []netip.Addr{a.Client}
	for addr := a.Client2; len(clients) <= n; addr = addr.Next() {
		if err := l.Client.AddAddr(nstest.ClientLink, netip.PrefixFrom(addr, a.ClientNet.Bits())); err != nil {
			return nil, err
		}
		clients = append(clients, addr)
	}
	return clients, nil
}

// standbyLink is the client's and the backends' link to the standby node.
const standbyLink = "standby"

// Addresses of the standby node, towards the client and towards the backends.
var (
	standbyOutside = netip.MustParseAddr("203.0.113.2")
	standbyInside  = netip.MustParseAddr("10.0.0.2")
)

// AddStandby connects one more node to the client and to all backends, by IPv4.
func (l *Lab) AddStandby() (*nstest.Namespace, error) {
	node, err := nstest.New("standby")
	if err != nil {
		return nil, err
	}
	l.AtEnd(node.Close)
	a := nstest.IPv4()
	if err := nstest.Connect(l.Client, standbyLink, node, "uplink"); err != nil {
		return nil, err
	}
	if err := node.AddAddr("uplink", netip.PrefixFrom(standbyOutside, a.ClientNet.Bits())); err != nil {
		return nil, err
	}
	for i, pod := range l.Backends {
		err = errors.Join(err, attach(node, nstest.PodLink(i), pod, a.Backend(i)))
	}
	for i, pod := range l.Remotes {
		err = errors.Join(err, attach(node, nstest.PodLink(len(l.Backends)+i), pod, a.Remote(i)))
	}
	return node, errors.Join(err, node.WaitUp(), l.Client.WaitUp())
}

// attach connects a backend, which has an address already, to the standby node.
func attach(node *nstest.Namespace, link string, pod *nstest.Namespace, addr netip.Addr) error {
	if err := nstest.Connect(pod, standbyLink, node, link); err != nil {
		return err
	}
	return errors.Join(
		node.AddAddr(link, single(standbyInside)),
		node.AddRoute(link, single(addr), netip.Addr{}, standbyInside),
		pod.AddRoute(standbyLink, single(standbyInside), netip.Addr{}, addr),
		pod.WaitUp())
}

// FailOver does what the network does when the node fails: the client reaches
// an address through the standby node.
func (l *Lab) FailOver(addr netip.Addr) error {
	return l.Client.AddRoute(standbyLink, single(addr), standbyOutside, netip.Addr{})
}

func single(a netip.Addr) netip.Prefix { return netip.PrefixFrom(a, a.BitLen()) }
