package nftdp

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// originalDst asks conntrack through the socket, for which there is an option in each
// family (getorigdst and ipv6_getorigdst in net/netfilter/nf_conntrack_proto.c).
func originalDst(conn syscall.Conn) (dst netip.AddrPort, err error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return dst, err
	}
	var failed error
	err = raw.Control(func(fd uintptr) { dst, failed = originalDstOf(int(fd)) })
	if err = errors.Join(err, failed); errors.Is(err, unix.ENOPROTOOPT) || errors.Is(err, unix.EOPNOTSUPP) {
		return dst, fmt.Errorf("conntrack knows TCP and SCTP connections by their sockets, once it is in use: %w: %w", ErrNotSupported, err)
	}
	return dst, err
}

func originalDstOf(fd int) (netip.AddrPort, error) {
	local, err := unix.Getsockname(fd)
	if err != nil {
		return netip.AddrPort{}, err
	}
	if in6, ok := local.(*unix.SockaddrInet6); ok && !netip.AddrFrom16(in6.Addr).Is4In6() {
		return originalDst6(fd)
	} else if _, is4 := local.(*unix.SockaddrInet4); !ok && !is4 {
		return netip.AddrPort{}, unix.EOPNOTSUPP // a Unix socket, for example
	}
	return originalDst4(fd)
}

// originalDst4 reads a sockaddr_in of 16 bytes into a structure of 20, of which the
// kernel leaves the rest alone: package unix has no function for the option itself.
func originalDst4(fd int) (netip.AddrPort, error) {
	in, err := unix.GetsockoptIPv6Mreq(fd, unix.SOL_IP, unix.SO_ORIGINAL_DST)
	if err != nil {
		return netip.AddrPort{}, err
	}
	addr := netip.AddrFrom4([4]byte(in.Multiaddr[4:8]))
	return netip.AddrPortFrom(addr, binary.BigEndian.Uint16(in.Multiaddr[2:4])), nil
}

// originalDst6 reads a sockaddr_in6, which is what the structure begins with. The
// option IP6T_SO_ORIGINAL_DST has the number of SO_ORIGINAL_DST.
func originalDst6(fd int) (netip.AddrPort, error) {
	in, err := unix.GetsockoptIPv6MTUInfo(fd, unix.SOL_IPV6, unix.SO_ORIGINAL_DST)
	if err != nil {
		return netip.AddrPort{}, err
	}
	addr := netip.AddrFrom16(in.Addr.Addr)
	if in.Addr.Scope_id != 0 {
		addr = addr.WithZone(strconv.FormatUint(uint64(in.Addr.Scope_id), 10))
	}
	port := binary.NativeEndian.AppendUint16(nil, in.Addr.Port)
	return netip.AddrPortFrom(addr, binary.BigEndian.Uint16(port)), nil
}
