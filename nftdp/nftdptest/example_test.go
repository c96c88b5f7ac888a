package nftdptest_test

import (
	"context"
	"fmt"
	"log"
	"net/netip"
	"time"

	"github.com/nftdp/go-nftdp/nftdp"
	"github.com/nftdp/go-nftdp/nftdp/nftdptest"
)

// publish stands for a program's own function that is to be tested: it takes a
// Dataplane, whatever that runs on.
func publish(ctx context.Context, d *nftdp.Dataplane, backends ...string) error {
	web := nftdp.Service{Name: "web", Frontends: []nftdp.Frontend{{Port: 80}}}
	for _, b := range backends {
		web.Backends = append(web.Backends, nftdp.Backend{Addr: netip.MustParseAddrPort(b)})
	}
	_, err := d.Apply(ctx, []nftdp.Service{web})
	return err
}

// request is a client's first packet to port 80 of the node.
func request(clientPort uint16) nftdptest.Packet {
	return nftdptest.Packet{
		Source:      netip.AddrPortFrom(netip.MustParseAddr("203.0.113.7"), clientPort),
		Destination: netip.MustParseAddrPort("192.0.2.1:80"),
	}
}

// Services are applied, and a client connects to the node. Without backends it
// is refused.
func ExampleNode() {
	ctx := context.Background()
	node := nftdptest.NewNode(netip.MustParseAddr("192.0.2.1"))
	dataplane, err := node.Open(ctx, nftdp.Config{})
	if err != nil {
		log.Fatal(err)
	}
	defer dataplane.Close()

	if err := publish(ctx, dataplane, "10.180.0.1:8080", "10.180.0.2:8080"); err != nil {
		log.Fatal(err)
	}
	fmt.Println(node.Send(request(40000)))
	fmt.Println(node.Send(request(40001)))

	if err := publish(ctx, dataplane); err != nil {
		log.Fatal(err)
	}
	fmt.Println("further packet:", node.Send(request(40001)).Destination)
	fmt.Println(node.Send(request(40002)))
	// Output:
	// web: delivered to 10.180.0.1:8080 from 192.0.2.1:40000, masqueraded
	// web: delivered to 10.180.0.2:8080 from 192.0.2.1:40001, masqueraded
	// further packet: 10.180.0.2:8080
	// web: reset
}

// A test compares what becomes of a connection with what it wants.
func ExampleOutcome() {
	ctx := context.Background()
	node := nftdptest.NewNode(netip.MustParseAddr("192.0.2.1"))
	dataplane, err := node.Open(ctx, nftdp.Config{})
	if err != nil {
		log.Fatal(err)
	}
	defer dataplane.Close()
	if err := publish(ctx, dataplane); err != nil {
		log.Fatal(err)
	}
	got, want := node.Send(request(40000)), nftdptest.Outcome{Service: "web", Verdict: nftdptest.VerdictReset}
	fmt.Println(got, got == want)
	// Output: web: reset true
}

func ExampleVerdict() {
	fmt.Println(nftdptest.VerdictUnreachable, nftdptest.Verdict(9))
	// Output: unreachable verdict(9)
}

// A test asks for everything that can become of a connection.
func ExampleNode_Outcomes() {
	ctx := context.Background()
	node := nftdptest.NewNode(netip.MustParseAddr("192.0.2.1"))
	dataplane, err := node.Open(ctx, nftdp.Config{Internal: []netip.Prefix{netip.MustParsePrefix("203.0.113.0/24")}})
	if err != nil {
		log.Fatal(err)
	}
	defer dataplane.Close()
	if err := publish(ctx, dataplane, "10.180.0.1:8080", "10.180.0.2:8080"); err != nil {
		log.Fatal(err)
	}
	for _, o := range node.Outcomes(request(40000)) {
		fmt.Println(o)
	}
	// Output:
	// web: delivered to 10.180.0.1:8080 from 203.0.113.7:40000
	// web: delivered to 10.180.0.2:8080 from 203.0.113.7:40000
}

// A program keeps its services, and somebody flushes all rules.
func ExampleNode_FlushRuleset() {
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	node := nftdptest.NewNode(netip.MustParseAddr("192.0.2.1"))
	dataplane, err := node.Open(ctx, nftdp.Config{})
	if err != nil {
		log.Fatal(err)
	}
	defer dataplane.Close()
	if err := publish(ctx, dataplane, "10.180.0.1:8080"); err != nil {
		log.Fatal(err)
	}

	node.FlushRuleset()
	fmt.Println("flushed: ", node.Send(request(40000)))
	err = dataplane.Keep(ctx, func(_ *nftdp.Drift, err error) {
		if err == nil {
			fmt.Println("repaired:", node.Send(request(40001)))
			stop()
		}
	})
	fmt.Println(err)
	// Output:
	// flushed:  delivered to 192.0.2.1:80 from 203.0.113.7:40000
	// repaired: web: delivered to 10.180.0.1:8080 from 192.0.2.1:40001, masqueraded
	// context canceled
}

// A backend is drained: it gets no new connections, and the program waits for
// the established one.
func ExampleNode_End() {
	ctx := context.Background()
	node := nftdptest.NewNode(netip.MustParseAddr("192.0.2.1"))
	dataplane, err := node.Open(ctx, nftdp.Config{})
	if err != nil {
		log.Fatal(err)
	}
	defer dataplane.Close()
	if err := publish(ctx, dataplane, "10.180.0.1:8080"); err != nil {
		log.Fatal(err)
	}
	node.Send(request(40000))
	if err := publish(ctx, dataplane, "10.180.0.2:8080"); err != nil {
		log.Fatal(err)
	}

	flows, err := dataplane.Flows(ctx, "web")
	fmt.Println(len(flows), "open", err)

	node.End(request(40000))
	left, err := dataplane.Drain(ctx, "web")
	fmt.Println(left, "left", err)
	// Output:
	// 1 open <nil>
	// 0 left <nil>
}

// A client comes back to its backend, until it has been away for too long.
func ExampleNode_Advance() {
	ctx := context.Background()
	node := nftdptest.NewNode(netip.MustParseAddr("192.0.2.1"))
	dataplane, err := node.Open(ctx, nftdp.Config{})
	if err != nil {
		log.Fatal(err)
	}
	defer dataplane.Close()
	_, err = dataplane.Apply(ctx, []nftdp.Service{{
		Name:      "web",
		Affinity:  nftdp.Duration(10 * time.Minute),
		Frontends: []nftdp.Frontend{{Port: 80}},
		Backends: []nftdp.Backend{
			{Addr: netip.MustParseAddrPort("10.180.0.1:8080")},
			{Addr: netip.MustParseAddrPort("10.180.0.2:8080")},
		},
	}})
	if err != nil {
		log.Fatal(err)
	}

	node.Send(request(40000))
	fmt.Println(len(node.Outcomes(request(40001))), "possible")
	node.Advance(10 * time.Minute)
	fmt.Println(len(node.Outcomes(request(40001))), "possible")
	// Output:
	// 1 possible
	// 2 possible
}
