//go:build linux

package nfnl

import (
	"encoding/binary"
	"fmt"
	"math"
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
	case ruleset.L4proto, ruleset.CtDirection, ruleset.FibDaddr, ruleset.FibSaddr, ruleset.IifType:
		return r.cmpNumber(v, not, data)
	case ruleset.CtStatus:
		return r.cmpStatus(v, not, data)
	case ruleset.Saddr, ruleset.Daddr, ruleset.OrigSaddr:
		return r.cmpAddr(v, not, data)
	default:
		return unknown("field")
	}
}

func (r *ruleRun) cmpNumber(v *value, not bool, data []byte) error {
	if not && v.op.Field != ruleset.IifType || v.mask != nil {
		return unknown("operation")
	}
	n := uint32(data[0])
	switch v.size {
	case 2:
		n = uint32(binary.NativeEndian.Uint16(data))
	case 4:
		n = binary.NativeEndian.Uint32(data)
	}
	return r.match(ruleset.Match{Field: v.op.Field, Not: not, Value: n})
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
	flags := f.optU32(unix.NFTA_LOOKUP_FLAGS)
	not := flags == unix.NFT_LOOKUP_F_INV
	if flags != 0 && !not || not && f.has(unix.NFTA_LOOKUP_DREG) {
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
		return r.match(ruleset.Lookup{Key: key, Not: not, Set: name})
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

// immediate knows verdicts, and bytes that are used later.
func (r *ruleRun) immediate(f *fields) error {
	reg := f.u32(unix.NFTA_IMMEDIATE_DREG)
	data := f.val[unix.NFTA_IMMEDIATE_DATA]
	if reg != unix.NFT_REG_VERDICT {
		val := f.data(unix.NFTA_IMMEDIATE_DATA)
		if f.err != nil {
			return f.err
		}
		return r.regs.load(reg, &value{data: val, size: len(val)})
	}
	v, ok, err := readVerdictData(data, "")
	switch {
	case err != nil:
		f.fail(err)
	case !ok:
		f.fail(unknown("not a verdict that has a form"))
	}
	if f.err != nil {
		return f.err
	}
	return r.act(ruleset.Verdict{Kind: v.Kind, Chain: v.Chain})
}

// dynset knows the update of a dynamic map with a timeout of whole seconds.
func (r *ruleRun) dynset(f *fields) error {
	name := f.str(unix.NFTA_DYNSET_SET_NAME)
	keyReg, dataReg := f.u32(unix.NFTA_DYNSET_SREG_KEY), f.u32(unix.NFTA_DYNSET_SREG_DATA)
	ms := binary.BigEndian.Uint64(f.sized(unix.NFTA_DYNSET_TIMEOUT, 8))
	if f.u32(unix.NFTA_DYNSET_OP) != unix.NFT_DYNSET_OP_UPDATE || f.optU32(unix.NFTA_DYNSET_FLAGS) != 0 {
		f.fail(unknown("operation or flags"))
	}
	if ms == 0 || ms%1000 != 0 || ms/1000 > math.MaxUint32 {
		f.fail(unknown("timeout"))
	}
	if f.err != nil {
		return f.err
	}
	s := r.set(name)
	if s == nil || s.Opaque != "" || !s.Dynamic {
		return unknown("set " + name)
	}
	key, err := r.regs.key(keyReg, s.Key, r.family)
	if err != nil {
		return err
	}
	data, err := r.regs.key(dataReg, s.Data, r.family)
	if err != nil {
		return err
	}
	return r.act(ruleset.Update{Map: name, Key: key, Seconds: uint32(ms / 1000), Data: data})
}

// connlimit knows the count that matches above the limit.
func (r *ruleRun) connlimit(f *fields) error {
	over := f.u32(nftaConnlimitCount)
	if f.optU32(nftaConnlimitFlags) != nftConnlimitInv {
		f.fail(unknown("flags"))
	}
	if f.err != nil {
		return f.err
	}
	return r.act(ruleset.ConnCount{Over: over})
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
