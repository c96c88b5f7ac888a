//go:build linux

package main

import (
	"context"
	"net/netip"
	"time"

	"github.com/nftdp/go-nftdp/examples/internal/lab"
	"github.com/nftdp/go-nftdp/internal/nstest"
	"github.com/nftdp/go-nftdp/nftdp"
)

// Clients in each family, with a connection to each service of the pair, and the
// lines that are sent over each of them before and after the takeover.
const (
	pairClients  = 16
	pairServices = 2
	pairLines    = 5
)

// pair is two gateways with the same services, of which the first one serves.
type pair struct {
	*lab.Pair
	first, second *nftdp.Dataplane
}

// services lead both families to all backends: one by the client's address, one at
// random, to which clients come back.
func (p *pair) services() []nftdp.Service {
	web := nftdp.Service{Name: "pair/web", MaglevSize: 251}
	cart := nftdp.Service{Name: "pair/cart", Affinity: nftdp.Duration(time.Hour)}
	for _, a := range nstest.Families() {
		vip := lab.Outside.Virtual(a)
		web.Frontends = append(web.Frontends, nftdp.Frontend{Addr: vip, Port: webPort})
		cart.Frontends = append(cart.Frontends, nftdp.Frontend{Addr: vip, Port: cartPort})
		for i := range p.Backends {
			b := nftdp.Backend{Addr: netip.AddrPortFrom(a.Backend(i), serverPort)}
			web.Backends, cart.Backends = append(web.Backends, b), append(cart.Backends, b)
		}
	}
	return []nftdp.Service{shared(web), shared(cart)}
}

// visits lists a connection of each client to each service.
func (p *pair) visits() (out []lab.Visit, err error) {
	for i, a := range nstest.Families() {
		clients, err := p.AddClients(a, pairClients-1)
		if err != nil {
			return nil, err
		}
		for _, s := range p.services() {
			for _, c := range clients {
				to := netip.AddrPortFrom(s.Frontends[i].Addr, s.Frontends[i].Port)
				out = append(out, lab.Visit{From: p.Client, Source: c, To: to})
			}
		}
	}
	return out, nil
}

// newPair starts two gateways, and the servers of their backends.
func (g *gateway) newPair(ctx context.Context) (*pair, error) {
	network, err := g.NewPair(3)
	if err != nil {
		return nil, err
	}
	p := &pair{Pair: network}
	for _, pod := range p.Backends {
		s, err := nstest.Serve(pod, pod.Name, serverPort, "tcp")
		if err != nil {
			return nil, err
		}
		g.AtEnd(s.Close)
	}
	for i, d := range []**nftdp.Dataplane{&p.first, &p.second} {
		if *d, err = g.open(ctx, p.Gateways[i]); err != nil {
			return nil, err
		}
		if _, err := (*d).MeetRequirements(ctx); err != nil { // It has to forward.
			return nil, err
		}
		if _, err := (*d).Apply(ctx, p.services()); err != nil {
			return nil, err
		}
	}
	return p, nil
}
