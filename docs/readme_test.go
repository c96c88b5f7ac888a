//go:build linux

package docs_test

import (
	"context"
	"fmt"
	"log"
	"net/netip"

	"github.com/nftdp/go-nftdp/nftdp"
)

func Example() {
	ctx := context.Background()
	dataplane, err := nftdp.Config{}.Open(ctx) // this thread's network namespace
	if err != nil {
		log.Fatal(err)
	}
	defer dataplane.Close() // the rules stay
	plan, err := dataplane.Apply(ctx, []nftdp.Service{{
		Name:      "default/web:http",
		Frontends: []nftdp.Frontend{{Port: 80}, {Port: 30644}}, // on every node address
		Backends:  []nftdp.Backend{{Addr: netip.MustParseAddrPort("10.180.0.1:8080")}},
	}})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Print(plan) // the changes as nft commands; none the second time
}
