// Package trace joins the kernel's trace messages, one for each rule that a packet
// matches, to the packet's way through all tables. It has no I/O.
package trace

import (
	"net/netip"
	"strings"
	"time"

	"github.com/nftdp/go-nftdp/internal/ruleset"
)

// Filter selects packets.
type Filter struct {
	Matches []Match // any of them; none: no packet
	// Interface is where packets arrive. If it is empty, packets from
	// everywhere are selected, and those of the node's own processes.
	Interface string
	// Replies also selects the packets of the other direction of a connection.
	Replies bool
	Rate    uint32 // packets per second, at most
}

// Match selects packets that meet all conditions. Zero values are no condition.
type Match struct {
	Family       ruleset.Family
	Proto        uint8
	Sources      []netip.Prefix // each of them
	Destinations []netip.Prefix
	Sport        Ports
	Dport        Ports
	Local        bool // the destination is an address of the node
}

// Ports is a range of ports.
type Ports struct{ First, Last uint16 }

// Message is what the kernel reports of one rule, or of the end of one chain.
type Message struct {
	ID      uint32 // of the packet, while it is in one network device
	Kind    Kind
	Family  ruleset.Family // of the table, also inet, bridge and netdev
	Table   string
	Chain   string
	Handle  uint64 // of the rule; 0: none
	Verdict Verdict
	// Packet has the headers at this moment. Only the first message of each
	// base chain has them.
	Packet *Packet
	In     Device // as Packet
	Out    Device
	Mark   uint32
	Conn   Conn
}

// Kind says what a message is about, numbered as NFT_TRACETYPE_* in
// linux/netfilter/nf_tables.h.
type Kind uint8

// The kinds.
const (
	Policy Kind = 1 // of a base chain
	Return Kind = 2 // the end of a chain
	Rule   Kind = 3 // also the end of a chain, if it has no handle (Linux 6.18)
)

// Verdict is that of a rule or a policy. Codes below zero are those of nf_tables,
// others those of netfilter.
type Verdict struct {
	Code  int32
	Chain string
}

// Codes of verdicts.
const (
	Drop     = 0
	Accept   = 1
	Stolen   = 2
	Queue    = 3
	Continue = -1
	Break    = -2
	Jump     = -3
	Goto     = -4
	Returned = -5
)

// Base is the verdict's code without the number of a queue or an errno.
func (v Verdict) Base() int32 {
	if v.Code < 0 {
		return v.Code
	}
	return v.Code & 0xff
}

// String is the verdict in nft's words.
func (v Verdict) String() string {
	switch v.Base() {
	case Drop:
		return "drop"
	case Accept:
		return "accept"
	case Stolen:
		return "stolen"
	case Queue:
		return "queue"
	case Jump:
		return "jump " + v.Chain
	case Goto:
		return "goto " + v.Chain
	case Returned:
		return "return"
	}
	return "continue"
}

// Device is a network device. The zero value is none.
type Device struct {
	Index    uint32
	Loopback bool
}

// Conn is the packet's connection. The zero value is unknown: conntrack has not
// seen the packet yet, or the kernel does not report it (before Linux 6.18).
type Conn struct {
	ID    uint32
	Reply bool
	State uint32 // bits of NF_CT_STATE_*
}

// Bits of Conn.State.
const (
	StateInvalid     = 1
	StateEstablished = 2
	StateRelated     = 4
	StateNew         = 8
	StateUntracked   = 64
)

// Packet is what the headers say.
type Packet struct {
	Proto    uint8
	Src, Dst netip.AddrPort // port 0: the protocol has none, or the header is not there
	Flags    uint8          // of TCP
	Type     uint8          // of ICMP and ICMPv6
	Code     uint8
	Length   int    // of the IP packet in bytes
	number   uint64 // distinguishes packets of the same addresses
}

// same reports whether two headers are of one packet. Its TTL and checksums may
// differ.
func (p *Packet) same(q *Packet) bool {
	return p.Proto == q.Proto && p.Src == q.Src && p.Dst == q.Dst && p.Flags == q.Flags && p.Length == q.Length && p.number == q.number
}

// Way is the way of one packet.
type Way struct {
	Began    time.Time
	Local    bool // a process of the node sent the packet
	Reply    bool // it is of the other direction than the filter says
	Packet   Packet
	In, Out  Device
	Conn     Conn
	Messages []Message // of all tables but ours
	Seen     []Sight   // where our own chains have seen it
	Lost     bool      // messages of it may be missing

	id   uint32
	at   Device // where the packet came from when it was last seen
	last time.Time
}

// Sight is the packet as one of our own chains has seen it.
type Sight struct {
	At     Place
	Packet Packet
}

// Place is a place on the way of a packet, in the order in which packets pass.
type Place uint8

// The places.
const (
	Nowhere Place = iota
	PreroutingEnd
	InputBegin
	InputEnd
	ForwardBegin
	ForwardEnd
	OutputEnd
	PostroutingEnd
)

// Chain is a base chain of the table of a trace.
type Chain struct {
	Name     string
	Hook     ruleset.HookNum
	Priority int32
	Place    Place  // where it sees packets
	Marks    string // the chain that begins the trace of packets
}

// Names of the chains whose rules begin a trace.
const (
	Arriving = "arriving"
	Leaving  = "leaving"
	Replying = "replying"
)

// Priorities of the table's chains.
const (
	PriorityMark  = -350 // after defragmentation (-400) and before raw
	PriorityReply = -199 // right after conntrack
	first         = -1 << 31
	last          = 1<<31 - 2 // before conntrack confirms the connection
)

// Chains are the base chains of the table of a trace. Those with a place have no
// rules: that the kernel reports their policy shows that a packet has come so far,
// and how it has been translated.
func Chains() []Chain {
	return []Chain{
		{Name: "prerouting", Hook: ruleset.Prerouting, Priority: PriorityMark, Marks: Arriving},
		{Name: "prerouting-replies", Hook: ruleset.Prerouting, Priority: PriorityReply, Marks: Replying},
		{Name: "prerouting-end", Hook: ruleset.Prerouting, Priority: last, Place: PreroutingEnd},
		{Name: "input-begin", Hook: ruleset.Input, Priority: first, Place: InputBegin},
		{Name: "input-end", Hook: ruleset.Input, Priority: last, Place: InputEnd},
		{Name: "forward-begin", Hook: ruleset.Forward, Priority: first, Place: ForwardBegin},
		{Name: "forward-end", Hook: ruleset.Forward, Priority: last, Place: ForwardEnd},
		{Name: "output", Hook: ruleset.Output, Priority: PriorityMark, Marks: Leaving},
		{Name: "output-replies", Hook: ruleset.Output, Priority: PriorityReply, Marks: Replying},
		{Name: "output-end", Hook: ruleset.Output, Priority: last, Place: OutputEnd},
		{Name: "postrouting-end", Hook: ruleset.Postrouting, Priority: last, Place: PostroutingEnd},
	}
}

// TablePrefix begins the names of the tables of traces. The netlink port of their
// owner follows, which no other socket of the namespace has.
const TablePrefix = "nftdp-trace-"

// OfTrace reports whether a table belongs to a trace, maybe to another one.
func OfTrace(table string) bool { return strings.HasPrefix(table, TablePrefix) }

// RuleInfo is a rule in words.
type RuleInfo struct {
	Text, Comment string
	Reject        bool // it answers the packets that it drops
}

// ChainInfo is where a chain is attached.
type ChainInfo struct {
	Hook     string // empty: it is not a base chain
	Type     string // "filter", "nat" or "route"
	Priority int32
}
