package nftdp_test

import (
	"context"
	"encoding/json"
	"fmt"
	"log"
	"net/netip"

	"github.com/nftdp/go-nftdp/nftdp"
)

// A person asks about a packet, in one line.
func ExampleParseProbe() {
	probe, err := nftdp.ParseProbe("203.0.113.7 192.0.2.1:53/udp")
	fmt.Println(probe, err)
	_, err = nftdp.ParseProbe("203.0.113.7 [fd00::1]:53/udp")
	fmt.Println(err)
	// Output:
	// 203.0.113.7 192.0.2.1:53/udp <nil>
	// probe "203.0.113.7 [fd00::1]:53/udp": config: source: is of another family than destination
}

// Services are explained before anything is programmed.
func ExampleRuleset_Explain() {
	rules, err := nftdp.Config{Internal: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}}.Compile([]nftdp.Service{web("10.180.0.1:8080", "10.180.0.2:8080")})
	if err != nil {
		log.Fatal(err)
	}
	probe, err := nftdp.ParseProbe("203.0.113.7 192.0.2.1:80")
	if err != nil {
		log.Fatal(err)
	}
	explanation, err := rules.Explain(probe, netip.MustParseAddr("192.0.2.1"))
	if err != nil {
		log.Fatal(err)
	}
	fmt.Print(explanation)
	// Output:
	// 203.0.113.7 192.0.2.1:80/tcp
	//  1. frontend: 192.0.2.1:80 tcp is taken by node-wide port 80 of service web
	//  2. backend:  one of 2 by random
	//               10.180.0.1:8080, 50%
	//               10.180.0.2:8080, 50%
	//  3. source:   masqueraded: the backend sees an address of this node, since the client is not in Config.Internal
	//     reply:    to this node, whose address the backend sees; conntrack sends it on to 203.0.113.7 as coming from 192.0.2.1:80
	//     same for: every client outside 10.0.0.0/8
	// sent (DELIVERED)
}

// A program acts on the code.
func ExampleDataplane_Explain() {
	ctx := context.Background()
	_, dataplane := start(ctx, web("10.180.0.1:8080"))
	defer dataplane.Close()

	explanation, err := dataplane.Explain(ctx, nftdp.Probe{
		Source:      netip.MustParseAddrPort("203.0.113.7:40000"),
		Destination: netip.MustParseAddrPort("192.0.2.1:81"),
	})
	if err != nil {
		log.Fatal(err)
	}
	if explanation.Code == nftdp.CodeNoService {
		fmt.Println(explanation.Advice)
	}
	// Output: compare address, port and protocol with the frontends that Inspect lists
}

// inMemory explains a packet to web on a node in memory.
func inMemory() *nftdp.Explanation {
	ctx := context.Background()
	_, dataplane := start(ctx, web("10.180.0.1:8080", "10.180.0.2:8080"))
	defer dataplane.Close()

	probe := nftdp.Probe{Source: netip.MustParseAddrPort("203.0.113.7:0"), Destination: netip.MustParseAddrPort("192.0.2.1:80")}
	explanation, err := dataplane.Explain(ctx, probe)
	if err != nil {
		panic(err)
	}
	return explanation
}

func ExampleProbe() {
	probe := nftdp.Probe{Source: netip.MustParseAddrPort("203.0.113.7:0"), Destination: netip.MustParseAddrPort("192.0.2.1:80")}
	fmt.Println(probe)
	// Output: 203.0.113.7 192.0.2.1:80/tcp
}

func ExampleCandidate() {
	backends := inMemory().Backends
	for i := range backends {
		fmt.Println(&backends[i])
	}
	// Output:
	// 10.180.0.1:8080, 50%
	// 10.180.0.2:8080, 50%
}

// An explanation is a text of several lines, which its JSON has, too.
func ExampleExplanation() {
	explanation := inMemory()
	encoded, err := json.Marshal(explanation)
	if err != nil {
		log.Fatal(err)
	}
	var decoded struct{ Code, Text string }
	if err := json.Unmarshal(encoded, &decoded); err != nil {
		log.Fatal(err)
	}
	fmt.Println(decoded.Code, decoded.Text == explanation.String())
	// Output: DELIVERED true
}
