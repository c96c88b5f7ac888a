//go:build linux

package main

import (
	"context"
	"fmt"
	"time"

	"github.com/nftdp/go-nftdp/nftdp"
)

// This file is what two gateways need of which one takes over from the other; it can be
// copied. When the addresses move, the second gateway has no conntrack entry for a
// connection of the first one. To its kernel the client's next segment begins one, and
// meets the rules: they have to lead it to the same backend, and that has to see the
// same source.

// shared is a service whose connections go on at another gateway with the same services.
// Maglev hashes the client's address, alike on both. A masqueraded connection would get
// another port.
func shared(s nftdp.Service) nftdp.Service {
	if s.Affinity == 0 {
		s.Scheduler = nftdp.SchedulerMaglev
	}
	for i := range s.Frontends {
		s.Frontends[i].Masquerade = nftdp.MasqueradeNever
	}
	return s
}

// handOver tells another gateway which backends the clients of services with affinity
// come back to. A gateway that may fail does so every few seconds.
func handOver(ctx context.Context, from, to *nftdp.Dataplane) error {
	known, err := from.Affinities(ctx)
	if err != nil {
		return err
	}
	n, err := to.AddAffinities(ctx, known)
	if err == nil && n < len(known) {
		err = fmt.Errorf("%d of %d affinities are handed over", n, len(known))
	}
	return err
}

// pickedUp waits until a gateway has flows of all connections of a service, since it
// has got a segment of each from its client. Meanwhile replies still pass through the
// former gateway, which knows all of them. If a backend's segment came first, the
// kernel would pass it on untranslated, and the client would reset.
func pickedUp(ctx context.Context, by *nftdp.Dataplane, service string, conns int) error {
	poll := time.NewTicker(10 * time.Millisecond)
	defer poll.Stop()
	for {
		flows, err := by.Flows(ctx, service)
		if err != nil || len(flows) >= conns {
			return err
		}
		select {
		case <-poll.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
