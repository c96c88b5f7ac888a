package health_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"net"
	"net/netip"
	"time"

	"github.com/nftdp/go-nftdp/nftdp"
	"github.com/nftdp/go-nftdp/nftdp/health"
	"github.com/nftdp/go-nftdp/nftdp/nftdptest"
)

// Of two backends one does not listen. A node in memory stands for a real one, on
// which nftdp.Config.Open is called instead.
func ExampleChecker() {
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	dataplane, err := nftdptest.NewNode(netip.MustParseAddr("192.0.2.1")).Open(ctx, nftdp.Config{})
	if err != nil {
		log.Fatal(err)
	}
	defer dataplane.Close()
	works, fails := netip.MustParseAddrPort("10.180.0.1:8080"), netip.MustParseAddrPort("10.180.0.2:8080")

	checker := health.New(dataplane, health.Options{
		Check: func(*nftdp.Service) *health.Check {
			return &health.Check{Probe: health.TCP{}, Interval: 10 * time.Millisecond, Rise: 2, Fall: 3, Panic: 0.3}
		},
		Dial: func(_ context.Context, _, address string) (net.Conn, error) { // usually left out
			if address == fails.String() {
				return nil, errors.New("connection refused")
			}
			client, _ := net.Pipe()
			return client, nil
		},
		Report: func(e health.Event) {
			fmt.Printf("%s: %v healthy=%v: %v\n", e.Service, e.Backend, e.Healthy, e.Err)
			stop()
		},
	})
	_, err = checker.Apply(ctx, []nftdp.Service{{
		Name:      "web",
		Frontends: []nftdp.Frontend{{Addr: netip.IPv4Unspecified(), Port: 80}},
		Backends:  []nftdp.Backend{{Addr: works}, {Addr: fails}},
	}})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(checker.Run(ctx))
	for _, s := range checker.Status() {
		fmt.Println(s.Backend, s.State)
	}
	// Output:
	// web: 10.180.0.2:8080 healthy=false: connection refused
	// context canceled
	// 10.180.0.1:8080 active
	// 10.180.0.2:8080 down
}
