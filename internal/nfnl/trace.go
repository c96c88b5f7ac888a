//go:build linux

package nfnl

import (
	"encoding/binary"

	"golang.org/x/sys/unix"

	"github.com/nftdp/go-nftdp/internal/netlink"
	"github.com/nftdp/go-nftdp/internal/ruleset"
	"github.com/nftdp/go-nftdp/internal/trace"
)

// Attributes of trace messages that golang.org/x/sys/unix does not have: Linux 6.18
// and later.
const (
	nftaTraceCtID        = 18
	nftaTraceCtDirection = 19
	nftaTraceCtState     = 21
)

// arphrdLoopback is ARPHRD_LOOPBACK of linux/if_arp.h.
const arphrdLoopback = 772

// DecodeTrace decodes a message of type NFT_MSG_TRACE. Attributes that it does not
// know are ignored, since they take nothing from the others.
func DecodeTrace(msg []byte) (m trace.Message, err error) {
	if len(msg) < netlink.NetfilterHeaderLen {
		return m, errHeader
	}
	m.Family = ruleset.Family(msg[0])
	var network, transport []byte
	a := netlink.ReadAttributes(msg[netlink.NetfilterHeaderLen:])
	for a.Next() {
		switch a.Type {
		case unix.NFTA_TRACE_NETWORK_HEADER:
			network = a.Value
		case unix.NFTA_TRACE_TRANSPORT_HEADER:
			transport = a.Value
		default:
			traceAttribute(&m, a.Type, a.Value)
		}
	}
	if p, ok := trace.ReadPacket(network, transport); ok {
		m.Packet = &p
	}
	return m, a.Err()
}

func traceAttribute(m *trace.Message, typ uint16, v []byte) {
	switch typ {
	case unix.NFTA_TRACE_TABLE:
		m.Table = netlink.String(v)
	case unix.NFTA_TRACE_CHAIN:
		m.Chain = netlink.String(v)
	case unix.NFTA_TRACE_RULE_HANDLE:
		if len(v) == 8 {
			m.Handle = binary.BigEndian.Uint64(v)
		}
	case unix.NFTA_TRACE_TYPE:
		m.Kind = trace.Kind(number(v))
	case unix.NFTA_TRACE_VERDICT:
		m.Verdict = traceVerdict(v)
	case unix.NFTA_TRACE_POLICY:
		m.Verdict = trace.Verdict{Code: int32(number(v))}
	case unix.NFTA_TRACE_ID:
		m.ID = number(v)
	case unix.NFTA_TRACE_IIF:
		m.In.Index = number(v)
	case unix.NFTA_TRACE_IIFTYPE:
		m.In.Loopback = deviceType(v) == arphrdLoopback
	case unix.NFTA_TRACE_OIF:
		m.Out.Index = number(v)
	case unix.NFTA_TRACE_OIFTYPE:
		m.Out.Loopback = deviceType(v) == arphrdLoopback
	case unix.NFTA_TRACE_MARK:
		m.Mark = number(v)
	case nftaTraceCtID:
		m.Conn.ID = number(v)
	case nftaTraceCtDirection:
		m.Conn.Reply = len(v) == 1 && v[0] == 1
	case nftaTraceCtState:
		m.Conn.State = number(v)
	}
}

// number reads a big-endian number, or 0 if it is none.
func number(v []byte) uint32 {
	if len(v) != 4 {
		return 0
	}
	return binary.BigEndian.Uint32(v)
}

func deviceType(v []byte) uint16 {
	if len(v) != 2 {
		return 0
	}
	return binary.BigEndian.Uint16(v)
}

// traceVerdict reads the attributes of a verdict.
func traceVerdict(b []byte) (v trace.Verdict) {
	for a := netlink.ReadAttributes(b); a.Next(); {
		switch a.Type {
		case unix.NFTA_VERDICT_CODE:
			v.Code = int32(number(a.Value))
		case unix.NFTA_VERDICT_CHAIN:
			v.Chain = netlink.String(a.Value)
		}
	}
	return v
}
