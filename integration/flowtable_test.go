//go:build linux

package integration

import (
	"context"
	"encoding/binary"
	"net/netip"
	"testing"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/nftdp/go-nftdp/internal/conntrack"
	"github.com/nftdp/go-nftdp/internal/kernel"
	"github.com/nftdp/go-nftdp/internal/nstest"
	"github.com/nftdp/go-nftdp/internal/ruleset"
)

// trackedFlow is an entry of the conntrack table without what the kernel adds.
type trackedFlow struct {
	proto                        uint8
	src, dst, replySrc, replyDst netip.AddrPort
}

// flowTable lists the UDP flows of a namespace.
func flowTable(t *testing.T, ns *nstest.Namespace) map[trackedFlow]bool {
	t.Helper()
	conn, err := kernel.Dial(int(ns.Handle()))
	if err != nil {
		t.Fatal(err)
	}
	defer closeOrFail(t, conn)
	all := map[trackedFlow]bool{}
	for _, family := range ruleset.Families {
		flows, err := conntrack.List(context.WithoutCancel(t.Context()), conn,
			conntrack.Filter{Family: family, Proto: unix.IPPROTO_UDP}, func(*conntrack.Flow) bool { return true })
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range flows {
			all[trackedFlow{f.Proto, f.Src, f.Dst, f.ReplySrc, f.ReplyDst}] = true
		}
	}
	return all
}

// addFlows puts flows into a namespace's table, as if packets had made them.
func addFlows(t *testing.T, ns *nstest.Namespace, flows []trackedFlow) {
	t.Helper()
	conn, err := netlink.Dial(unix.NETLINK_NETFILTER, &netlink.Config{NetNS: int(ns.Handle())})
	if err != nil {
		t.Fatal(err)
	}
	defer closeOrFail(t, conn)
	const batch = 200 // messages in one datagram, of which the last is answered
	for len(flows) > 0 {
		n := min(batch, len(flows))
		messages := make([]netlink.Message, n)
		for i, f := range flows[:n] {
			messages[i] = newFlow(t, f)
		}
		messages[n-1].Header.Flags |= netlink.Acknowledge
		if _, err := conn.SendMessages(messages); err != nil {
			t.Fatal(err)
		}
		if _, err := conn.Receive(); err != nil {
			t.Fatalf("add flows: %v", err)
		}
		flows = flows[n:]
	}
}

// newFlow is the request to make a flow; the numbers are of
// linux/netfilter/nfnetlink_conntrack.h.
func newFlow(t *testing.T, f trackedFlow) netlink.Message {
	t.Helper()
	family := byte(unix.AF_INET)
	if f.src.Addr().Is6() {
		family = unix.AF_INET6
	}
	e := netlink.NewAttributeEncoder()
	e.ByteOrder = binary.BigEndian
	e.Nested(1, tupleOf(f.proto, f.src, f.dst)) // CTA_TUPLE_ORIG
	e.Nested(2, tupleOf(f.proto, f.dst, f.src)) // CTA_TUPLE_REPLY, before NAT
	e.Uint32(7, 600)                            // CTA_TIMEOUT, in seconds
	if f.replySrc != f.dst {
		e.Nested(13, natTo(f.replySrc)) // CTA_NAT_DST
	}
	body, err := e.Encode()
	if err != nil {
		t.Fatal(err)
	}
	return netlink.Message{
		Header: netlink.Header{
			Type:  unix.NFNL_SUBSYS_CTNETLINK << 8,
			Flags: netlink.Request | netlink.Create | netlink.Excl,
		},
		Data: append([]byte{family, unix.NFNETLINK_V0, 0, 0}, body...),
	}
}

func tupleOf(proto uint8, src, dst netip.AddrPort) func(*netlink.AttributeEncoder) error {
	first := uint16(1) // CTA_IP_V4_SRC
	if src.Addr().Is6() {
		first = 3
	}
	return func(e *netlink.AttributeEncoder) error {
		e.Nested(1, func(e *netlink.AttributeEncoder) error { // CTA_TUPLE_IP
			e.Bytes(first, src.Addr().AsSlice())
			e.Bytes(first+1, dst.Addr().AsSlice())
			return nil
		})
		e.Nested(2, func(e *netlink.AttributeEncoder) error { // CTA_TUPLE_PROTO
			e.ByteOrder = binary.BigEndian
			e.Uint8(1, proto)
			e.Uint16(2, src.Port())
			e.Uint16(3, dst.Port())
			return nil
		})
		return nil
	}
}

func natTo(dst netip.AddrPort) func(*netlink.AttributeEncoder) error {
	addr := uint16(1) // CTA_NAT_V4_MINIP
	if dst.Addr().Is6() {
		addr = 4
	}
	return func(e *netlink.AttributeEncoder) error {
		e.Bytes(addr, dst.Addr().AsSlice())
		e.Nested(3, func(e *netlink.AttributeEncoder) error { // CTA_NAT_PROTO
			e.ByteOrder = binary.BigEndian
			e.Uint16(1, dst.Port()) // CTA_PROTONAT_PORT_MIN
			return nil
		})
		return nil
	}
}
