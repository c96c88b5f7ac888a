//go:build linux

package integration

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nftdp/go-nftdp/internal/nstest"
)

// neighbour sends packets of its own making over the link from the client to the
// node, with addresses that no socket of the client could use.
type neighbour struct {
	fd   int
	node unix.SockaddrLinklayer
}

// nodeUplink is the node's name for the link to the client.
const nodeUplink = "uplink"

func newNeighbour(t *testing.T, w *world, a nstest.Addrs) *neighbour {
	t.Helper()
	n := &neighbour{fd: -1}
	n.node.Protocol = hostToNet(unix.ETH_P_IP)
	if a.Client.Is6() {
		n.node.Protocol = hostToNet(unix.ETH_P_IPV6)
	}
	ours, err := w.Client.Links().LinkByName(nstest.ClientLink)
	if err != nil {
		t.Fatal(err)
	}
	theirs, err := w.Node.Links().LinkByName(nodeUplink)
	if err != nil {
		t.Fatal(err)
	}
	n.node.Ifindex, n.node.Halen = ours.Attrs().Index, 6
	copy(n.node.Addr[:], theirs.Attrs().HardwareAddr)
	err = w.Client.Do(func() (err error) {
		n.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, int(n.node.Protocol))
		return err
	})
	if err != nil {
		t.Fatal("packet socket:", err)
	}
	t.Cleanup(func() { _ = unix.Close(n.fd) })
	// Without a neighbour entry for the client the node's answer would be late.
	wantRefused(t, w.Client, "tcp", netip.AddrPortFrom(a.Uplink, closedPort))
	return n
}

// closedPort is a port on which nobody listens, anywhere.
const closedPort = 9

// hostToNet is C's htons.
func hostToNet(n uint16) uint16 {
	return binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, n))
}

// knock sends the first packet of a connection and reports whether it is
// answered.
func (n *neighbour) knock(t *testing.T, protocol string, src, dst netip.AddrPort, timeout time.Duration) bool {
	t.Helper()
	if err := unix.Sendto(n.fd, firstPacket(protocol, src, dst), 0, &n.node); err != nil {
		t.Fatal("send:", err)
	}
	return n.answered(t, src, timeout)
}

// answered waits for a packet to an address and port, or an ICMP error about one
// from there.
func (n *neighbour) answered(t *testing.T, dst netip.AddrPort, timeout time.Duration) bool {
	t.Helper()
	b := make([]byte, 2048)
	for deadline := time.Now().Add(timeout); ; {
		left := unix.NsecToTimeval(max(time.Until(deadline), time.Millisecond).Nanoseconds())
		if err := unix.SetsockoptTimeval(n.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &left); err != nil {
			t.Fatal(err)
		}
		size, _, err := unix.Recvfrom(n.fd, b, 0)
		switch {
		case errors.Is(err, unix.EAGAIN):
			return false
		case errors.Is(err, unix.EINTR):
		case err != nil:
			t.Fatal("receive:", err)
		case isFor(b[:size], dst):
			return true
		}
	}
}

// isFor reports whether a packet is to the address and port, or an ICMP error to
// the address that quotes a packet from the port.
func isFor(b []byte, dst netip.AddrPort) bool {
	at, header := 16, 20
	if dst.Addr().Is6() {
		at, header = 24, 40
	}
	want := binary.BigEndian.AppendUint16(nil, dst.Port())
	port := header + 2
	if p := b[9]; len(b) > 2*header+10 && (header == 20 && p == unix.IPPROTO_ICMP || header == 40 && b[6] == unix.IPPROTO_ICMPV6) {
		port = 2*header + 8 // the source port of the packet that is quoted
	}
	return len(b) >= port+2 && [2]byte(b[port:port+2]) == [2]byte(want) &&
		string(b[at:at+dst.Addr().BitLen()/8]) == string(dst.Addr().AsSlice())
}

// firstPacket is a TCP SYN or a UDP datagram with its IP header.
func firstPacket(protocol string, src, dst netip.AddrPort) []byte {
	ports := binary.BigEndian.AppendUint16(nil, src.Port())
	ports = binary.BigEndian.AppendUint16(ports, dst.Port())
	if protocol == "udp" {
		const payload = "x"
		b := append(ports, 0, byte(8+len(payload)), 0, 0)
		return packetOf(unix.IPPROTO_UDP, src.Addr(), dst.Addr(), append(b, payload...), 6)
	}
	b := append(ports, 0, 0, 0, 1, 0, 0, 0, 0, 5<<4, 2, 0x20, 0, 0, 0, 0, 0)
	return packetOf(unix.IPPROTO_TCP, src.Addr(), dst.Addr(), b, 16)
}

// packetOf prepends an IP header to a segment and fills in the checksums.
func packetOf(protocol byte, src, dst netip.Addr, segment []byte, checksumAt int) []byte {
	addrs := append(src.AsSlice(), dst.AsSlice()...)
	pseudo := append(addrs, 0, protocol, byte(len(segment)>>8), byte(len(segment)))
	binary.BigEndian.PutUint16(segment[checksumAt:], internetChecksum(append(pseudo, segment...)))
	if src.Is6() {
		header := []byte{6 << 4, 0, 0, 0, byte(len(segment) >> 8), byte(len(segment)), protocol, 64}
		return append(append(header, addrs...), segment...)
	}
	size := 20 + len(segment)
	header := append([]byte{4<<4 | 5, 0, byte(size >> 8), byte(size), 0, 0, 0, 0, 64, protocol, 0, 0}, addrs...)
	binary.BigEndian.PutUint16(header[10:], internetChecksum(header))
	return append(header, segment...)
}

// internetChecksum is the checksum of RFC 1071.
func internetChecksum(b []byte) uint16 {
	var sum uint32
	for i, v := range b {
		sum += uint32(v) << (8 * (1 - i%2))
	}
	for sum>>16 > 0 {
		sum = sum&0xffff + sum>>16
	}
	return ^uint16(sum)
}
