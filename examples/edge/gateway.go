//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/nftdp/go-nftdp/internal/nstest"
	"github.com/nftdp/go-nftdp/nftdp"
)

// gateway is the network with a dataplane in its node and servers in its
// backends. Two of them are on this node and one is on another node.
type gateway struct {
	*nstest.Topology
	addrs     nstest.Addrs
	clients   []netip.Addr // of the one client namespace
	backends  []backend
	draining  netip.Addr // the backend that one service is losing
	dataplane *nftdp.Dataplane
	closers   []func() error
}

type backend struct {
	*nstest.Namespace
	addr, addr6 netip.Addr
	local       bool
}

// end gives everything up, in reverse order.
func (g *gateway) end() error {
	var errs []error
	for _, c := range slices.Backward(g.closers) {
		errs = append(errs, c())
	}
	return errors.Join(errs...)
}

// start makes the network with all that runs in it, as far as it gets.
func (g *gateway) start(ctx context.Context) (err error) {
	if err := g.build(); err != nil {
		return err
	}
	if err := g.serve(); err != nil {
		return err
	}
	g.dataplane, err = g.open(ctx, g.Node)
	return err
}

// open makes a dataplane in a namespace.
func (g *gateway) open(ctx context.Context, node *nstest.Namespace) (*nftdp.Dataplane, error) {
	dataplane, err := g.config().OpenIn(ctx, node.Handle())
	if err == nil {
		g.closers = append(g.closers, dataplane.Close)
	}
	return dataplane, err
}

// build makes the network. The client has several addresses.
func (g *gateway) build() (err error) {
	if g.Topology, err = nstest.NewTopology(2); err != nil {
		return err
	}
	g.closers = append(g.closers, g.Close)
	if err := g.AddRemotes(1); err != nil {
		return err
	}
	six := nstest.IPv6()
	g.backends = []backend{
		{g.Backends[0], g.addrs.Backend(0), six.Backend(0), true},
		{g.Backends[1], g.addrs.Backend(1), six.Backend(1), true},
		{g.Remotes[0], g.addrs.Remote(0), six.Remote(0), false},
	}
	g.clients = []netip.Addr{g.addrs.Client}
	for addr := g.addrs.Client2; len(g.clients) < 4; addr = addr.Next() {
		if err := g.Client.AddAddr(nstest.ClientLink, netip.PrefixFrom(addr, g.addrs.ClientNet.Bits())); err != nil {
			return err
		}
		g.clients = append(g.clients, addr)
	}
	return nil
}

// serve starts servers in all backends: one for connections, and one for
// datagrams on each of some ports, which has the port in its name.
func (g *gateway) serve() error {
	for _, b := range g.backends {
		if err := g.listen(b, b.Name, serverPort, "tcp"); err != nil {
			return err
		}
		for _, port := range mediaPorts {
			if err := g.listen(b, fmt.Sprintf("%s:%d", b.Name, port), port, "udp"); err != nil {
				return err
			}
		}
	}
	return nil
}

func (g *gateway) listen(b backend, name string, port uint16, protocol string) error {
	server, err := nstest.Serve(b.Namespace, name, port, protocol)
	if err == nil {
		g.closers = append(g.closers, server.Close)
	}
	return err
}

// apply programs all services and shows them.
func (g *gateway) apply(ctx context.Context) error {
	plan, err := g.dataplane.Apply(ctx, g.services())
	if err != nil {
		return err
	}
	trunk := fmt.Sprintf("clients %v… ── gateway %v ──", g.clients[0], g.addrs.Node)
	space := strings.Repeat(" ", utf8.RuneCountInString(trunk))
	fmt.Printf("%s┬── backend-1 %v\n", trunk, g.backends[0].addr)
	fmt.Printf("%s├── backend-2 %v\n", space, g.backends[1].addr)
	fmt.Printf("%s└── another node ── remote-1 %v\n\n", space, g.backends[2].addr)
	fmt.Printf("%d services at %v are programmed: %d changes\n", len(g.services()), g.addrs.External, plan.Len())
	return nil
}
