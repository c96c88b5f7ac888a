//go:build linux

package address

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/nftdp/go-nftdp/internal/around"
	"github.com/nftdp/go-nftdp/internal/netlink"
)

// dump reads all objects of a kind, again if they changed meanwhile.
func (c *Conn) dump(ctx context.Context, typ int, request []byte, begin func(), each func([]byte)) error {
	return c.sockets.Do(ctx, func(s *netlink.Socket) (err error) {
		for range attempts {
			begin()
			err = s.Ask(ctx, typ, unix.NLM_F_DUMP, request, func(b []byte) error { each(b); return nil })
			if !errors.Is(err, netlink.ErrInterrupted) && !errors.Is(err, netlink.ErrLost) {
				break
			}
		}
		return err
	})
}

// Links reads the network devices.
func (c *Conn) Links(ctx context.Context) (out []around.Link, err error) {
	request := make([]byte, unix.SizeofIfInfomsg)
	err = c.dump(ctx, unix.RTM_GETLINK, request, func() { out = nil }, func(b []byte) {
		if len(b) >= unix.SizeofIfInfomsg {
			out = append(out, linkOf(b))
		}
	})
	if err != nil {
		return nil, fmt.Errorf("list links: %w", err)
	}
	return out, nil
}

func linkOf(b []byte) (l around.Link) {
	flags := binary.NativeEndian.Uint32(b[8:])
	l.Index = binary.NativeEndian.Uint32(b[4:])
	l.Up, l.Loopback, l.NoARP = flags&unix.IFF_UP != 0, flags&unix.IFF_LOOPBACK != 0, flags&unix.IFF_NOARP != 0
	for a := netlink.ReadAttributes(b[unix.SizeofIfInfomsg:]); a.Next(); {
		switch a.Type {
		case unix.IFLA_IFNAME:
			l.Name = netlink.String(a.Value)
		case unix.IFLA_MASTER:
			l.Master = hostUint32(a.Value)
		case unix.IFLA_LINKINFO:
			describe(&l, a.Value)
		case unix.IFLA_AF_SPEC:
			in := netlink.ReadAttributes(a.Value)
			for in.Next() {
				if in.Type == unix.AF_INET {
					l.IPv4 = ipv4Of(in.Value)
				}
			}
		}
	}
	return l
}

// describe reads IFLA_LINKINFO.
func describe(l *around.Link, b []byte) {
	const hairpinMode = 4 // IFLA_BRPORT_MODE
	var slave string
	for a := netlink.ReadAttributes(b); a.Next(); {
		switch a.Type {
		case unix.IFLA_INFO_KIND:
			l.Kind = netlink.String(a.Value)
		case unix.IFLA_INFO_SLAVE_KIND:
			slave = netlink.String(a.Value)
		case unix.IFLA_INFO_SLAVE_DATA:
			for port := netlink.ReadAttributes(a.Value); port.Next() && slave == "bridge"; {
				if port.Type == hairpinMode && len(port.Value) == 1 {
					l.HairpinOff = port.Value[0] == 0
				}
			}
		}
	}
}

// ipv4Of reads the parameters of IPv4, which the kernel sends as a list in the order
// of IPV4_DEVCONF_* in linux/ip.h, whose first number is 1 (inet_fill_link_af in
// net/ipv4/devinet.c).
func ipv4Of(b []byte) *around.IPv4 {
	const (
		inetConf                            = 1 // IFLA_INET_CONF
		forwarding, rpFilter, routeLocalnet = 1, 8, 26
	)
	for a := netlink.ReadAttributes(b); a.Next(); {
		if a.Type != inetConf || len(a.Value) < 4*routeLocalnet {
			continue
		}
		value := func(n int) uint32 { return hostUint32(a.Value[4*(n-1):][:4]) }
		return &around.IPv4{
			Forwarding: value(forwarding) != 0, RPFilter: int(value(rpFilter)), RouteLocalnet: value(routeLocalnet) != 0,
		}
	}
	return nil
}

func hostUint32(v []byte) uint32 {
	if len(v) != 4 {
		return 0
	}
	return binary.NativeEndian.Uint32(v)
}
