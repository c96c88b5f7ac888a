//go:build linux

package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/netip"
	"os"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/nftdp/go-nftdp/internal/nstest"
	"github.com/nftdp/go-nftdp/nftdp"
)

// visitCount is the number of connections to each frontend.
const visitCount = 300

// target is a frontend as a client sees it.
type target struct {
	from     *nstest.Namespace
	protocol nftdp.Protocol
	addr     netip.AddrPort
}

// landing is where the connections to a target went.
type landing struct {
	servers tally
	sources tally // client addresses as the servers saw them
	failed  tally // reasons
}

// visitFrontends sends connections to every frontend of the built-in service.
func (l *lab) visitFrontends(ctx context.Context) error {
	a := l.addrs
	targets := []target{
		{l.Client, nftdp.ProtocolTCP, netip.AddrPortFrom(a.Node, 80)},
		{l.Client, nftdp.ProtocolTCP, netip.AddrPortFrom(a.Node, nodePort)},
		{l.Client, nftdp.ProtocolTCP, netip.AddrPortFrom(a.ClusterIP, 80)},
		{l.Node, nftdp.ProtocolTCP, netip.AddrPortFrom(a.Node, 80)},
		{l.Backends[0], nftdp.ProtocolTCP, netip.AddrPortFrom(a.ClusterIP, 80)},
	}
	l.heading("%d connections each, and where they landed", visitCount)
	failed := 0
	err := l.table(func(w io.Writer) {
		fmt.Fprintln(w, "FROM\tTO\tLANDED\tSOURCE SEEN")
		for _, t := range targets {
			got := land(ctx, t, visitCount, visitCount, connectTimeout)
			failed += got.failed.sum()
			fmt.Fprintf(w, "%s\t%v\t%v\t%v\n", t.from.Name, t.addr, got.outcome(), got.sources.keys())
		}
	})
	if err == nil && ctx.Err() == nil && failed > 0 {
		err = fmt.Errorf("%d connections failed", failed)
	}
	return errors.Join(err, ctx.Err())
}

// Bounds for a user's own services, whose frontends may well be dead ends.
const (
	probeCount    = 60
	probeFailures = 3
	probeTimeout  = 250 * time.Millisecond
)

// probeFrontends sends connections to every frontend of the user's services.
func (l *lab) probeFrontends(ctx context.Context) error {
	l.heading("%d connections to each frontend, %d failures at most", probeCount, probeFailures)
	err := l.table(func(w io.Writer) {
		fmt.Fprintln(w, "SERVICE\tTO\t\tLANDED\tSOURCE SEEN")
		for _, s := range l.services {
			for _, t := range l.targetsOf(s) {
				got := land(ctx, t, probeCount, probeFailures, probeTimeout)
				fmt.Fprintf(w, "%s\t%v\t%v\t%v\t%v\n", s.Name, t.addr, t.protocol, got.outcome(), got.sources.keys())
			}
		}
	})
	return errors.Join(err, ctx.Err())
}

// targetsOf gives the addresses by which the client reaches a service's
// frontends; a node-wide one is reached by the node's address.
func (l *lab) targetsOf(s nftdp.Service) (targets []target) {
	for _, f := range s.Frontends {
		addrs := []netip.Addr{f.Addr.Unmap()}
		switch {
		case !f.Addr.IsValid():
			addrs = []netip.Addr{nstest.IPv4().Node, nstest.IPv6().Node}
		case f.Addr == netip.IPv4Unspecified():
			addrs = []netip.Addr{nstest.IPv4().Node}
		case f.Addr == netip.IPv6Unspecified():
			addrs = []netip.Addr{nstest.IPv6().Node}
		}
		for _, a := range addrs {
			targets = append(targets, target{l.Client, s.Protocol, netip.AddrPortFrom(a, f.Port)})
		}
	}
	return targets
}

// land makes n connections, one after the other, and gives up after some
// failures.
func land(ctx context.Context, t target, n, failures int, timeout time.Duration) landing {
	got := landing{tally{}, tally{}, tally{}}
	for range n {
		a, err := t.connect(ctx, timeout)
		if ctx.Err() != nil {
			break
		}
		if err == nil {
			got.servers[a.Server]++
			got.sources[a.Client.Addr().String()]++
			continue
		}
		got.failed[reason(err)]++
		if got.failed.sum() == failures {
			break
		}
	}
	return got
}

func (t target) connect(ctx context.Context, timeout time.Duration) (nstest.Answer, error) {
	if t.protocol == nftdp.ProtocolTCP {
		return get(ctx, t.from, t.addr, timeout)
	}
	return nstest.Dial(t.from, t.protocol.String(), netip.Addr{}, t.addr, timeout)
}

// outcome is servers and failures with their numbers.
func (g landing) outcome() string {
	var parts []string
	for _, t := range []tally{g.servers, g.failed} {
		for _, k := range slices.Sorted(maps.Keys(t)) {
			parts = append(parts, fmt.Sprintf("%s %d", k, t[k]))
		}
	}
	return strings.Join(parts, ", ")
}

// tally counts by name.
type tally map[string]int

func (t tally) sum() (n int) {
	for _, v := range t {
		n += v
	}
	return n
}

// keys is all names, or a dash.
func (t tally) keys() string {
	return cmp.Or(strings.Join(slices.Sorted(maps.Keys(t)), ", "), "-")
}

// reason puts a failed connection into a word or two.
func reason(err error) string {
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		return "refused"
	case errors.Is(err, syscall.EPERM):
		return "not permitted"
	case errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, context.DeadlineExceeded):
		return "timed out"
	}
	return err.Error()
}
