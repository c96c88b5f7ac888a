//go:build linux

package main

import (
	"context"
	"crypto/tls"
	"errors"
	"net/netip"
	"time"

	"github.com/vishvananda/netns"

	"github.com/nftdp/go-nftdp/nftdp"
	"github.com/nftdp/go-nftdp/nftdp/health"
)

// This is all that a load balancer needs: it forwards ports of a public address to
// the same ports of the nodes, and knows nothing of HTTP but for its probes.

// balancer is nftdp as a load balancer, with checks of the nodes.
type balancer struct {
	dataplane *nftdp.Dataplane
	from      *health.Namespace // where the probes come from
	checker   *health.Checker
}

// newBalancer programs the load balancer, with all nodes in use until checker.Run finds
// otherwise. The configuration of TLS is that of the probe of https.
func newBalancer(ctx context.Context, ns netns.NsHandle, trust *tls.Config) (*balancer, error) {
	dataplane, err := nftdp.Config{}.OpenIn(ctx, ns)
	if err != nil {
		return nil, err
	}
	from, err := health.OpenNamespace(ns)
	if err != nil {
		return nil, errors.Join(err, dataplane.Close())
	}
	checker := health.New(dataplane, health.Options{
		Check: func(s *nftdp.Service) *health.Check { return probeOf(s, trust) },
		Dial:  from.Dial,
	})
	b := &balancer{dataplane, from, checker}
	if _, err := checker.Apply(ctx, publicServices()); err != nil {
		return nil, errors.Join(err, b.Close())
	}
	return b, nil
}

// publicServices lead to the nodes. Nodes see the client's address, as the network
// routes their replies through the load balancer.
func publicServices() (all []nftdp.Service) {
	for _, p := range ports {
		s := nftdp.Service{
			Name:      "internet/" + p.name,
			Frontends: []nftdp.Frontend{{Addr: publicAddr, Port: p.number, Masquerade: nftdp.MasqueradeNever}},
		}
		for _, n := range nodes {
			s.Backends = append(s.Backends, nftdp.Backend{Addr: netip.AddrPortFrom(n.addr, p.number)})
		}
		all = append(all, s)
	}
	return all
}

// probeOf asks for the ingress's health at the node port. A node is out of use after
// three failures, and in use again after two successes.
func probeOf(s *nftdp.Service, trust *tls.Config) *health.Check {
	check := &health.Check{Interval: 100 * time.Millisecond, Timeout: 5 * time.Second, Rise: 2, Fall: 3}
	for _, p := range ports {
		if s.Name == "internet/"+p.name {
			check.Port = p.nodePort
			probe := health.HTTP{Path: "/healthz"}
			if p.name == "https" {
				probe.TLS = trust
			}
			check.Probe = probe
		}
	}
	return check
}

// status is what is known about a port of a node.
func (b *balancer) status(node netip.Addr, number uint16) health.Status {
	for _, s := range b.checker.Status() {
		if s.Backend == netip.AddrPortFrom(node, number) {
			return s
		}
	}
	return health.Status{}
}

func (b *balancer) Close() error { return errors.Join(b.from.Close(), b.dataplane.Close()) }
