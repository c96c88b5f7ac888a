//go:build linux

package nftdp_test

import (
	"context"
	"errors"
	"fmt"
	"log"

	"github.com/nftdp/go-nftdp/nftdp"
)

// While the program runs, nobody else can change its rules, and when it ends
// they go on working. A second one can look at them.
func ExampleConfig_protect() {
	ctx := context.Background()
	dataplane, err := nftdp.Config{Protect: true}.Open(ctx)
	if err != nil {
		log.Fatal(err)
	}
	defer dataplane.Close() // the rules stay, for the next run to adopt

	_, err = dataplane.Apply(ctx, []nftdp.Service{ingress("10.180.0.1:8080")})
	switch {
	case errors.Is(err, nftdp.ErrProtected):
		services, err := dataplane.Inspect(ctx)
		fmt.Println("another one runs, with", len(services), "services", err)
	case err != nil:
		fmt.Println(err) // such as ErrNotSupported, before Linux 6.9
	}
}
