//go:build linux

package conntrack

import (
	"encoding/binary"
	"net/netip"

	"golang.org/x/sys/unix"

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
	ctaStatusMask = 26

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

	ctaFilterOrigFlags  = 1
	ctaFilterReplyFlags = 2

	ctaStatsEntries = 1 // CTA_STATS_GLOBAL_ENTRIES
)

// Flags of CTA_FILTER_ORIG_FLAGS and CTA_FILTER_REPLY_FLAGS: which fields of the
// tuple have to match (net/netfilter/nf_internals.h).
const (
	filterSrc     = 1 << 0
	filterDst     = 1 << 1
	filterProto   = 1 << 3
	filterSrcPort = 1 << 4
	filterDstPort = 1 << 5
)

// Bits of CTA_STATUS in nf_conntrack_common.h: IPS_SEEN_REPLY and IPS_DST_NAT.
const (
	statusReplied = 1 << 1
	statusDNAT    = 1 << 5
)

// The phases by the states of nf_conntrack_tcp.h and nf_conntrack_sctp.h. In the
// others, the handshake is about to be completed (SYN_RECV), or one side can send for
// as long as it likes after the other one has ended (FIN_WAIT and CLOSE_WAIT,
// SHUTDOWN_SENT and SHUTDOWN_RECD). With the second FIN a TCP connection is in
// LAST_ACK.
var (
	tcpPhases = [...]Phase{
		1:              Beginning, // SYN_SENT
		tcpLastAck:     Closing,
		tcpLastAck + 1: Closed, // TIME_WAIT
		tcpLastAck + 2: Closed, // CLOSE
	}
	sctpPhases = [...]Phase{
		1: Closed,
		7: Closing, // SHUTDOWN_ACK_SENT
	}
)

const tcpLastAck = 6

// decode reads a flow; ok is false if it has no ports or is incomplete.
func decode(b []byte, f *Flow) (ok bool) {
	*f = Flow{}
	if len(b) < netlink.NetfilterHeaderLen {
		return false
	}
	var orig, reply tuple
	a := netlink.ReadAttributes(b[netlink.NetfilterHeaderLen:])
	for a.Next() {
		switch a.Type {
		case ctaTupleOrig:
			orig = decodeTuple(a.Value)
		case ctaTupleReply:
			reply = decodeTuple(a.Value)
		case ctaStatus:
			f.Unreplied = len(a.Value) == 4 && binary.BigEndian.Uint32(a.Value)&statusReplied == 0
		case ctaProtoinfo:
			f.Phase = decodePhase(a.Value)
		}
	}
	f.Proto, f.Src, f.Dst = orig.proto, orig.src(), orig.dst()
	f.ReplySrc, f.ReplyDst = reply.src(), reply.dst()
	if f.Proto == unix.IPPROTO_SCTP && f.Unreplied {
		// An association begins as closed, too (sctp_conntracks in
		// net/netfilter/nf_conntrack_proto_sctp.c).
		f.Phase = Beginning
	}
	return a.Err() == nil && orig.complete() && reply.complete()
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
		if a.Type != ctaTupleIP && a.Type != ctaTupleProto {
			continue
		}
		for in := netlink.ReadAttributes(a.Value); in.Next(); {
			if a.Type == ctaTupleIP {
				t.addr(in.Type, in.Value)
			} else {
				t.field(in.Type, in.Value)
			}
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

// decodeCount reads the number of flows.
func decodeCount(b []byte) (n int) {
	if len(b) < netlink.NetfilterHeaderLen {
		return 0
	}
	for a := netlink.ReadAttributes(b[netlink.NetfilterHeaderLen:]); a.Next(); {
		if a.Type == ctaStatsEntries && len(a.Value) == 4 {
			n = int(binary.BigEndian.Uint32(a.Value))
		}
	}
	return n
}

// decodePhase reads the phase from the protocol's state.
func decodePhase(b []byte) (p Phase) {
	for proto := netlink.ReadAttributes(b); proto.Next(); {
		for a := netlink.ReadAttributes(proto.Value); a.Next(); {
			if a.Type != ctaState || len(a.Value) != 1 {
				continue
			}
			state := int(a.Value[0])
			switch {
			case proto.Type == ctaProtoinfoTCP && state < len(tcpPhases):
				p = tcpPhases[state]
			case proto.Type == ctaProtoinfoSCTP && state < len(sctpPhases):
				p = sctpPhases[state]
			}
		}
	}
	return p
}

// appendName appends the body of a request to delete a flow: the family, the original
// tuple, the zone, and the identifier, which distinguishes the flow from a later one
// with the same tuple.
func appendName(to netlink.Buffer, b []byte) netlink.Buffer {
	to.Netfilter(b[0], 0)
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
// Kernels ignore what they do not know: 5.10 the status, for instance.
func (f *Filter) marshal() []byte {
	var b netlink.Buffer
	var flags [2]uint32
	flags[0] = f.marshalTuple(&b, ctaTupleOrig, f.From, netip.AddrPortFrom(f.Addr, f.Port))
	if f.To != (netip.AddrPort{}) {
		flags[1] = f.marshalTuple(&b, ctaTupleReply, f.To, netip.AddrPort{})
	}
	f.marshalStatus(&b)
	filter := b.Nest(ctaFilter)
	b.PutHostUint32(ctaFilterOrigFlags, flags[0])
	b.PutHostUint32(ctaFilterReplyFlags, flags[1])
	b.Unnest(filter)
	return b
}

// marshalTuple appends a tuple, and returns flags for the fields that have to match.
func (f *Filter) marshalTuple(b *netlink.Buffer, typ uint16, src, dst netip.AddrPort) (flags uint32) {
	outer := b.Nest(typ)
	ip := b.Nest(ctaTupleIP)
	// With an IPv6 address, Linux 6.18 lists all other flows instead
	// (ctnetlink_filter_match_tuple in net/netfilter/nf_conntrack_netlink.c).
	if src.Addr().Is4() {
		flags |= filterSrc
		b.Put(ctaIPv4Src, src.Addr().AsSlice())
	}
	if dst.Addr().Is4() {
		flags |= filterDst
		b.Put(ctaIPv4Dst, dst.Addr().AsSlice())
	}
	b.Unnest(ip)
	proto := b.Nest(ctaTupleProto)
	if f.Proto != 0 { // without it, the kernel does not look at ports
		flags |= filterProto
		b.PutUint8(ctaProtoNum, f.Proto)
		if src.Port() != 0 {
			flags |= filterSrcPort
			b.PutUint16(ctaProtoSrcPort, src.Port())
		}
		if dst.Port() != 0 {
			flags |= filterDstPort
			b.PutUint16(ctaProtoDstPort, dst.Port())
		}
	}
	b.Unnest(proto)
	b.Unnest(outer)
	return flags
}

// putTuple appends one direction of a flow as a whole.
func putTuple(b *netlink.Buffer, typ uint16, proto uint8, src, dst netip.AddrPort) {
	srcType, dstType := uint16(ctaIPv6Src), uint16(ctaIPv6Dst)
	if src.Addr().Is4() {
		srcType, dstType = ctaIPv4Src, ctaIPv4Dst
	}
	outer := b.Nest(typ)
	in := b.Nest(ctaTupleIP)
	b.Put(srcType, src.Addr().AsSlice())
	b.Put(dstType, dst.Addr().AsSlice())
	b.Unnest(in)
	in = b.Nest(ctaTupleProto)
	b.PutUint8(ctaProtoNum, proto)
	b.PutUint16(ctaProtoSrcPort, src.Port())
	b.PutUint16(ctaProtoDstPort, dst.Port())
	b.Unnest(in)
	b.Unnest(outer)
}

func (f *Filter) marshalStatus(b *netlink.Buffer) {
	var status, mask uint32
	if f.Translated {
		status, mask = statusDNAT, statusDNAT
	}
	if f.Unreplied {
		mask |= statusReplied
	}
	if mask != 0 {
		b.PutUint32(ctaStatus, status)
		b.PutUint32(ctaStatusMask, mask)
	}
}
