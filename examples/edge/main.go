//go:build linux

// Command edge plays a gateway at the edge of a network, with real connections
// of clients outside: they come back to their backends, are let in or not, keep
// their addresses or not, are too many, or miss. In the end a standby gateway
// takes over. The network is made of namespaces that are gone afterwards.
// Whatever does not behave as told ends the program with an error.
//
//	go run ./examples/edge
package main

import (
	"context"
	"errors"
	"log"

	"github.com/nftdp/go-nftdp/internal/nstest"
)

func main() {
	err := nstest.Reexec()
	if err == nil {
		err = run(context.Background())
	}
	if err != nil {
		log.Fatal(err)
	}
}

func run(ctx context.Context) (err error) {
	g := &gateway{addrs: nstest.IPv4()}
	defer func() { err = errors.Join(err, g.end()) }()
	for _, scene := range []func(context.Context) error{
		g.start, g.apply,
		g.showPolicies, g.showClients, g.showRange, g.showServiceCIDRs, g.showLimit, g.showLocalhost,
		g.showAffinity, g.showStandby,
	} {
		if err := scene(ctx); err != nil {
			return err
		}
	}
	return nil
}
