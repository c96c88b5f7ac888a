package ruleset

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

// Field is something that a rule can read of a packet or of its connection.
type Field uint8

// The fields, which the table of that name describes.
const (
	Saddr       Field = iota + 1
	Daddr             // the destination at present
	L4proto           // the transport protocol
	Sport             // the source port
	Dport             // the destination port at present
	OrigDaddr         // the destination before DNAT
	OrigDport         // its port
	OrigSaddr         // the source before SNAT
	ReplyDaddr        // where replies arrive
	ReplySaddr        // where replies come from, after DNAT
	ReplySport        // their source port
	Random            // a random number
	Increment         // the number of times that the rule has asked for it
	Hash              // a hash of other fields
	CtStatus          // the connection's status, a bit mask
	CtDirection       // of the packet within the connection
	FibDaddr          // the type of the destination address
	FibSaddr          // the type of the source address
	IifType           // the link type of the input interface
	IifName           // the name of the input interface, in InterfaceLen bytes
	TCPFlags          // of FIN, SYN, RST and ACK, those of a TCP segment
	SCTPChunk         // the type of the first chunk
	Socket            // whether the node's own socket for the packet is a wildcard
	FixedAddr         // an address of the rule itself,
	FixedPort         // or a port, in the key of an Update
)

// Operand is a field with its parameters.
type Operand struct {
	Field
	Mod    uint32    // of Random, Increment and Hash: the number is below Mod,
	Offset uint32    // and Offset is added to it
	Inputs []Operand // of Hash: what is hashed; nil is Saddr
	Fixed  []byte    // of FixedAddr and FixedPort: the value, in network byte order
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
	TCPSyn      = 0x02   // of a segment that begins a connection
	SCTPInit    = 1      // of a packet that begins an association
	Specific    = 0      // of a socket that is bound to the packet's address
)

// InterfaceLen is the size of the name of an interface with the byte that ends it
// (IFNAMSIZ).
const InterfaceLen = 16

// TCPFlagsMask are the flags in TCPFlags.
const TCPFlagsMask = 0x17

// fieldRow describes a field. Its functions return the value in the first packet
// of a connection, as nft_meta_get_eval, nft_ct_get_eval and nft_fib do in the
// kernel.
type fieldRow struct {
	text   string                      // nft's words; % is the family's name
	typ    Type                        // in a key; 0: it cannot be part of one
	size   int                         // in bytes, without a type
	end    func(*walk) netip.AddrPort  // whose address or port it is
	number func(*walk, Operand) uint32 // any value but an address or a port
	word   func(value uint32) string   // nft's word for a value, if Match compares it
	not    bool                        // Match can also be negated
}

// fields has a row for each field.
var fields = [...]fieldRow{
	Saddr:       {text: "% saddr", typ: Addr, end: source},
	Daddr:       {text: "% daddr", typ: Addr, end: destination},
	Sport:       {text: "th sport", typ: Port, end: source},
	Dport:       {text: "th dport", typ: Port, end: destination},
	OrigSaddr:   {text: "ct original % saddr", typ: Addr, end: origSource},
	OrigDaddr:   {text: "ct original % daddr", typ: Addr, end: origDestination},
	OrigDport:   {text: "ct original proto-dst", typ: Port, end: origDestination},
	ReplySaddr:  {text: "ct reply % saddr", typ: Addr, end: destination},
	ReplySport:  {text: "ct reply proto-src", typ: Port, end: destination},
	ReplyDaddr:  {text: "ct reply % daddr", typ: Addr, end: origSource}, // the source is rewritten at the very end
	L4proto:     {text: "meta l4proto", typ: Proto, number: (*walk).proto, word: ProtoName[uint32]},
	Random:      {text: "numgen random", typ: Slot, number: (*walk).draw},
	Increment:   {text: "numgen inc", typ: Slot, number: (*walk).draw},
	Hash:        {text: "jhash", typ: Slot},
	CtStatus:    {text: "ct status", size: 4, number: (*walk).status, word: named(StatusDNAT, "dnat")},
	CtDirection: {text: "ct direction", size: 1, number: (*walk).direction, word: named(FromReplier, "reply")},
	FibDaddr:    {text: "fib daddr type", size: 4, number: (*walk).daddrType, word: named(FibLocal, "local")},
	FibSaddr:    {text: "fib saddr type", size: 4, number: (*walk).saddrType, word: named(FibLocal, "local")},
	IifName:     {text: "iifname", size: InterfaceLen},
	IifType:     {text: "meta iiftype", size: 2, number: (*walk).iifType, word: named(IifLoopback, "loopback"), not: true},
	TCPFlags:    {text: "tcp flags", size: 1, number: (*walk).tcpFlags, word: tcpFlags, not: true},
	SCTPChunk:   {text: "@th,96,8", size: 1, number: (*walk).sctpChunk, word: named(SCTPInit, "0x1"), not: true},
	Socket:      {text: "socket wildcard", size: 1, number: (*walk).noSocket, word: named(Specific, "0")},
	FixedAddr:   {text: "address", typ: Addr},
	FixedPort:   {text: "port", typ: Port},
}

// row returns the description of a field. An unknown field has no value.
func (f Field) row() *fieldRow {
	if int(f) < len(fields) {
		return &fields[f]
	}
	return &fields[0]
}

// named is nft's word for the only value of a field that has one here.
func named(value uint32, word string) func(uint32) string {
	return func(v uint32) string {
		if v == value {
			return word
		}
		return strconv.FormatUint(uint64(v), 10)
	}
}

// tcpFlags is nft's word for flags of which TCPFlagsMask are compared.
func tcpFlags(v uint32) string {
	return named(TCPSyn, "syn")(v) + " / fin,syn,rst,ack"
}

// Type is the field's type in a key, or 0 if it cannot be part of one.
func (f Field) Type() Type { return f.row().typ }

// Size is the field's size in bytes, without padding.
func (f Field) Size(family Family) int {
	if row := f.row(); row.typ == 0 {
		return row.size
	}
	return f.Type().Size(family)
}

// Comparable reports whether Match can compare the field.
func (f Field) Comparable() bool { return f.row().word != nil }

// Negatable reports whether Match can also compare it for inequality.
func (f Field) Negatable() bool { return f.row().not }

func (f Field) text(family Family) string {
	if text := f.row().text; text != "" {
		return strings.Replace(text, "%", family.String(), 1)
	}
	return fmt.Sprintf("field-%d", uint8(f))
}

func (o Operand) text(f Family) string {
	if o.Field == FixedAddr {
		return o.fixed().Addr().String()
	}
	if o.Field == FixedPort {
		return strconv.Itoa(int(o.fixed().Port()))
	}
	text := o.Field.text(f)
	if o.Field == Hash {
		text += " " + keyText(o.HashInputs(), f)
	}
	if o.Type() == Slot {
		text += fmt.Sprintf(" mod %d", o.Mod)
	}
	if o.Field == Hash {
		text += fmt.Sprintf(" seed %#x", HashSeed)
	}
	if o.Offset > 0 {
		text += fmt.Sprintf(" offset %d", o.Offset)
	}
	return text
}

func keyText(key []Operand, f Family) string { return join(key, " . ", f, Operand.text) }

// HashInputs are the operands that a hash is made of.
func (o Operand) HashInputs() []Operand {
	if o.Inputs == nil {
		return []Operand{{Field: Saddr}}
	}
	return o.Inputs
}

func source(w *walk) netip.AddrPort          { return w.src }
func destination(w *walk) netip.AddrPort     { return w.dst }
func origSource(w *walk) netip.AddrPort      { return w.packet.Src }
func origDestination(w *walk) netip.AddrPort { return w.packet.Dst }

func (w *walk) proto(Operand) uint32     { return uint32(w.packet.Proto) }
func (w *walk) draw(o Operand) uint32    { return w.draws.draw(o.Mod) + o.Offset }
func (w *walk) direction(Operand) uint32 { return 0 } // original

// number returns the value of a field that is neither an address nor a port. The
// table has no function for a hash, since that would refer to the table.
func (w *walk) number(o Operand) uint32 {
	if o.Field == Hash && w.kin != nil { // every number is one of some source
		w.kin.hashed = true
		return w.draws.draw(o.Mod) + o.Offset
	}
	if o.Field == Hash {
		return scale(jhash(w.load(o.HashInputs()), HashSeed, binary.NativeEndian), o.Mod) + o.Offset
	}
	return o.row().number(w, o)
}

func (w *walk) status(Operand) uint32 {
	if w.translated {
		return StatusDNAT
	}
	return 0
}

func (w *walk) daddrType(Operand) uint32 { return w.addrType(w.dst.Addr()) }
func (w *walk) saddrType(Operand) uint32 { return w.addrType(w.src.Addr()) }

func (w *walk) addrType(a netip.Addr) uint32 {
	if w.local(a) {
		return FibLocal
	}
	const unicast = 1 // RTN_UNICAST
	return unicast
}

func (w *walk) iifType(Operand) uint32 {
	if w.packet.Loopback {
		return IifLoopback
	}
	const ether = 1 // ARPHRD_ETHER
	return ether
}

// The first packet of a connection is a SYN or an INIT.
func (w *walk) tcpFlags(Operand) uint32  { return TCPSyn }
func (w *walk) sctpChunk(Operand) uint32 { return SCTPInit }

// noSocket: the evaluator knows no sockets.
func (w *walk) noSocket(Operand) uint32 { return Specific + 1 }

// addr is the value of a field that is an address.
func (w *walk) addr(f Field) netip.Addr {
	row := f.row()
	if row.typ != Addr || row.end == nil {
		w.fail("no address in field %s", f.text(w.table.Family))
		return netip.Addr{}
	}
	return row.end(w).Addr()
}

// end is the address and port that an operand is one of.
func (w *walk) end(o Operand) netip.AddrPort {
	if !o.IsFixed() {
		return o.row().end(w)
	}
	return o.fixed()
}

// Fix returns the operands that stand for an address and port in a rule itself.
func Fix(at netip.AddrPort) (addr, port Operand) {
	return Operand{Field: FixedAddr, Fixed: at.Addr().AsSlice()},
		Operand{Field: FixedPort, Fixed: binary.BigEndian.AppendUint16(nil, at.Port())}
}

// fixed is the reverse of Fix, for one of the two.
func (o Operand) fixed() netip.AddrPort {
	if o.Field == FixedPort && len(o.Fixed) == 2 {
		return netip.AddrPortFrom(netip.Addr{}, binary.BigEndian.Uint16(o.Fixed))
	}
	a, _ := netip.AddrFromSlice(o.Fixed)
	return netip.AddrPortFrom(a, 0)
}

// IsFixed reports whether the value is part of the rule.
func (o Operand) IsFixed() bool { return o.Field == FixedAddr || o.Field == FixedPort }

// load returns the values of operands, one after the other as in the kernel's
// registers.
func (w *walk) load(key []Operand) (b []byte) {
	for _, o := range key {
		var t Tuple
		switch row := o.row(); row.typ {
		case Addr:
			t = t.Addr(w.end(o).Addr())
		case Port:
			t = t.Port(w.end(o).Port())
		case Proto:
			t = t.Proto(uint8(w.number(o)))
		case Slot:
			t = t.Slot(w.number(o))
		default:
			w.fail("field %s in a key", o.text(w.table.Family))
		}
		b = append(b, t.Bytes()...)
	}
	return b
}
