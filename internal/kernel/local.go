//go:build linux

package kernel

import (
	"context"
	"encoding/binary"
	"fmt"
	"net/netip"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/nftdp/go-nftdp/internal/ruleset"
)

// LocalAddrs reads which addresses of a family the namespace holds: routes of
// type local, which is what `fib daddr type local` finds in a rule. Besides
// the addresses of links these are prefixes that somebody routed to the node.
// ErrStale: they changed meanwhile. It uses a socket of its own, so it may be
// called while a Request is under way.
func (c *Conn) LocalAddrs(ctx context.Context, f ruleset.Family) ([]netip.Prefix, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	request := make([]byte, unix.SizeofRtMsg)
	request[0], request[7] = byte(f), unix.RTN_LOCAL
	replies, err := c.route.Execute(netlink.Message{
		Header: netlink.Header{Type: unix.RTM_GETROUTE, Flags: netlink.Request | netlink.Dump},
		Data:   request,
	})
	if err != nil {
		return nil, fmt.Errorf("list local addresses: %w", err)
	}
	var out []netip.Prefix
	for _, m := range replies {
		if m.Header.Flags&netlink.DumpInterrupted != 0 {
			return nil, ErrStale
		}
		if p, ok := localPrefix(m.Data, f); ok {
			out = append(out, p)
		}
	}
	return out, nil
}

// localPrefix reads the destination of a route of type local.
func localPrefix(b []byte, f ruleset.Family) (netip.Prefix, bool) {
	if len(b) < unix.SizeofRtMsg || b[0] != byte(f) || b[7] != unix.RTN_LOCAL {
		return netip.Prefix{}, false
	}
	bits := int(b[1])
	for b = b[unix.SizeofRtMsg:]; len(b) >= 4; {
		size := int(binary.NativeEndian.Uint16(b))
		if size < 4 || size > len(b) {
			break
		}
		if binary.NativeEndian.Uint16(b[2:]) == unix.RTA_DST {
			addr, ok := netip.AddrFromSlice(b[4:size])
			if !ok || bits > addr.BitLen() {
				break
			}
			return netip.PrefixFrom(addr, bits), true
		}
		b = b[min((size+3)&^3, len(b)):]
	}
	return netip.Prefix{}, false
}
