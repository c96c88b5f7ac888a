package nftdp_test

import (
	"fmt"
	"log"
	"net/netip"
	"strings"
	"time"

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

// printParts prints maps and chains of the IPv4 table by their names.
func printParts(ruleset *nftdp.Ruleset, names ...string) {
	for _, name := range names {
		_, after, _ := strings.Cut(ruleset.String(), name+" {")
		body, _, _ := strings.Cut(after, "\n\t}")
		fmt.Println(name + " {" + strings.ReplaceAll(body, "\n\t", "\n") + "\n}")
	}
}

// A service is elements of maps that are always there: its frontends, with its
// name, and a slot for each backend. Here is what stands in them.
func ExampleConfig_Compile() {
	ruleset, err := nftdp.Config{}.Compile([]nftdp.Service{ingress("10.180.0.1:8080", "10.180.2.1:8080")})
	if err != nil {
		log.Fatal(err)
	}
	printParts(ruleset, "map node_frontends", "map node_backends")
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

// Equal services compile to the same text, in whatever order they are.
func ExampleRuleset() {
	one, other := ingress("10.180.0.1:8080"), nftdp.Service{Name: "default/other"}
	a, err := nftdp.Config{}.Compile([]nftdp.Service{one, other})
	if err != nil {
		log.Fatal(err)
	}
	b, err := nftdp.Config{}.Compile([]nftdp.Service{other, one})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(a.String() == b.String())
	table, _, _ := strings.Cut(a.String(), "\n")
	fmt.Println(table)
	// Output:
	// true
	// table ip nftdp {
}

// A program says what it is about to do, if there is anything.
func ExamplePlan() {
	var config nftdp.Config
	before, err := config.Compile([]nftdp.Service{ingress("10.180.0.1:8080")})
	if err != nil {
		log.Fatal(err)
	}
	after, err := config.Compile([]nftdp.Service{ingress("10.180.0.7:8080")})
	if err != nil {
		log.Fatal(err)
	}
	for _, plan := range []*nftdp.Plan{before.PlanTo(before), before.PlanTo(after)} {
		if plan.Empty() {
			fmt.Println("nothing to do")
			continue
		}
		fmt.Printf("%d objects, the first by\n", plan.Len())
		first, _, _ := strings.Cut(plan.String(), "\n")
		fmt.Println(first)
	}
	// Output:
	// nothing to do
	// 10 objects, the first by
	// delete element ip nftdp node_backends { tcp . 80 . 0 }
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
	// add element ip nftdp node_backends { tcp . 80 . 1 : 10.180.0.7 . 8080 }
	// add element ip nftdp node_backends { tcp . 30644 . 1 : 10.180.0.7 . 8080 }
	// add element ip nftdp node_masq { tcp . 80 . 10.180.0.7 }
	// add element ip nftdp node_masq { tcp . 30644 . 10.180.0.7 }
	// add element ip nftdp hairpin { 10.180.0.7 . 10.180.0.7 }
	// delete element ip nftdp node_masq { tcp . 80 . 10.180.2.1 }
	// delete element ip nftdp node_masq { tcp . 30644 . 10.180.2.1 }
	// delete element ip nftdp hairpin { 10.180.2.1 . 10.180.2.1 }
}

// Clients outside get to the backend on this node, and it sees their address.
// Pods get to both, and so do processes on the node: their slots begin at 65536.
func ExamplePolicy() {
	service := ingress("10.180.0.1:8080", "10.180.2.1:8080")
	service.Backends[0].Local = true
	service.Frontends = []nftdp.Frontend{
		{Addr: netip.MustParseAddr("1.2.3.4"), Port: 80, Policy: nftdp.PolicyExternalLocalOnly},
	}
	ruleset, err := nftdp.Config{
		Internal: []netip.Prefix{netip.MustParsePrefix("10.180.0.0/16")},
	}.Compile([]nftdp.Service{service})
	if err != nil {
		log.Fatal(err)
	}
	printParts(ruleset, "map frontends", "map backends", "chain split-internal-random-2-random-1")
	// Output:
	// map frontends {
	// 	type ipv4_addr . inet_proto . inet_service : verdict
	// 	size 1024
	// 	counter
	// 	elements = {
	// 		1.2.3.4 . tcp . 80 comment "ingress/controller:http" : goto split-internal-random-2-random-1,
	// 	}
	// }
	// map backends {
	// 	typeof ip daddr . meta l4proto . th dport . numgen random mod 65535 : ip daddr . th dport
	// 	size 1024
	// 	counter
	// 	elements = {
	// 		1.2.3.4 . tcp . 80 . 0 : 10.180.0.1 . 8080,
	// 		1.2.3.4 . tcp . 80 . 65536 : 10.180.0.1 . 8080,
	// 		1.2.3.4 . tcp . 80 . 65537 : 10.180.2.1 . 8080,
	// 	}
	// }
	// chain split-internal-random-2-random-1 {
	// 	ip saddr @internal goto internal-random-2
	// 	fib saddr type local goto internal-random-2
	// 	goto random-1
	// }
}

// A range of ports is one element, however many they are. Backends get each
// connection on the port that the client connects to. Slots begin with the first
// port, times 65536, so that ranges of one address do not meet.
func ExampleFrontend_endPort() {
	ruleset, err := nftdp.Config{}.Compile([]nftdp.Service{{
		Name:      "default/media:rtp",
		Protocol:  nftdp.ProtocolUDP,
		Frontends: []nftdp.Frontend{{Addr: netip.MustParseAddr("1.2.3.4"), Port: 10000, EndPort: 20000}},
		Backends: []nftdp.Backend{
			{Addr: netip.MustParseAddrPort("10.180.0.1:0")},
			{Addr: netip.MustParseAddrPort("10.180.2.1:0")},
		},
	}})
	if err != nil {
		log.Fatal(err)
	}
	printParts(ruleset, "map frontend_ranges", "map range_backends-28")
	// Output:
	// map frontend_ranges {
	// 	type ipv4_addr . inet_proto . inet_service : verdict
	// 	flags interval
	// 	counter
	// 	elements = {
	// 		1.2.3.4 . udp . 10000-20000 comment "default/media:rtp" : goto range-random-udp-1.2.3.4-10000,
	// 	}
	// }
	// map range_backends-28 {
	// 	typeof ip daddr . meta l4proto . numgen random mod 65535 : ip daddr
	// 	size 1024
	// 	counter
	// 	elements = {
	// 		1.2.3.4 . udp . 655360000 : 10.180.0.1,
	// 		1.2.3.4 . udp . 655360001 : 10.180.2.1,
	// 	}
	// }
}

// From now on only clients in one prefix may connect, but for one address.
func ExampleFrontend_allow() {
	var config nftdp.Config
	service := ingress("10.180.0.1:8080")
	before, err := config.Compile([]nftdp.Service{service})
	if err != nil {
		log.Fatal(err)
	}
	http := &service.Frontends[0]
	http.Allow = []netip.Prefix{netip.MustParsePrefix("203.0.113.0/24")}
	http.Deny = []netip.Prefix{netip.MustParsePrefix("203.0.113.200/32")}
	after, err := config.Compile([]nftdp.Service{service})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Print(before.PlanTo(after))
	// Output:
	// add chain ip nftdp node-clients-ed51525d42db81128b5eeabb68dae081-random-1
	// add rule ip nftdp node-clients-ed51525d42db81128b5eeabb68dae081-random-1 ip saddr 203.0.113.200 drop
	// add rule ip nftdp node-clients-ed51525d42db81128b5eeabb68dae081-random-1 ip saddr != 203.0.113.0/24 drop
	// add rule ip nftdp node-clients-ed51525d42db81128b5eeabb68dae081-random-1 goto node-random-1
	// delete element ip nftdp node_frontends { tcp . 80 }
	// add element ip nftdp node_frontends { tcp . 80 comment "ingress/controller:http" : goto node-clients-ed51525d42db81128b5eeabb68dae081-random-1 }
}

// A service begins to remember its clients for three hours.
func ExampleService_affinity() {
	var config nftdp.Config
	service := ingress("10.180.0.1:8080", "10.180.2.1:8080")
	service.Frontends = []nftdp.Frontend{{Addr: netip.MustParseAddr("10.96.0.10"), Port: 80}}
	before, err := config.Compile([]nftdp.Service{service})
	if err != nil {
		log.Fatal(err)
	}
	service.Affinity = nftdp.Duration(3 * time.Hour)
	after, err := config.Compile([]nftdp.Service{service})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Print(before.PlanTo(after))
	// Output:
	// add chain ip nftdp learn-10800
	// add chain ip nftdp affinity-random-2
	// add rule ip nftdp learn-10800 meta l4proto tcp update @affinity { ip saddr . ct original ip daddr . meta l4proto . ct original proto-dst timeout 3h : ct reply ip saddr . ct reply proto-src }
	// add rule ip nftdp learn-10800 meta l4proto udp update @affinity { ip saddr . ct original ip daddr . meta l4proto . ct original proto-dst timeout 3h : ct reply ip saddr . ct reply proto-src }
	// add rule ip nftdp learn-10800 meta l4proto sctp update @affinity { ip saddr . ct original ip daddr . meta l4proto . ct original proto-dst timeout 3h : ct reply ip saddr . ct reply proto-src }
	// add rule ip nftdp affinity-random-2 meta l4proto @protocols dnat ip to ip saddr . ip daddr . meta l4proto . th dport map @affinity
	// add rule ip nftdp affinity-random-2 goto random-2
	// delete element ip nftdp frontends { 10.96.0.10 . tcp . 80 }
	// delete element ip nftdp affinities { 10.96.0.10 . tcp . 80 }
	// add element ip nftdp frontends { 10.96.0.10 . tcp . 80 comment "ingress/controller:http" : goto affinity-random-2 }
	// add element ip nftdp affinities { 10.96.0.10 . tcp . 80 : goto learn-10800 }
}
