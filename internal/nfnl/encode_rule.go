//go:build linux

package nfnl

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/nftdp/go-nftdp/internal/ruleset"
)

// reg0 is NFT_REG32_00, the first register of four bytes. Every statement
// loads its registers anew from here on, since what a rule loads does not
// outlive it.
const reg0 = 8

// expressions encodes a rule as the kernel's list of expressions, in the way
// of stock nft, so that nft prints it as it is.
func expressions(r ruleset.Rule, f ruleset.Family) ([][]byte, error) {
	var out [][]byte
	for _, s := range r {
		exprs, err := statement(s, f)
		if err != nil {
			return nil, err
		}
		for _, e := range exprs {
			b, err := expr.Marshal(byte(f), e)
			if err != nil {
				return nil, fmt.Errorf("marshal %T: %w", e, err)
			}
			out = append(out, b)
		}
	}
	return out, nil
}

var errStatement = errors.New("statement can not be encoded")

func statement(s ruleset.Statement, f ruleset.Family) ([]expr.Any, error) {
	switch s := s.(type) {
	case ruleset.Match:
		return match(s, f)
	case ruleset.MatchAddr:
		return matchAddr(s, f)
	case ruleset.Lookup:
		return lookup(s.Key, f, &expr.Lookup{SourceRegister: reg0, SetName: s.Set})
	case ruleset.VMap:
		return lookup(s.Key, f, &expr.Lookup{SourceRegister: reg0, SetName: s.Map, IsDestRegSet: true})
	case ruleset.DNAT:
		return dnat(s, f)
	case ruleset.Masquerade:
		return []expr.Any{&expr.Masq{}}, nil
	case ruleset.Reject:
		return []expr.Any{reject(s, f)}, nil
	case ruleset.Verdict:
		return []expr.Any{&expr.Verdict{Kind: expr.VerdictKind(int32(verdictCode(s.Kind))), Chain: s.Chain}}, nil
	}
	return nil, fmt.Errorf("%T: %w", s, errStatement)
}

// load reads a field into the register and gives the size it takes there.
func load(o ruleset.Operand, f ruleset.Family, reg uint32) (expr.Any, uint32, error) {
	addr := uint32(f.AddrLen())
	saddr, origDaddr := uint32(12), expr.CtKeyDSTIP // the offset in an IPv4 header
	if f == ruleset.IPv6 {
		saddr, origDaddr = 8, expr.CtKeyDSTIP6
	}
	payload := func(base expr.PayloadBase, offset, n uint32) expr.Any {
		return &expr.Payload{DestRegister: reg, Base: base, Offset: offset, Len: n}
	}
	ct := func(key expr.CtKey, dir bool) expr.Any {
		return &expr.Ct{Register: reg, Key: key, OptDirection: dir} // direction 0 is the original one
	}
	switch o.Field {
	case ruleset.Saddr:
		return payload(expr.PayloadBaseNetworkHeader, saddr, addr), addr, nil
	case ruleset.Daddr:
		return payload(expr.PayloadBaseNetworkHeader, saddr+addr, addr), addr, nil
	case ruleset.Dport:
		return payload(expr.PayloadBaseTransportHeader, 2, 2), 4, nil
	case ruleset.L4proto:
		return &expr.Meta{Key: expr.MetaKeyL4PROTO, Register: reg}, 4, nil
	case ruleset.OrigDaddr:
		return ct(origDaddr, true), addr, nil
	case ruleset.OrigDport:
		return ct(expr.CtKeyPROTODST, true), 4, nil
	case ruleset.CtStatus:
		return ct(expr.CtKeySTATUS, false), 4, nil
	case ruleset.Random:
		return &expr.Numgen{Register: reg, Modulus: o.Mod, Type: unix.NFT_NG_RANDOM}, 4, nil
	case ruleset.Increment:
		return &expr.Numgen{Register: reg, Modulus: o.Mod, Type: unix.NFT_NG_INCREMENTAL}, 4, nil
	case ruleset.Hash:
		return &expr.Hash{
			SourceRegister: spareReg, DestRegister: reg, Length: addr,
			Modulus: o.Mod, Seed: ruleset.HashSeed, Type: expr.HashTypeJenkins,
		}, 4, nil
	case ruleset.FibDaddr:
		return &expr.Fib{Register: reg, ResultADDRTYPE: true, FlagDADDR: true}, 4, nil
	}
	return nil, 0, fmt.Errorf("field %d: %w", o.Field, errStatement)
}

// lookup loads the key and looks it up.
func lookup(key []ruleset.Operand, f ruleset.Family, l *expr.Lookup) ([]expr.Any, error) {
	var out []expr.Any
	reg := uint32(reg0)
	for _, o := range key {
		if o.Field == ruleset.Hash {
			e, _, err := load(ruleset.Operand{Field: ruleset.Saddr}, f, spareReg)
			if err != nil {
				return nil, err
			}
			out = append(out, e)
		}
		e, size, err := load(o, f, reg)
		if err != nil {
			return nil, err
		}
		out = append(out, e)
		reg += size / 4
	}
	return append(out, l), nil
}

// spareReg is NFT_REG32_08, the first of 32 bytes that no key reaches into. A
// hash reads its input from there.
const spareReg = reg0 + 8

func dnat(s ruleset.DNAT, f ruleset.Family) ([]expr.Any, error) {
	l := &expr.Lookup{SourceRegister: reg0, SetName: s.Map, DestRegister: reg0, IsDestRegSet: true}
	out, err := lookup(s.Key, f, l)
	port := reg0 + uint32(f.AddrLen())/4
	return append(out, &expr.NAT{
		Type: expr.NATTypeDestNAT, Family: uint32(f),
		RegAddrMin: reg0, RegAddrMax: reg0, RegProtoMin: port, RegProtoMax: port,
	}), err
}

func match(m ruleset.Match, f ruleset.Family) ([]expr.Any, error) {
	e, _, err := load(ruleset.Operand{Field: m.Field}, f, reg0)
	value := binary.NativeEndian.AppendUint32(nil, m.Value)
	switch m.Field {
	case ruleset.L4proto:
		return []expr.Any{e, &expr.Cmp{Op: expr.CmpOpEq, Register: reg0, Data: []byte{byte(m.Value)}}}, err
	case ruleset.CtStatus:
		return []expr.Any{
			e,
			&expr.Bitwise{SourceRegister: reg0, DestRegister: reg0, Len: 4, Mask: value, Xor: make([]byte, 4)},
			&expr.Cmp{Op: expr.CmpOpNeq, Register: reg0, Data: make([]byte, 4)},
		}, err
	default:
		return []expr.Any{e, &expr.Cmp{Op: expr.CmpOpEq, Register: reg0, Data: value}}, err
	}
}

// matchAddr compares whole bytes only, as every prefix that rules are compiled
// with has them; others belong into sets.
func matchAddr(m ruleset.MatchAddr, f ruleset.Family) ([]expr.Any, error) {
	e, _, err := load(ruleset.Operand{Field: m.Field}, f, reg0)
	payload, ok := e.(*expr.Payload)
	if err != nil || !ok || m.Prefix.Bits()%8 != 0 || m.Prefix.Bits() == 0 {
		return nil, fmt.Errorf("address prefix %s: %w", m.Prefix, errStatement)
	}
	payload.Len = uint32(m.Prefix.Bits() / 8)
	op := expr.CmpOpEq
	if m.Not {
		op = expr.CmpOpNeq
	}
	return []expr.Any{payload, &expr.Cmp{Op: op, Register: reg0, Data: m.Prefix.Addr().AsSlice()[:payload.Len]}}, nil
}

func reject(r ruleset.Reject, f ruleset.Family) expr.Any {
	switch {
	case r.Reset:
		return &expr.Reject{Type: unix.NFT_REJECT_TCP_RST}
	case f == ruleset.IPv6:
		return &expr.Reject{Type: unix.NFT_REJECT_ICMP_UNREACH, Code: icmpv6PortUnreachable}
	}
	return &expr.Reject{Type: unix.NFT_REJECT_ICMP_UNREACH, Code: icmpPortUnreachable}
}
