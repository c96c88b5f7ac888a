//go:build linux

// Package address reads which addresses a network namespace holds, over
// rtnetlink.
package address

import (
	"context"
	"errors"
	"fmt"
	"net/netip"

	mdnetlink "github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/nftdp/go-nftdp/internal/netlink"
	"github.com/nftdp/go-nftdp/internal/ruleset"
)

// Conn reads addresses of a network namespace. It may be used concurrently: each
// call has a socket of its own.
type Conn struct{ sockets *netlink.Pool }

// Dial opens a socket in the network namespace of a file descriptor, which may be
// closed afterwards, or netlink.Here.
func Dial(ns int) (*Conn, error) {
	p, err := netlink.NewPool(ns, func(ns int) (*netlink.Socket, error) {
		// Only with this option does the kernel apply the filter of a dump of routes.
		return netlink.Dial(unix.NETLINK_ROUTE, ns, mdnetlink.GetStrictCheck)
	})
	if err != nil {
		return nil, err
	}
	return &Conn{p}, nil
}

// Close closes all sockets. Calls that are running end with os.ErrClosed.
func (c *Conn) Close() error { return c.sockets.Close() }

// attempts bounds how often addresses are read again because they changed
// meanwhile.
const attempts = 16

// LocalAddrs reads which addresses of a family the namespace holds: the routes
// of type local, which `fib daddr type local` matches in a rule. Besides the
// addresses of links these can be prefixes that are routed to the node.
func (c *Conn) LocalAddrs(ctx context.Context, f ruleset.Family) (out []netip.Prefix, err error) {
	request := make([]byte, unix.SizeofRtMsg)
	request[0], request[7] = byte(f), unix.RTN_LOCAL
	err = c.sockets.Do(ctx, func(s *netlink.Socket) (err error) {
		for range attempts {
			out = nil
			err = s.Ask(ctx, unix.RTM_GETROUTE, unix.NLM_F_DUMP, request, func(b []byte) error {
				if p, ok := localPrefix(b, f); ok {
					out = append(out, p)
				}
				return nil
			})
			if !errors.Is(err, netlink.ErrInterrupted) && !errors.Is(err, netlink.ErrLost) {
				break
			}
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("list local addresses: %w", err)
	}
	return out, nil
}

// localPrefix reads the destination of a route of type local.
func localPrefix(b []byte, f ruleset.Family) (p netip.Prefix, ok bool) {
	if len(b) < unix.SizeofRtMsg || b[0] != byte(f) || b[7] != unix.RTN_LOCAL {
		return p, false
	}
	bits := int(b[1])
	for a := netlink.ReadAttributes(b[unix.SizeofRtMsg:]); a.Next(); {
		addr, isAddr := netip.AddrFromSlice(a.Value)
		if a.Type == unix.RTA_DST && isAddr && bits <= addr.BitLen() {
			p, ok = netip.PrefixFrom(addr, bits), true
		}
	}
	return p, ok
}
