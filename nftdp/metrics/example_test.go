package metrics_test

import (
	"context"
	"fmt"
	"log"
	"net/http"
	"net/netip"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/prometheus/common/expfmt"

	"github.com/nftdp/go-nftdp/nftdp"
	"github.com/nftdp/go-nftdp/nftdp/metrics"
	"github.com/nftdp/go-nftdp/nftdp/nftdptest"
)

// A program serves the metrics of its Dataplane, which is one in memory here.
func ExampleNew() {
	ctx := context.Background()
	node := nftdptest.NewNode(netip.MustParseAddr("192.0.2.1"))
	dataplane, err := node.Open(ctx, nftdp.Config{})
	if err != nil {
		log.Fatal(err)
	}
	defer dataplane.Close()
	collector := metrics.New(dataplane, metrics.Options{})
	defer collector.Close()
	registry := prometheus.NewRegistry()
	registry.MustRegister(collector)
	http.Handle("/metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{}))

	if _, err := dataplane.Apply(ctx, []nftdp.Service{{
		Name: "web", Frontends: []nftdp.Frontend{{Port: 80}},
		Backends: []nftdp.Backend{{Addr: netip.MustParseAddrPort("10.180.0.1:8080")}},
	}}); err != nil {
		log.Fatal(err)
	}
	node.Send(nftdptest.Packet{
		Source: netip.MustParseAddrPort("203.0.113.7:40000"), Destination: netip.MustParseAddrPort("192.0.2.1:80"),
	})
	text, err := testutil.CollectAndFormat(collector, expfmt.TypeTextPlain, "nftdp_service_connections_total", "nftdp_service_backends")
	if err != nil {
		log.Fatal(err)
	}
	fmt.Print(string(text))
	// Output:
	// # HELP nftdp_service_backends Usable backends of the service; 0: clients are refused, or left to the host.
	// # TYPE nftdp_service_backends gauge
	// nftdp_service_backends{service="web"} 1
	// # HELP nftdp_service_connections_total Connections that began at the service's frontends, or were rejected or dropped there.
	// # TYPE nftdp_service_connections_total counter
	// nftdp_service_connections_total{service="web"} 1
}
