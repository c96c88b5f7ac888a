//go:build linux

package nstest

import (
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"net/netip"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// Tracked is an entry of the conntrack table: a flow of UDP datagrams.
type Tracked struct {
	Src, Dst netip.AddrPort // of the first packet
	To       netip.AddrPort // where it leads; zero: the destination is not translated
	Replied  bool
}

// Track adds UDP flows of one family to the conntrack table of the namespace, as if
// packets had made them, for an hour.
func (n *Namespace) Track(flows iter.Seq[Tracked]) error {
	if err := n.Do(func() error { return track(flows) }); err != nil {
		return fmt.Errorf("%s: add flows to conntrack: %w", n.Name, err)
	}
	return nil
}

func track(flows iter.Seq[Tracked]) (err error) {
	s, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_NETFILTER)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, unix.Close(s)) }()
	const atOnce = 64
	var batch []byte
	n := 0
	for f := range flows {
		batch = append(batch, createFlow(&f)...)
		if n++; n%atOnce == 0 {
			if err := sendAndCheck(s, batch); err != nil {
				return err
			}
			batch = batch[:0]
		}
	}
	return sendAndCheck(s, batch)
}

// sendAndCheck sends requests of which the kernel answers only those that fail.
func sendAndCheck(s int, requests []byte) error {
	if len(requests) == 0 {
		return nil
	}
	if err := unix.Sendto(s, requests, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return err
	}
	var reply [4096]byte
	n, _, err := unix.Recvfrom(s, reply[:], unix.MSG_DONTWAIT)
	switch {
	case errors.Is(err, unix.EAGAIN):
		return nil
	case err != nil:
		return err
	case n < unix.NLMSG_HDRLEN+4:
		return unix.EBADMSG
	}
	return unix.Errno(-int32(binary.NativeEndian.Uint32(reply[unix.NLMSG_HDRLEN:])))
}

// Attributes of linux/netfilter/nfnetlink_conntrack.h that package nl lacks.
const (
	ctaStatus       = 3
	ctaNatDst       = 13
	ctaNatMinIP     = 1
	ctaNatMinIPv6   = 4
	ctaNatProto     = 3
	ctaProtonatMin  = 1
	statusReplied   = 1 << 1
	statusConfirmed = 1 << 3
)

// createFlow returns a request to create a flow (IPCTNL_MSG_CT_NEW).
func createFlow(f *Tracked) []byte {
	family := uint8(unix.AF_INET)
	if f.Src.Addr().Is6() {
		family = unix.AF_INET6
	}
	req := nl.NewNetlinkRequest(unix.NFNL_SUBSYS_CTNETLINK<<8, unix.NLM_F_CREATE|unix.NLM_F_EXCL)
	req.AddData(&nl.Nfgenmsg{NfgenFamily: family})
	req.AddData(tupleAttr(nl.CTA_TUPLE_ORIG, f.Src, f.Dst))
	req.AddData(tupleAttr(nl.CTA_TUPLE_REPLY, f.Dst, f.Src))
	req.AddData(nl.NewRtAttr(nl.CTA_TIMEOUT, nl.BEUint32Attr(3600)))
	status := uint32(statusConfirmed)
	if f.Replied {
		status |= statusReplied
	}
	req.AddData(nl.NewRtAttr(ctaStatus, nl.BEUint32Attr(status)))
	if f.To.IsValid() {
		req.AddData(natAttr(f.To))
	}
	return req.Serialize()
}

func tupleAttr(typ int, src, dst netip.AddrPort) *nl.RtAttr {
	const nested = unix.NLA_F_NESTED
	from, to := nl.CTA_IP_V4_SRC, nl.CTA_IP_V4_DST
	if src.Addr().Is6() {
		from, to = nl.CTA_IP_V6_SRC, nl.CTA_IP_V6_DST
	}
	out := nl.NewRtAttr(typ|nested, nil)
	ip := out.AddRtAttr(nl.CTA_TUPLE_IP|nested, nil)
	ip.AddRtAttr(from, src.Addr().AsSlice())
	ip.AddRtAttr(to, dst.Addr().AsSlice())
	proto := out.AddRtAttr(nl.CTA_TUPLE_PROTO|nested, nil)
	proto.AddRtAttr(nl.CTA_PROTO_NUM, []byte{unix.IPPROTO_UDP})
	proto.AddRtAttr(nl.CTA_PROTO_SRC_PORT, nl.BEUint16Attr(src.Port()))
	proto.AddRtAttr(nl.CTA_PROTO_DST_PORT, nl.BEUint16Attr(dst.Port()))
	return out
}

func natAttr(to netip.AddrPort) *nl.RtAttr {
	ip := ctaNatMinIP
	if to.Addr().Is6() {
		ip = ctaNatMinIPv6
	}
	out := nl.NewRtAttr(ctaNatDst|unix.NLA_F_NESTED, nil)
	out.AddRtAttr(ip, to.Addr().AsSlice())
	out.AddRtAttr(ctaNatProto|unix.NLA_F_NESTED, nil).AddRtAttr(ctaProtonatMin, nl.BEUint16Attr(to.Port()))
	return out
}
