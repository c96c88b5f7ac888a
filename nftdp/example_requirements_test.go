package nftdp_test

import (
	"context"
	"fmt"
	"log"

	"github.com/nftdp/go-nftdp/nftdp"
	"github.com/nftdp/go-nftdp/nftdp/nftdptest"
)

// A proxy says what its node lacks, and leaves that to the operator.
func ExampleDataplane_Requirements() {
	ctx := context.Background()
	dataplane, err := nftdptest.NewNode().Open(ctx, nftdp.Config{})
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
			fmt.Printf("run: sysctl -w %s=%s\n", r.Name, r.Want)
		}
	}
	// Output:
	// run: sysctl -w net.ipv4.ip_forward=1
	// run: sysctl -w net.ipv6.conf.all.forwarding=1
	// run: sysctl -w net.netfilter.nf_conntrack_tcp_be_liberal=1
}

// A node agent that may do so turns on what services need, and says what it
// has changed. The second time there is nothing left to do.
func ExampleDataplane_MeetRequirements() {
	ctx := context.Background()
	dataplane, err := nftdptest.NewNode().Open(ctx, nftdp.Config{})
	if err != nil {
		log.Fatal(err)
	}
	defer dataplane.Close()

	for range 2 {
		changed, err := dataplane.MeetRequirements(ctx)
		for _, r := range changed { // also beside an error
			fmt.Println(r.Name, "was", r.Have, "and is", r.Want)
		}
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(len(changed), "changed")
	}
	// Output:
	// net.ipv4.ip_forward was 0 and is 1
	// net.ipv6.conf.all.forwarding was 0 and is 1
	// net.netfilter.nf_conntrack_tcp_be_liberal was 0 and is 1
	// 3 changed
	// 0 changed
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
