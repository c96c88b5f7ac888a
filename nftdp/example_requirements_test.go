//go:build linux

package nftdp_test

import (
	"context"
	"fmt"
	"log"

	"github.com/nftdp/go-nftdp/nftdp"
)

// A program says what the namespace lacks, and sets it only if it was told to.
func ExampleDataplane_Requirements() {
	const forward = false // such as a flag of the program
	ctx := context.Background()
	dataplane, err := nftdp.Config{}.Open(ctx)
	if err != nil {
		log.Fatal(err)
	}
	defer dataplane.Close()

	requirements, err := dataplane.Requirements(ctx)
	if err != nil {
		log.Fatal(err)
	}
	for _, r := range requirements {
		if !r.Met() {
			fmt.Println(r) // net.ipv4.ip_forward = 0, want 1: ...
		}
	}
	if forward {
		changed, err := dataplane.MeetRequirements(ctx)
		for _, r := range changed {
			fmt.Println(r.Name, "was", r.Have, "and is", r.Want)
		}
		if err != nil {
			log.Fatal(err)
		}
	}
}

func ExampleRequirement() {
	r := nftdp.Requirement{Name: "net.ipv4.ip_forward", Want: "1", Have: "0", Why: "nothing is forwarded"}
	fmt.Println(r.Met(), r)
	r.Have = "1"
	fmt.Println(r.Met(), r)
	// Output:
	// false net.ipv4.ip_forward = 0, want 1: nothing is forwarded
	// true net.ipv4.ip_forward = 1
}
