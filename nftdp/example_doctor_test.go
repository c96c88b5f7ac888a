package nftdp_test

import (
	"context"
	"encoding/json"
	"fmt"
	"log"

	"github.com/nftdp/go-nftdp/nftdp"
)

// An operator's tool shows what is wrong with the node, and fixes what a kernel
// parameter can fix.
func ExampleDataplane_Doctor() {
	ctx := context.Background()
	_, dataplane := start(ctx, web("10.180.0.1:8080"))
	for range 2 {
		found, err := dataplane.Doctor(ctx)
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(len(found), "findings")
		for _, f := range found {
			fmt.Println(f.Severity, f.Code, f.Subject)
			fmt.Println("  run:", f.Command)
			if err := dataplane.Fix(ctx, f); err != nil {
				log.Fatal(err)
			}
		}
	}
	// Output:
	// 2 findings
	// error FORWARDING_OFF net.ipv4.ip_forward
	//   run: sysctl -w net.ipv4.ip_forward=1
	// warning TCP_BE_LIBERAL_OFF net.netfilter.nf_conntrack_tcp_be_liberal
	//   run: sysctl -w net.netfilter.nf_conntrack_tcp_be_liberal=1
	// 0 findings
}

// What no parameter fixes is an error that says what to do.
func ExampleDataplane_Fix() {
	ctx := context.Background()
	_, dataplane := start(ctx, web("10.180.0.1:8080"))
	finding := nftdp.Finding{Code: nftdp.CodeNoRouteToBackend, Subject: "10.180.0.1", Remedy: "Add a route, or remove the backend"}
	fmt.Println(finding.Fixable(), dataplane.Fix(ctx, finding))
	// Output:
	// false NO_ROUTE_TO_BACKEND: 10.180.0.1 cannot be fixed by a kernel parameter: Add a route, or remove the backend
}

func ExampleFinding() {
	f := nftdp.Finding{
		Severity: nftdp.SeverityError, Code: nftdp.CodeForwardingOff, Subject: "net.ipv4.ip_forward", Evidence: "is 0",
		Remedy: "Turn it on", Command: "sysctl -w net.ipv4.ip_forward=1", Set: []nftdp.Parameter{{Name: "net.ipv4.ip_forward", Value: "1"}},
	}
	fmt.Println(f.Fixable(), f)
	b, err := json.Marshal(f)
	fmt.Println(string(b), err)
	// Output:
	// true error FORWARDING_OFF: net.ipv4.ip_forward: is 0. Turn it on: sysctl -w net.ipv4.ip_forward=1
	// {"severity":"error","code":"FORWARDING_OFF","subject":"net.ipv4.ip_forward","evidence":"is 0","remedy":"Turn it on","command":"sysctl -w net.ipv4.ip_forward=1","set":[{"name":"net.ipv4.ip_forward","value":"1"}]} <nil>
}

// Severities are ordered, and words in text.
func ExampleSeverity() {
	var least nftdp.Severity
	err := least.UnmarshalText([]byte("warning"))
	text, _ := nftdp.SeverityError.MarshalText()
	fmt.Println(least.String(), string(text), nftdp.SeverityError > least, err)
	// Output:
	// warning error true <nil>
}
