package nftdp_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"time"

	"github.com/nftdp/go-nftdp/nftdp"
	"github.com/nftdp/go-nftdp/nftdp/nftdptest"
)

// start opens a Dataplane on a node in memory, with the address 192.0.2.1, and
// applies services. A program for a real node calls nftdp.Config.Open instead.
func start(ctx context.Context, services ...nftdp.Service) (*nftdptest.Node, *nftdp.Dataplane) {
	node := nftdptest.NewNode(netip.MustParseAddr("192.0.2.1"))
	dataplane, err := node.Open(ctx, nftdp.Config{})
	if err != nil {
		panic(err)
	}
	if _, err := dataplane.Apply(ctx, services); err != nil {
		panic(err)
	}
	return node, dataplane
}

// web is a service on port 80 of the node.
func web(backends ...string) nftdp.Service {
	s := nftdp.Service{Name: "web", Frontends: []nftdp.Frontend{{Addr: netip.IPv4Unspecified(), Port: 80}}}
	for _, b := range backends {
		s.Backends = append(s.Backends, nftdp.Backend{Addr: netip.MustParseAddrPort(b)})
	}
	return s
}

// request is a packet of a client's connection to web.
func request(clientPort uint16) nftdptest.Packet {
	return nftdptest.Packet{
		Source:      netip.AddrPortFrom(netip.MustParseAddr("203.0.113.7"), clientPort),
		Destination: netip.MustParseAddrPort("192.0.2.1:80"),
	}
}

// A node agent shows what it would do, for example for a flag -dry-run.
func ExampleDataplane_Plan() {
	ctx := context.Background()
	node, dataplane := start(ctx, web("10.180.0.1:8080"))
	defer dataplane.Close()

	plan, err := dataplane.Plan(ctx, []nftdp.Service{web("10.180.0.7:8080")})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Print(plan)
	fmt.Println("still", node.Send(request(40000)).Destination)
	// Output:
	// delete element ip nftdp node_backends { tcp . 80 . 0 }
	// add element ip nftdp node_backends { tcp . 80 . 0 : 10.180.0.7 . 8080 }
	// add element ip nftdp node_masq { tcp . 80 . 10.180.0.7 }
	// add element ip nftdp hairpin { 10.180.0.7 . 10.180.0.7 }
	// delete element ip nftdp node_masq { tcp . 80 . 10.180.0.1 }
	// delete element ip nftdp hairpin { 10.180.0.1 . 10.180.0.1 }
	// still 10.180.0.1:8080
}

// A node agent applies the complete list of services, again and again. It
// need not know what the kernel holds: what is there already costs nothing, and
// what is no longer listed goes.
func ExampleDataplane_Apply() {
	ctx := context.Background()
	node, dataplane := start(ctx)
	defer dataplane.Close()

	for _, services := range [][]nftdp.Service{{web("10.180.0.1:8080")}, {web("10.180.0.1:8080")}, {}} {
		plan, err := dataplane.Apply(ctx, services)
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println("changed:", !plan.Empty(), "-", node.Outcomes(request(40000))[0])
	}
	// Output:
	// changed: true - web: delivered to 10.180.0.1:8080 from 192.0.2.1:40000, masqueraded
	// changed: false - web: delivered to 10.180.0.1:8080 from 192.0.2.1:40000, masqueraded
	// changed: true - delivered to 192.0.2.1:80 from 203.0.113.7:40000
}

// While an agent with Config.Protect runs, nobody else can change its rules. A
// second agent finds that out, and can only look at them.
func ExampleDataplane_Apply_protected() {
	ctx := context.Background()
	node := nftdptest.NewNode(netip.MustParseAddr("192.0.2.1"))
	first, err := node.Open(ctx, nftdp.Config{Protect: true})
	if err != nil {
		log.Fatal(err)
	}
	defer first.Close()
	if _, err := first.Apply(ctx, []nftdp.Service{web("10.180.0.1:8080")}); err != nil {
		log.Fatal(err)
	}

	second, err := node.Open(ctx, nftdp.Config{Protect: true})
	if err != nil {
		log.Fatal(err)
	}
	defer second.Close()
	if _, err := second.Apply(ctx, nil); errors.Is(err, nftdp.ErrProtected) {
		services, err := second.Inspect(ctx)
		fmt.Println("another agent has", len(services), "service", err)
	}
	// Output: another agent has 1 service <nil>
}

// A CNI plugin runs once for each container, beside an agent that keeps services of
// its own in the same tables. Neither touches the other's, and a frontend has one
// service only.
func ExampleDataplane_Update_owner() {
	ctx := context.Background()
	node := nftdptest.NewNode(netip.MustParseAddr("192.0.2.1"))
	run := func(owner string, change nftdp.Change) error {
		dataplane, err := node.Open(ctx, nftdp.Config{Owner: owner})
		if err != nil {
			return err
		}
		defer dataplane.Close()
		_, err = dataplane.Update(ctx, change)
		return err
	}
	on := func(name string, port uint16) nftdp.Change {
		s := web("10.180.0.1:8080")
		s.Name, s.Frontends[0].Port = name, port
		return nftdp.Change{Set: []nftdp.Service{s}}
	}
	fmt.Println(run("agent", on("agent/web", 80)))
	fmt.Println(run("cni", on("cni/first", 8001)))
	fmt.Println(run("cni", on("cni/second", 80)))
	fmt.Println(run("cni", nftdp.Change{Delete: []string{"cni/first"}}))
	fmt.Println(node.Send(request(40000)))
	// Output:
	// <nil>
	// <nil>
	// service "cni/second": frontends[0]: tcp node-wide port 80 (ip) is already a frontend of service "agent/web"
	// <nil>
	// agent/web: delivered to 10.180.0.1:8080 from 192.0.2.1:40000, masqueraded
}

// The next version of an agent has another configuration. Other owners share the
// tables, so it changes that on purpose; their services stay.
func ExampleDataplane_TakeOver() {
	ctx := context.Background()
	node := nftdptest.NewNode(netip.MustParseAddr("192.0.2.1"))
	for _, config := range []nftdp.Config{{Owner: "agent"}, {Owner: "agent", Localhost: true}} {
		dataplane, err := node.Open(ctx, config)
		if err != nil {
			log.Fatal(err)
		}
		defer dataplane.Close()
		if _, err = dataplane.Apply(ctx, nil); errors.Is(err, nftdp.ErrOtherConfig) {
			fmt.Println(err)
			_, err = dataplane.TakeOver(ctx, nil)
		}
		fmt.Println(err)
	}
	// Output:
	// <nil>
	// table ip nftdp: table was made with another configuration: the owners that share it have another value of localhost: use the same, or TakeOver to change it for all
	// <nil>
}

// A proxy learns that one of many services has another backend now, and that
// another one is gone. It names only these.
func ExampleDataplane_Update() {
	ctx := context.Background()
	node, dataplane := start(ctx, web("10.180.0.1:8080"),
		nftdp.Service{Name: "old", Frontends: []nftdp.Frontend{{Port: 81}}},
		nftdp.Service{Name: "other", Frontends: []nftdp.Frontend{{Port: 82}}})
	defer dataplane.Close()

	_, err := dataplane.Update(ctx, nftdp.Change{
		Set:    []nftdp.Service{web("10.180.0.7:8080")},
		Delete: []string{"old"},
	})
	if err != nil {
		log.Fatal(err)
	}
	for _, port := range []uint16{80, 81, 82} {
		packet := request(40000)
		packet.Destination = netip.AddrPortFrom(packet.Destination.Addr(), port)
		fmt.Println(port, node.Send(packet))
	}
	// Output:
	// 80 web: delivered to 10.180.0.7:8080 from 192.0.2.1:40000, masqueraded
	// 81 delivered to 192.0.2.1:81 from 203.0.113.7:40000
	// 82 other: reset
}

// An agent learns that the node's pods have another prefix. Clients in it are no
// longer masqueraded, and keep their flows if that makes no difference to them.
func ExampleDataplane_SetConfig() {
	ctx := context.Background()
	node, dataplane := start(ctx, web("10.180.0.1:8080"))
	defer dataplane.Close()

	pod := nftdptest.Packet{Source: netip.MustParseAddrPort("10.180.0.9:40000"), Destination: netip.MustParseAddrPort("192.0.2.1:80")}
	fmt.Println(node.Outcomes(pod)[0].Source.Addr())
	plan, err := dataplane.SetConfig(ctx, nftdp.Config{Internal: []netip.Prefix{netip.MustParsePrefix("10.180.0.0/16")}})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Print(plan)
	fmt.Println(node.Outcomes(pod)[0].Source.Addr())
	// Output:
	// 192.0.2.1
	// add element ip nftdp internal { 10.180.0.0/16 }
	// 10.180.0.9
}

// An exporter of metrics reads how many connections each backend got, which the
// kernel counts.
func ExampleDataplane_Inspect() {
	ctx := context.Background()
	node, dataplane := start(ctx, web("10.180.0.1:8080", "10.180.0.2:8080"))
	defer dataplane.Close()
	for port := range uint16(5) {
		node.Send(request(40000 + port))
	}

	services, err := dataplane.Inspect(ctx)
	if err != nil {
		log.Fatal(err)
	}
	for _, s := range services {
		for _, f := range s.Frontends {
			fmt.Println(s.Name, f.Addr, f.Port, f.Counter.Connections)
			for _, b := range f.Backends {
				fmt.Println("  to", b.Addr, b.Counter.Connections)
			}
		}
	}
	// Output:
	// web 0.0.0.0 80 5
	//   to 10.180.0.1:8080 3
	//   to 10.180.0.2:8080 2
}

// Somebody looks for what the kernel holds about a backend.
func ExampleDataplane_Ruleset() {
	ctx := context.Background()
	_, dataplane := start(ctx, web("10.180.0.1:8080", "10.180.0.2:8080"))
	defer dataplane.Close()

	ruleset, err := dataplane.Ruleset(ctx)
	if err != nil {
		log.Fatal(err)
	}
	for line := range strings.Lines(ruleset.String()) {
		if strings.Contains(line, "10.180.0.2") {
			fmt.Println(strings.TrimSpace(line))
		}
	}
	// Output:
	// 10.180.0.2 . 10.180.0.2,
	// tcp . 80 . 1 : 10.180.0.2 . 8080,
	// tcp . 80 . 10.180.0.2,
}

// A node agent that is uninstalled leaves nothing behind.
func ExampleDataplane_Remove() {
	ctx := context.Background()
	node, dataplane := start(ctx, web("10.180.0.1:8080"))
	defer dataplane.Close()

	if err := dataplane.Remove(ctx); err != nil {
		log.Fatal(err)
	}
	ruleset, err := dataplane.Ruleset(ctx)
	fmt.Printf("%q %v\n", ruleset, err)
	fmt.Println(node.Send(request(40000)))
	// Output:
	// "" <nil>
	// delivered to 192.0.2.1:80 from 203.0.113.7:40000
}

// A node agent ends, and its services go on working. The next agent finds them
// in place.
func ExampleDataplane_Close() {
	ctx := context.Background()
	node, dataplane := start(ctx, web("10.180.0.1:8080"))
	if err := dataplane.Close(); err != nil {
		log.Fatal(err)
	}
	_, err := dataplane.Inspect(ctx)
	fmt.Println("closed:", errors.Is(err, nftdp.ErrClosed))
	fmt.Println(node.Send(request(40000)))

	next, err := node.Open(ctx, nftdp.Config{})
	if err != nil {
		log.Fatal(err)
	}
	defer next.Close()
	plan, err := next.Apply(ctx, []nftdp.Service{web("10.180.0.1:8080")})
	fmt.Println("changed:", plan.Len(), err)
	// Output:
	// closed: true
	// web: delivered to 10.180.0.1:8080 from 192.0.2.1:40000, masqueraded
	// changed: 0 <nil>
}

// Somebody restarts the firewall, which flushes all rules, and a node agent
// puts its own back. See Config.Open for a context that ends with the program.
func ExampleDataplane_Keep() {
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	node, dataplane := start(ctx, web("10.180.0.1:8080"))
	defer dataplane.Close()

	node.FlushRuleset()
	fmt.Println("flushed: ", node.Outcomes(request(40000))[0])
	err := dataplane.Keep(ctx, func(_ *nftdp.Drift, err error) {
		if err != nil {
			log.Print(err) // Keep tries again
			return
		}
		fmt.Println("repaired:", node.Outcomes(request(40000))[0])
		stop()
	})
	fmt.Println(err)
	// Output:
	// flushed:  delivered to 192.0.2.1:80 from 203.0.113.7:40000
	// repaired: web: delivered to 10.180.0.1:8080 from 192.0.2.1:40000, masqueraded
	// context canceled
}

// An auditor only wants to know when somebody has changed the rules, here a
// second agent that has other backends.
func ExampleDataplane_Watch() {
	ctx := context.Background()
	node, dataplane := start(ctx, web("10.180.0.1:8080"))
	defer dataplane.Close()
	second, err := node.Open(ctx, nftdp.Config{})
	if err != nil {
		log.Fatal(err)
	}
	defer second.Close()
	if _, err := second.Apply(ctx, []nftdp.Service{web("10.180.0.7:8080")}); err != nil {
		log.Fatal(err)
	}

	for drift, err := range dataplane.Watch(ctx) {
		if err != nil {
			log.Print(err) // Watch tries again
			continue
		}
		fmt.Println(drift.Len(), "objects to repair")
		break // one is enough here
	}
	// Output: 6 objects to repair
}

// A proxy lists the open connections of a service, for example for its status
// page.
func ExampleDataplane_Flows() {
	ctx := context.Background()
	node, dataplane := start(ctx, web("10.180.0.1:8080", "10.180.0.2:8080"))
	defer dataplane.Close()
	node.Send(request(40000))
	node.Send(request(40001))
	node.End(request(40000))

	flows, err := dataplane.Flows(ctx, "web")
	if err != nil {
		log.Fatal(err)
	}
	for _, f := range flows {
		if !f.Ended {
			fmt.Println(f.Client, "to", f.Frontend, "goes to", f.Backend, "as", f.Source)
		}
	}
	// Output: 203.0.113.7:40001 to 192.0.2.1:80 goes to 10.180.0.2:8080 as 192.0.2.1:40001
}

// A backend is taken out of service: it gets no new connections, has half a
// minute to finish the established ones, and the rest would be cut.
func ExampleDataplane_Drain() {
	ctx := context.Background()
	node, dataplane := start(ctx, web("10.180.0.1:8080", "10.180.0.2:8080"))
	defer dataplane.Close()
	fmt.Println(node.Send(request(40000)).Destination)

	service := web("10.180.0.1:8080", "10.180.0.2:8080")
	service.Backends[0].State = nftdp.StateDraining
	if _, err := dataplane.Update(ctx, nftdp.Change{Set: []nftdp.Service{service}}); err != nil {
		log.Fatal(err)
	}
	go node.End(request(40000)) // sooner or later, the client is done

	patience, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	left, err := dataplane.Drain(patience, "web", service.Backends[0].Addr)
	if errors.Is(err, context.DeadlineExceeded) {
		left, err = dataplane.Cut(ctx, "web", service.Backends[0].Addr)
	}
	fmt.Println("cut:", left, err)
	// Output:
	// 10.180.0.1:8080
	// cut: 0 <nil>
}

// A program shows how many connections are left to a backend, and goes on when there
// are few.
func ExampleDataplane_Draining() {
	ctx := context.Background()
	node, dataplane := start(ctx, web("10.180.0.1:8080"))
	defer dataplane.Close()
	for port := range uint16(3) {
		node.Send(request(40000 + port))
	}
	if _, err := dataplane.Update(ctx, nftdp.Change{Set: []nftdp.Service{web("10.180.0.2:8080")}}); err != nil {
		log.Fatal(err)
	}

	const few = 1
	for left, err := range dataplane.Draining(ctx, "web") {
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(left, "connections are left")
		if left <= few {
			break
		}
		node.End(request(40000 + uint16(left) - 1)) // a client is done
	}
	// Output:
	// 3 connections are left
	// 2 connections are left
	// 1 connections are left
}

// A proxy in a pod asks the node what its client has connected to. A proxy on the node
// itself calls OriginalDst with the connection.
func ExampleDataplane_OriginalFlow() {
	ctx := context.Background()
	node, dataplane := start(ctx, web("10.180.0.1:8080"))
	defer dataplane.Close()
	seen := node.Send(request(40000)) // in the pod: RemoteAddr and LocalAddr

	flow, err := dataplane.OriginalFlow(ctx, nftdp.ProtocolTCP, seen.Source, seen.Destination)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(seen.Source, "is", flow.Client, "who has connected to", flow.Frontend)
	// Output: 192.0.2.1:40000 is 203.0.113.7:40000 who has connected to 192.0.2.1:80
}

// A proxy behind several ports learns which one a client has connected to.
func ExampleOriginalDst() {
	type original struct{}
	server := http.Server{
		ConnContext: func(ctx context.Context, conn net.Conn) context.Context {
			dst, err := nftdp.OriginalDst(conn)
			if err != nil {
				log.Print(err)
			}
			return context.WithValue(ctx, original{}, dst)
		},
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			dst, _ := r.Context().Value(original{}).(netip.AddrPort)
			fmt.Fprintln(w, "welcome to port", dst.Port())
		}),
	}
	_ = server.Close() // in place of server.Serve(listener)
}

// A backend has died and cannot end its connections, so a proxy does. What a
// client sends next reaches another backend, which resets a TCP connection that
// it does not know.
func ExampleDataplane_Cut() {
	ctx := context.Background()
	node, dataplane := start(ctx, web("10.180.0.1:8080"))
	defer dataplane.Close()
	node.Send(request(40000))
	change := nftdp.Change{Set: []nftdp.Service{web("10.180.0.2:8080")}}
	if _, err := dataplane.Update(ctx, change); err != nil {
		log.Fatal(err)
	}
	fmt.Println("established:", node.Send(request(40000)).Destination)

	n, err := dataplane.Cut(ctx, "web") // to all backends that take no new connections
	fmt.Println("cut:", n, err)
	fmt.Println("afterwards: ", node.Send(request(40000)).Destination)
	// Output:
	// established: 10.180.0.1:8080
	// cut: 1 <nil>
	// afterwards:  10.180.0.2:8080
}

// An operator asks why a client always gets to the same backend, and for how
// long.
func ExampleDataplane_Affinities() {
	ctx := context.Background()
	service := web("10.180.0.1:8080", "10.180.0.2:8080")
	service.Affinity = nftdp.Duration(10 * time.Minute)
	node, dataplane := start(ctx, service)
	defer dataplane.Close()
	node.Send(request(40000))
	node.Advance(time.Minute)

	affinities, err := dataplane.Affinities(ctx)
	if err != nil {
		log.Fatal(err)
	}
	for _, a := range affinities {
		fmt.Println(a.Service, "sends", a.Client, "to", a.Backend, "for another", a.Expires)
	}
	// Output: web sends 203.0.113.7 to 10.180.0.1:8080 for another 9m0s
}

// A standby node with the same services learns, over the network, to which
// backends the clients of this node come back.
func ExampleDataplane_AddAffinities() {
	ctx := context.Background()
	service := web("10.180.0.1:8080", "10.180.0.2:8080")
	service.Affinity = nftdp.Duration(10 * time.Minute)
	node, dataplane := start(ctx, service)
	defer dataplane.Close()
	fmt.Println(node.Send(request(40000)).Destination)
	affinities, err := dataplane.Affinities(ctx)
	if err != nil {
		log.Fatal(err)
	}
	message, err := json.Marshal(affinities)
	if err != nil {
		log.Fatal(err)
	}

	standby, its := start(ctx, service)
	defer its.Close()
	var received []nftdp.Affinity
	if err := json.Unmarshal(message, &received); err != nil {
		log.Fatal(err)
	}
	n, err := its.AddAffinities(ctx, received)
	fmt.Println(n, "of", len(received), "clients are known", err)
	fmt.Println(standby.Outcomes(request(40001))) // only one is possible
	// Output:
	// 10.180.0.1:8080
	// 1 of 1 clients are known <nil>
	// [web: delivered to 10.180.0.1:8080 from 192.0.2.1:40001, masqueraded]
}

// A health check takes a backend out and brings it back, without the rest of the
// service. Package health has such checks.
func ExampleDataplane_SetState() {
	ctx := context.Background()
	node, dataplane := start(ctx, web("10.180.0.1:8080", "10.180.0.2:8080"))
	defer dataplane.Close()

	failed := netip.MustParseAddrPort("10.180.0.1:8080")
	if _, err := dataplane.SetState(ctx, "web", nftdp.StateDown, failed); err != nil {
		log.Fatal(err)
	}
	for port := range uint16(2) {
		fmt.Println(node.Send(request(40000 + port)).Destination)
	}
	// Output:
	// 10.180.0.2:8080
	// 10.180.0.2:8080
}
