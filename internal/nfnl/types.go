//go:build linux

package nfnl

import (
	"golang.org/x/sys/unix"

	"github.com/nftdp/go-nftdp/internal/ruleset"
)

// nftType describes a type as nft needs it.
type nftType struct {
	id     inFamily   // its number
	typeof uint32     // the kind of an expression of that type
	data   []inFamily // the numbers that describe the expression
}

var nftTypes = [...]nftType{
	ruleset.Addr:  {inFamily{nftTypeIPv4Addr, nftTypeIPv6Addr}, exprPayload, []inFamily{{descIPv4, descIPv6}, {fieldIPDaddr, fieldIP6Daddr}}},
	ruleset.Proto: {both(nftTypeInetProto), exprMeta, []inFamily{both(unix.NFT_META_L4PROTO)}},
	ruleset.Port:  {both(nftTypeInetService), exprPayload, []inFamily{both(descTransport), both(fieldDport)}},
	ruleset.Slot:  {both(nftTypeInteger), exprNumgen, []inFamily{both(unix.NFT_NG_RANDOM), both(ruleset.SlotMod), both(0)}},
}

// Numbers of nft's data types, which the kernel stores for nft and does not
// interpret: enum datatypes in include/datatype.h of nftables. The type of a
// concatenation has six bits for each field, with the first field on top.
const (
	nftTypeInteger     = 4
	nftTypeIPv4Addr    = 7
	nftTypeIPv6Addr    = 8
	nftTypeInetProto   = 12
	nftTypeInetService = 13
	nftTypeBits        = 6
)

// Numbers that describe expressions: enum expr_types, enum proto_desc_id and
// the header fields of nftables' include/expression.h and proto.h.
const (
	exprVerdict = 1
	exprPayload = 7
	exprMeta    = 9
	exprConcat  = 13
	exprNumgen  = 23

	descTransport = 11
	descIPv4      = 12
	descIPv6      = 13
	fieldDport    = 2
	fieldIPDaddr  = 12
	fieldIP6Daddr = 9
)

func typeOf(number uint32, f ruleset.Family) (ruleset.Type, bool) {
	for t, row := range nftTypes {
		if t > 0 && row.id.of(f) == number {
			return ruleset.Type(t), true
		}
	}
	return 0, false
}

// typeof returns an expression that has a type, or a concatenation of them as
// concat_expr_build_udata in nftables' src/expression.c writes it.
func typeof(types []ruleset.Type, f ruleset.Family) []byte {
	var all []byte
	for i, t := range types {
		var data []byte
		for j, n := range nftTypes[t].data {
			data = udata32(data, j, n.of(f))
		}
		one := typeofExpr(nftTypes[t].typeof, data)
		if len(types) == 1 {
			return one
		}
		all = udata(all, i, one)
	}
	return typeofExpr(exprConcat, all)
}

func typeofExpr(kind uint32, data []byte) []byte {
	return udata(udata32(nil, 0, kind), 1, data)
}

// concat returns nft's number of a concatenation and its length in bytes.
func concat(types []ruleset.Type, f ruleset.Family) (id, length uint32) {
	for _, t := range types {
		id = id<<nftTypeBits | nftTypes[t].id.of(f)
		length += uint32(t.Len(f))
	}
	if len(types) == 1 {
		length = uint32(types[0].Size(f))
	}
	return id, length
}

// maxTuple is the capacity of a ruleset.Tuple in bytes.
const maxTuple = 32

// layout describes a key or data in the kernel.
type layout struct {
	size   int // bytes in the kernel; 0: there are no types, or they are too long
	padded int // bytes in a ruleset.Tuple
	// slots are the offsets of host-endian numbers.
	slots  [maxTuple / 4]uint8
	nSlots int
}

// layoutOf returns the layout of a type or a concatenation. Only the fields of a
// concatenation are padded in the kernel; a single type is not.
func layoutOf(types []ruleset.Type, f ruleset.Family) layout {
	var l layout
	for _, t := range types {
		if l.padded+t.Len(f) > maxTuple {
			return layout{}
		}
		if t == ruleset.Slot {
			l.slots[l.nSlots] = uint8(l.padded)
			l.nSlots++
		}
		l.padded += t.Len(f)
	}
	l.size = l.padded
	if len(types) == 1 {
		l.size = types[0].Size(f)
	}
	return l
}
