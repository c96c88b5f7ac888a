//go:build linux

package main

import (
	"context"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"time"

	"github.com/nftdp/go-nftdp/examples/internal/lab"
	"github.com/nftdp/go-nftdp/internal/nstest"
	"github.com/nftdp/go-nftdp/nftdp"
)

// showListeners looks for sockets of the node on the services' ports.
func (n *node) showListeners(context.Context) error {
	n.Heading("Sockets of the node on these ports")
	found := 0
	for _, s := range n.services {
		if s.Protocol == nftdp.ProtocolSCTP {
			continue // The kernel does not list them with the others.
		}
		sockets, err := n.Node.Listening(s.Protocol.String())
		if err != nil {
			return err
		}
		for _, addr := range sockets {
			if slices.ContainsFunc(s.Frontends, func(f nftdp.Frontend) bool { return f.Port == addr.Port() }) {
				found++
				n.Printf("%v %v, a port of service %q\n", s.Protocol, addr, s.Name)
			}
		}
	}
	if found == 0 {
		n.Printf("none\n")
	}
	return nil
}

// visitCount is the number of connections to each frontend.
const visitCount = 300

// visitFrontends sends connections to every frontend of the built-in service,
// from everywhere. None may fail.
func (n *node) visitFrontends(ctx context.Context) error {
	targets := n.targetsOf(n.services[0])
	toNode, toClusterIP := targets[0], targets[2]
	toNode.From, toClusterIP.From = n.Node, n.Backends[0]
	n.Heading("%d connections each, and where they landed", visitCount)
	failed := 0
	err := n.Table(func(w io.Writer) error {
		fmt.Fprintln(w, "FROM\tTO\tLANDED\tSOURCE SEEN")
		for _, t := range append(targets, toNode, toClusterIP) {
			got := t.Repeat(ctx, visitCount, visitCount, lab.Timeout)
			failed += got.Failed.Sum()
			fmt.Fprintf(w, "%s\t%v\t%v\t%v\n", t.From.Name, t.To, got, got.Sources)
		}
		return nil
	})
	if err == nil && failed > 0 {
		err = fmt.Errorf("%d connections failed", failed)
	}
	return err
}

// Bounds for a user's own services, whose frontends may well be dead ends.
const (
	probeCount    = 60
	probeFailures = 3
	probeTimeout  = 250 * time.Millisecond
)

// probeFrontends sends connections to every frontend of the user's services.
func (n *node) probeFrontends(ctx context.Context) error {
	n.Heading("%d connections to each frontend, %d failures at most", probeCount, probeFailures)
	return n.Table(func(w io.Writer) error {
		fmt.Fprintln(w, "SERVICE\tTO\t\tLANDED\tSOURCE SEEN")
		for _, s := range n.services {
			for _, t := range n.targetsOf(s) {
				got := t.Repeat(ctx, probeCount, probeFailures, probeTimeout)
				fmt.Fprintf(w, "%s\t%v\t%v\t%v\t%v\n", s.Name, t.To, t.Protocol, got, got.Sources)
			}
		}
		return nil
	})
}

// targetsOf lists the addresses by which the client reaches a service's
// frontends; a node-wide one is reached by the node's address.
func (n *node) targetsOf(s nftdp.Service) (targets []lab.Visit) {
	for _, f := range s.Frontends {
		addrs := []netip.Addr{f.Addr.Unmap()}
		switch {
		case !f.Addr.IsValid():
			addrs = []netip.Addr{nstest.IPv4().Node, nstest.IPv6().Node}
		case f.Addr == netip.IPv4Unspecified():
			addrs = []netip.Addr{nstest.IPv4().Node}
		case f.Addr == netip.IPv6Unspecified():
			addrs = []netip.Addr{nstest.IPv6().Node}
		}
		for _, a := range addrs {
			targets = append(targets, lab.Visit{From: n.Client, Protocol: s.Protocol.String(), To: netip.AddrPortFrom(a, f.Port)})
		}
	}
	return targets
}
