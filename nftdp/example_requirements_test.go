package nftdp_test

import (
	"fmt"

	"github.com/nftdp/go-nftdp/nftdp"
)

func ExampleRequirement() {
	r := nftdp.Requirement{Name: "net.ipv4.ip_forward", Want: "1", Have: "0", Why: "nothing is forwarded"}
	fmt.Println(r.Met(), r)
	r.Have = "1"
	fmt.Println(r.Met(), r)
	// Output:
	// false net.ipv4.ip_forward = 0, want 1: nothing is forwarded
	// true net.ipv4.ip_forward = 1
}
