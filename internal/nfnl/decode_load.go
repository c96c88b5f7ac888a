//go:build linux

package nfnl

import (
	"bytes"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/nftdp/go-nftdp/internal/ruleset"
)

// load puts a field of the packet or of its connection into a register.
func (r *ruleRun) load(f *fields, reg uint32, field ruleset.Operand, size int) error {
	if f.err != nil {
		return f.err
	}
	return r.regs.load(reg, &value{op: field, size: size})
}

func (r *ruleRun) payload(f *fields) error {
	if f.has(unix.NFTA_PAYLOAD_SREG) {
		return r.payloadWrite(f)
	}
	if f.has(unix.NFTA_PAYLOAD_CSUM_TYPE) || f.has(unix.NFTA_PAYLOAD_CSUM_OFFSET) || f.has(unix.NFTA_PAYLOAD_CSUM_FLAGS) {
		f.fail(unknown("checksum of what is read"))
	}
	reg, base := f.u32(unix.NFTA_PAYLOAD_DREG), f.u32(unix.NFTA_PAYLOAD_BASE)
	offset, size := f.u32(unix.NFTA_PAYLOAD_OFFSET), f.u32(unix.NFTA_PAYLOAD_LEN)
	field := r.payloadField(base, offset)
	whole := uint32(operandSize(field, r.family))
	// nft loads the first bytes of an address to compare it with a prefix.
	part := field != ruleset.Dport && size > 0 && size < whole
	if field == 0 || size != whole && !part {
		f.fail(unknown(fmt.Sprintf("%d bytes at %d of header %d", size, offset, base)))
	}
	return r.load(f, reg, ruleset.Operand{Field: field}, int(size))
}

// payloadWrite knows the destination address of a header, with its checksums.
func (r *ruleRun) payloadWrite(f *fields) error {
	reg, base := f.u32(unix.NFTA_PAYLOAD_SREG), f.u32(unix.NFTA_PAYLOAD_BASE)
	offset, size := f.u32(unix.NFTA_PAYLOAD_OFFSET), f.u32(unix.NFTA_PAYLOAD_LEN)
	typ, at := f.optU32(unix.NFTA_PAYLOAD_CSUM_TYPE), f.optU32(unix.NFTA_PAYLOAD_CSUM_OFFSET)
	flags := f.optU32(unix.NFTA_PAYLOAD_CSUM_FLAGS)
	wantType, wantAt := uint32(unix.NFT_PAYLOAD_CSUM_INET), uint32(ipv4Checksum)
	if r.family == ruleset.IPv6 {
		wantType, wantAt = unix.NFT_PAYLOAD_CSUM_NONE, 0
	}
	if r.payloadField(base, offset) != ruleset.Daddr || size != uint32(r.family.AddrLen()) {
		f.fail(unknown(fmt.Sprintf("write of %d bytes at %d of header %d", size, offset, base)))
	}
	if typ != wantType || at != wantAt || flags != unix.NFT_PAYLOAD_L4CSUM_PSEUDOHDR {
		f.fail(unknown("checksum"))
	}
	if f.err != nil {
		return f.err
	}
	v, err := r.regs.useReg(reg)
	if err != nil {
		return err
	}
	if v.mask != nil || v.size != int(size) || v.op.Field != ruleset.OrigSaddr && v.op.Field != ruleset.ReplyDaddr {
		return unknown("value that is written")
	}
	return r.act(ruleset.SetDaddr{To: v.op.Field})
}

// payloadField is zero for what has no form.
func (r *ruleRun) payloadField(base, offset uint32) ruleset.Field {
	// Where the source address lies in the header of the family, and behind
	// it the destination.
	saddr := uint32(12)
	if r.family == ruleset.IPv6 {
		saddr = 8
	}
	daddr := saddr + uint32(r.family.AddrLen())
	switch {
	case base == unix.NFT_PAYLOAD_NETWORK_HEADER && offset == saddr:
		return ruleset.Saddr
	case base == unix.NFT_PAYLOAD_NETWORK_HEADER && offset == daddr:
		return ruleset.Daddr
	case base == unix.NFT_PAYLOAD_TRANSPORT_HEADER && offset == 2:
		return ruleset.Dport
	}
	return 0
}

func (r *ruleRun) meta(f *fields) error {
	reg, key := f.u32(unix.NFTA_META_DREG), f.u32(unix.NFTA_META_KEY)
	var field ruleset.Field
	switch key {
	case unix.NFT_META_L4PROTO:
		field = ruleset.L4proto
	case unix.NFT_META_IIFTYPE:
		field = ruleset.IifType
	default:
		f.fail(unknown(fmt.Sprintf("key %d", key)))
	}
	return r.load(f, reg, ruleset.Operand{Field: field}, operandSize(field, r.family))
}

func (r *ruleRun) ct(f *fields) error {
	reg, key := f.u32(unix.NFTA_CT_DREG), f.u32(unix.NFTA_CT_KEY)
	var field ruleset.Field
	// The status belongs to both directions, and only tuples to one.
	if f.has(unix.NFTA_CT_DIRECTION) {
		field = r.tupleField(key, f.u8(unix.NFTA_CT_DIRECTION))
	} else {
		field = map[uint32]ruleset.Field{
			unix.NFT_CT_STATUS: ruleset.CtStatus, unix.NFT_CT_DIRECTION: ruleset.CtDirection,
		}[key]
	}
	if field == 0 {
		f.fail(unknown(fmt.Sprintf("key %d", key)))
	}
	return r.load(f, reg, ruleset.Operand{Field: field}, operandSize(field, r.family))
}

// tupleField is zero for what has no form.
func (r *ruleRun) tupleField(key uint32, direction uint8) ruleset.Field {
	saddr, daddr := uint32(unix.NFT_CT_SRC_IP), uint32(unix.NFT_CT_DST_IP)
	if r.family == ruleset.IPv6 {
		saddr, daddr = unix.NFT_CT_SRC_IP6, unix.NFT_CT_DST_IP6
	}
	type tuple struct {
		key       uint32
		direction uint8
	}
	return map[tuple]ruleset.Field{
		{saddr, original}:                 ruleset.OrigSaddr,
		{daddr, original}:                 ruleset.OrigDaddr,
		{unix.NFT_CT_PROTO_DST, original}: ruleset.OrigDport,
		{saddr, reply}:                    ruleset.ReplySaddr,
		{daddr, reply}:                    ruleset.ReplyDaddr,
		{unix.NFT_CT_PROTO_SRC, reply}:    ruleset.ReplySport,
	}[tuple{key, direction}]
}

func (r *ruleRun) fib(f *fields) error {
	reg := f.u32(unix.NFTA_FIB_DREG)
	field := ruleset.FibDaddr
	flags := f.u32(unix.NFTA_FIB_FLAGS)
	if flags == unix.NFTA_FIB_F_SADDR {
		field = ruleset.FibSaddr
	} else if flags != unix.NFTA_FIB_F_DADDR {
		f.fail(unknown("flags"))
	}
	if f.u32(unix.NFTA_FIB_RESULT) != unix.NFT_FIB_RESULT_ADDRTYPE {
		f.fail(unknown("result"))
	}
	return r.load(f, reg, ruleset.Operand{Field: field}, 4)
}

func (r *ruleRun) numgen(f *fields) error {
	reg, mod := f.u32(unix.NFTA_NG_DREG), f.u32(unix.NFTA_NG_MODULUS)
	field := ruleset.Random
	switch typ := f.u32(unix.NFTA_NG_TYPE); {
	case typ == unix.NFT_NG_INCREMENTAL:
		field = ruleset.Increment
	case typ != unix.NFT_NG_RANDOM:
		f.fail(unknown("type"))
	}
	return r.load(f, reg, ruleset.Operand{Field: field, Mod: mod, Offset: f.optU32(unix.NFTA_NG_OFFSET)}, 4)
}

// hash knows jhash of a whole source address with our seed.
func (r *ruleRun) hash(f *fields) error {
	sreg, dreg := f.u32(unix.NFTA_HASH_SREG), f.u32(unix.NFTA_HASH_DREG)
	size, mod := f.u32(unix.NFTA_HASH_LEN), f.u32(unix.NFTA_HASH_MODULUS)
	offset := f.optU32(unix.NFTA_HASH_OFFSET)
	if f.u32(unix.NFTA_HASH_SEED) != ruleset.HashSeed || f.optU32(unix.NFTA_HASH_TYPE) != unix.NFT_HASH_JENKINS {
		f.fail(unknown("seed or type"))
	}
	if f.err != nil {
		return f.err
	}
	v, err := r.regs.useReg(sreg)
	if err != nil {
		return err
	}
	if v.op.Field != ruleset.Saddr || v.mask != nil || v.size != int(size) || v.size != r.family.AddrLen() {
		return unknown("operand")
	}
	return r.regs.load(dreg, &value{op: ruleset.Operand{Field: ruleset.Hash, Mod: mod, Offset: offset}, size: 4})
}

// bitwise knows the form "value & mask", which the kernel keeps as
// (value & mask) ^ 0.
func (r *ruleRun) bitwise(f *fields) error {
	sreg, dreg := f.u32(unix.NFTA_BITWISE_SREG), f.u32(unix.NFTA_BITWISE_DREG)
	size := f.u32(unix.NFTA_BITWISE_LEN)
	mask := f.data(unix.NFTA_BITWISE_MASK)
	xor := f.data(unix.NFTA_BITWISE_XOR)
	const maskXor = 0 // NFT_BITWISE_MASK_XOR
	if f.optU32(nftaBitwiseOp) != maskXor || bytes.Count(xor, []byte{0}) != len(xor) {
		f.fail(unknown("operation"))
	}
	if f.err != nil {
		return f.err
	}
	v, err := r.regs.useReg(sreg)
	if err != nil {
		return err
	}
	if v.op.Field == 0 || v.mask != nil || v.size != int(size) || v.size != len(mask) {
		return unknown("operand")
	}
	return r.regs.load(dreg, &value{op: v.op, size: v.size, mask: mask})
}

// byteorder knows what changes nothing. nft converts the host-endian fields of
// a key that is looked up in a set of intervals, and a protocol is among them:
// the kernel turns no pair of bytes in a single one (nft_byteorder.c).
func (r *ruleRun) byteorder(f *fields) error {
	reg, op := f.u32(unix.NFTA_BYTEORDER_SREG), f.u32(unix.NFTA_BYTEORDER_OP)
	size, unit := f.u32(unix.NFTA_BYTEORDER_LEN), f.u32(unix.NFTA_BYTEORDER_SIZE)
	if f.u32(unix.NFTA_BYTEORDER_DREG) != reg || op != unix.NFT_BYTEORDER_HTON || size != 1 || unit != 2 {
		f.fail(unknown("operation"))
	}
	if f.err != nil {
		return f.err
	}
	if at, ok := wordOf(reg); !ok || r.regs.word[at] == nil || r.regs.word[at].op.Field != ruleset.L4proto {
		return unknown("operand")
	}
	return nil
}

// data unwraps an attribute that holds NFTA_DATA_VALUE.
func (f *fields) data(typ uint16) []byte {
	val, ok, err := dataValue(f.val[typ])
	if err != nil {
		f.fail(err)
	} else if !ok {
		f.fail(unknown(fmt.Sprintf("value of attribute %d", typ)))
	}
	return val
}
