//go:build linux

package main

import (
	"context"
	"fmt"
	"io"
	"net/netip"
	"strings"

	"github.com/nftdp/go-nftdp/examples/internal/lab"
	"github.com/nftdp/go-nftdp/internal/nstest"
	"github.com/nftdp/go-nftdp/nftdp"
)

// placement is where each client's connection went.
type placement map[netip.Addr]string

// showAffinity lets every client connect thrice, and once more when the backend
// of the first one is draining.
func (g *gateway) showAffinity(ctx context.Context) error {
	g.Heading("Clients of %v come back to their backends, until one of these is draining (Affinity)", g.at(cartPort))
	var rounds [4]placement
	for i := range 3 {
		var err error
		if rounds[i], err = g.round(g.clients); err != nil {
			return err
		}
	}
	leaving := rounds[0][g.clients[0]]
	g.draining = fmt.Sprintf("%s:%d", leaving, serverPort)
	if _, err := g.dataplane.Update(ctx, nftdp.Change{Set: []nftdp.Service{g.cart()}}); err != nil {
		return err
	}
	var err error
	if rounds[3], err = g.round(g.clients); err != nil {
		return err
	}
	titles := []string{"FIRST", "SECOND", "THIRD", strings.ToUpper(leaving) + " DRAINS"}
	if err := g.printRounds(g.clients, titles, rounds[:]...); err != nil {
		return err
	}
	return g.checkAffinity(rounds, leaving)
}

// checkAffinity returns an error for a client that is at the wrong backend. As
// backends take turns, the first two clients have different ones.
func (g *gateway) checkAffinity(rounds [4]placement, leaving string) error {
	if rounds[0][g.clients[1]] == leaving {
		return fmt.Errorf("the first two clients are both at %s", leaving)
	}
	for _, c := range g.clients {
		first, last := rounds[0][c], rounds[3][c]
		switch {
		case rounds[1][c] != first || rounds[2][c] != first:
			return fmt.Errorf("client %v does not come back to %s", c, first)
		case first != leaving && last != first:
			return fmt.Errorf("client %v leaves %s when %s is draining", c, first, leaving)
		case last == leaving:
			return fmt.Errorf("client %v comes back to %s, which is draining", c, leaving)
		}
	}
	return nil
}

// round lets each client connect once.
func (g *gateway) round(clients []netip.Addr) (placement, error) {
	at := placement{}
	for _, c := range clients {
		answer, err := nstest.Dial(g.Client, "tcp", c, g.at(cartPort), lab.Timeout)
		if err != nil {
			return nil, fmt.Errorf("%v to %v: %w", c, g.at(cartPort), err)
		}
		at[c] = answer.Server
	}
	return at, nil
}

func (g *gateway) printRounds(clients []netip.Addr, titles []string, rounds ...placement) error {
	return g.Table(func(w io.Writer) error {
		fmt.Fprintf(w, "CLIENT\t%s\n", strings.Join(titles, "\t"))
		for _, c := range clients {
			fmt.Fprint(w, c)
			for _, r := range rounds {
				fmt.Fprintf(w, "\t%s", r[c])
			}
			fmt.Fprintln(w)
		}
		return nil
	})
}
