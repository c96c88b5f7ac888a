//go:build linux

package integration

import (
	"math"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/nftdp/go-nftdp/internal/nstest"
	"github.com/nftdp/go-nftdp/nftdp"
)

// BenchmarkClientsConnections sets up connections to a service that allows all
// clients, beside 1,000 services with five allowed prefixes each and beside as
// many without any. Each iteration makes two hundred connections to both, in
// alternating order, so that they run under the same conditions. The ratio is
// that of the medians; it should not exceed 1.1.
func BenchmarkClientsConnections(b *testing.B) {
	const services, prefixes, connections = 1_000, 5, 200
	plain := newConnecting(b, services, 0)
	ranged := newConnecting(b, services, prefixes)
	plainLaps, rangedLaps := newLaps(), newLaps()
	takeTurns(b, []side{{plain, plainLaps}, {ranged, rangedLaps}}, 1, math.MaxUint16, connections, func() {
		plain.flushConntrack(b)
		ranged.flushConntrack(b)
	})
	plainLaps.report(b, "plain-p50-ns")
	rangedLaps.report(b, "ranges-p50-ns")
	b.ReportMetric(rangedLaps.median()/plainLaps.median(), "ratio")
}

// side is one of the clients that a benchmark compares, with its times.
type side struct {
	*connecting
	*laps
}

// takeTurns makes connections from so many ports at once, by each side, in alternating
// order. When all ports from first to last have been used, again makes them free.
func takeTurns(b *testing.B, sides []side, first, last, connections int, again func()) {
	b.Helper()
	for port := first; b.Loop(); port += connections {
		if port+connections > last {
			port = first
			untimed(b, again)
		}
		slices.Reverse(sides)
		for _, s := range sides {
			begin := time.Now()
			err := s.send(port, connections)
			s.add(begin)
			if err != nil {
				b.Fatal(err)
			}
		}
	}
	for _, s := range sides {
		s.mustTake(b)
	}
}

// connecting is an outside client of a service on a node.
type connecting struct {
	*nstest.Topology
	*flood
	dataplane *nftdp.Dataplane
	vip       netip.AddrPort
}

// newConnecting programs the service among others, each of which allows so many
// prefixes.
func newConnecting(b *testing.B, others, prefixes int) *connecting {
	b.Helper()
	top := newTopology(b, 1)
	backend := netip.AddrPortFrom(nstest.IPv4().Backend(0), backendPort)
	sink(b, top.Backends[0], backend)
	c := &connecting{Topology: top, dataplane: open(b, top.Node, nftdp.Config{}), vip: netip.AddrPortFrom(clusterAddr(others), 80)}
	b.Cleanup(func() { closeOrFail(b, c.dataplane) })
	services := manyServices(others)
	for i := range services {
		services[i].Frontends[0].Allow = prefixesOf(i, prefixes)
	}
	services = append(services, nftdp.Service{
		Name: "measured", Protocol: nftdp.ProtocolUDP, Frontends: []nftdp.Frontend{{Addr: c.vip.Addr(), Port: c.vip.Port()}},
		Backends: []nftdp.Backend{{Addr: backend}},
	})
	plan, err := c.dataplane.Apply(b.Context(), services)
	mustChange(b, plan, err)
	if c.flood, err = openFlood(top.Client, c.vip); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { closeOrFail(b, c.flood) })
	return c
}

// prefixesOf are n prefixes of the i-th service.
func prefixesOf(i, n int) []netip.Prefix {
	var all []netip.Prefix
	for j := range n {
		all = append(all, netip.PrefixFrom(ipv4(198, 18, (i*n+j)*16), 28))
	}
	return all
}

// flushConntrack empties the node's conntrack table, so that ports can be used
// again.
func (c *connecting) flushConntrack(b *testing.B) {
	b.Helper()
	if err := c.Node.Links().ConntrackTableFlush(netlink.ConntrackTable); err != nil {
		b.Fatal(err)
	}
}

// mustTake fails unless the service has counted connections.
func (c *connecting) mustTake(b *testing.B) {
	b.Helper()
	services, err := c.dataplane.Inspect(b.Context())
	if err != nil {
		b.Fatal(err)
	}
	for _, s := range services {
		if s.Name == "measured" && s.Frontends[0].Counter.Connections > 0 {
			return
		}
	}
	b.Fatalf("the service at %v has counted no connection", c.vip)
}
