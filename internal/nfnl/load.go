//go:build linux

package nfnl

import (
	"bytes"
	"slices"

	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/nftdp/go-nftdp/internal/netlink"
	"github.com/nftdp/go-nftdp/internal/ruleset"
)

// inFamily is a number for each family, in the order of ruleset.Families.
type inFamily [len(ruleset.Families)]uint32

func (n inFamily) of(f ruleset.Family) uint32 { return n[f.Index()] }

func both(n uint32) inFamily { return inFamily{n, n} }

// operand is an operand that is to be loaded into a register.
type operand struct {
	ruleset.Operand
	family ruleset.Family
	reg    uint32
	inputs uint32 // the register that contains the input of a hash
}

// load is the expression that loads an operand.
type load struct {
	name string // the kernel's
	make func(operand) expr.Any
}

// loads has a row for each field. Decoding uses the same rows: an expression
// loads the field whose own expression equals it (see loaded).
var loads = [...]load{
	ruleset.Saddr:       payload(expr.PayloadBaseNetworkHeader, saddrOffset),
	ruleset.Daddr:       payload(expr.PayloadBaseNetworkHeader, daddrOffset),
	ruleset.Sport:       payload(expr.PayloadBaseTransportHeader, both(0)),
	ruleset.Dport:       payload(expr.PayloadBaseTransportHeader, both(2)),
	ruleset.L4proto:     meta(expr.MetaKeyL4PROTO),
	ruleset.IifType:     meta(expr.MetaKeyIIFTYPE),
	ruleset.IifName:     meta(expr.MetaKeyIIFNAME),
	ruleset.OrigSaddr:   tuple(ctSaddr, expr.CtDirOriginal),
	ruleset.OrigDaddr:   tuple(ctDaddr, expr.CtDirOriginal),
	ruleset.OrigDport:   tuple(ctDport, expr.CtDirOriginal),
	ruleset.ReplySaddr:  tuple(ctSaddr, expr.CtDirReply),
	ruleset.ReplyDaddr:  tuple(ctDaddr, expr.CtDirReply),
	ruleset.ReplySport:  tuple(ctSport, expr.CtDirReply),
	ruleset.CtStatus:    ct(expr.CtKeySTATUS),
	ruleset.CtDirection: ct(expr.CtKeyDIRECTION),
	ruleset.Random:      numgen(unix.NFT_NG_RANDOM),
	ruleset.Increment:   numgen(unix.NFT_NG_INCREMENTAL),
	ruleset.Hash:        {"hash", hash},
	ruleset.FibDaddr:    fib(expr.Fib{ResultADDRTYPE: true, FlagDADDR: true}),
	ruleset.TCPFlags:    payload(expr.PayloadBaseTransportHeader, both(13)),
	ruleset.SCTPChunk:   payload(expr.PayloadBaseTransportHeader, both(12)),
	ruleset.Socket:      {"socket", func(o operand) expr.Any { return &expr.Socket{Key: expr.NFT_SOCKET_WILDCARD, Register: o.reg} }},
	ruleset.FibSaddr:    fib(expr.Fib{ResultADDRTYPE: true, FlagSADDR: true}),
	ruleset.FixedAddr:   immediate(),
	ruleset.FixedPort:   immediate(),
}

var (
	saddrOffset = inFamily{12, 8}
	daddrOffset = inFamily{16, 24}

	ctSaddr = inFamily{uint32(expr.CtKeySRCIP), uint32(expr.CtKeySRCIP6)}
	ctDaddr = inFamily{uint32(expr.CtKeyDSTIP), uint32(expr.CtKeyDSTIP6)}
	ctSport = both(unix.NFT_CT_PROTO_SRC)
	ctDport = both(unix.NFT_CT_PROTO_DST)
)

func payload(base expr.PayloadBase, offset inFamily) load {
	return load{"payload", func(o operand) expr.Any {
		return &expr.Payload{DestRegister: o.reg, Base: base, Offset: offset.of(o.family), Len: uint32(o.Size(o.family))}
	}}
}

func meta(key expr.MetaKey) load {
	return load{"meta", func(o operand) expr.Any { return &expr.Meta{Register: o.reg, Key: key} }}
}

func ct(key expr.CtKey) load {
	return load{"ct", func(o operand) expr.Any { return &expr.Ct{Register: o.reg, Key: key} }}
}

// tuple loads an address or a port of one direction of a connection.
func tuple(key inFamily, direction uint32) load {
	return load{"ct", func(o operand) expr.Any {
		return &expr.Ct{Register: o.reg, Key: expr.CtKey(key.of(o.family)), OptDirection: true, Direction: direction}
	}}
}

func numgen(typ uint32) load {
	return load{"numgen", func(o operand) expr.Any {
		return &expr.Numgen{Register: o.reg, Modulus: o.Mod, Type: typ, Offset: o.Offset}
	}}
}

func hash(o operand) expr.Any {
	return &expr.Hash{
		SourceRegister: o.inputs, DestRegister: o.reg, Length: 4 * words(o.HashInputs(), o.family),
		Modulus: o.Mod, Offset: o.Offset, Seed: ruleset.HashSeed, Type: expr.HashTypeJenkins,
	}
}

func fib(e expr.Fib) load {
	return load{"fib", func(o operand) expr.Any {
		own := e
		own.Register = o.reg
		return &own
	}}
}

// immediate loads a value of the rule itself. Decoding an update knows it by its size.
func immediate() load {
	return load{"immediate", func(o operand) expr.Any { return &expr.Immediate{Register: o.reg, Data: o.Fixed} }}
}

// words is the number of registers of four bytes that operands need.
func words(key []ruleset.Operand, f ruleset.Family) (n uint32) {
	for _, o := range key {
		n += uint32(netlink.Align(o.Size(f)) / 4)
	}
	return n
}

// load returns the expression that loads an operand, or nil.
func (e *ruleEncoder) load(o operand) expr.Any {
	if o.family = e.family; int(o.Field) < len(loads) && loads[o.Field].make != nil {
		return loads[o.Field].make(o)
	}
	e.refuse("field %d", o.Field)
	return nil
}

// field loads a field by itself.
func (e *ruleEncoder) field(f ruleset.Field) expr.Any {
	return e.load(operand{Operand: ruleset.Operand{Field: f}, reg: reg0})
}

// key loads the key of a lookup. Values of the rule itself are refused there: nft has
// no words for them.
func (e *ruleEncoder) key(key []ruleset.Operand, reg uint32) {
	if slices.ContainsFunc(key, ruleset.Operand.IsFixed) {
		e.refuse("fixed value in the key of a lookup")
	}
	e.operands(key, reg)
}

// operands loads operands one after the other, starting at a register, and returns the
// register after them, where the inputs of a hash are loaded.
func (e *ruleEncoder) operands(key []ruleset.Operand, reg uint32) (end uint32) {
	if end = reg + words(key, e.family); end > unix.NFT_REG32_15+1 {
		e.refuse("concatenation that exceeds the registers")
	}
	for _, o := range key {
		if o.Field == ruleset.Hash {
			e.hashInputs(o.HashInputs(), end)
		}
		e.add(e.load(operand{Operand: o, reg: reg, inputs: end}))
		reg += words([]ruleset.Operand{o}, e.family)
	}
	return end
}

func (e *ruleEncoder) hashInputs(inputs []ruleset.Operand, reg uint32) {
	if len(inputs) == 0 || slices.ContainsFunc(inputs, func(o ruleset.Operand) bool { return !hashable(o) }) {
		e.refuse("hash of %v", inputs)
		return
	}
	e.key(inputs, reg)
}

// hashable excludes host-endian numbers.
func hashable(o ruleset.Operand) bool { return o.Type() != 0 && o.Type() != ruleset.Slot }

// loaded completes o with the field that an expression loads, and loads some bytes
// of it; 0 is all. If there is no such field, the rule is opaque.
func loaded[E comparable](d *ruleDecoder, got E, o operand, size int, otherwise string, args ...any) {
	o.family = d.family
	for field, row := range loads {
		if row.name != d.name {
			continue
		}
		o.Field = ruleset.Field(field)
		if e, ok := any(row.make(o)).(*E); ok && *e == got {
			if size == 0 {
				size = o.Size(d.family)
			}
			d.load(o.reg, &value{op: o.Operand, size: size})
			return
		}
	}
	d.opaque(otherwise, args...)
}

func (d *ruleDecoder) payload() {
	if d.has(unix.NFTA_PAYLOAD_SREG) {
		d.payloadWrite()
		return
	}
	d.check(!d.has(unix.NFTA_PAYLOAD_CSUM_TYPE) && !d.has(unix.NFTA_PAYLOAD_CSUM_OFFSET) && !d.has(unix.NFTA_PAYLOAD_CSUM_FLAGS),
		"checksum of what is read")
	reg, base := d.u32(unix.NFTA_PAYLOAD_DREG), d.u32(unix.NFTA_PAYLOAD_BASE)
	offset, size := d.u32(unix.NFTA_PAYLOAD_OFFSET), d.u32(unix.NFTA_PAYLOAD_LEN)
	got := expr.Payload{DestRegister: reg, Base: expr.PayloadBase(base), Offset: offset, Len: size}
	// nft loads the first bytes of an address to compare it with a prefix.
	if whole := uint32(d.family.AddrLen()); base == unix.NFT_PAYLOAD_NETWORK_HEADER && size > 0 && size < whole {
		got.Len = whole
	}
	loaded(d, got, operand{reg: reg}, int(size), "%d bytes at %d of header %d", size, offset, base)
}

func (d *ruleDecoder) meta() {
	reg, key := d.u32(unix.NFTA_META_DREG), d.u32(unix.NFTA_META_KEY)
	loaded(d, expr.Meta{Register: reg, Key: expr.MetaKey(key)}, operand{reg: reg}, 0, "key %d", key)
}

func (d *ruleDecoder) ct() {
	reg, key := d.u32(unix.NFTA_CT_DREG), d.u32(unix.NFTA_CT_KEY)
	got := expr.Ct{Register: reg, Key: expr.CtKey(key), OptDirection: d.has(unix.NFTA_CT_DIRECTION)}
	if got.OptDirection {
		got.Direction = uint32(d.u8(unix.NFTA_CT_DIRECTION))
	}
	loaded(d, got, operand{reg: reg}, 0, "key %d", key)
}

func (d *ruleDecoder) fib() {
	reg, flags, result := d.u32(unix.NFTA_FIB_DREG), d.u32(unix.NFTA_FIB_FLAGS), d.u32(unix.NFTA_FIB_RESULT)
	got := expr.Fib{
		Register: reg, ResultADDRTYPE: result == unix.NFT_FIB_RESULT_ADDRTYPE,
		FlagDADDR: flags == unix.NFTA_FIB_F_DADDR, FlagSADDR: flags == unix.NFTA_FIB_F_SADDR,
	}
	loaded(d, got, operand{reg: reg}, 0, "flags %#x, result %d", flags, result)
}

func (d *ruleDecoder) socket() {
	reg, key := d.u32(expr.NFTA_SOCKET_DREG), d.u32(expr.NFTA_SOCKET_KEY)
	got := expr.Socket{Key: expr.SocketKey(key), Level: d.optU32(expr.NFTA_SOCKET_LEVEL), Register: reg}
	loaded(d, got, operand{reg: reg}, 0, "key %d", key)
}

func (d *ruleDecoder) numgen() {
	o := operand{reg: d.u32(unix.NFTA_NG_DREG)}
	o.Mod, o.Offset = d.u32(unix.NFTA_NG_MODULUS), d.optU32(unix.NFTA_NG_OFFSET)
	got := expr.Numgen{Register: o.reg, Modulus: o.Mod, Type: d.u32(unix.NFTA_NG_TYPE), Offset: o.Offset}
	loaded(d, got, o, 0, "type")
}

func (d *ruleDecoder) hash() {
	o := operand{reg: d.u32(unix.NFTA_HASH_DREG), inputs: d.u32(unix.NFTA_HASH_SREG)}
	o.Mod, o.Offset = d.u32(unix.NFTA_HASH_MODULUS), d.optU32(unix.NFTA_HASH_OFFSET)
	size := d.u32(unix.NFTA_HASH_LEN)
	got := expr.Hash{
		SourceRegister: o.inputs, DestRegister: o.reg, Length: size, Modulus: o.Mod, Offset: o.Offset,
		Seed: d.u32(unix.NFTA_HASH_SEED), Type: expr.HashType(d.optU32(unix.NFTA_HASH_TYPE)),
	}
	o.Inputs = d.hashInputs(o.inputs, int(size))
	loaded(d, got, o, 0, "seed or type")
}

// hashInputs returns the operands that fill a number of bytes, starting at a
// register; nil is the source address.
func (d *ruleDecoder) hashInputs(reg uint32, size int) (inputs []ruleset.Operand) {
	at, ok := wordOf(reg)
	d.check(ok, "register")
	for d.err == nil && size > 0 {
		v := d.useWord(at)
		d.check(v.whole(d.family) && hashable(v.op), "operand")
		inputs = append(inputs, v.op)
		at += v.words()
		size -= 4 * v.words()
	}
	if len(inputs) == 1 && inputs[0].Field == ruleset.Saddr {
		return nil
	}
	return inputs
}

// bitwise knows the form "value & mask", which the kernel stores as
// (value & mask) ^ 0.
func (d *ruleDecoder) bitwise() {
	dreg, size := d.u32(unix.NFTA_BITWISE_DREG), d.u32(unix.NFTA_BITWISE_LEN)
	mask, xor := d.data(unix.NFTA_BITWISE_MASK), d.data(unix.NFTA_BITWISE_XOR)
	const maskXor = 0 // NFT_BITWISE_MASK_XOR
	d.check(d.optU32(nftaBitwiseOp) == maskXor && bytes.Count(xor, []byte{0}) == len(xor), "operation")
	v := d.use(d.u32(unix.NFTA_BITWISE_SREG))
	d.check(v.op.Field != 0 && v.mask == nil && v.size == int(size) && v.size == len(mask), "operand")
	d.load(dreg, &value{op: v.op, size: v.size, mask: mask})
}

// byteorder knows a conversion without an effect. nft converts the host-endian
// fields of a key that is looked up in a set of intervals, a protocol among them.
// In a single byte, the kernel has no pair of bytes to swap (nft_byteorder.c).
func (d *ruleDecoder) byteorder() {
	reg, op := d.u32(unix.NFTA_BYTEORDER_SREG), d.u32(unix.NFTA_BYTEORDER_OP)
	size, unit := d.u32(unix.NFTA_BYTEORDER_LEN), d.u32(unix.NFTA_BYTEORDER_SIZE)
	d.check(d.u32(unix.NFTA_BYTEORDER_DREG) == reg && op == unix.NFT_BYTEORDER_HTON && size == 1 && unit == 2, "operation")
	at, ok := wordOf(reg)
	d.check(ok && d.word[at] != nil && d.word[at].op.Field == ruleset.L4proto, "operand")
}
