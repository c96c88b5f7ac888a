//go:build linux

package main

import (
	"context"
	"fmt"
	"net/netip"
	"slices"

	"github.com/nftdp/go-nftdp/internal/nstest"
)

// showStandby tells another gateway about the clients before it gets their
// connections, in another order than the first one did.
func (g *gateway) showStandby(ctx context.Context) error {
	fmt.Printf("\n# A standby gateway takes over, and knows who comes back to whom (Affinities, AddAffinities)\n")
	if err := g.prepareStandby(ctx); err != nil {
		return err
	}
	before, err := g.round(g.clients)
	if err != nil {
		return err
	}
	// What the network does when a gateway fails.
	if err := g.Client.AddRoute(standbyLink, single(g.addrs.External), standbyOutside, netip.Addr{}); err != nil {
		return err
	}
	clients := slices.Clone(g.clients)
	slices.Reverse(clients)
	after, err := g.round(clients)
	if err != nil {
		return err
	}
	if err := printRounds(g.clients, []string{"FIRST GATEWAY", "STANDBY"}, before, after); err != nil {
		return err
	}
	for _, c := range clients {
		if after[c] != before[c] {
			return fmt.Errorf("client %v is at %s, and was at %s before", c, after[c], before[c])
		}
	}
	return nil
}

// prepareStandby makes a dataplane in a namespace of its own, with the same
// services, and hands it the affinities of the first one.
func (g *gateway) prepareStandby(ctx context.Context) error {
	known, err := g.dataplane.Affinities(ctx)
	if err != nil {
		return err
	}
	node, err := g.addStandby()
	if err != nil {
		return err
	}
	standby, err := g.open(ctx, node)
	if err != nil {
		return err
	}
	if _, err := standby.Apply(ctx, g.services()); err != nil {
		return err
	}
	if _, err := standby.MeetRequirements(ctx); err != nil { // It has to forward.
		return err
	}
	n, err := standby.AddAffinities(ctx, known)
	if err != nil {
		return err
	}
	fmt.Printf("%d affinities are listed, %d are handed over\n", len(known), n)
	if n != len(g.clients) || n != len(known) {
		return fmt.Errorf("there are %d clients", len(g.clients))
	}
	return nil
}

// standbyLink is the client's and the backends' link to the standby gateway.
const standbyLink = "standby"

// Addresses of the standby gateway, towards clients and towards backends.
var (
	standbyOutside = netip.MustParseAddr("203.0.113.2")
	standbyInside  = netip.MustParseAddr("10.0.0.2")
)

// addStandby connects one more node to the client and to all backends.
func (g *gateway) addStandby() (*nstest.Namespace, error) {
	node, err := nstest.New("standby")
	if err != nil {
		return nil, err
	}
	g.closers = append(g.closers, node.Close)
	if err := nstest.Connect(g.Client, standbyLink, node, "uplink"); err != nil {
		return nil, err
	}
	if err := node.AddAddr("uplink", netip.PrefixFrom(standbyOutside, g.addrs.ClientNet.Bits())); err != nil {
		return nil, err
	}
	for i, b := range g.backends {
		if err := attach(node, nstest.PodLink(i), b); err != nil {
			return nil, err
		}
	}
	for _, ns := range []*nstest.Namespace{node, g.Client} {
		if err := ns.WaitUp(); err != nil {
			return nil, err
		}
	}
	return node, nil
}

// attach connects a backend, which has an address already, to one more node.
func attach(node *nstest.Namespace, link string, b backend) error {
	if err := nstest.Connect(b.Namespace, standbyLink, node, link); err != nil {
		return err
	}
	if err := node.AddAddr(link, single(standbyInside)); err != nil {
		return err
	}
	if err := node.AddRoute(link, single(b.addr), netip.Addr{}, standbyInside); err != nil {
		return err
	}
	if err := b.AddRoute(standbyLink, single(standbyInside), netip.Addr{}, b.addr); err != nil {
		return err
	}
	return b.WaitUp()
}

func single(a netip.Addr) netip.Prefix { return netip.PrefixFrom(a, a.BitLen()) }
