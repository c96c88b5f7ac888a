//go:build linux

package conntrack

import (
	"encoding/binary"
	"net/netip"

	"github.com/nftdp/go-nftdp/internal/netlink"
)

// Attributes of linux/netfilter/nfnetlink_conntrack.h.
const (
	ctaTupleOrig  = 1
	ctaTupleReply = 2
	ctaStatus     = 3
	ctaProtoinfo  = 4
	ctaID         = 12
	ctaZone       = 18
	ctaFilter     = 25

	ctaTupleIP    = 1
	ctaTupleProto = 2

	ctaIPv4Src = 1
	ctaIPv4Dst = 2
	ctaIPv6Src = 3
	ctaIPv6Dst = 4

	ctaProtoNum     = 1
	ctaProtoSrcPort = 2
	ctaProtoDstPort = 3

	ctaProtoinfoTCP  = 1
	ctaProtoinfoSCTP = 3
	ctaState         = 1 // in both

	ctaFilterOrigFlags = 1
)

// Flags of CTA_FILTER_ORIG_FLAGS: which fields of the tuple have to match
// (net/netfilter/nf_internals.h).
const (
	filterDst     = 1 << 1
	filterProto   = 1 << 3
	filterDstPort = 1 << 5
)

// statusDNAT is a bit of CTA_STATUS, IPS_DST_NAT of nf_conntrack_common.h.
const statusDNAT = 1 << 5

// States of nf_conntrack_tcp.h and nf_conntrack_sctp.h.
const (
	tcpTimeWait = 7
	tcpClose    = 8
	sctpClosed  = 1
)

// decode reads a flow; ok is false if it has no ports or is incomplete.
func decode(b []byte) (f Flow, ok bool) {
	if len(b) < netlink.NetfilterHeaderLen {
		return f, false
	}
	var orig, reply tuple
	a := netlink.ReadAttributes(b[netlink.NetfilterHeaderLen:])
	for a.Next() {
		switch a.Type {
		case ctaTupleOrig:
			orig = decodeTuple(a.Value)
		case ctaTupleReply:
			reply = decodeTuple(a.Value)
		case ctaProtoinfo:
			f.Ended = decodeEnded(a.Value)
		}
	}
	f.Proto, f.Src, f.Dst = orig.proto, orig.src(), orig.dst()
	f.ReplySrc, f.ReplyDst = reply.src(), reply.dst()
	return f, a.Err() == nil && orig.complete() && reply.complete()
}

// tuple is one direction of a flow.
type tuple struct {
	addrs [2]netip.Addr // source, destination
	ports [2]uint16
	proto uint8
	has   uint8 // one bit each for the protocol and the ports
}

func (t *tuple) src() netip.AddrPort { return netip.AddrPortFrom(t.addrs[0], t.ports[0]) }
func (t *tuple) dst() netip.AddrPort { return netip.AddrPortFrom(t.addrs[1], t.ports[1]) }

// complete reports whether all fields are present, and the addresses of one
// family.
func (t *tuple) complete() bool {
	return t.has == 7 && t.addrs[0].IsValid() && t.addrs[0].BitLen() == t.addrs[1].BitLen()
}

func decodeTuple(b []byte) (t tuple) {
	for a := netlink.ReadAttributes(b); a.Next(); {
		set := t.addr
		switch a.Type {
		case ctaTupleIP:
		case ctaTupleProto:
			set = t.field
		default:
			continue
		}
		for in := netlink.ReadAttributes(a.Value); in.Next(); {
			set(in.Type, in.Value)
		}
	}
	return t
}

func (t *tuple) addr(typ uint16, p []byte) {
	switch {
	case (typ == ctaIPv4Src || typ == ctaIPv4Dst) && len(p) == 4:
		t.addrs[typ-ctaIPv4Src] = netip.AddrFrom4([4]byte(p))
	case (typ == ctaIPv6Src || typ == ctaIPv6Dst) && len(p) == 16:
		t.addrs[typ-ctaIPv6Src] = netip.AddrFrom16([16]byte(p))
	}
}

func (t *tuple) field(typ uint16, p []byte) {
	switch {
	case typ == ctaProtoNum && len(p) == 1:
		t.proto = p[0]
		t.has |= 1
	case (typ == ctaProtoSrcPort || typ == ctaProtoDstPort) && len(p) == 2:
		t.ports[typ-ctaProtoSrcPort] = binary.BigEndian.Uint16(p)
		t.has |= 1 << (typ - ctaProtoSrcPort + 1)
	}
}

// decodeEnded reports whether the protocol's state is one that ends the flow.
func decodeEnded(b []byte) (ended bool) {
	for proto := netlink.ReadAttributes(b); proto.Next(); {
		for a := netlink.ReadAttributes(proto.Value); a.Next(); {
			switch {
			case a.Type != ctaState || len(a.Value) != 1:
			case proto.Type == ctaProtoinfoTCP:
				ended = a.Value[0] == tcpTimeWait || a.Value[0] == tcpClose
			case proto.Type == ctaProtoinfoSCTP:
				ended = a.Value[0] == sctpClosed
			}
		}
	}
	return ended
}

// appendName appends the attributes of a flow that a request to delete it needs:
// the original tuple, the zone, and the identifier, which distinguishes it from a
// later flow with the same tuple.
func appendName(to netlink.Buffer, b []byte) netlink.Buffer {
	for a := netlink.ReadAttributes(b[netlink.NetfilterHeaderLen:]); a.Next(); {
		switch a.Type {
		case ctaTupleOrig:
			to.PutNested(a.Type, a.Value)
		case ctaZone, ctaID:
			to.Put(a.Type, a.Value)
		}
	}
	return to
}

// marshal returns the attributes that make the kernel list only matching flows.
// Kernels before about 5.14 ignore the status.
func (f *Filter) marshal() []byte {
	var b netlink.Buffer
	flags := uint32(filterProto)
	orig := b.Nest(ctaTupleOrig)
	if f.Addr.Is4() {
		// With an IPv6 address, Linux 6.18 lists all other flows instead.
		flags |= filterDst
		ip := b.Nest(ctaTupleIP)
		b.Put(ctaIPv4Dst, f.Addr.AsSlice())
		b.Unnest(ip)
	}
	proto := b.Nest(ctaTupleProto)
	b.PutUint8(ctaProtoNum, f.Proto)
	if f.Port != 0 {
		flags |= filterDstPort
		b.PutUint16(ctaProtoDstPort, f.Port)
	}
	b.Unnest(proto)
	b.Unnest(orig)
	if f.Translated {
		b.PutUint32(ctaStatus, statusDNAT)
	}
	filter := b.Nest(ctaFilter)
	b.PutHostUint32(ctaFilterOrigFlags, flags)
	b.Unnest(filter)
	return b
}
