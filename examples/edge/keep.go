//go:build linux

package main

import (
	"context"
	"fmt"
	"time"

	"github.com/nftdp/go-nftdp/examples/internal/lab"
	"github.com/nftdp/go-nftdp/nftdp"
)

// showKeep deletes everything behind the back of the dataplane, which keeps it.
func (g *gateway) showKeep(ctx context.Context) error {
	g.Heading("What others do to the rules is repaired at once (Keep)")
	other, err := g.open(ctx, g.Node)
	if err != nil {
		return err
	}
	keeping, repaired := context.WithTimeout(ctx, lab.Timeout)
	defer repaired()
	var drift *nftdp.Drift
	var took time.Duration
	begin, ended := time.Now(), make(chan error, 1)
	go func() {
		ended <- g.dataplane.Keep(keeping, func(d *nftdp.Drift, err error) {
			if err == nil { // If not, Keep tries again.
				drift, took = d, time.Since(begin)
				repaired()
			}
		})
	}()
	if err := other.Remove(ctx); err != nil {
		return err
	}
	if err := <-ended; drift == nil {
		return fmt.Errorf("not repaired: %w", err)
	}
	g.Printf("everything was deleted, as `nft flush ruleset` does, and repaired after %v with %d changes\n",
		took.Round(10*time.Microsecond), drift.Len())
	for _, p := range drift.By {
		g.Printf("it was %s\n", p.Name)
	}
	servers, err := g.round(g.clients[:1])
	g.Printf("a client is answered by %s\n", servers[g.clients[0]])
	return err
}
