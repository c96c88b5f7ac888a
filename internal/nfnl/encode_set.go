//go:build linux

package nfnl

import (
	"encoding/binary"
	"fmt"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/nftdp/go-nftdp/internal/ruleset"
)

// Types of the user data that nft keeps in sets: libnftnl's
// include/libnftnl/udata.h.
const (
	udataKeyByteorder  = 0
	udataDataByteorder = 1
	udataKeyTypeof     = 3
	udataDataTypeof    = 4
	udataDataInterval  = 6
)

// Values inside that user data: enum expr_types, enum proto_desc_id and enum
// byteorder of nftables' include/expression.h, proto.h and datatype.h, and the
// numbers of header fields in proto.h.
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

	orderNone = 0 // of a concatenation, of a single byte and of verdicts
	orderBig  = 2
)

// typeLen is the type's size in bytes without padding.
func typeLen(t ruleset.Type, f ruleset.Family) int {
	switch t {
	case ruleset.Proto:
		return 1
	case ruleset.Port:
		return 2
	case ruleset.Addr, ruleset.Slot:
	}
	return t.Len(f)
}

// typeID is nft's number of the type.
func typeID(t ruleset.Type, f ruleset.Family) uint32 {
	switch t {
	case ruleset.Addr:
		if f == ruleset.IPv6 {
			return nftTypeIPv6Addr
		}
		return nftTypeIPv4Addr
	case ruleset.Proto:
		return nftTypeInetProto
	case ruleset.Port:
		return nftTypeInetService
	case ruleset.Slot:
	}
	return nftTypeInteger
}

// concat gives nft's number and the length of a concatenation.
func concat(types []ruleset.Type, f ruleset.Family) (id, length uint32) {
	for _, t := range types {
		id = id<<nftTypeBits | typeID(t, f)
		length += uint32(t.Len(f))
	}
	if len(types) == 1 {
		length = uint32(typeLen(types[0], f))
	}
	return id, length
}

func (b *Batch) set(c *ruleset.Change) error {
	s := c.Set
	typ, flags := verb(c, unix.NFT_MSG_NEWSET, unix.NFT_MSG_DELSET)
	at := b.message(c, typ, flags)
	b.attrString(unix.NFTA_SET_TABLE, c.Table)
	b.attrString(unix.NFTA_SET_NAME, s.Name)
	if c.Verb == ruleset.Add {
		if s.Opaque != "" {
			return fmt.Errorf("encode set %s: %w", s.Name, errOpaque)
		}
		b.declaration(s, c.Family)
	}
	b.end(at)
	return nil
}

func (b *Batch) declaration(s *ruleset.Set, f ruleset.Family) {
	flags := uint32(0)
	if s.Interval {
		flags |= unix.NFT_SET_INTERVAL
	}
	if fieldwise(s) {
		flags |= nftSetConcat
	}
	if s.Dynamic {
		flags |= nftSetDynamic
	}
	id, length := concat(s.Key, f)
	b.attr32(unix.NFTA_SET_KEY_TYPE, id)
	b.attr32(unix.NFTA_SET_KEY_LEN, length)
	switch {
	case s.Verdict:
		flags |= unix.NFT_SET_MAP
		b.attr32(unix.NFTA_SET_DATA_TYPE, unix.NFT_DATA_VERDICT)
		b.attr32(unix.NFTA_SET_DATA_LEN, 16) // as nft does; the kernel does not look at it
	case len(s.Data) > 0:
		flags |= unix.NFT_SET_MAP
		id, length := concat(s.Data, f)
		b.attr32(unix.NFTA_SET_DATA_TYPE, id)
		b.attr32(unix.NFTA_SET_DATA_LEN, length)
	}
	b.attr32(unix.NFTA_SET_FLAGS, flags)
	b.setID++ // the kernel insists on a number, although we refer to sets by name
	b.attr32(unix.NFTA_SET_ID, b.setID)
	b.description(s, f)
	b.attrBytes(unix.NFTA_SET_USERDATA, setUserdata(s, f))
	if s.Counter {
		b.buf = counterExpr(b.buf, nftaSetExpr, 0, 0)
	}
}

// fieldwise reports whether every field of the keys has a range of its own.
func fieldwise(s *ruleset.Set) bool { return s.Interval && len(s.Key) > 1 }

// description declares the size, and the fields that have ranges. A set with a
// known size becomes a hash table that never has to grow, which loads more than
// twice as fast.
func (b *Batch) description(s *ruleset.Set, f ruleset.Family) {
	if s.Size == 0 && !fieldwise(s) {
		return
	}
	desc := b.nest(unix.NFTA_SET_DESC)
	if s.Size > 0 {
		b.attr32(unix.NFTA_SET_DESC_SIZE, s.Size)
	}
	if fieldwise(s) {
		list := b.nest(nftaSetDescConcat)
		for _, t := range s.Key {
			field := b.nest(unix.NFTA_LIST_ELEM)
			b.attr32(nftaSetFieldLen, uint32(typeLen(t, f)))
			b.unnest(field)
		}
		b.unnest(list)
	}
	b.unnest(desc)
}

// setUserdata is what stock nft reads to print the set as it was meant: the
// byte order, and the expressions behind types that have no width of their own.
func setUserdata(s *ruleset.Set, f ruleset.Family) []byte {
	isMap := s.Verdict || len(s.Data) > 0
	u := udata32(nil, udataKeyByteorder, byteorder(s.Key))
	if isMap {
		u = udata32(u, udataDataByteorder, byteorder(s.Data))
	}
	if slices.Contains(s.Key, ruleset.Slot) {
		u = udata(u, udataKeyTypeof, typeof(s.Key, f))
		switch {
		case s.Verdict:
			u = udata(u, udataDataTypeof, typeofExpr(exprVerdict, nil))
		case isMap:
			u = udata(u, udataDataTypeof, typeof(s.Data, f))
		}
	}
	if isMap {
		u = udata32(u, udataDataInterval, 0) // data is no range
	}
	return u
}

func byteorder(types []ruleset.Type) uint32 {
	if len(types) != 1 || types[0] == ruleset.Proto {
		return orderNone
	}
	return orderBig
}

// typeof is an expression, or a concatenation of them in the form of
// concat_expr_build_udata in nftables' src/expression.c.
func typeof(types []ruleset.Type, f ruleset.Family) []byte {
	if len(types) == 1 {
		return typeofField(types[0], f)
	}
	var fields []byte
	for i, t := range types {
		fields = udata(fields, i, typeofField(t, f))
	}
	return typeofExpr(exprConcat, fields)
}

func typeofField(t ruleset.Type, f ruleset.Family) []byte {
	switch t {
	case ruleset.Addr:
		if f == ruleset.IPv6 {
			return typeofExpr(exprPayload, udata32(udata32(nil, 0, descIPv6), 1, fieldIP6Daddr))
		}
		return typeofExpr(exprPayload, udata32(udata32(nil, 0, descIPv4), 1, fieldIPDaddr))
	case ruleset.Proto:
		return typeofExpr(exprMeta, udata32(nil, 0, unix.NFT_META_L4PROTO))
	case ruleset.Port:
		return typeofExpr(exprPayload, udata32(udata32(nil, 0, descTransport), 1, fieldDport))
	case ruleset.Slot:
	}
	numgen := udata32(nil, 0, unix.NFT_NG_RANDOM)
	return typeofExpr(exprNumgen, udata32(udata32(numgen, 1, ruleset.SlotMod), 2, 0))
}

func typeofExpr(expr uint32, data []byte) []byte {
	return udata(udata32(nil, 0, expr), 1, data)
}

// udata appends a field of user data: type, length, value, without padding.
func udata(buf []byte, typ int, v []byte) []byte {
	return append(append(buf, byte(typ), byte(len(v))), v...)
}

// udata32 appends a number, which nft keeps host-endian.
func udata32(buf []byte, typ int, v uint32) []byte {
	return binary.NativeEndian.AppendUint32(append(buf, byte(typ), 4), v)
}
