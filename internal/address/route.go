//go:build linux

package address

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nftdp/go-nftdp/internal/around"
	"github.com/nftdp/go-nftdp/internal/netlink"
	"github.com/nftdp/go-nftdp/internal/ruleset"
)

// Route asks the kernel what it would do with a packet: of one that arrives, it also
// checks the source (inet_rtm_getroute calls ip_route_input_rcu).
func (c *Conn) Route(ctx context.Context, q around.Query) (out around.Route, refused around.Refusal, err error) {
	err = c.sockets.Do(ctx, func(s *netlink.Socket) error {
		request, err := routeRequest(s, q)
		if err != nil {
			return err
		}
		err = s.Ask(ctx, unix.RTM_GETROUTE, 0, request, func(b []byte) error {
			out, refused = readRoute(s, b)
			return nil
		})
		return err
	})
	switch {
	case errors.Is(err, unix.EXDEV):
		return out, around.ReversePath, nil
	case errors.Is(err, unix.EINVAL):
		return out, around.Martian, nil
	case errors.Is(err, unix.ENETUNREACH), errors.Is(err, unix.EHOSTUNREACH), errors.Is(err, unix.EACCES):
		return out, around.NoRoute, nil
	case err != nil:
		return out, around.NoRoute, fmt.Errorf("route to %v: %w", q.Dst, err)
	}
	return out, refused, nil
}

func routeRequest(s *netlink.Socket, q around.Query) (netlink.Buffer, error) {
	b := make(netlink.Buffer, unix.SizeofRtMsg)
	b[0], b[1] = byte(ruleset.FamilyOf(q.Dst)), byte(q.Dst.BitLen())
	if q.Src.IsValid() {
		b[2] = byte(q.Src.BitLen())
	}
	b.Put(unix.RTA_DST, q.Dst.AsSlice())
	if q.Src.IsValid() {
		b.Put(unix.RTA_SRC, q.Src.AsSlice())
	}
	if q.In != "" {
		d, err := deviceNamed(s, q.In)
		if err != nil {
			return nil, err
		}
		b.PutHostUint32(unix.RTA_IIF, d.Index)
	}
	return b, nil
}

func readRoute(s *netlink.Socket, b []byte) (out around.Route, refused around.Refusal) {
	if len(b) < unix.SizeofRtMsg {
		return out, around.NoRoute
	}
	switch b[7] {
	case unix.RTN_LOCAL:
		out.Local = true
	case unix.RTN_UNREACHABLE, unix.RTN_BLACKHOLE, unix.RTN_PROHIBIT, unix.RTN_THROW:
		refused = around.NoRoute
	}
	for a := netlink.ReadAttributes(b[unix.SizeofRtMsg:]); a.Next(); {
		addr, _ := netip.AddrFromSlice(a.Value)
		switch {
		case a.Type == unix.RTA_GATEWAY:
			out.Via = addr
		case a.Type == unix.RTA_VIA && len(a.Value) > 2: // struct rtvia: the family comes first
			out.Via, _ = netip.AddrFromSlice(a.Value[2:])
		case a.Type == unix.RTA_PREFSRC:
			out.Src = addr
		case a.Type == unix.RTA_OIF && len(a.Value) == 4:
			out.Out = deviceAt(s, binary.NativeEndian.Uint32(a.Value))
		}
	}
	return out, refused
}

// Device returns the network device of that name. If there is none, the error matches
// unix.ENODEV.
func (c *Conn) Device(ctx context.Context, name string) (d around.Device, err error) {
	err = c.sockets.Do(ctx, func(s *netlink.Socket) (err error) {
		d, err = deviceNamed(s, name)
		return err
	})
	return d, err
}

func deviceNamed(s *netlink.Socket, name string) (around.Device, error) {
	ifr, err := unix.NewIfreq(name)
	if err == nil {
		err = s.Ioctl(unix.SIOCGIFINDEX, ifr)
	}
	if err != nil {
		return around.Device{}, fmt.Errorf("network device %q: %w", name, err)
	}
	return around.Device{Index: ifr.Uint32(), Name: name}, nil
}

// deviceAt returns the device with an index; the name is empty if it is gone.
func deviceAt(s *netlink.Socket, index uint32) around.Device {
	out := around.Device{Index: index}
	ifr, err := unix.NewIfreq("")
	if err != nil {
		return out
	}
	ifr.SetUint32(index)
	if err := s.Ioctl(unix.SIOCGIFNAME, ifr); err == nil {
		out.Name = ifr.Name()
	}
	return out
}

// The kernel asks a neighbour three times, once a second, by default
// (mcast_solicit, retrans_time_ms).
const (
	resolution     = 3500 * time.Millisecond
	resolutionPoll = 50 * time.Millisecond
)

// Neighbours returns what the kernel knows of neighbours. Those that it does not know
// it asks, as it would to send a packet, which takes 3.5 seconds if one of them does
// not answer.
func (c *Conn) Neighbours(ctx context.Context, hops []around.Hop) ([]around.Neighbour, error) {
	out := make([]around.Neighbour, len(hops))
	deadline := time.Now().Add(resolution)
	for asked := false; ; asked = true {
		waiting := false
		for i, h := range hops {
			if out[i] == around.Known {
				continue
			}
			var err error
			pending := false
			if out[i], pending, err = c.neighbour(ctx, h, !asked); err != nil {
				return nil, err
			}
			waiting = waiting || pending
		}
		if !waiting {
			return out, nil
		}
		if time.Now().After(deadline) {
			return failed(out), nil
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(resolutionPoll):
		}
	}
}

// failed makes those that have not answered in time failed ones.
func failed(of []around.Neighbour) []around.Neighbour {
	for i := range of {
		if of[i] == around.Unknown {
			of[i] = around.Failed
		}
	}
	return of
}

// neighbour reads the state of a neighbour. Pending says that it is being asked. With
// ask, it is asked if it is not known.
func (c *Conn) neighbour(ctx context.Context, h around.Hop, ask bool) (out around.Neighbour, pending bool, err error) {
	const (
		sizeofNdMsg = 12
		ndaDst      = 1
		pendingMask = unix.NUD_INCOMPLETE | unix.NUD_PROBE
		known       = unix.NUD_REACHABLE | unix.NUD_STALE | unix.NUD_DELAY | unix.NUD_PERMANENT | unix.NUD_NOARP
	)
	request := make(netlink.Buffer, sizeofNdMsg)
	request[0] = byte(ruleset.FamilyOf(h.Addr))
	binary.NativeEndian.PutUint32(request[4:], h.Out.Index)
	request.Put(ndaDst, h.Addr.AsSlice())
	state := uint16(unix.NUD_NONE)
	err = c.sockets.Do(ctx, func(s *netlink.Socket) error {
		return s.Ask(ctx, unix.RTM_GETNEIGH, 0, request, func(b []byte) error {
			if len(b) >= sizeofNdMsg {
				state = binary.NativeEndian.Uint16(b[8:])
			}
			return nil
		})
	})
	if err != nil && !errors.Is(err, unix.ENOENT) {
		return out, false, fmt.Errorf("neighbour %v: %w", h.Addr, err)
	}
	switch {
	case state&known != 0:
		return around.Known, false, nil
	case ask:
		return around.Unknown, true, c.resolve(ctx, request)
	case state&pendingMask != 0:
		return around.Unknown, true, nil
	case state&unix.NUD_FAILED != 0:
		return around.Failed, false, nil
	}
	return around.Unknown, false, nil // it has been removed meanwhile
}

// resolve makes the kernel ask a neighbour.
func (c *Conn) resolve(ctx context.Context, request netlink.Buffer) error {
	use := append(netlink.Buffer(nil), request...)
	use[10] = unix.NTF_USE
	err := c.sockets.Do(ctx, func(s *netlink.Socket) error {
		return s.Ask(ctx, unix.RTM_NEWNEIGH, unix.NLM_F_CREATE|unix.NLM_F_ACK, use, func([]byte) error { return nil })
	})
	if err != nil {
		return fmt.Errorf("ask a neighbour: %w", err)
	}
	return nil
}
