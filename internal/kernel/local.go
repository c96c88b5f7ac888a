//go:build linux

package kernel

import (
	"context"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/nftdp/go-nftdp/internal/ruleset"
)

// LocalAddrs reads which addresses of a family the namespace holds: routes of
// type local, which is what `fib daddr type local` finds in a rule. Besides
// the addresses of links these are prefixes that somebody routed to the node.
// ErrStale: they changed meanwhile. It uses a socket of its own, so it may be
// called while a Request is under way.
func (c *Conn) LocalAddrs(ctx context.Context, f ruleset.Family) ([]netip.Prefix, error) {
	request := make([]byte, unix.SizeofRtMsg)
	request[0], request[7] = byte(f), unix.RTN_LOCAL
	var out []netip.Prefix
	err := c.route.ask(ctx, unix.RTM_GETROUTE, unix.NLM_F_DUMP, request, func(b []byte) error {
		if p, ok := localPrefix(b, f); ok {
			out = append(out, p)
		}
		return nil
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
	Attributes(b[unix.SizeofRtMsg:], func(typ int, payload []byte) {
		addr, isAddr := netip.AddrFromSlice(payload)
		if typ == unix.RTA_DST && isAddr && bits <= addr.BitLen() {
			p, ok = netip.PrefixFrom(addr, bits), true
		}
	})
	return p, ok
}
