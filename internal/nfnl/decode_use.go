//go:build linux

package nfnl

import (
	"encoding/binary"
	"fmt"
	"math/bits"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/nftdp/go-nftdp/internal/ruleset"
)

func (r *ruleRun) cmp(f *fields) error {
	reg, op := f.u32(unix.NFTA_CMP_SREG), f.u32(unix.NFTA_CMP_OP)
	data := f.data(unix.NFTA_CMP_DATA)
	if op != unix.NFT_CMP_EQ && op != unix.NFT_CMP_NEQ {
		f.fail(unknown("operation"))
	}
	if f.err != nil {
		return f.err
	}
	v, err := r.regs.useReg(reg)
	if err != nil {
		return err
	}
	if v.size != len(data) {
		return unknown("part of a value")
	}
	not := op == unix.NFT_CMP_NEQ
	switch v.op.Field {
	case ruleset.L4proto, ruleset.FibDaddr:
		return r.cmpNumber(v, not, data)
	case ruleset.CtStatus:
		return r.cmpStatus(v, not, data)
	case ruleset.Saddr, ruleset.Daddr:
		return r.cmpAddr(v, not, data)
	default:
		return unknown("field")
	}
}

func (r *ruleRun) cmpNumber(v *value, not bool, data []byte) error {
	if not || v.mask != nil {
		return unknown("operation")
	}
	n := uint32(data[0])
	if v.size == 4 {
		n = binary.NativeEndian.Uint32(data)
	}
	return r.match(ruleset.Match{Field: v.op.Field, Value: n})
}

// cmpStatus knows the test of one bit: (status & bit) != 0, as nft writes it,
// or == bit, which is the same.
func (r *ruleRun) cmpStatus(v *value, not bool, data []byte) error {
	if v.mask == nil {
		return unknown("operation")
	}
	mask, n := binary.NativeEndian.Uint32(v.mask), binary.NativeEndian.Uint32(data)
	set := not && n == 0 || !not && n == mask
	if bits.OnesCount32(mask) != 1 || !set {
		return unknown("operation")
	}
	return r.match(ruleset.Match{Field: ruleset.CtStatus, Value: mask})
}

// cmpAddr knows the comparison of an address, or of its first bits: of the
// first bytes when the prefix ends with a byte, and else of masked ones.
func (r *ruleRun) cmpAddr(v *value, not bool, data []byte) error {
	length := 8 * v.size
	if v.mask != nil {
		var ok bool
		if length, ok = prefixLen(v.mask); !ok {
			return unknown("mask")
		}
	}
	var whole [16]byte
	copy(whole[:], data)
	addr, _ := netip.AddrFromSlice(whole[:r.family.AddrLen()])
	prefix := netip.PrefixFrom(addr, length)
	// Bits behind the mask would make a comparison that never holds.
	if prefix != prefix.Masked() {
		return unknown("bits behind the prefix")
	}
	return r.match(ruleset.MatchAddr{Field: v.op.Field, Not: not, Prefix: prefix})
}

// prefixLen is the number of leading ones of a mask without others.
func prefixLen(mask []byte) (n int, ok bool) {
	end := slices.IndexFunc(mask, func(b byte) bool { return b != 0xff })
	if end < 0 {
		return 8 * len(mask), true
	}
	ones := bits.LeadingZeros8(^mask[end])
	rest := slices.Clone(mask[end:])
	rest[0] <<= ones
	return 8*end + ones, !slices.ContainsFunc(rest, func(b byte) bool { return b != 0 })
}

func (r *ruleRun) lookup(f *fields) error {
	name, reg := f.str(unix.NFTA_LOOKUP_SET), f.u32(unix.NFTA_LOOKUP_SREG)
	if f.optU32(unix.NFTA_LOOKUP_FLAGS) != 0 {
		f.fail(unknown("flags"))
	}
	dreg := uint32(0)
	if f.has(unix.NFTA_LOOKUP_DREG) {
		dreg = f.u32(unix.NFTA_LOOKUP_DREG)
	}
	if f.err != nil {
		return f.err
	}
	s := r.set(name)
	// An anonymous set is opaque too: its name says nothing about it.
	if s == nil || s.Opaque != "" {
		return unknown("set " + name)
	}
	key, err := r.regs.key(reg, s.Key, r.family)
	if err != nil {
		return err
	}
	switch {
	case !f.has(unix.NFTA_LOOKUP_DREG):
		return r.match(ruleset.Lookup{Key: key, Set: name})
	case s.Verdict && dreg == unix.NFT_REG_VERDICT:
		return r.act(ruleset.VMap{Key: key, Map: name})
	case layoutOf(s.Data, r.family).size > 0:
		return r.regs.load(dreg, &value{
			from: &ruleset.DNAT{Key: key, Map: name},
			of:   s.Data,
			size: layoutOf(s.Data, r.family).size,
		})
	}
	return unknown("data of map " + name)
}

// set returns the set of that name in the rule's table, or nil.
func (r *ruleRun) set(name string) *ruleset.Set {
	if r.sets == nil {
		return nil
	}
	return r.sets.Set(name)
}

func (r *ruleRun) immediate(f *fields) error {
	reg := f.u32(unix.NFTA_IMMEDIATE_DREG)
	v, ok, err := readVerdictData(f.val[unix.NFTA_IMMEDIATE_DATA], "")
	switch {
	case err != nil:
		f.fail(err)
	case !ok || reg != unix.NFT_REG_VERDICT:
		f.fail(unknown("not a verdict that has a form"))
	}
	if f.err != nil {
		return f.err
	}
	return r.act(ruleset.Verdict{Kind: v.Kind, Chain: v.Chain})
}

// nat knows the translation of the destination to the address and port that a
// map has given. The kernel reports the upper ends of the ranges too; they
// are the same registers.
func (r *ruleRun) nat(f *fields) error {
	typ, family := f.u32(unix.NFTA_NAT_TYPE), f.u32(unix.NFTA_NAT_FAMILY)
	addr, port := f.u32(unix.NFTA_NAT_REG_ADDR_MIN), f.u32(unix.NFTA_NAT_REG_PROTO_MIN)
	if typ != unix.NFT_NAT_DNAT || family != uint32(r.family) {
		f.fail(unknown("type or family"))
	}
	same := func(typ uint16, reg uint32) bool { return !f.has(typ) || f.u32(typ) == reg }
	if !same(unix.NFTA_NAT_REG_ADDR_MAX, addr) || !same(unix.NFTA_NAT_REG_PROTO_MAX, port) {
		f.fail(unknown("range"))
	}
	if flags := f.optU32(unix.NFTA_NAT_FLAGS); flags&^natRangeFromRegisters != 0 {
		f.fail(unknown(fmt.Sprintf("flags %#x", flags)))
	}
	if f.err != nil {
		return f.err
	}
	v, err := r.regs.useReg(addr)
	if err != nil {
		return err
	}
	at, ok := wordOf(port)
	if v.from == nil || !ok || at != v.at+r.family.AddrLen()/4 ||
		!slices.Equal(v.of, []ruleset.Type{ruleset.Addr, ruleset.Port}) {
		return unknown("not from a map")
	}
	return r.act(*v.from)
}

func (r *ruleRun) masq(f *fields) error {
	if f.optU32(unix.NFTA_MASQ_FLAGS) != 0 {
		f.fail(unknown("flags"))
	}
	if f.err != nil {
		return f.err
	}
	return r.act(ruleset.Masquerade{})
}

func (r *ruleRun) reject(f *fields) error {
	typ := f.u32(unix.NFTA_REJECT_TYPE)
	var code uint8
	if f.has(unix.NFTA_REJECT_ICMP_CODE) {
		code = f.u8(unix.NFTA_REJECT_ICMP_CODE)
	}
	if f.err != nil {
		return f.err
	}
	unreachable := uint8(icmpPortUnreachable)
	if r.family == ruleset.IPv6 {
		unreachable = icmpv6PortUnreachable
	}
	switch {
	case typ == unix.NFT_REJECT_TCP_RST:
		return r.act(ruleset.Reject{Reset: true})
	case typ == unix.NFT_REJECT_ICMP_UNREACH && code == unreachable:
		return r.act(ruleset.Reject{})
	}
	return unknown(fmt.Sprintf("type %d code %d", typ, code))
}
