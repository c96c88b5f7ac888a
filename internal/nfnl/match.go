//go:build linux

package nfnl

import (
	"bytes"
	"encoding/binary"
	"math/bits"
	"net/netip"
	"strings"

	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/nftdp/go-nftdp/internal/ruleset"
)

func (e *ruleEncoder) compare(not bool, data []byte) {
	op := expr.CmpOpEq
	if not {
		op = expr.CmpOpNeq
	}
	e.add(&expr.Cmp{Op: op, Register: reg0, Data: data})
}

func (e *ruleEncoder) mask(mask []byte) {
	n := len(mask)
	e.add(&expr.Bitwise{SourceRegister: reg0, DestRegister: reg0, Len: uint32(n), Mask: mask, Xor: make([]byte, n)})
}

func (e *ruleEncoder) match(m ruleset.Match) {
	if !m.Field.Comparable() || m.Not && !m.Field.Negatable() {
		e.refuse("match of field %d", m.Field)
		return
	}
	if m.Field == ruleset.TCPFlags {
		e.match(ruleset.Match{Field: ruleset.L4proto, Value: unix.IPPROTO_TCP})
	}
	e.add(e.field(m.Field))
	value := hostEndian(m.Value, m.Field.Size(e.family))
	if m.Field == ruleset.CtStatus {
		e.mask(value)
		e.compare(true, make([]byte, len(value)))
		return
	}
	if m.Field == ruleset.TCPFlags {
		e.mask([]byte{ruleset.TCPFlagsMask})
	}
	e.compare(m.Not, value)
}

// hostEndian returns a number in one, two or four bytes in the machine's order.
func hostEndian(v uint32, size int) []byte {
	switch size {
	case 1:
		return []byte{byte(v)}
	case 2:
		return binary.NativeEndian.AppendUint16(nil, uint16(v))
	}
	return binary.NativeEndian.AppendUint32(nil, v)
}

// matchAddr compares only the bytes of the prefix, as nft does, if the prefix ends
// at a byte, and loads only these from a header. Otherwise it loads the address and
// masks it.
func (e *ruleEncoder) matchAddr(m ruleset.MatchAddr) {
	length := m.Prefix.Bits()
	if length == 0 || m.Field.Type() != ruleset.Addr {
		e.refuse("field %d in prefix %s", m.Field, m.Prefix)
		return
	}
	load, addr := e.field(m.Field), m.Prefix.Addr().AsSlice()
	if length%8 == 0 {
		addr = addr[:length/8]
	}
	if header, ok := load.(*expr.Payload); ok {
		header.Len = uint32(len(addr))
	}
	e.add(load)
	if length < 8*len(addr) {
		e.mask(prefixMask(length, len(addr)))
	}
	e.compare(m.Not, addr)
}

// matchInput compares the whole name with the byte that ends it, or the beginning.
func (e *ruleEncoder) matchInput(m ruleset.MatchInput) {
	name, open := strings.CutSuffix(m.Pattern, "*")
	if name == "" || len(name) >= ruleset.InterfaceLen || strings.ContainsAny(name, "\x00\"*\\") {
		e.refuse("name of an interface %q", m.Pattern)
		return
	}
	data := []byte(name)
	if !open {
		data = append(data, make([]byte, ruleset.InterfaceLen-len(name))...)
	}
	e.add(e.field(ruleset.IifName))
	e.compare(false, data)
}

func (d *ruleDecoder) cmp() {
	reg, op := d.u32(unix.NFTA_CMP_SREG), d.u32(unix.NFTA_CMP_OP)
	data := d.data(unix.NFTA_CMP_DATA)
	d.check(op == unix.NFT_CMP_EQ || op == unix.NFT_CMP_NEQ, "operation")
	v := d.use(reg)
	partly := v.op.Field == ruleset.OrigSaddr || v.op.Field == ruleset.IifName
	d.check(v.size == len(data) || partly && v.mask == nil && len(data) < v.size, "part of a value")
	if d.err != nil {
		return
	}
	switch not := op == unix.NFT_CMP_NEQ; v.op.Field {
	case ruleset.CtStatus:
		d.cmpStatus(v, not, data)
	case ruleset.Saddr, ruleset.Daddr, ruleset.OrigSaddr:
		d.cmpAddr(v, not, data)
	case ruleset.IifName:
		d.cmpInput(v, not, data)
	default:
		d.cmpNumber(v, not, data)
	}
}

func (d *ruleDecoder) cmpNumber(v *value, not bool, data []byte) {
	if !d.check(v.op.Comparable(), "field") {
		return
	}
	mask := v.mask == nil
	if v.op.Field == ruleset.TCPFlags {
		mask = bytes.Equal(v.mask, []byte{ruleset.TCPFlagsMask})
	}
	d.check((!not || v.op.Negatable()) && mask, "operation")
	if v.op.Field == ruleset.TCPFlags {
		d.dropTCP()
	}
	d.match(ruleset.Match{Field: v.op.Field, Not: not, Value: hostNumber(data)})
}

// dropTCP drops the comparison of the protocol ahead of the flags, without which the
// rule is opaque, since nft's words for the flags include it.
func (d *ruleDecoder) dropTCP() {
	last := len(d.rule) - 1
	if d.check(last >= 0 && d.rule[last] == ruleset.Statement(ruleset.Match{Field: ruleset.L4proto, Value: unix.IPPROTO_TCP}), "protocol") {
		d.rule = d.rule[:last]
	}
}

// hostNumber is the inverse of hostEndian.
func hostNumber(b []byte) uint32 {
	switch len(b) {
	case 1:
		return uint32(b[0])
	case 2:
		return uint32(binary.NativeEndian.Uint16(b))
	}
	return binary.NativeEndian.Uint32(b)
}

// cmpStatus knows the test of one bit: (status & bit) != 0, as nft writes it,
// or == bit, which is the same.
func (d *ruleDecoder) cmpStatus(v *value, not bool, data []byte) {
	if !d.check(v.mask != nil, "operation") {
		return
	}
	mask, n := hostNumber(v.mask), hostNumber(data)
	d.check(bits.OnesCount32(mask) == 1 && (not && n == 0 || !not && n == mask), "operation")
	d.match(ruleset.Match{Field: ruleset.CtStatus, Value: mask})
}

// cmpAddr knows the comparison of an address, or of its first bits: of its first
// bytes if the prefix ends at a byte, and otherwise of masked ones.
func (d *ruleDecoder) cmpAddr(v *value, not bool, data []byte) {
	length := 8 * len(data)
	if v.mask != nil {
		length = prefixLen(v.mask)
		d.check(length >= 0, "mask")
	}
	var whole [16]byte
	copy(whole[:], data)
	addr, _ := netip.AddrFromSlice(whole[:d.family.AddrLen()])
	prefix := netip.PrefixFrom(addr, length)
	// With bits after the prefix, the comparison would never hold.
	d.check(prefix == prefix.Masked(), "bits after the prefix")
	d.match(ruleset.MatchAddr{Field: v.op.Field, Not: not, Prefix: prefix})
}

// cmpInput knows the names that matchInput writes.
func (d *ruleDecoder) cmpInput(v *value, not bool, data []byte) {
	name, rest, ended := strings.Cut(string(data), "\x00")
	whole := ended && len(data) == ruleset.InterfaceLen && strings.Trim(rest, "\x00") == ""
	d.check(!not && v.mask == nil && name != "" && (whole || !ended && len(data) < ruleset.InterfaceLen), "operation")
	d.check(!strings.ContainsAny(name, "\"*\\"), "name")
	if !ended {
		name += "*"
	}
	d.match(ruleset.MatchInput{Pattern: name})
}

// prefixMask has n leading ones.
func prefixMask(n, size int) []byte {
	mask := make([]byte, size)
	for i := range n {
		mask[i/8] |= 0x80 >> (i % 8)
	}
	return mask
}

// prefixLen is the number of leading ones of a mask, or -1 if it has others.
func prefixLen(mask []byte) (n int) {
	for n < 8*len(mask) && mask[n/8]&(0x80>>(n%8)) != 0 {
		n++
	}
	if !bytes.Equal(mask, prefixMask(n, len(mask))) {
		return -1
	}
	return n
}
