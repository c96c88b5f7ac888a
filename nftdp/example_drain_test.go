//go:build linux

package nftdp_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"net/netip"
	"time"

	"github.com/nftdp/go-nftdp/nftdp"
)

// A backend is taken out of service: it gets no new connections, has half a
// minute to finish the established ones, and the rest is cut.
func ExampleDataplane_Drain() {
	ctx := context.Background()
	dataplane, err := nftdp.Config{}.Open(ctx)
	if err != nil {
		log.Fatal(err)
	}
	defer dataplane.Close()

	leaving := netip.MustParseAddrPort("10.180.0.1:8080")
	web := nftdp.Service{
		Name:      "default/web:http",
		Frontends: []nftdp.Frontend{{Port: 80}},
		Backends: []nftdp.Backend{
			{Addr: leaving, State: nftdp.StateDraining},
			{Addr: netip.MustParseAddrPort("10.180.0.2:8080")},
		},
	}
	if _, err := dataplane.Update(ctx, nftdp.Change{Set: []nftdp.Service{web}}); err != nil {
		log.Fatal(err)
	}

	patience, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	left, err := dataplane.Drain(patience, web.Name, leaving)
	if errors.Is(err, context.DeadlineExceeded) {
		fmt.Println(left, "connections are still open")
		_, err = dataplane.Cut(ctx, web.Name, leaving)
	}
	if err != nil {
		log.Fatal(err)
	}
}
