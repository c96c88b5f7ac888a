//go:build linux

package integration

import (
	"context"
	"errors"
	"net/netip"
	"testing"

	"github.com/nftdp/go-nftdp/internal/nstest"
	"github.com/nftdp/go-nftdp/nftdp"
)

// BenchmarkTrace sends a datagram of an established flow through the node and waits
// for the answer, while nobody traces, while a trace follows the packets of another
// service, and while it follows these.
func BenchmarkTrace(b *testing.B) {
	top := newTopology(b, 1)
	serve(b, top.Backends[0], backendPort, "udp")
	d := open(b, top.Node, nftdp.Config{})
	b.Cleanup(func() { closeOrFail(b, d) })
	services := []nftdp.Service{
		{Name: "dns", Protocol: nftdp.ProtocolUDP, Frontends: on(clusterIP, 53), Backends: backends(0)},
		{Name: "other", Protocol: nftdp.ProtocolUDP, Frontends: on(clusterIP, 54), Backends: backends(0)},
	}
	if _, err := d.Apply(b.Context(), services); err != nil {
		b.Fatal(err)
	}
	for _, c := range []struct {
		name   string
		filter *nftdp.TraceFilter
	}{
		{"nobody", nil},
		{"others", &nftdp.TraceFilter{Service: "other", Replies: true}},
		{"followed", &nftdp.TraceFilter{Service: "dns", Rate: 1000000}},
	} {
		b.Run(c.name, func(b *testing.B) {
			dst := netip.AddrPortFrom(nstest.IPv4().ClusterIP, 53)
			client, err := nstest.Open(top.Client, "udp", netip.Addr{}, dst, askTimeout)
			if err != nil {
				b.Fatal(err)
			}
			defer closeOrFail(b, client)
			if c.filter != nil {
				defer benchTrace(b, d, top.Node, *c.filter)()
			}
			for b.Loop() {
				if _, err := exchange(client, "x"); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// benchTrace begins a trace, and returns what ends it.
func benchTrace(b *testing.B, d *nftdp.Dataplane, node *nstest.Namespace, f nftdp.TraceFilter) (stop func()) {
	b.Helper()
	conn := dialKernel(b, node)
	defer closeOrFail(b, conn)
	before := generation(b, conn)
	ctx, cancel := context.WithCancel(b.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for _, err := range d.Trace(ctx, f) {
			if err != nil && !errors.Is(err, context.Canceled) {
				b.Error(err)
			}
		}
	}()
	for begun := false; !begun; {
		begun = generation(b, conn) != before
	}
	return func() { cancel(); <-ended }
}
