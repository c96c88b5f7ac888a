//go:build linux

package nftdp_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"net/netip"
	"os/signal"
	"syscall"

	"github.com/nftdp/go-nftdp/nftdp"
)

// A service is programmed and kept, whatever others do to it, until the
// program is interrupted.
func ExampleDataplane_Keep() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT)
	defer stop()
	dataplane, err := nftdp.Config{}.Open(ctx)
	if err != nil {
		log.Fatal(err)
	}
	defer dataplane.Close()
	_, err = dataplane.Apply(ctx, []nftdp.Service{{
		Name:      "default/web:http",
		Frontends: []nftdp.Frontend{{Port: 80}},
		Backends:  []nftdp.Backend{{Addr: netip.MustParseAddrPort("10.180.0.1:8080")}},
	}})
	if err != nil {
		log.Fatal(err)
	}
	err = dataplane.Keep(ctx, func(drift *nftdp.Drift, err error) {
		if err != nil {
			log.Print(err) // it tries again
			return
		}
		log.Printf("%v changed our tables; repaired by\n%v", drift.By, drift)
	})
	if !errors.Is(err, context.Canceled) {
		log.Fatal(err)
	}
}

// Somebody who only wants to know watches.
func ExampleDataplane_Watch() {
	ctx := context.Background()
	dataplane, err := nftdp.Config{}.Open(ctx)
	if err != nil {
		log.Fatal(err)
	}
	defer dataplane.Close()
	if _, err := dataplane.Apply(ctx, nil); err != nil {
		log.Fatal(err)
	}
	for drift, err := range dataplane.Watch(ctx) {
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(drift.Len(), "objects are not as they shall be")
	}
}
