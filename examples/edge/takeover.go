//go:build linux

package main

import (
	"context"
	"time"

	"github.com/nftdp/go-nftdp/examples/internal/lab"
)

// showTakeover lets the second gateway take over under load.
func (g *gateway) showTakeover(ctx context.Context) error {
	g.Heading("Another gateway takes over, and connections go on through it (Maglev, Affinities, AddAffinities, MasqueradeNever)")
	p, err := g.newPair(ctx)
	if err != nil {
		return err
	}
	visits, err := p.visits()
	if err != nil {
		return err
	}
	conns, err := lab.OpenStreams(ctx, visits)
	if err != nil {
		return err
	}
	defer conns.Stop()
	g.Printf("%d connections of %d clients, under load: %v\n", len(visits), len(visits)/pairServices, conns.Servers)
	err = lab.InOrder(ctx,
		func(ctx context.Context) error { return conns.Wait(ctx, pairLines) },
		p.handOver,
		func(context.Context) error { return p.Move(lab.Outside) },
		p.pickedUp,
		func(context.Context) error { return p.Move(lab.Inside) },
		func(context.Context) error { return p.Unplug() },
		func(ctx context.Context) error { return conns.Wait(ctx, pairLines) })
	if err != nil {
		return err
	}
	n, longest := conns.Stop()
	g.Printf("all %d go on through the second gateway; no line took longer than %v\n", n, longest.Round(time.Millisecond))
	return nil
}

// handOver hands the affinities of the first gateway over to the second one.
func (p *pair) handOver(ctx context.Context) error { return handOver(ctx, p.first, p.second) }

// pickedUp waits until the second gateway has all connections.
func (p *pair) pickedUp(ctx context.Context) error {
	for _, s := range p.services() {
		if err := pickedUp(ctx, p.second, s.Name, pairClients*len(s.Frontends)); err != nil {
			return err
		}
	}
	return nil
}
