//go:build linux

package main

import (
	"context"
	"fmt"
	"io"
	"net/netip"
	"time"

	"github.com/nftdp/go-nftdp/examples/internal/lab"
	"github.com/nftdp/go-nftdp/internal/nstest"
)

// patience is that of a client that expects no answer.
const patience = 500 * time.Millisecond

// at is a port of the external address.
func (g *gateway) at(port uint16) netip.AddrPort { return netip.AddrPortFrom(g.addrs.External, port) }

// visit is a number of connections, one after the other, and what should become
// of them.
type visit struct {
	lab.Visit
	times   int
	outcome string // the servers that answer, or how connections fail
	seen    string // the clients' addresses that the servers see, or a dash
}

// showVisits makes connections and prints what becomes of them, up to the first
// one that ends otherwise than expected.
func (g *gateway) showVisits(ctx context.Context, title string, visits []visit) error {
	g.Heading("%s", title)
	return g.Table(func(w io.Writer) error {
		fmt.Fprintln(w, "FROM\tTO\tOUTCOME\tSOURCE SEEN")
		for _, v := range visits {
			if err := v.show(ctx, w); err != nil {
				return err
			}
		}
		return nil
	})
}

func (v visit) show(ctx context.Context, w io.Writer) error {
	timeout := lab.Timeout
	if v.outcome == lab.TimedOut {
		timeout = patience
	}
	got := v.Repeat(ctx, v.times, 1, timeout)
	outcome, seen := got.Servers.String(), got.Sources.String()
	if got.Failed.Sum() > 0 {
		outcome = got.Failed.String()
	}
	fmt.Fprintf(w, "%s\t%v\t%s\t%s\n", v.Client(), v.To, outcome, seen)
	if outcome != v.outcome || seen != v.seen {
		return fmt.Errorf("%s to %v: %v, source seen %s; want %s, source seen %s", v.Client(), v.To, got, seen, v.outcome, v.seen)
	}
	return nil
}

// showPolicies connects to two frontends of a service, and does so as often as
// each backend gets its turn twice.
func (g *gateway) showPolicies(ctx context.Context) error {
	const here, everywhere = "backend-1, backend-2", "backend-1, backend-2, remote-1"
	client, masqueraded := g.clients[0].String(), g.addrs.PodGW.String()
	return g.showVisits(ctx, "Port 80 leads to all backends, port 81 clients outside to those on this node, with their address (PolicyExternalLocalOnly)", []visit{
		{lab.Visit{From: g.Client, Source: g.clients[0], To: g.at(webPort)}, 6, everywhere, masqueraded},
		{lab.Visit{From: g.Client, Source: g.clients[0], To: g.at(localPort)}, 6, here, client},
		{lab.Visit{From: g.Node, To: g.at(localPort)}, 6, everywhere, masqueraded},
	})
}

// showClients connects to a frontend that not everybody may connect to.
func (g *gateway) showClients(ctx context.Context) error {
	title := fmt.Sprintf("Not everybody may come (Allow %v, Deny %v)", g.addrs.ClientNet, g.clients[1])
	return g.showVisits(ctx, title, []visit{
		{lab.Visit{From: g.Client, Source: g.clients[0], To: g.at(adminPort)}, 1, "backend-1", g.addrs.PodGW.String()},
		{lab.Visit{From: g.Client, Source: g.clients[1], To: g.at(adminPort)}, 1, lab.TimedOut, "-"},
		{lab.Visit{From: g.Backends[1], To: g.at(adminPort)}, 1, lab.TimedOut, "-"},
	})
}

// showRange connects to ports at the ends of a range, inside and outside.
func (g *gateway) showRange(ctx context.Context) error {
	var visits []visit
	for _, port := range mediaPorts {
		udp := lab.Visit{From: g.Client, Protocol: "udp", To: g.at(port)}
		visits = append(visits, visit{udp, 1, fmt.Sprintf("backend-1:%d", port), g.addrs.PodGW.String()})
	}
	outside := lab.Visit{From: g.Client, Protocol: "udp", To: g.at(mediaEnd + 1)}
	visits = append(visits, visit{outside, 1, lab.Refused, "-"})
	return g.showVisits(ctx, fmt.Sprintf("UDP ports %d to %d are one frontend (EndPort)", mediaPort, mediaEnd), visits)
}

// showServiceCIDRs connects to what no service has.
func (g *gateway) showServiceCIDRs(ctx context.Context) error {
	unused := g.addrs.External.Next()
	title := fmt.Sprintf("What no service has in %v is refused at once (ServiceCIDRs)", g.config().ServiceCIDRs[0].Masked())
	return g.showVisits(ctx, title, []visit{
		{lab.Visit{From: g.Client, To: netip.AddrPortFrom(unused, webPort)}, 1, lab.Refused, "-"},
		{lab.Visit{From: g.Client, To: g.at(webPort + 2)}, 1, lab.Refused, "-"},
		{lab.Visit{From: g.Node, To: netip.AddrPortFrom(unused, webPort)}, 1, lab.Refused, "-"},
	})
}

// showLocalhost connects from the gateway itself to its loopback addresses.
func (g *gateway) showLocalhost(ctx context.Context) error {
	const everywhere = "backend-1, backend-2, remote-1"
	return g.showVisits(ctx, "The gateway's own processes use 127.0.0.1 and ::1 (Localhost)", []visit{
		{lab.Visit{From: g.Node, To: netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), nodePort)}, 6, everywhere, g.addrs.PodGW.String()},
		{lab.Visit{From: g.Node, To: netip.AddrPortFrom(netip.IPv6Loopback(), nodePort)}, 6, everywhere, nstest.IPv6().PodGW.String()},
	})
}
