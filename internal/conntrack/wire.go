//go:build linux

package conntrack

import (
	"encoding/binary"
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/nftdp/go-nftdp/internal/kernel"
)

// Flow is an entry of the conntrack table.
type Flow struct {
	Proto              uint8          // IP protocol number
	Src, Dst           netip.AddrPort // of the first packet, as it came
	ReplySrc, ReplyDst netip.AddrPort // of replies, before they are translated back
	Ended              bool           // TCP and SCTP: nothing is expected any more

	name []byte // attributes that name this flow and no other, for Delete
}

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
	ctaState         = 1 // of either

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

const header = 4 // struct nfgenmsg

// decode reads a flow; ok is false for what is none with ports.
func decode(b []byte) (f Flow, ok bool) {
	if len(b) < header {
		return f, false
	}
	var orig, reply tuple
	ok = kernel.Attributes(b[header:], func(typ int, p []byte) {
		switch typ {
		case ctaTupleOrig:
			orig = decodeTuple(p)
		case ctaTupleReply:
			reply = decodeTuple(p)
		case ctaProtoinfo:
			f.Ended = decodeEnded(p)
		}
	})
	f.Proto, f.Src, f.Dst = orig.proto, orig.src(), orig.dst()
	f.ReplySrc, f.ReplyDst = reply.src(), reply.dst()
	return f, ok && orig.complete() && reply.complete()
}

// tuple is one direction of a flow.
type tuple struct {
	addrs [2]netip.Addr // source, destination
	ports [2]uint16
	proto uint8
	has   uint8 // a bit for the protocol and for each port
}

func (t *tuple) src() netip.AddrPort { return netip.AddrPortFrom(t.addrs[0], t.ports[0]) }
func (t *tuple) dst() netip.AddrPort { return netip.AddrPortFrom(t.addrs[1], t.ports[1]) }

// complete reports whether everything was there, in one family.
func (t *tuple) complete() bool {
	return t.has == 7 && t.addrs[0].IsValid() && t.addrs[0].BitLen() == t.addrs[1].BitLen()
}

func decodeTuple(b []byte) (t tuple) {
	kernel.Attributes(b, func(typ int, p []byte) {
		switch typ {
		case ctaTupleIP:
			kernel.Attributes(p, t.addr)
		case ctaTupleProto:
			kernel.Attributes(p, t.field)
		}
	})
	return t
}

func (t *tuple) addr(typ int, p []byte) {
	switch {
	case (typ == ctaIPv4Src || typ == ctaIPv4Dst) && len(p) == 4:
		t.addrs[typ-ctaIPv4Src] = netip.AddrFrom4([4]byte(p))
	case (typ == ctaIPv6Src || typ == ctaIPv6Dst) && len(p) == 16:
		t.addrs[typ-ctaIPv6Src] = netip.AddrFrom16([16]byte(p))
	}
}

func (t *tuple) field(typ int, p []byte) {
	switch {
	case typ == ctaProtoNum && len(p) == 1:
		t.proto = p[0]
		t.has |= 1
	case (typ == ctaProtoSrcPort || typ == ctaProtoDstPort) && len(p) == 2:
		t.ports[typ-ctaProtoSrcPort] = binary.BigEndian.Uint16(p)
		t.has |= 1 << (typ - ctaProtoSrcPort + 1)
	}
}

// decodeEnded reads the state that the protocol keeps.
func decodeEnded(b []byte) (ended bool) {
	kernel.Attributes(b, func(proto int, p []byte) {
		kernel.Attributes(p, func(typ int, p []byte) {
			switch {
			case typ != ctaState || len(p) != 1:
			case proto == ctaProtoinfoTCP:
				ended = p[0] == tcpTimeWait || p[0] == tcpClose
			case proto == ctaProtoinfoSCTP:
				ended = p[0] == sctpClosed
			}
		})
	})
	return ended
}

// appendName appends those attributes of a flow that a request to delete it
// needs: the original tuple, the zone, and the identifier, so that a flow
// which takes its place later is another one.
func appendName(to, b []byte) []byte {
	kernel.Attributes(b[header:], func(typ int, p []byte) {
		switch typ {
		case ctaTupleOrig:
			to = appendAttr(to, typ|unix.NLA_F_NESTED, p)
		case ctaZone, ctaID:
			to = appendAttr(to, typ, p)
		}
	})
	return to
}

func appendAttr(to []byte, typ int, payload []byte) []byte {
	to = binary.NativeEndian.AppendUint16(to, uint16(unix.NLA_HDRLEN+len(payload)))
	to = binary.NativeEndian.AppendUint16(to, uint16(typ))
	to = append(to, payload...)
	for len(to)%4 != 0 {
		to = append(to, 0)
	}
	return to
}

// marshal gives the attributes that make the kernel list only what matches.
func (f *Filter) marshal() []byte {
	flags := uint32(filterProto)
	proto := appendAttr(nil, ctaProtoNum, []byte{f.Proto})
	if f.Port != 0 {
		flags |= filterDstPort
		proto = appendAttr(proto, ctaProtoDstPort, binary.BigEndian.AppendUint16(nil, f.Port))
	}
	var tuple []byte
	if f.Addr.Is4() {
		// Asked for an IPv6 address, Linux 6.18 lists all others instead.
		flags |= filterDst
		tuple = appendAttr(tuple, ctaTupleIP|unix.NLA_F_NESTED, appendAttr(nil, ctaIPv4Dst, f.Addr.AsSlice()))
	}
	tuple = appendAttr(tuple, ctaTupleProto|unix.NLA_F_NESTED, proto)
	b := appendAttr(nil, ctaTupleOrig|unix.NLA_F_NESTED, tuple)
	if f.Translated {
		b = appendAttr(b, ctaStatus, binary.BigEndian.AppendUint32(nil, statusDNAT))
	}
	return appendAttr(b, ctaFilter|unix.NLA_F_NESTED,
		appendAttr(nil, ctaFilterOrigFlags, binary.NativeEndian.AppendUint32(nil, flags)))
}
