//go:build linux

package conntrack

import (
	"encoding/hex"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"golang.org/x/sys/unix"

	"github.com/nftdp/go-nftdp/internal/netlink"
)

// message returns a flow as the kernel encodes it.
func message(proto, state byte, extra ...byte) []byte {
	tuple := func(typ uint16, src, dst netip.AddrPort) []byte {
		first := uint16(ctaIPv4Src)
		if src.Addr().Is6() {
			first = ctaIPv6Src
		}
		var b netlink.Buffer
		outer := b.Nest(typ)
		ip := b.Nest(ctaTupleIP)
		b.Put(first, src.Addr().AsSlice())
		b.Put(first+1, dst.Addr().AsSlice())
		b.Unnest(ip)
		ports := b.Nest(ctaTupleProto)
		b.PutUint8(ctaProtoNum, proto)
		b.PutUint16(ctaProtoSrcPort, src.Port())
		b.PutUint16(ctaProtoDstPort, dst.Port())
		b.Unnest(ports)
		b.Unnest(outer)
		return b
	}
	var b netlink.Buffer
	b.Netfilter(unix.AF_INET6, 0)
	b = append(b, tuple(ctaTupleOrig, addrPort("[fd00::1]:1000"), addrPort("[fd00::2]:53"))...)
	b = append(b, tuple(ctaTupleReply, addrPort("[fd00::3]:5353"), addrPort("[fd00::4]:2000"))...)
	b.Put(ctaID, []byte{1, 2, 3, 4})
	b.PutUint16(ctaZone, 7)
	kind := map[byte]uint16{unix.IPPROTO_TCP: ctaProtoinfoTCP, unix.IPPROTO_SCTP: ctaProtoinfoSCTP}[proto]
	if kind != 0 {
		info := b.Nest(ctaProtoinfo)
		of := b.Nest(kind)
		b.PutUint8(ctaState, state)
		b.Unnest(of)
		b.Unnest(info)
	}
	return append(b, extra...)
}

func addrPort(s string) netip.AddrPort { return netip.MustParseAddrPort(s) }

func TestDecode(t *testing.T) {
	const noReply, reply = 0, statusReplied
	for _, c := range []struct {
		name                 string
		proto, state, status byte
		phase                Phase
	}{
		{"udp", unix.IPPROTO_UDP, 0, reply, Established},
		{"udp without a reply", unix.IPPROTO_UDP, 0, noReply, Established},
		{"tcp syn sent", unix.IPPROTO_TCP, 1, noReply, Beginning},
		{"tcp established", unix.IPPROTO_TCP, 3, reply, Established},
		{"tcp syn received", unix.IPPROTO_TCP, 2, reply, Established},
		{"tcp picked up in the middle", unix.IPPROTO_TCP, 3, noReply, Established},
		{"tcp close wait", unix.IPPROTO_TCP, 5, reply, Established},
		{"tcp unknown", unix.IPPROTO_TCP, 99, reply, Established},
		{"sctp cookie wait", unix.IPPROTO_SCTP, 2, noReply, Beginning},
		{"sctp cookie echoed", unix.IPPROTO_SCTP, 3, reply, Established},
		{"tcp fin wait", unix.IPPROTO_TCP, 4, reply, Established},
		{"tcp last ack", unix.IPPROTO_TCP, 6, reply, Closing},
		{"tcp time wait", unix.IPPROTO_TCP, 7, reply, Closed},
		{"tcp close", unix.IPPROTO_TCP, 8, reply, Closed},
		{"tcp reset by the client before a reply", unix.IPPROTO_TCP, 8, noReply, Closed},
		{"tcp simultaneous open", unix.IPPROTO_TCP, 9, reply, Established},
		{"sctp closed", unix.IPPROTO_SCTP, 1, reply, Closed},
		{"sctp init without a reply", unix.IPPROTO_SCTP, 1, noReply, Beginning},
		{"sctp established", unix.IPPROTO_SCTP, 4, reply, Established},
		{"sctp shutdown sent", unix.IPPROTO_SCTP, 5, reply, Established},
		{"sctp shutdown ack sent", unix.IPPROTO_SCTP, 7, reply, Closing},
		{"sctp heartbeat sent", unix.IPPROTO_SCTP, 8, noReply, Beginning},
	} {
		want := Flow{
			Proto: c.proto, Src: addrPort("[fd00::1]:1000"), Dst: addrPort("[fd00::2]:53"),
			ReplySrc: addrPort("[fd00::3]:5353"), ReplyDst: addrPort("[fd00::4]:2000"),
			Unreplied: c.status&statusReplied == 0, Phase: c.phase,
		}
		var got Flow
		var status netlink.Buffer
		status.PutUint32(ctaStatus, uint32(c.status))
		ok := decode(message(c.proto, c.state, status...), &got)
		if diff := cmp.Diff(want, got, cmpopts.EquateComparable(netip.AddrPort{}), cmpopts.IgnoreUnexported(Flow{})); diff != "" || !ok {
			t.Errorf("%s: ok is %v, flow (-want +got):\n%s", c.name, ok, diff)
		}
	}
}

// TestDecodeIncomplete: a message that is cut off anywhere, or ends with garbage,
// does not decode.
func TestDecodeIncomplete(t *testing.T) {
	whole := message(unix.IPPROTO_UDP, 0)
	last := len(whole) - 16 // the identifier and the zone
	for n := range last {
		var f Flow
		if decode(whole[:n], &f) {
			t.Errorf("%d of %d bytes decode to the flow %+v", n, len(whole), f)
		}
	}
	if decode(message(unix.IPPROTO_UDP, 0, 99, 0, 1, 0), new(Flow)) {
		t.Error("an attribute longer than the message is accepted")
	}
}

// TestName: a request to delete has the family, the original tuple, the identifier and the
// zone, byte for byte.
func TestName(t *testing.T) {
	b := message(unix.IPPROTO_TCP, 3)
	want := "0a000000" + // AF_INET6
		"4c000180" + // 76 bytes of CTA_TUPLE_ORIG, nested
		"2c00018014000300" + "fd000000000000000000000000000001" + "14000400" + "fd000000000000000000000000000002" +
		"1c00028005000100060000000600020003e80000060003000035" + "0000" +
		"08000c0001020304" + "060012000007" + "0000"
	got := hex.EncodeToString(appendName(nil, b))
	if got != want {
		t.Errorf("name is\n%s, want\n%s", got, want)
	}
}

// FuzzDecode: decoding any message ends, and a flow has two addresses of one family
// in each direction.
func FuzzDecode(f *testing.F) {
	f.Add(message(unix.IPPROTO_UDP, 0))
	f.Add(message(unix.IPPROTO_TCP, 7))
	f.Add([]byte{2, 0, 0, 0, 4, 0, 1, 128})
	f.Fuzz(func(t *testing.T, b []byte) {
		var flow Flow
		if !decode(b, &flow) {
			return
		}
		for _, pair := range [][2]netip.AddrPort{{flow.Src, flow.Dst}, {flow.ReplySrc, flow.ReplyDst}} {
			if !pair[0].IsValid() || pair[0].Addr().Is4() != pair[1].Addr().Is4() {
				t.Errorf("flow %+v", flow)
			}
		}
		_ = appendName(nil, b)
	})
}
