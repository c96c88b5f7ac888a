//go:build linux

package nftdp_test

import (
	"context"
	"encoding/json"
	"fmt"
	"log"
	"time"

	"github.com/nftdp/go-nftdp/nftdp"
)

// A program applies its services to the namespace that it runs in, and ends.
// They go on working. The next run finds them in place.
func ExampleConfig_Open() {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	dataplane, err := nftdp.Config{}.Open(ctx)
	if err != nil {
		log.Fatal(err) // such as a lack of CAP_NET_ADMIN
	}
	defer dataplane.Close()

	plan, err := dataplane.Apply(ctx, []nftdp.Service{ingress("10.180.0.1:8080", "10.180.2.1:8080")})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Print(plan) // nothing, if all was there already
}

// A controller learns that one service has other backends now. The other
// services are not looked at.
func ExampleDataplane_Update() {
	ctx := context.Background()
	dataplane, err := nftdp.Config{}.Open(ctx)
	if err != nil {
		log.Fatal(err)
	}
	defer dataplane.Close()

	_, err = dataplane.Update(ctx, nftdp.Change{
		Set:    []nftdp.Service{ingress("10.180.0.1:8080", "10.180.0.7:8080")},
		Delete: []string{"default/no-longer-wanted:http"},
	})
	if err != nil {
		log.Fatal(err)
	}
}

// How many connections each backend got is counted in the kernel.
func ExampleDataplane_Inspect() {
	ctx := context.Background()
	dataplane, err := nftdp.Config{}.Open(ctx)
	if err != nil {
		log.Fatal(err)
	}
	defer dataplane.Close()

	services, err := dataplane.Inspect(ctx)
	if err != nil {
		log.Fatal(err)
	}
	for _, s := range services {
		for _, f := range s.Frontends {
			for _, b := range f.Backends {
				fmt.Println(s.Name, f.Addr, f.Port, b.Addr, b.Counter.Connections)
			}
		}
	}
}

// A standby node with the same services learns to which backends the clients of
// this node come back. It gets the list over the network, as JSON.
func ExampleDataplane_AddAffinities() {
	ctx := context.Background()
	dataplane, err := nftdp.Config{}.Open(ctx)
	if err != nil {
		log.Fatal(err)
	}
	defer dataplane.Close()

	// On this node.
	affinities, err := dataplane.Affinities(ctx)
	if err != nil {
		log.Fatal(err)
	}
	list, err := json.Marshal(affinities)
	if err != nil {
		log.Fatal(err)
	}

	// On the other node, after Apply.
	var known []nftdp.Affinity
	if err := json.Unmarshal(list, &known); err != nil {
		log.Fatal(err)
	}
	n, err := dataplane.AddAffinities(ctx, known)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(n, "of", len(known), "clients are known")
}
