package conntrack

import (
	"net/netip"

	"github.com/nftdp/go-nftdp/internal/ruleset"
)

// Flow is an entry of the conntrack table.
type Flow struct {
	Proto              uint8          // IP protocol number
	Src, Dst           netip.AddrPort // of the first packet, before translation
	ReplySrc, ReplyDst netip.AddrPort // of replies, before they are translated back
	Ended              bool           // TCP and SCTP: no more packets are expected

	name []byte // attributes that identify the flow, for Delete
}

// Filter selects flows by their original direction.
type Filter struct {
	Family ruleset.Family
	Proto  uint8
	Addr   netip.Addr // destination of the family; unset: any
	Port   uint16     // destination; 0: any

	Translated bool // only flows whose destination is translated
}

// Matches reports whether a flow passes the filter.
func (f *Filter) Matches(flow *Flow) bool {
	return flow.Proto == f.Proto && (f.Port == 0 || f.Port == flow.Dst.Port()) &&
		(!f.Addr.IsValid() || f.Addr == flow.Dst.Addr()) && (!f.Translated || flow.Dst != flow.ReplySrc)
}
