package nftdp_test

import (
	"context"
	"fmt"
	"log"
	"log/slog"
	"net/netip"
	"os"

	"github.com/nftdp/go-nftdp/nftdp"
	"github.com/nftdp/go-nftdp/nftdp/nftdptest"
)

// A program shows what the Dataplane does, here without the durations. LogEvents makes
// lines of a log of the same events.
func ExampleDataplane_Observe() {
	ctx := context.Background()
	node := nftdptest.NewNode(netip.MustParseAddr("192.0.2.1"))
	dataplane, err := node.Open(ctx, nftdp.Config{})
	if err != nil {
		log.Fatal(err)
	}
	defer dataplane.Close()
	stop := dataplane.Observe(func(e nftdp.Event) { fmt.Println(e.Kind, e.Method, e.Count) })
	defer stop()

	dns := nftdp.Service{
		Name: "dns", Protocol: nftdp.ProtocolUDP, Frontends: []nftdp.Frontend{{Port: 53}},
		Backends: []nftdp.Backend{{Addr: netip.MustParseAddrPort("10.180.0.1:5353")}},
	}
	if _, err := dataplane.Apply(ctx, []nftdp.Service{dns}); err != nil {
		log.Fatal(err)
	}
	node.Send(nftdptest.Packet{
		Protocol: nftdp.ProtocolUDP,
		Source:   netip.MustParseAddrPort("203.0.113.7:40000"), Destination: netip.MustParseAddrPort("192.0.2.1:53"),
	})
	dns.Backends[0].Addr = netip.MustParseAddrPort("10.180.0.2:5353")
	if _, err := dataplane.Update(ctx, nftdp.Change{Set: []nftdp.Service{dns}}); err != nil {
		log.Fatal(err)
	}
	// Output:
	// read  0
	// transaction  194
	// change Apply 194
	// transaction  4
	// transaction  2
	// flows  1
	// change Update 6
}

// A program logs what the Dataplane does, here without times. Somebody flushes all
// rules, and Keep repairs them; then a service is wrong.
func ExampleLogEvents() {
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	node, dataplane := start(ctx, web("10.180.0.1:8080"))
	defer dataplane.Close()
	withoutTimes := func(_ []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey || a.Key == "duration" {
			return slog.Attr{}
		}
		return a
	}
	logger := slog.New(slog.NewTextHandler(os.Stdout, &slog.HandlerOptions{Level: slog.LevelInfo, ReplaceAttr: withoutTimes}))
	dataplane.Observe(nftdp.LogEvents(logger))

	node.FlushRuleset()
	_ = dataplane.Keep(ctx, func(*nftdp.Drift, error) { stop() })
	_, _ = dataplane.Apply(context.Background(), []nftdp.Service{{Name: "web", Frontends: []nftdp.Frontend{{}}}})
	// Output:
	// level=WARN msg="nftdp: repair" count=193
	// level=ERROR msg="nftdp: change" count=0 method=Apply error="service \"web\": frontends[0].port: is 0: give a port from 1 to 65535"
}
