package nftdp_test

import (
	"fmt"
	"log"
	"net/netip"
	"strings"

	"github.com/nftdp/go-nftdp/nftdp"
)

// ingress is port 80 of every IPv4 address of the node, and a NodePort.
func ingress(backends ...string) nftdp.Service {
	s := nftdp.Service{
		Name: "ingress/controller:http",
		Frontends: []nftdp.Frontend{
			{Addr: netip.IPv4Unspecified(), Port: 80},
			{Addr: netip.IPv4Unspecified(), Port: 30644},
		},
	}
	for _, b := range backends {
		s.Backends = append(s.Backends, nftdp.Backend{Addr: netip.MustParseAddrPort(b)})
	}
	return s
}

// A service is elements of maps that are always there: its frontends, with its
// name, and a slot for each backend. Here is what stands in them.
func ExampleConfig_Compile() {
	ruleset, err := nftdp.Config{}.Compile([]nftdp.Service{ingress("10.180.0.1:8080", "10.180.2.1:8080")})
	if err != nil {
		log.Fatal(err)
	}
	text := ruleset.String()
	for _, name := range []string{"map node_frontends {", "map node_backends {"} {
		_, after, _ := strings.Cut(text, name)
		body, _, _ := strings.Cut(after, "\n\t}")
		fmt.Println(name + strings.ReplaceAll(body, "\n\t", "\n") + "\n}")
	}
	// Output:
	// map node_frontends {
	// 	type inet_proto . inet_service : verdict
	// 	size 1024
	// 	counter
	// 	elements = {
	// 		tcp . 80 comment "ingress/controller:http" : goto node-random-2,
	// 		tcp . 30644 comment "ingress/controller:http" : goto node-random-2,
	// 	}
	// }
	// map node_backends {
	// 	typeof meta l4proto . th dport . numgen random mod 65535 : ip daddr . th dport
	// 	size 1024
	// 	counter
	// 	elements = {
	// 		tcp . 80 . 0 : 10.180.0.1 . 8080,
	// 		tcp . 80 . 1 : 10.180.2.1 . 8080,
	// 		tcp . 30644 . 0 : 10.180.0.1 . 8080,
	// 		tcp . 30644 . 1 : 10.180.2.1 . 8080,
	// 	}
	// }
}

// One backend takes the place of another: chains, rules and frontends stay.
func ExampleRuleset_PlanTo() {
	var config nftdp.Config
	before, err := config.Compile([]nftdp.Service{ingress("10.180.0.1:8080", "10.180.2.1:8080")})
	if err != nil {
		log.Fatal(err)
	}
	after, err := config.Compile([]nftdp.Service{ingress("10.180.0.1:8080", "10.180.0.7:8080")})
	if err != nil {
		log.Fatal(err)
	}
	// The backends are sorted, so that 10.180.0.7 gets the slot of 10.180.2.1.
	fmt.Print(before.PlanTo(after))
	// Output:
	// delete element ip nftdp node_backends { tcp . 80 . 1 }
	// delete element ip nftdp node_backends { tcp . 30644 . 1 }
	// delete element ip nftdp node_masq { tcp . 80 . 10.180.2.1 }
	// delete element ip nftdp node_masq { tcp . 30644 . 10.180.2.1 }
	// delete element ip nftdp hairpin { 10.180.2.1 . 10.180.2.1 }
	// add element ip nftdp node_backends { tcp . 80 . 1 : 10.180.0.7 . 8080 }
	// add element ip nftdp node_backends { tcp . 30644 . 1 : 10.180.0.7 . 8080 }
	// add element ip nftdp node_masq { tcp . 80 . 10.180.0.7 }
	// add element ip nftdp node_masq { tcp . 30644 . 10.180.0.7 }
	// add element ip nftdp hairpin { 10.180.0.7 . 10.180.0.7 }
}
