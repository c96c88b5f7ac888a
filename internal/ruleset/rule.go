package ruleset

import (
	"net/netip"
)

// Rule is a list of statements, evaluated from first to last until one does
// not match. Two rules are equal when their text is.
type Rule []Statement

// Statement is one of Match, MatchAddr, Lookup, VMap, Update, ConnCount, DNAT,
// DNATTo, SNATTo, SetDaddr, Masquerade, Reject, Verdict and Opaque.
type Statement interface {
	// text is the statement in nft words.
	text(Family) string
}

// Field is what a rule can read of a packet or of its connection.
type Field uint8

// The fields.
const (
	Saddr       Field = iota + 1 // ip saddr
	Daddr                        // ip daddr
	L4proto                      // meta l4proto
	Dport                        // th dport
	OrigDaddr                    // ct original ip daddr: the destination before DNAT
	OrigDport                    // ct original proto-dst
	OrigSaddr                    // ct original ip saddr: the source before SNAT
	ReplyDaddr                   // ct reply ip daddr: where replies arrive
	ReplySaddr                   // ct reply ip saddr: where they come from after DNAT
	ReplySport                   // ct reply proto-src
	Random                       // numgen random mod Mod
	Increment                    // numgen inc mod Mod: the rule's own counter
	Hash                         // jhash of Saddr mod Mod, with HashSeed
	CtStatus                     // ct status, a bit mask
	CtDirection                  // ct direction
	FibDaddr                     // fib daddr type
	FibSaddr                     // fib saddr type
	IifType                      // meta iiftype: the link type of the input interface
)

// Operand is a field with its parameters.
type Operand struct {
	Field
	Mod    uint32 // of Random, Increment and Hash: the number is below it,
	Offset uint32 // and then this is added
}

// HashSeed makes every node hash alike; without a seed the kernel takes a
// random one.
const HashSeed = 0x6e667464 // "nftd"

// Values that Match compares with, as in linux/netfilter/nf_conntrack_common.h,
// linux/rtnetlink.h and linux/if_arp.h.
const (
	StatusDNAT  = 1 << 5 // IPS_DST_NAT
	FromReplier = 1      // IP_CT_DIR_REPLY
	FibLocal    = 2      // RTN_LOCAL
	IifLoopback = 772    // ARPHRD_LOOPBACK
)

// Match compares L4proto, CtDirection, FibDaddr, FibSaddr or IifType with a
// value, or tests a bit of CtStatus. Only IifType can be negated.
type Match struct {
	Field Field
	Not   bool
	Value uint32
}

// MatchAddr compares Saddr, Daddr or OrigSaddr with a prefix.
type MatchAddr struct {
	Field  Field
	Not    bool
	Prefix netip.Prefix
}

// Lookup matches when the key is in a set, or with Not when it is not.
type Lookup struct {
	Key []Operand
	Not bool
	Set string
}

// VMap continues with the verdict that a map has for the key, if it has one.
type VMap struct {
	Key []Operand
	Map string
}

// DNAT rewrites the destination to the address and port, or the address alone,
// that a map has for the key; without an element the rule does not match.
type DNAT struct {
	Key      []Operand
	Map      string
	AddrOnly bool // the map's data is an address alone: the packet keeps its port
}

// DNATTo rewrites the destination. A port of 0 keeps the packet's.
type DNATTo struct {
	Addr netip.AddrPort
}

// SNATTo rewrites the source address.
type SNATTo struct {
	Addr netip.Addr
}

// Update adds an element to a dynamic map, or makes one with the same key last
// as long as a new one: its data stays. It does not match when the map is full.
type Update struct {
	Map     string
	Key     []Operand
	Seconds uint32 // of the timeout, at least 1
	Data    []Operand
}

// ConnCount counts connections, each rule for itself: it adds the packet's, and
// matches when there are more than Over.
type ConnCount struct {
	Over uint32
}

// SetDaddr writes an address of the connection into the packet's destination
// field, which is no translation.
type SetDaddr struct {
	To Field // OrigSaddr or ReplyDaddr
}

// Masquerade rewrites the source to the outgoing interface's address.
type Masquerade struct{}

// Reject answers with a TCP reset, or with ICMP port-unreachable, and drops.
type Reject struct {
	Reset bool
}

// VerdictKind is what becomes of a packet.
type VerdictKind uint8

// The verdicts.
const (
	Accept VerdictKind = iota + 1
	Drop
	Return
	Jump
	Goto
)

// Verdict is a verdict; Jump and Goto name a chain.
type Verdict struct {
	Kind  VerdictKind
	Chain string
}

// Opaque is a statement that this package can not express. It equals no rule
// that is compiled from services.
type Opaque struct {
	What string
}
