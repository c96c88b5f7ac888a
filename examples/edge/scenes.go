//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"syscall"
	"time"

	"github.com/nftdp/go-nftdp/internal/nstest"
)

// at is a port of the external address.
func (g *gateway) at(port uint16) netip.AddrPort { return netip.AddrPortFrom(g.addrs.External, port) }

// showPolicies connects to two frontends of a service, and does so as often as
// each backend gets its turn twice.
func (g *gateway) showPolicies(context.Context) error {
	const here, everywhere = "backend-1, backend-2", "backend-1, backend-2, remote-1"
	client, masqueraded := g.clients[0].String(), g.addrs.PodGW.String()
	return showVisits("Port 80 leads to all backends, port 81 clients outside to those on this node, with their address (PolicyExternalLocalOnly)", []visit{
		{from: g.Client, src: g.clients[0], dst: g.at(webPort), times: 6, servers: everywhere, seen: masqueraded},
		{from: g.Client, src: g.clients[0], dst: g.at(localPort), times: 6, servers: here, seen: client},
		{from: g.Node, dst: g.at(localPort), times: 6, servers: everywhere, seen: masqueraded},
	})
}

// showClients connects to a frontend that not everybody may connect to.
func (g *gateway) showClients(context.Context) error {
	title := fmt.Sprintf("Not everybody may come (Allow %v, Deny %v)", g.addrs.ClientNet, g.clients[1])
	return showVisits(title, []visit{
		{from: g.Client, src: g.clients[0], dst: g.at(adminPort), servers: "backend-1", seen: g.addrs.PodGW.String()},
		{from: g.Client, src: g.clients[1], dst: g.at(adminPort), servers: silence},
		{from: g.Backends[1], dst: g.at(adminPort), servers: silence},
	})
}

// showRange connects to ports at the ends of a range, inside and outside.
func (g *gateway) showRange(context.Context) error {
	var visits []visit
	for _, port := range mediaPorts {
		visits = append(visits, visit{
			from: g.Client, protocol: "udp", dst: g.at(port),
			servers: fmt.Sprintf("backend-1:%d", port), seen: g.addrs.PodGW.String(),
		})
	}
	visits = append(visits, visit{from: g.Client, protocol: "udp", dst: g.at(mediaEnd + 1), servers: refused})
	return showVisits(fmt.Sprintf("UDP ports %d to %d are one frontend (EndPort)", mediaPort, mediaEnd), visits)
}

// showServiceCIDRs connects to what no service has.
func (g *gateway) showServiceCIDRs(context.Context) error {
	unused := g.addrs.External.Next()
	title := fmt.Sprintf("What no service has in %v is refused at once (ServiceCIDRs)", g.config().ServiceCIDRs[0].Masked())
	return showVisits(title, []visit{
		{from: g.Client, dst: netip.AddrPortFrom(unused, webPort), servers: refused},
		{from: g.Client, dst: g.at(webPort + 2), servers: refused},
		{from: g.Node, dst: netip.AddrPortFrom(unused, webPort), servers: refused},
	})
}

// showLimit keeps as many connections to a backend open as it may have.
func (g *gateway) showLimit(context.Context) error {
	fmt.Printf("\n# The backend of %v takes %d connections at a time (MaxConns)\n", g.at(dbPort), dbLimit)
	var conns []*nstest.Conn
	for range dbLimit {
		c, err := g.connect()
		if err != nil {
			return err
		}
		defer c.Close()
		conns = append(conns, c)
		fmt.Printf("connection %d: %s\n", len(conns), c.Answer.Server)
	}
	if c, err := g.connect(); err == nil {
		return errors.Join(fmt.Errorf("connection %d is over the limit, and is not refused", dbLimit+1), c.Close())
	} else if !errors.Is(err, syscall.ECONNREFUSED) {
		return fmt.Errorf("connection %d, over the limit, is not refused: %w", dbLimit+1, err)
	}
	fmt.Printf("connection %d: %s\n", dbLimit+1, refused)
	for i, c := range conns {
		if err := c.Echo("still here?", timeout); err != nil {
			return fmt.Errorf("connection %d: %w", i+1, err)
		}
	}
	if err := conns[0].Close(); err != nil {
		return err
	}
	c, err := g.connectSoon()
	if err != nil {
		return fmt.Errorf("connection after the end of another one: %w", err)
	}
	fmt.Printf("connection 1 ends, another one: %s\n", c.Answer.Server)
	return c.Close()
}

func (g *gateway) connect() (*nstest.Conn, error) {
	return nstest.DialTCP(g.Client, g.clients[0], g.at(dbPort), timeout)
}

// connectSoon connects once it is not refused any more: the end of another
// connection is a packet that is still on its way.
func (g *gateway) connectSoon() (*nstest.Conn, error) {
	poll := time.NewTicker(10 * time.Millisecond)
	defer poll.Stop()
	for deadline := time.Now().Add(timeout); ; <-poll.C {
		c, err := g.connect()
		if !errors.Is(err, syscall.ECONNREFUSED) || time.Now().After(deadline) {
			return c, err
		}
	}
}

// showLocalhost connects from the gateway itself to its loopback addresses.
func (g *gateway) showLocalhost(ctx context.Context) error {
	changed, err := g.dataplane.MeetRequirements(ctx)
	if err != nil {
		return err
	}
	const everywhere = "backend-1, backend-2, remote-1"
	err = showVisits("The gateway's own processes use 127.0.0.1 and ::1 (Localhost)", []visit{
		{
			from: g.Node, dst: netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), nodePort), times: 6,
			servers: everywhere, seen: g.addrs.PodGW.String(),
		},
		{
			from: g.Node, dst: netip.AddrPortFrom(netip.IPv6Loopback(), nodePort), times: 6,
			servers: everywhere, seen: nstest.IPv6().PodGW.String(),
		},
	})
	for _, r := range changed {
		fmt.Printf("for that MeetRequirements has set %s, which was %s, to %s\n", r.Name, r.Have, r.Want)
	}
	return err
}
