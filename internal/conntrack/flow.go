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
	Unreplied          bool           // no packet came back so far
	Phase              Phase          // of TCP and SCTP; other flows are always established

	name []byte // attributes that identify the flow, for Delete
}

// Phase says how far a connection has come.
type Phase uint8

// The phases.
const (
	Established Phase = iota // both sides have sent something, and at least one can still send data
	Beginning                // nothing has come back yet
	Closing                  // both sides have said that they send no more
	Closed                   // no more packets are expected
)

// Fate is what becomes of a flow that DeleteMatching has listed.
type Fate uint8

// The fates.
const (
	Keep Fate = iota
	Delete
	// DeleteAlike also says that all flows with the same protocol, Dst and ReplySrc
	// have to go, whosever they are.
	DeleteAlike
)

// Filter selects flows. An address that is not set, and a port that is 0, stand for
// any.
type Filter struct {
	Family ruleset.Family // 0: both
	Proto  uint8          // IP protocol number; 0: any
	Addr   netip.Addr     // of Flow.Dst
	Port   uint16         // of Flow.Dst
	From   netip.AddrPort // Flow.Src
	To     netip.AddrPort // Flow.ReplySrc: where the flow leads

	Translated bool // only flows whose destination is translated
	Unreplied  bool // only flows without a reply
}

// Matches reports whether a flow passes the filter.
func (f *Filter) Matches(flow *Flow) bool {
	return (f.Proto == 0 || flow.Proto == f.Proto) &&
		matches(f.Addr, f.Port, flow.Dst) &&
		matches(f.From.Addr(), f.From.Port(), flow.Src) &&
		matches(f.To.Addr(), f.To.Port(), flow.ReplySrc) &&
		(!f.Translated || flow.Dst != flow.ReplySrc) && (!f.Unreplied || flow.Unreplied)
}

// exact reports whether the kernel's filter passes just what Matches does, to one
// address and port and to one backend. It does not with IPv6 addresses (see
// marshalTuple).
func (f *Filter) exact() bool {
	return f.Addr.Is4() && f.Port != 0 && f.To.Addr().Is4() && f.To.Port() != 0 && f.Proto != 0 &&
		f.From == netip.AddrPort{} && !f.Translated && !f.Unreplied
}

func matches(addr netip.Addr, port uint16, a netip.AddrPort) bool {
	return (port == 0 || port == a.Port()) && (!addr.IsValid() || addr == a.Addr())
}
