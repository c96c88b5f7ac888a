//go:build linux

package nfnl

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"time"

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
		if set, ok := s.(ruleset.SetDaddr); ok {
			both, err := setDaddr(set, f)
			if err != nil {
				return nil, err
			}
			out = append(out, both...)
			continue
		}
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
		return lookup(s.Key, f, &expr.Lookup{SourceRegister: reg0, SetName: s.Set, Invert: s.Not})
	case ruleset.VMap:
		return lookup(s.Key, f, &expr.Lookup{SourceRegister: reg0, SetName: s.Map, IsDestRegSet: true})
	case ruleset.DNAT:
		return dnat(s, f)
	case ruleset.DNATTo:
		return natTo(expr.NATTypeDestNAT, s.Addr, f), nil
	case ruleset.SNATTo:
		return natTo(expr.NATTypeSourceNAT, netip.AddrPortFrom(s.Addr, 0), f), nil
	case ruleset.Update:
		return dynset(s, f)
	case ruleset.ConnCount:
		return []expr.Any{&expr.Connlimit{Count: s.Over, Flags: nftConnlimitInv}}, nil
	case ruleset.Masquerade:
		return []expr.Any{&expr.Masq{}}, nil
	case ruleset.Reject:
		return []expr.Any{reject(s, f)}, nil
	case ruleset.Verdict:
		return []expr.Any{&expr.Verdict{Kind: expr.VerdictKind(int32(verdictCode(s.Kind))), Chain: s.Chain}}, nil
	}
	return nil, fmt.Errorf("%T: %w", s, errStatement)
}

// load reads a field into the register and gives the size it takes there. A
// hash reads its input from the spare register.
func load(o ruleset.Operand, f ruleset.Family, reg, spare uint32) (expr.Any, uint32, error) {
	addr := uint32(f.AddrLen())
	saddr, ctSaddr, ctDaddr := uint32(12), expr.CtKeySRCIP, expr.CtKeyDSTIP // the offset in an IPv4 header
	if f == ruleset.IPv6 {
		saddr, ctSaddr, ctDaddr = 8, expr.CtKeySRCIP6, expr.CtKeyDSTIP6
	}
	payload := func(base expr.PayloadBase, offset, n uint32) expr.Any {
		return &expr.Payload{DestRegister: reg, Base: base, Offset: offset, Len: n}
	}
	tuple := func(key expr.CtKey, direction uint32) expr.Any {
		return &expr.Ct{Register: reg, Key: key, OptDirection: true, Direction: direction}
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
		return tuple(ctDaddr, original), addr, nil
	case ruleset.OrigDport:
		return tuple(expr.CtKeyPROTODST, original), 4, nil
	case ruleset.OrigSaddr:
		return tuple(ctSaddr, original), addr, nil
	case ruleset.ReplyDaddr:
		return tuple(ctDaddr, reply), addr, nil
	case ruleset.ReplySaddr:
		return tuple(ctSaddr, reply), addr, nil
	case ruleset.ReplySport:
		return tuple(expr.CtKeyPROTOSRC, reply), 4, nil
	case ruleset.CtStatus:
		return &expr.Ct{Register: reg, Key: expr.CtKeySTATUS}, 4, nil
	case ruleset.CtDirection:
		return &expr.Ct{Register: reg, Key: expr.CtKeyDIRECTION}, 4, nil
	case ruleset.Random:
		return &expr.Numgen{Register: reg, Modulus: o.Mod, Type: unix.NFT_NG_RANDOM, Offset: o.Offset}, 4, nil
	case ruleset.Increment:
		return &expr.Numgen{Register: reg, Modulus: o.Mod, Type: unix.NFT_NG_INCREMENTAL, Offset: o.Offset}, 4, nil
	case ruleset.Hash:
		return &expr.Hash{
			SourceRegister: spare, DestRegister: reg, Length: addr,
			Modulus: o.Mod, Offset: o.Offset, Seed: ruleset.HashSeed, Type: expr.HashTypeJenkins,
		}, 4, nil
	case ruleset.FibDaddr:
		return &expr.Fib{Register: reg, ResultADDRTYPE: true, FlagDADDR: true}, 4, nil
	case ruleset.FibSaddr:
		return &expr.Fib{Register: reg, ResultADDRTYPE: true, FlagSADDR: true}, 4, nil
	case ruleset.IifType:
		return &expr.Meta{Key: expr.MetaKeyIIFTYPE, Register: reg}, 4, nil
	}
	return nil, 0, fmt.Errorf("field %d: %w", o.Field, errStatement)
}

// concatenation loads operands one behind the other and gives the register
// behind them. What a hash reads is loaded there.
func concatenation(key []ruleset.Operand, f ruleset.Family, reg uint32) (out []expr.Any, end uint32, err error) {
	end = reg
	for _, o := range key {
		_, size, err := load(o, f, end, 0)
		if err != nil {
			return nil, 0, err
		}
		end += size / 4
	}
	const saddrWords = 4 // in IPv6
	if end > unix.NFT_REG32_15+1-saddrWords && slices.ContainsFunc(key, isHash) || end > unix.NFT_REG32_15+1 {
		return nil, 0, fmt.Errorf("concatenation that reaches behind the registers: %w", errStatement)
	}
	for _, o := range key {
		if isHash(o) {
			e, _, _ := load(ruleset.Operand{Field: ruleset.Saddr}, f, end, 0)
			out = append(out, e)
		}
		e, size, _ := load(o, f, reg, end)
		out = append(out, e)
		reg += size / 4
	}
	return out, end, nil
}

func isHash(o ruleset.Operand) bool { return o.Field == ruleset.Hash }

// lookup loads the key and looks it up.
func lookup(key []ruleset.Operand, f ruleset.Family, l *expr.Lookup) ([]expr.Any, error) {
	out, _, err := concatenation(key, f, reg0)
	return append(out, l), err
}

func dnat(s ruleset.DNAT, f ruleset.Family) ([]expr.Any, error) {
	l := &expr.Lookup{SourceRegister: reg0, SetName: s.Map, DestRegister: reg0, IsDestRegSet: true}
	out, err := lookup(s.Key, f, l)
	nat := &expr.NAT{Type: expr.NATTypeDestNAT, Family: uint32(f), RegAddrMin: reg0, RegAddrMax: reg0}
	if !s.AddrOnly {
		nat.RegProtoMin = reg0 + uint32(f.AddrLen())/4
		nat.RegProtoMax = nat.RegProtoMin
	}
	return append(out, nat), err
}

// natTo translates to what stands in the rule. The address has sixteen bytes
// of registers in each family, as in nft.
func natTo(typ expr.NATType, to netip.AddrPort, f ruleset.Family) []expr.Any {
	const port = reg0 + 4
	nat := &expr.NAT{Type: typ, Family: uint32(f), RegAddrMin: reg0, RegAddrMax: reg0}
	out := []expr.Any{&expr.Immediate{Register: reg0, Data: to.Addr().AsSlice()}}
	if to.Port() != 0 {
		out = append(out, &expr.Immediate{Register: port, Data: binary.BigEndian.AppendUint16(nil, to.Port())})
		nat.RegProtoMin, nat.RegProtoMax, nat.Specified = port, port, true
	}
	return append(out, nat)
}

// dynset loads the key and behind it the data, where nft has it if the key is
// short.
func dynset(u ruleset.Update, f ruleset.Family) ([]expr.Any, error) {
	if u.Seconds == 0 || slices.ContainsFunc(slices.Concat(u.Key, u.Data), isHash) {
		return nil, fmt.Errorf("update of %s: %w", u.Map, errStatement)
	}
	out, data, err := concatenation(u.Key, f, reg0)
	if err != nil {
		return nil, err
	}
	data = max(data, reg0+4)
	loads, _, err := concatenation(u.Data, f, data)
	return append(append(out, loads...), &expr.Dynset{
		SrcRegKey: reg0, SrcRegData: data, SetName: u.Map,
		Operation: unix.NFT_DYNSET_OP_UPDATE, Timeout: time.Duration(u.Seconds) * time.Second,
	}), err
}

func match(m ruleset.Match, f ruleset.Family) ([]expr.Any, error) {
	e, _, err := load(ruleset.Operand{Field: m.Field}, f, reg0, 0)
	if err == nil && m.Not && m.Field != ruleset.IifType {
		err = fmt.Errorf("negated match of %d: %w", m.Field, errStatement)
	}
	value := binary.NativeEndian.AppendUint32(nil, m.Value)
	op := expr.CmpOpEq
	switch m.Field {
	case ruleset.L4proto, ruleset.CtDirection:
		value = []byte{byte(m.Value)}
	case ruleset.IifType:
		value = binary.NativeEndian.AppendUint16(nil, uint16(m.Value))
		if m.Not {
			op = expr.CmpOpNeq
		}
	case ruleset.CtStatus:
		return []expr.Any{
			e,
			&expr.Bitwise{SourceRegister: reg0, DestRegister: reg0, Len: 4, Mask: value, Xor: make([]byte, 4)},
			&expr.Cmp{Op: expr.CmpOpNeq, Register: reg0, Data: make([]byte, 4)},
		}, err
	default:
	}
	return []expr.Any{e, &expr.Cmp{Op: op, Register: reg0, Data: value}}, err
}

// matchAddr loads no more of a header than the bytes of the prefix, as nft does,
// if it ends with a byte; else it loads the address and masks it.
func matchAddr(m ruleset.MatchAddr, f ruleset.Family) ([]expr.Any, error) {
	e, size, err := load(ruleset.Operand{Field: m.Field}, f, reg0, 0)
	if err == nil && m.Prefix.Bits() == 0 {
		err = fmt.Errorf("address prefix %s: %w", m.Prefix, errStatement)
	}
	if err != nil {
		return nil, err
	}
	op := expr.CmpOpEq
	if m.Not {
		op = expr.CmpOpNeq
	}
	addr, length := m.Prefix.Addr().AsSlice(), m.Prefix.Bits()
	if header, ok := e.(*expr.Payload); ok && length%8 == 0 {
		header.Len = uint32(length / 8)
		return []expr.Any{header, &expr.Cmp{Op: op, Register: reg0, Data: addr[:header.Len]}}, nil
	}
	out := []expr.Any{e}
	if mask := net.CIDRMask(length, 8*len(addr)); !m.Prefix.IsSingleIP() {
		out = append(out, &expr.Bitwise{SourceRegister: reg0, DestRegister: reg0, Len: size, Mask: mask, Xor: make([]byte, size)})
	}
	return append(out, &expr.Cmp{Op: op, Register: reg0, Data: addr}), nil
}

// setDaddr loads what it writes into the destination field. The bytes are our
// own: expr.Payload leaves out the flags where there is no checksum of the
// network header, as in IPv6.
func setDaddr(s ruleset.SetDaddr, f ruleset.Family) ([][]byte, error) {
	from, size, err := load(ruleset.Operand{Field: s.To}, f, reg0, 0)
	if _, ok := from.(*expr.Ct); err == nil && (!ok || size != uint32(f.AddrLen())) {
		err = fmt.Errorf("destination of field %d: %w", s.To, errStatement)
	}
	if err != nil {
		return nil, err
	}
	loaded, err := expr.Marshal(byte(f), from)
	if err != nil {
		return nil, fmt.Errorf("marshal %T: %w", from, err)
	}
	// NFTA_EXPR_NAME and NFTA_EXPR_DATA, as they are in a list's element.
	buf := AppendAttrString(nil, unix.NFTA_EXPR_NAME, "payload")
	data := len(buf)
	buf = appendNest(buf, unix.NFTA_EXPR_DATA)
	buf = appendAttr32(buf, unix.NFTA_PAYLOAD_SREG, reg0)
	buf = appendAttr32(buf, unix.NFTA_PAYLOAD_BASE, unix.NFT_PAYLOAD_NETWORK_HEADER)
	buf = appendAttr32(buf, unix.NFTA_PAYLOAD_OFFSET, daddrOffset(f))
	buf = appendAttr32(buf, unix.NFTA_PAYLOAD_LEN, size)
	if f == ruleset.IPv4 {
		buf = appendAttr32(buf, unix.NFTA_PAYLOAD_CSUM_TYPE, unix.NFT_PAYLOAD_CSUM_INET)
		buf = appendAttr32(buf, unix.NFTA_PAYLOAD_CSUM_OFFSET, ipv4Checksum)
	}
	buf = appendAttr32(buf, unix.NFTA_PAYLOAD_CSUM_FLAGS, unix.NFT_PAYLOAD_L4CSUM_PSEUDOHDR)
	unnest(buf, data)
	return [][]byte{loaded, buf}, nil
}

// ipv4Checksum is where the checksum stands in an IPv4 header.
const ipv4Checksum = 10

// daddrOffset is where the destination address stands in a header.
func daddrOffset(f ruleset.Family) uint32 {
	if f == ruleset.IPv6 {
		return 24
	}
	return 16
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
