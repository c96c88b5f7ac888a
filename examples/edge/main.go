//go:build linux

// Command edge plays a gateway at the edge of a network, with real connections
// of clients outside: they come back to their backends, are let in or not, keep
// their addresses or not, are too many, or miss. A backend leaves without
// breaking connections, and what others do to the rules is repaired. In the end
// another gateway takes over, and connections go on through it. The network is made of namespaces that are gone
// afterwards. Whatever behaves otherwise ends the program with an error.
//
//	go run ./examples/edge
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"

	"github.com/nftdp/go-nftdp/examples/internal/lab"
	"github.com/nftdp/go-nftdp/internal/nstest"
	"github.com/nftdp/go-nftdp/nftdp"
)

func main() { lab.Main(demo) }

// gateway is a lab whose node has a dataplane.
type gateway struct {
	*lab.Lab
	addrs     nstest.Addrs
	clients   []netip.Addr // of the one client namespace
	draining  string       // name and port of the backend that a service is losing
	dataplane *nftdp.Dataplane
}

func demo(ctx context.Context, out io.Writer) (err error) {
	g := &gateway{addrs: nstest.IPv4()}
	if g.Lab, err = lab.New(out, 2, 1); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, g.Close()) }()
	return lab.InOrder(ctx,
		g.start, g.apply,
		g.showPolicies, g.showClients, g.showRange, g.showServiceCIDRs, g.showLimit, g.showLocalhost,
		g.showDrain, g.showKeep, g.showAffinity, g.showTakeover)
}

// start adds clients and servers, and opens a dataplane. Each backend has a
// server for connections, and one for datagrams on each of some ports, which has
// the port in its name.
func (g *gateway) start(ctx context.Context) (err error) {
	if g.clients, err = g.AddClients(g.addrs, 3); err != nil {
		return err
	}
	for _, b := range pool(g.addrs, serverPort) {
		err = errors.Join(err, g.Serve("tcp", b.Addr))
	}
	for _, port := range mediaPorts {
		for _, b := range pool(g.addrs, port) {
			err = errors.Join(err, g.ServeAs(g.Name(b.Addr), "udp", b.Addr))
		}
	}
	if err == nil {
		g.dataplane, err = g.open(ctx, g.Node)
	}
	return err
}

// open opens a dataplane in a namespace.
func (g *gateway) open(ctx context.Context, node *nstest.Namespace) (*nftdp.Dataplane, error) {
	dataplane, err := g.config().OpenIn(ctx, node.Handle())
	if err == nil {
		g.AtEnd(dataplane.Close)
	}
	return dataplane, err
}

// apply programs all services and shows them.
func (g *gateway) apply(ctx context.Context) error {
	plan, err := g.dataplane.Apply(ctx, g.services())
	if err != nil {
		return err
	}
	g.Draw(fmt.Sprintf("clients %v… ── gateway %v", g.clients[0], g.addrs.Node),
		fmt.Sprint("backend-1 ", g.addrs.Backend(0)),
		fmt.Sprint("backend-2 ", g.addrs.Backend(1)),
		fmt.Sprint("another node ── remote-1 ", g.addrs.Remote(0)))
	g.Printf("\n%d services at %v are programmed: %d changes\n", len(g.services()), g.addrs.External, plan.Len())
	return nil
}
