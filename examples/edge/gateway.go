//go:build linux

package main

import (
	"context"
	"fmt"
	"log"
	"net/netip"

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

// close gives everything up, in reverse order.
func (g *gateway) close() {
	for i := len(g.closers) - 1; i >= 0; i-- {
		if err := g.closers[i](); err != nil {
			log.Print(err)
		}
	}
}

func newGateway(ctx context.Context) (_ *gateway, err error) {
	g := &gateway{addrs: nstest.IPv4()}
	defer func() {
		if err != nil {
			g.close()
		}
	}()
	if err := g.build(); err != nil {
		return nil, err
	}
	if err := g.serve(); err != nil {
		return nil, err
	}
	g.dataplane, err = g.open(ctx, g.Node)
	return g, err
}

// open makes a dataplane in a namespace.
func (g *gateway) open(ctx context.Context, node *nstest.Namespace) (*nftdp.Dataplane, error) {
	dataplane, err := g.config().Open(ctx, node.Handle())
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
	g.closers = append(g.closers, g.Topology.Close)
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
		if err := g.Client.AddAddr(nstest.ClientLink, netip.PrefixFrom(addr, 24)); err != nil {
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
		if err := g.start(b, b.Name, serverPort, "tcp"); err != nil {
			return err
		}
		for _, port := range mediaPorts {
			if err := g.start(b, fmt.Sprintf("%s:%d", b.Name, port), port, "udp"); err != nil {
				return err
			}
		}
	}
	return nil
}

func (g *gateway) start(b backend, name string, port uint16, protocol string) error {
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
	fmt.Printf("clients %v… ── gateway ──┬── backend-1 %v\n", g.clients[0], g.backends[0].addr)
	fmt.Printf("%38s ├── backend-2 %v\n", "", g.backends[1].addr)
	fmt.Printf("%38s └── another node ── remote-1 %v\n", "", g.backends[2].addr)
	fmt.Printf("%d services at %v are programmed: %d changes\n", len(g.services()), g.addrs.External, plan.Len())
	return nil
}
