package trace

import (
	"encoding/binary"
	"net/netip"
)

// Numbers of IP protocols.
const (
	ICMP   = 1
	TCP    = 6
	UDP    = 17
	ICMPv6 = 58
	SCTP   = 132
)

// ReadPacket reads the headers of IP and of the transport protocol, which may be
// cut short; ok is false if the first is not one of IP.
func ReadPacket(network, transport []byte) (p Packet, ok bool) {
	switch {
	case len(network) >= 20 && network[0]>>4 == 4:
		p.Proto, p.Length = network[9], int(binary.BigEndian.Uint16(network[2:]))
		p.number = uint64(binary.BigEndian.Uint16(network[4:]))
		p.Src, p.Dst = addrs(network[12:], 4)
	case len(network) >= 40 && network[0]>>4 == 6:
		p.Proto, p.Length = network[6], 40+int(binary.BigEndian.Uint16(network[4:]))
		p.Src, p.Dst = addrs(network[8:], 16)
	default:
		return p, false
	}
	p.transport(transport)
	return p, true
}

func addrs(b []byte, n int) (src, dst netip.AddrPort) {
	a, _ := netip.AddrFromSlice(b[:n])
	d, _ := netip.AddrFromSlice(b[n : 2*n])
	return netip.AddrPortFrom(a, 0), netip.AddrPortFrom(d, 0)
}

func (p *Packet) transport(b []byte) {
	switch {
	case len(b) < 4:
	case p.Proto == ICMP || p.Proto == ICMPv6:
		p.Type, p.Code = b[0], b[1]
	case p.Proto == TCP || p.Proto == UDP || p.Proto == SCTP:
		p.Src = netip.AddrPortFrom(p.Src.Addr(), binary.BigEndian.Uint16(b))
		p.Dst = netip.AddrPortFrom(p.Dst.Addr(), binary.BigEndian.Uint16(b[2:]))
	}
	if p.Proto == TCP && len(b) >= 14 {
		p.Flags = b[13]
		p.number = p.number<<32 | uint64(binary.BigEndian.Uint32(b[4:]))
	}
}
