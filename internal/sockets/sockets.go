//go:build linux

// Package sockets reads which sockets of a network namespace take packets of any
// client, over NETLINK_SOCK_DIAG.
package sockets

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/nftdp/go-nftdp/internal/around"
	"github.com/nftdp/go-nftdp/internal/netlink"
)

// List lists the sockets of the network namespace of a file descriptor, or
// netlink.Here. Of a protocol that the kernel cannot list there are none.
func List(ctx context.Context, ns int) ([]around.Listener, error) {
	s, err := netlink.Dial(unix.NETLINK_SOCK_DIAG, ns)
	if err != nil {
		return nil, err
	}
	defer s.Close()
	var out []around.Listener
	for _, proto := range []uint8{unix.IPPROTO_TCP, unix.IPPROTO_UDP, unix.IPPROTO_SCTP} {
		for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
			err := s.Ask(ctx, sockDiagByFamily, unix.NLM_F_DUMP, request(family, proto), func(b []byte) error {
				if l, ok := listener(b, proto); ok {
					out = append(out, l)
				}
				return nil
			})
			missing := errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EOPNOTSUPP)
			if err != nil && !missing && !errors.Is(err, netlink.ErrInterrupted) {
				return nil, fmt.Errorf("list sockets: %w", err)
			}
		}
	}
	return out, nil
}

// Numbers of linux/sock_diag.h, linux/inet_diag.h and net/tcp_states.h.
const (
	sockDiagByFamily  = 20
	requestLen        = 56 // struct inet_diag_req_v2
	answerLen         = 72 // struct inet_diag_msg
	inetDiagSkV6Only  = 11
	stateClose        = 7 // of a UDP socket that is not connected
	stateListen       = 10
	familyAt, portAt  = 0, 4
	addrAt, addrBytes = 8, 16
)

func request(family, proto uint8) []byte {
	b := make([]byte, requestLen)
	b[0], b[1] = family, proto
	state := stateListen
	if proto == unix.IPPROTO_UDP {
		state = stateClose
	}
	binary.NativeEndian.PutUint32(b[4:], 1<<state)
	return b
}

func listener(b []byte, proto uint8) (l around.Listener, ok bool) {
	if len(b) < answerLen {
		return l, false
	}
	l.Proto = proto
	n := 4
	if b[familyAt] == unix.AF_INET6 {
		n = addrBytes
	}
	addr, _ := netip.AddrFromSlice(b[addrAt:][:n])
	l.Both = addr == netip.IPv6Unspecified()
	l.Addr = netip.AddrPortFrom(addr.Unmap(), binary.BigEndian.Uint16(b[portAt:]))
	for a := netlink.ReadAttributes(b[answerLen:]); a.Next(); {
		if a.Type == inetDiagSkV6Only && len(a.Value) == 1 && a.Value[0] != 0 {
			l.Both = false
		}
	}
	return l, l.Addr.Port() != 0
}
