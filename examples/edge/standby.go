//go:build linux

package main

import (
	"context"
	"fmt"
	"slices"
)

// showStandby tells another gateway about the clients before it gets their
// connections, in another order than the first one did.
func (g *gateway) showStandby(ctx context.Context) error {
	g.Heading("A standby gateway takes over, and knows who comes back to whom (Affinities, AddAffinities)")
	if err := g.prepareStandby(ctx); err != nil {
		return err
	}
	before, err := g.round(g.clients)
	if err != nil {
		return err
	}
	if err := g.FailOver(g.addrs.External); err != nil {
		return err
	}
	clients := slices.Clone(g.clients)
	slices.Reverse(clients)
	after, err := g.round(clients)
	if err != nil {
		return err
	}
	if err := g.printRounds(g.clients, []string{"FIRST GATEWAY", "STANDBY"}, before, after); err != nil {
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
	node, err := g.AddStandby()
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
	g.Printf("%d affinities are listed, %d are handed over\n", len(known), n)
	if n != len(g.clients) || n != len(known) {
		return fmt.Errorf("there are %d clients", len(g.clients))
	}
	return nil
}
