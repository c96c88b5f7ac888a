package nftdp_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log"
	"net/netip"
	"time"

	"github.com/vishvananda/netns"

	"github.com/nftdp/go-nftdp/nftdp"
	"github.com/nftdp/go-nftdp/nftdp/nftdptest"
)

// must stops the program where an example has nothing to say about an error.
func must(err error) {
	if err != nil {
		panic(err)
	}
}

// onNode opens a Dataplane on a node in memory, so that examples run anywhere,
// and applies services. On a running kernel it is Config.Open that opens it.
func onNode(services ...nftdp.Service) (*nftdptest.Node, *nftdp.Dataplane) {
	node := nftdptest.NewNode(netip.MustParseAddr("192.0.2.1"))
	dataplane, err := node.Open(context.Background(), nftdp.Config{})
	must(err)
	_, err = dataplane.Apply(context.Background(), services)
	must(err)
	return node, dataplane
}

// client is the first packet of a connection from a port of a client to port 80
// of the node.
func client(port uint16) nftdptest.Packet {
	return nftdptest.Packet{
		Source:      netip.AddrPortFrom(netip.MustParseAddr("203.0.113.7"), port),
		Destination: netip.MustParseAddrPort("192.0.2.1:80"),
	}
}

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

// A container engine programs the namespace of a gateway.
func ExampleConfig_OpenIn() {
	gateway, err := netns.GetFromName("gateway")
	if err != nil {
		log.Fatal(err)
	}
	dataplane, err := nftdp.Config{}.OpenIn(context.Background(), gateway)
	gateway.Close() // the Dataplane stays in the namespace
	if err != nil {
		log.Fatal(err)
	}
	defer dataplane.Close()
}

// While the program runs, nobody else can change its rules, and when it ends
// they go on working. A second one can look at them.
func ExampleConfig_protect() {
	ctx, config := context.Background(), nftdp.Config{Protect: true}
	node := nftdptest.NewNode()
	dataplane, err := node.Open(ctx, config)
	must(err)
	defer dataplane.Close() // the rules stay, for the next run to adopt
	_, err = dataplane.Apply(ctx, []nftdp.Service{ingress("10.180.0.1:8080")})
	must(err) // such as ErrNotSupported, before Linux 6.9

	second, err := node.Open(ctx, config)
	must(err)
	defer second.Close()
	_, err = second.Apply(ctx, nil)
	fmt.Println(errors.Is(err, nftdp.ErrProtected))
	services, err := second.Inspect(ctx)
	fmt.Println(services[0].Name, err)
	// Output:
	// true
	// ingress/controller:http <nil>
}

// A program shows what it would change.
func ExampleDataplane_Plan() {
	_, dataplane := onNode(ingress("10.180.0.1:8080"))
	plan, err := dataplane.Plan(context.Background(), []nftdp.Service{ingress("10.180.0.7:8080")})
	must(err)
	fmt.Print(plan)
	// Output:
	// delete element ip nftdp node_backends { tcp . 80 . 0 }
	// delete element ip nftdp node_backends { tcp . 30644 . 0 }
	// add element ip nftdp node_backends { tcp . 80 . 0 : 10.180.0.7 . 8080 }
	// add element ip nftdp node_backends { tcp . 30644 . 0 : 10.180.0.7 . 8080 }
	// add element ip nftdp node_masq { tcp . 80 . 10.180.0.7 }
	// add element ip nftdp node_masq { tcp . 30644 . 10.180.0.7 }
	// add element ip nftdp hairpin { 10.180.0.7 . 10.180.0.7 }
	// delete element ip nftdp node_masq { tcp . 80 . 10.180.0.1 }
	// delete element ip nftdp node_masq { tcp . 30644 . 10.180.0.1 }
	// delete element ip nftdp hairpin { 10.180.0.1 . 10.180.0.1 }
}

// Applying the same services again changes nothing. Port 80 of the node then
// leads to the backend, although nothing listens there.
func ExampleDataplane_Apply() {
	ctx := context.Background()
	node, dataplane := onNode()
	services := []nftdp.Service{ingress("10.180.0.1:8080")}
	_, err := dataplane.Apply(ctx, services)
	must(err)
	again, err := dataplane.Apply(ctx, services)
	must(err)
	fmt.Println("nothing to do:", again.Empty())
	fmt.Println(node.Send(client(40000)))
	// Output:
	// nothing to do: true
	// ingress/controller:http: delivered to 10.180.0.1:8080 from 192.0.2.1:40000, masqueraded
}

// A controller learns that one service has another backend and that one is no
// longer wanted. The other services are not looked at.
func ExampleDataplane_Update() {
	old := nftdp.Service{Name: "default/old:http", Frontends: []nftdp.Frontend{{Port: 8080}}}
	node, dataplane := onNode(ingress("10.180.0.1:8080"), old)
	_, err := dataplane.Update(context.Background(), nftdp.Change{
		Set:    []nftdp.Service{ingress("10.180.0.7:8080")},
		Delete: []string{"default/old:http", "default/never-there:http"},
	})
	must(err)
	fmt.Println(node.Send(client(40000)).Destination)
	// Output:
	// 10.180.0.7:8080
}

// How many connections each backend got is counted in the kernel.
func ExampleDataplane_Inspect() {
	node, dataplane := onNode(ingress("10.180.0.1:8080", "10.180.0.2:8080"))
	for port := range uint16(3) {
		node.Send(client(40000 + port))
	}
	services, err := dataplane.Inspect(context.Background())
	must(err)
	for _, s := range services {
		for _, f := range s.Frontends {
			for _, b := range f.Backends {
				fmt.Println(s.Name, f.Addr, f.Port, b.Addr, b.Counter.Connections)
			}
		}
	}
	// Output:
	// ingress/controller:http 0.0.0.0 80 10.180.0.1:8080 2
	// ingress/controller:http 0.0.0.0 80 10.180.0.2:8080 1
	// ingress/controller:http 0.0.0.0 30644 10.180.0.1:8080 0
	// ingress/controller:http 0.0.0.0 30644 10.180.0.2:8080 0
}

// A program checks that the kernel holds what it has compiled.
func ExampleDataplane_Ruleset() {
	services := []nftdp.Service{ingress("10.180.0.1:8080")}
	_, dataplane := onNode(services...)
	held, err := dataplane.Ruleset(context.Background())
	must(err)
	wanted, err := nftdp.Config{}.Compile(services)
	must(err)
	fmt.Println(held.PlanTo(wanted).Empty())
	// Output:
	// true
}

// A program that is uninstalled takes its rules along. Port 80 of the node is
// an ordinary port then.
func ExampleDataplane_Remove() {
	node, dataplane := onNode(ingress("10.180.0.1:8080"))
	must(dataplane.Remove(context.Background()))
	fmt.Println(node.Send(client(40000)))
	// Output:
	// delivered to 192.0.2.1:80 from 203.0.113.7:40000
}

// When a program ends, services go on working.
func ExampleDataplane_Close() {
	node, dataplane := onNode(ingress("10.180.0.1:8080"))
	must(dataplane.Close())
	fmt.Println(node.Send(client(40000)).Destination)
	_, err := dataplane.Apply(context.Background(), nil)
	fmt.Println(errors.Is(err, nftdp.ErrClosed))
	// Output:
	// 10.180.0.1:8080
	// true
}

// Who is connected to which backend?
func ExampleDataplane_Flows() {
	node, dataplane := onNode(ingress("10.180.0.1:8080"))
	node.Send(client(40000))
	flows, err := dataplane.Flows(context.Background(), "ingress/controller:http")
	must(err)
	for _, f := range flows {
		fmt.Println(f.Client, f.Frontend, f.Backend, f.Source)
	}
	// Output:
	// 203.0.113.7:40000 192.0.2.1:80 10.180.0.1:8080 192.0.2.1:40000
}

// drained is the ingress with its first backend draining.
func drained() nftdp.Service {
	s := ingress("10.180.0.1:8080", "10.180.0.2:8080")
	s.Backends[0].State = nftdp.StateDraining
	return s
}

// A backend is taken out of service: it gets no new connections, and the
// program waits until the established ones have ended.
func ExampleDataplane_Drain() {
	ctx, leaving := context.Background(), netip.MustParseAddrPort("10.180.0.1:8080")
	node, dataplane := onNode(ingress("10.180.0.1:8080", "10.180.0.2:8080"))
	node.Send(client(40000))
	_, err := dataplane.Update(ctx, nftdp.Change{Set: []nftdp.Service{drained()}})
	must(err)

	patience, cancel := context.WithTimeout(ctx, time.Millisecond) // here; else half a minute
	defer cancel()
	left, err := dataplane.Drain(patience, "ingress/controller:http", leaving)
	fmt.Println(left, err)

	node.End(client(40000))
	fmt.Println(dataplane.Drain(ctx, "ingress/controller:http", leaving))
	// Output:
	// 1 context deadline exceeded
	// 0 <nil>
}

// What has not ended when a backend has to leave is cut: the client's next
// packet begins a connection to another backend.
func ExampleDataplane_Cut() {
	ctx := context.Background()
	node, dataplane := onNode(ingress("10.180.0.1:8080", "10.180.0.2:8080"))
	node.Send(client(40000))
	_, err := dataplane.Update(ctx, nftdp.Change{Set: []nftdp.Service{drained()}})
	must(err)
	fmt.Println(node.Send(client(40000)).Destination)
	fmt.Println(dataplane.Cut(ctx, "ingress/controller:http"))
	fmt.Println(node.Send(client(40000)).Destination)
	// Output:
	// 10.180.0.1:8080
	// 1 <nil>
	// 10.180.0.2:8080
}

// sticky is the ingress whose clients come back to their backends for ten
// minutes.
func sticky() nftdp.Service {
	s := ingress("10.180.0.1:8080", "10.180.0.2:8080")
	s.Affinity = nftdp.Duration(10 * time.Minute)
	return s
}

// Which clients come back to which backend?
func ExampleDataplane_Affinities() {
	node, dataplane := onNode(sticky())
	node.Send(client(40000))
	node.Advance(time.Minute)
	affinities, err := dataplane.Affinities(context.Background())
	must(err)
	for _, a := range affinities {
		fmt.Println(a.Client, a.Frontend, a.Backend, a.Expires)
	}
	// Output:
	// 203.0.113.7 192.0.2.1:80 10.180.0.1:8080 9m0s
}

// A standby node with the same services learns to which backends the clients of
// this node come back. It gets the list over the network, as JSON.
func ExampleDataplane_AddAffinities() {
	ctx := context.Background()
	node, dataplane := onNode(sticky())
	node.Send(client(40000))
	affinities, err := dataplane.Affinities(ctx)
	must(err)
	list, err := json.Marshal(affinities)
	must(err)

	standbyNode, standby := onNode(sticky())
	standbyNode.Choose = func(possible []nftdptest.Outcome) int { return len(possible) - 1 }
	var known []nftdp.Affinity
	must(json.Unmarshal(list, &known))
	n, err := standby.AddAffinities(ctx, known)
	fmt.Println(n, err)
	fmt.Println(standbyNode.Send(client(40001)).Destination)
	// Output:
	// 1 <nil>
	// 10.180.0.1:8080
}

// A program that only wants to know what others do to its rules watches.
func ExampleDataplane_Watch() {
	node, dataplane := onNode(ingress("10.180.0.1:8080"))
	node.FlushRuleset() // somebody else's nft flush ruleset
	for drift, err := range dataplane.Watch(context.Background()) {
		must(err)
		fmt.Println("repairs are needed:", drift.Len() > 0)
		break
	}
	// Output:
	// repairs are needed: true
}

// Services are kept, whatever others do to their rules, until the program is
// interrupted.
func ExampleDataplane_Keep() {
	ctx, interrupt := context.WithCancel(context.Background())
	node, dataplane := onNode(ingress("10.180.0.1:8080"))
	node.FlushRuleset() // somebody else's nft flush ruleset
	err := dataplane.Keep(ctx, func(drift *nftdp.Drift, err error) {
		if err != nil {
			log.Print(err) // it tries again
			return
		}
		fmt.Println("repaired:", !drift.Empty())
		interrupt()
	})
	fmt.Println(err)
	fmt.Println(node.Send(client(40000)).Destination)
	// Output:
	// repaired: true
	// context canceled
	// 10.180.0.1:8080
}

// A program says what the namespace lacks.
func ExampleDataplane_Requirements() {
	_, dataplane := onNode()
	requirements, err := dataplane.Requirements(context.Background())
	must(err)
	for _, r := range requirements {
		if !r.Met() {
			fmt.Println(r)
		}
	}
	// Output:
	// net.ipv4.ip_forward = 0, want 1: IPv4 connections from outside do not reach backends outside this namespace
	// net.ipv6.conf.all.forwarding = 0, want 1: IPv6 connections from outside do not reach backends outside this namespace
}

// A program that was told to do so turns the namespace into a router.
func ExampleDataplane_MeetRequirements() {
	_, dataplane := onNode()
	changed, err := dataplane.MeetRequirements(context.Background())
	must(err)
	for _, r := range changed {
		fmt.Println(r.Name, "was", r.Have, "and is", r.Want)
	}
	// Output:
	// net.ipv4.ip_forward was 0 and is 1
	// net.ipv6.conf.all.forwarding was 0 and is 1
}
