//go:build linux

package address

import (
	"context"
	"fmt"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/nftdp/go-nftdp/internal/around"
	"github.com/nftdp/go-nftdp/internal/netlink"
	"github.com/nftdp/go-nftdp/internal/ruleset"
)

// together is how many routes are asked for with one datagram, so that the answers
// fit into the socket.
const together = 128

// Hops asks the kernel how it sends packets to addresses, with the rules of policy
// routing.
func (c *Conn) Hops(ctx context.Context, addrs []netip.Addr) (map[netip.Addr]around.Reach, error) {
	out := make(map[netip.Addr]around.Reach, len(addrs))
	err := c.sockets.Do(ctx, func(s *netlink.Socket) error {
		for some := range slices.Chunk(addrs, together) {
			if err := askHops(ctx, s, some, out); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("look up routes: %w", err)
	}
	return out, nil
}

func askHops(ctx context.Context, s *netlink.Socket, addrs []netip.Addr, out map[netip.Addr]around.Reach) error {
	first := s.NextSeq(uint32(len(addrs)))
	var b netlink.Buffer
	for i, addr := range addrs {
		at := b.Message(unix.RTM_GETROUTE, unix.NLM_F_REQUEST, first+uint32(i))
		var body [unix.SizeofRtMsg]byte
		body[0], body[1] = byte(ruleset.FamilyOf(addr)), byte(addr.BitLen())
		b = append(b, body[:]...)
		b.Put(unix.RTA_DST, addr.AsSlice())
		b.EndMessage(at)
	}
	if err := s.Send(ctx, b); err != nil {
		return err
	}
	answers := 0
	return s.Receive(func(m *netlink.Message) (done bool, err error) {
		i := m.Seq - first
		if i >= uint32(len(addrs)) {
			return false, nil
		}
		answers++
		if m.Type == unix.NLMSG_ERROR {
			errno, err := m.Errno()
			if err != nil {
				return true, err
			}
			if errno == unix.ENOBUFS || errno == unix.ENOMEM || errno == unix.EPERM {
				return true, errno
			}
			out[addrs[i]] = around.Reach{Refusal: around.NoRoute}
		} else {
			out[addrs[i]] = reachOf(m.Data, addrs[i])
		}
		return answers == len(addrs), nil
	})
}

// reachOf reads a route. With an IPv6 route of a type that refuses, the kernel answers
// no error.
func reachOf(b []byte, addr netip.Addr) (r around.Reach) {
	if r.Via = addr; len(b) < unix.SizeofRtMsg {
		r.Refusal = around.NoRoute
		return r
	}
	switch b[7] {
	case unix.RTN_LOCAL:
		r.Local = true
	case unix.RTN_UNREACHABLE, unix.RTN_BLACKHOLE, unix.RTN_PROHIBIT, unix.RTN_THROW:
		r.Refusal = around.NoRoute
	}
	for a := netlink.ReadAttributes(b[unix.SizeofRtMsg:]); a.Next(); {
		switch a.Type {
		case unix.RTA_OIF:
			r.Out.Index = hostUint32(a.Value)
		case unix.RTA_GATEWAY:
			r.Via, _ = netip.AddrFromSlice(a.Value)
		case unix.RTA_VIA: // a gateway of the other family, which comes first (struct rtvia)
			if len(a.Value) > 2 {
				r.Via, _ = netip.AddrFromSlice(a.Value[2:])
			}
		case unix.RTA_MULTIPATH:
			r.Several = true
		}
	}
	return r
}
