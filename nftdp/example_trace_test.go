package nftdp_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"time"

	"github.com/nftdp/go-nftdp/nftdp"
)

// A program shows what happens to the packets of a service, until it is interrupted.
// A node in memory has no tables but ours and reports no packets, so that the only
// result is an error.
func ExampleDataplane_Trace() {
	ctx := context.Background()
	_, dataplane := start(ctx, web("10.180.0.1:8080"))
	defer dataplane.Close()

	for trace, err := range dataplane.Trace(ctx, nftdp.TraceFilter{Service: "web", Replies: true}) {
		if err != nil {
			fmt.Println(err) // the loop ends by itself if the error is the last one
			continue
		}
		fmt.Println(trace)
	}
	// Output:
	// trace packets: not supported by this kernel
}

// dropped is what Trace finds if a firewall drops forwarded packets.
func dropped() *nftdp.Trace {
	client, backend := netip.MustParseAddrPort("203.0.113.7:40000"), netip.MustParseAddrPort("10.180.0.1:8080")
	t := &nftdp.Trace{
		Time: time.Date(2026, 5, 4, 12, 30, 0, 250_000_000, time.UTC), In: "eth0", Out: "pod1",
		Packet:  nftdp.Packet{Protocol: "tcp", Source: client, Destination: netip.MustParseAddrPort("192.0.2.1:80"), Info: "syn", Length: 60},
		Last:    nftdp.Packet{Protocol: "tcp", Source: client, Destination: backend, Info: "syn", Length: 60},
		Service: "web", Backend: backend, Connection: 0x5e2b7c01, State: "new",
		Verdict: nftdp.VerdictDropped, Code: nftdp.CodeForwardDroppedBy,
		Steps: []nftdp.TraceStep{
			{Hook: "prerouting", Priority: -100, Family: "ip", Table: "nftdp", Chain: "prerouting", Handle: 70, Rule: "jump services", Verdict: "jump services"},
			{
				Hook: "prerouting", Priority: -100, Family: "ip", Table: "nftdp", Chain: "node-random-1", Handle: 75, Verdict: "accept",
				Rule: "meta l4proto @protocols dnat ip to meta l4proto . th dport . numgen random mod 1 map @node_backends",
			},
			{
				Hook: "forward", Priority: 10, Family: "inet", Table: "firewalld", Chain: "filter_FORWARD", Handle: 12,
				Rule: "ct state new drop", Comment: "default", Verdict: "drop",
				Packet: &nftdp.Packet{Protocol: "tcp", Source: client, Destination: backend, Info: "syn", Length: 60},
			},
		},
	}
	t.By = &t.Steps[2]
	return t
}

// A packet in one line, and its whole way.
func ExampleTrace() {
	fmt.Println(dropped().String())
	fmt.Println()
	fmt.Print(dropped().Full())
	// Output:
	// 12:30:00.250000 203.0.113.7:40000 > 192.0.2.1:80 tcp syn: web → 10.180.0.1:8080, dropped by table inet firewalld, chain filter_FORWARD, rule 12: ct state new drop (default) (FORWARD_DROPPED_BY)
	//
	// 12:30:00.250000 203.0.113.7:40000 > 192.0.2.1:80 tcp syn: web → 10.180.0.1:8080, dropped by table inet firewalld, chain filter_FORWARD, rule 12: ct state new drop (default) (FORWARD_DROPPED_BY)
	//   arrived on eth0, 60 bytes, connection 0x5e2b7c01, new
	//   prerouting, priority -100
	//     table ip nftdp, chain prerouting, rule 70: jump services
	//     table ip nftdp, chain node-random-1, rule 75: meta l4proto @protocols dnat ip to meta l4proto . th dport . numgen random mod 1 map @node_backends
	//       → accept
	//   forward, priority 10
	//     the packet is now 203.0.113.7:40000 > 10.180.0.1:8080 tcp syn
	//     table inet firewalld, chain filter_FORWARD, rule 12: ct state new drop (default)
	//   last seen as 203.0.113.7:40000 > 10.180.0.1:8080 tcp syn
}

// A step is a rule, the policy of a base chain or the end of another chain.
func ExampleTraceStep() {
	for _, step := range []nftdp.TraceStep{
		{Family: "ip", Table: "filter", Chain: "DOCKER", Handle: 31, Rule: "xt match conntrack drop", Verdict: "drop"},
		{Family: "ip", Table: "filter", Chain: "FORWARD", Verdict: "drop"},
		{Family: "ip", Table: "filter", Chain: "DOCKER-USER", Verdict: "continue"},
	} {
		fmt.Println(step.String())
	}
	// Output:
	// table ip filter, chain DOCKER, rule 31: xt match conntrack drop
	// table ip filter, chain FORWARD, policy drop
	// table ip filter, chain DOCKER-USER, end
}

// Packets without ports are shown by their addresses.
func ExamplePacket() {
	ping := nftdp.Packet{
		Protocol: "icmpv6", Info: "type 128 code 0", Length: 104,
		Source: netip.MustParseAddrPort("[2001:db8::7]:0"), Destination: netip.MustParseAddrPort("[2001:db8::1]:0"),
	}
	fmt.Println(ping.String())
	text, err := json.Marshal(ping)
	fmt.Println(string(text), err)
	// Output:
	// 2001:db8::7 > 2001:db8::1 icmpv6 type 128 code 0
	// {"protocol":"icmpv6","source":"[2001:db8::7]:0","destination":"[2001:db8::1]:0","info":"type 128 code 0","length":104} <nil>
}
