//go:build linux

package nfnl

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/nftdp/go-nftdp/internal/around"
	"github.com/nftdp/go-nftdp/internal/netlink"
	"github.com/nftdp/go-nftdp/internal/ruleset"
)

// ForeignSets are the elements of the sets of a table, by name.
type ForeignSets map[string]*ForeignSet

// ForeignRule reads a message of type NFT_MSG_NEWRULE of any table and family as a
// rule that can be evaluated, as far as its expressions are understood. The sets
// that it looks up are those of its table, and may be read later.
func ForeignRule(msg []byte, sets ForeignSets) (out around.Rule, err error) {
	d, err := DescribeRule(msg)
	if err != nil {
		return out, err
	}
	var steps []foreignStep
	for a := netlink.ReadAttributes(msg[netlink.NetfilterHeaderLen:]); a.Next(); {
		if a.Type != unix.NFTA_RULE_EXPRESSIONS {
			continue
		}
		for e := netlink.ReadAttributes(a.Value); e.Next(); {
			f := fieldsOf(e.Value)
			steps = append(steps, foreignStep{f.text(unix.NFTA_EXPR_NAME), fieldsOf(slices.Clone(f[unix.NFTA_EXPR_DATA]))})
		}
	}
	out = around.Rule{Handle: d.Handle, Text: d.Text, Comment: d.Comment}
	out.Eval = func(p *around.Packet) (around.Answer, around.Effect) {
		j := judge{packet: p, sets: sets, answer: around.Yes}
		for _, e := range steps {
			if j.run(e); j.answer == around.No {
				break
			}
		}
		return j.answer, j.effect
	}
	return out, nil
}

// foreignStep is one expression of a rule.
type foreignStep struct {
	name string
	fields
}

// judge evaluates one rule on a packet.
type judge struct {
	packet    *around.Packet
	sets      ForeignSets
	registers [80]byte
	known     [80]bool
	answer    around.Answer
	effect    around.Effect
}

// run evaluates an expression. What one of another name does is not understood.
func (j *judge) run(e foreignStep) {
	switch e.name {
	case "payload":
		j.payload(e.fields)
	case "meta":
		j.meta(e.fields)
	case "ct":
		j.ct(e.fields)
	case "fib":
		j.fib(e.fields)
	case "bitwise":
		j.bitwise(e.fields)
	case "cmp":
		j.cmp(e.fields)
	case "range":
		j.between(e.fields)
	case "lookup":
		j.lookup(e.fields)
	case "immediate":
		j.immediate(e.fields)
	case "counter", "log", "notrack", "dynset", "objref":
	case "limit": // packets are few, so a limit is not reached
		j.met(e.number(unix.NFTA_LIMIT_FLAGS)&unix.NFT_LIMIT_F_INV == 0)
	case "connlimit", "quota":
		j.doubt()
	case "reject":
		j.effect.Reject = true
	case "redir":
		j.effect.Translates = true
	case "masq":
		j.effect.Rewrites = true
	case "nat":
		if e.number(unix.NFTA_NAT_TYPE) == unix.NFT_NAT_DNAT {
			j.effect.Translates = true
		} else {
			j.snat(e.fields)
		}
	case "match":
		j.extension(e.text(unix.NFTA_MATCH_NAME), e.fields[unix.NFTA_MATCH_INFO])
	case "target":
		j.target(e.text(unix.NFTA_TARGET_NAME), e.fields[unix.NFTA_TARGET_INFO])
	default: // what it loads is not known
		j.doubt()
	}
}

// snat rewrites the source to an address of a register, or to one of several.
func (j *judge) snat(f fields) {
	j.effect.Rewrites = true
	n := 4
	if f.number(unix.NFTA_NAT_FAMILY) == unix.NFPROTO_IPV6 {
		n = 16
	}
	first, last := f.number(unix.NFTA_NAT_REG_ADDR_MIN), f.number(unix.NFTA_NAT_REG_ADDR_MAX)
	if v, known := j.value(first, n); known && (last == 0 || last == first) {
		j.effect.Source, _ = netip.AddrFromSlice(v)
	}
}

// target knows the verdicts among the targets of iptables.
func (j *judge) target(name string, info []byte) {
	switch name {
	case "REJECT":
		j.effect.Reject = true
	case "DNAT", "REDIRECT":
		j.effect.Translates = true
	case "MASQUERADE":
		j.effect.Rewrites = true
	case "SNAT":
		j.effect.Rewrites, j.effect.Source = true, j.sourceOf(info)
	}
}

func (j *judge) doubt() {
	if j.answer == around.Yes {
		j.answer = around.Maybe
	}
}

func (j *judge) met(yes bool) {
	if !yes {
		j.answer = around.No
	}
}

// at is the place of a register: there are 4 of 16 bytes, which can also be used as
// 16 of 4 bytes (NFT_REG32_00 is 8).
func at(register uint32) int {
	if register >= unix.NFT_REG32_00 {
		return min(int(register-unix.NFT_REG32_00)*4, 60)
	}
	return min(int(max(register, 1)-1)*16, 48)
}

// load writes a value into a register; nil is one that is not known.
func (j *judge) load(register uint32, value []byte) {
	i := at(register)
	for n := range 16 {
		j.registers[i+n], j.known[i+n] = 0, value != nil
	}
	copy(j.registers[i:i+16], value)
}

// value reads bytes of a register, if all are known.
func (j *judge) value(register uint32, n int) ([]byte, bool) {
	i := at(register)
	if i+n > len(j.registers) || n == 0 {
		return nil, false
	}
	return j.registers[i : i+n], !slices.Contains(j.known[i:i+n], false)
}

// payload loads bytes of the headers as far as those of a first packet are known.
func (j *judge) payload(f fields) {
	if _, written := f[unix.NFTA_PAYLOAD_SREG]; written {
		return
	}
	header, known := j.header(f.number(unix.NFTA_PAYLOAD_BASE))
	from, n := int(f.number(unix.NFTA_PAYLOAD_OFFSET)), int(f.number(unix.NFTA_PAYLOAD_LEN))
	var value []byte
	if n > 0 && n <= 16 && from+n <= len(header) && !slices.Contains(known[from:from+n], false) {
		value = header[from : from+n]
	}
	j.load(f.number(unix.NFTA_PAYLOAD_DREG), value)
}

// header is an image of a header, with the bytes that are known.
func (j *judge) header(base uint32) (header []byte, known []bool) {
	header, known = make([]byte, 64), make([]bool, 64)
	put := func(at int, b ...byte) {
		for i := range b {
			header[at+i], known[at+i] = b[i], true
		}
	}
	p := j.packet
	switch {
	case base == unix.NFT_PAYLOAD_NETWORK_HEADER && p.Dst.Addr().Is4():
		put(9, p.Proto)
		put(12, p.Src.Addr().AsSlice()...)
		put(16, p.Dst.Addr().AsSlice()...)
	case base == unix.NFT_PAYLOAD_NETWORK_HEADER:
		put(6, p.Proto)
		put(8, p.Src.Addr().AsSlice()...)
		put(24, p.Dst.Addr().AsSlice()...)
	case base == unix.NFT_PAYLOAD_TRANSPORT_HEADER:
		if p.Src.IsValid() {
			put(0, binary.BigEndian.AppendUint16(nil, p.Src.Port())...)
		}
		put(2, binary.BigEndian.AppendUint16(nil, p.Dst.Port())...)
		if p.Proto == unix.IPPROTO_TCP {
			put(13, ruleset.TCPSyn)
		}
	}
	return header, known
}

func (j *judge) meta(f fields) {
	if _, set := f[unix.NFTA_META_SREG]; set {
		return
	}
	p, ethertype, nfproto := j.packet, uint16(unix.ETH_P_IP), byte(unix.NFPROTO_IPV4)
	if p.Dst.Addr().Is6() {
		ethertype, nfproto = unix.ETH_P_IPV6, unix.NFPROTO_IPV6
	}
	name := func(d around.Device) []byte { return append([]byte(d.Name), make([]byte, max(0, 16-len(d.Name)))...) }
	var value []byte
	switch f.number(unix.NFTA_META_KEY) {
	case unix.NFT_META_PROTOCOL:
		value = binary.BigEndian.AppendUint16(nil, ethertype)
	case unix.NFT_META_NFPROTO:
		if !p.Early {
			value = []byte{nfproto}
		}
	case unix.NFT_META_L4PROTO:
		value = []byte{p.Proto}
	case unix.NFT_META_IIFNAME:
		value = name(p.In)
	case unix.NFT_META_OIFNAME:
		value = name(p.Out)
	case unix.NFT_META_IIF:
		value = binary.NativeEndian.AppendUint32(nil, p.In.Index)
	case unix.NFT_META_OIF:
		value = binary.NativeEndian.AppendUint32(nil, p.Out.Index)
	}
	j.load(f.number(unix.NFTA_META_DREG), value)
}

// ct loads what conntrack says of the first packet of a connection.
func (j *judge) ct(f fields) {
	const stateNew, invalid = 1 << 3, 1 << 0 // NF_CT_STATE_BIT(IP_CT_NEW), NF_CT_STATE_INVALID_BIT
	var value []byte
	switch key := f.number(unix.NFTA_CT_KEY); {
	case j.packet.Early && key == unix.NFT_CT_STATE:
		value = binary.NativeEndian.AppendUint32(nil, invalid)
	case j.packet.Early: // there is no connection (nft_ct_get_eval in net/netfilter/nft_ct.c)
		j.met(false)
		return
	case key == unix.NFT_CT_STATE:
		value = binary.NativeEndian.AppendUint32(nil, stateNew)
	case key == unix.NFT_CT_STATUS:
		status := uint32(0)
		if j.packet.Translated {
			status = ruleset.StatusDNAT
		}
		value = binary.NativeEndian.AppendUint32(nil, status)
	case key == unix.NFT_CT_DIRECTION:
		value = []byte{0}
	}
	if _, set := f[unix.NFTA_CT_SREG]; !set {
		j.load(f.number(unix.NFTA_CT_DREG), value)
	}
}

// fib loads the type of the destination, if it is an address of this node; of another
// one it depends on the routes.
func (j *judge) fib(f fields) {
	var value []byte
	if f.number(unix.NFTA_FIB_RESULT) == unix.NFT_FIB_RESULT_ADDRTYPE && f.number(unix.NFTA_FIB_FLAGS) == unix.NFTA_FIB_F_DADDR && j.packet.Local {
		value = binary.NativeEndian.AppendUint32(nil, unix.RTN_LOCAL)
	}
	j.load(f.number(unix.NFTA_FIB_DREG), value)
}

func (j *judge) bitwise(f fields) {
	n := int(f.number(unix.NFTA_BITWISE_LEN))
	v, known := j.value(f.number(unix.NFTA_BITWISE_SREG), n)
	mask, xor := f.data(unix.NFTA_BITWISE_MASK), f.data(unix.NFTA_BITWISE_XOR)
	if !known || len(mask) != n || len(xor) != n {
		j.load(f.number(unix.NFTA_BITWISE_DREG), nil)
		return
	}
	out := make([]byte, n)
	for i := range out {
		out[i] = v[i]&mask[i] ^ xor[i]
	}
	j.load(f.number(unix.NFTA_BITWISE_DREG), out)
}

func (j *judge) cmp(f fields) {
	want := f.data(unix.NFTA_CMP_DATA)
	v, known := j.value(f.number(unix.NFTA_CMP_SREG), len(want))
	if !known {
		j.doubt()
		return
	}
	c := bytes.Compare(v, want)
	switch f.number(unix.NFTA_CMP_OP) {
	case unix.NFT_CMP_EQ:
		j.met(c == 0)
	case unix.NFT_CMP_NEQ:
		j.met(c != 0)
	case unix.NFT_CMP_LT:
		j.met(c < 0)
	case unix.NFT_CMP_LTE:
		j.met(c <= 0)
	case unix.NFT_CMP_GT:
		j.met(c > 0)
	case unix.NFT_CMP_GTE:
		j.met(c >= 0)
	}
}

func (j *judge) between(f fields) {
	from, to := f.data(unix.NFTA_RANGE_FROM_DATA), f.data(unix.NFTA_RANGE_TO_DATA)
	v, known := j.value(f.number(unix.NFTA_RANGE_SREG), len(from))
	if !known {
		j.doubt()
		return
	}
	in := bytes.Compare(from, v) <= 0 && bytes.Compare(v, to) <= 0
	j.met(in == (f.number(unix.NFTA_RANGE_OP) != unix.NFT_RANGE_NEQ))
}

func (j *judge) immediate(f fields) {
	register := f.number(unix.NFTA_IMMEDIATE_DREG)
	if register != unix.NFT_REG_VERDICT {
		j.load(register, f.data(unix.NFTA_IMMEDIATE_DATA))
		return
	}
	j.verdict(f[unix.NFTA_IMMEDIATE_DATA])
}

// verdict takes over a verdict. Those that are not understood, such as queue, are
// doubtful.
func (j *judge) verdict(data []byte) {
	v, ok, err := readVerdict(data, "")
	if err != nil || !ok {
		j.doubt()
		v = ruleset.Verdict{Kind: ruleset.Accept}
	}
	j.effect.Verdict = v
}

func (j *judge) lookup(f fields) {
	s := j.sets[f.text(unix.NFTA_LOOKUP_SET)]
	destination, mapped := f[unix.NFTA_LOOKUP_DREG]
	unknown := func() {
		if j.doubt(); mapped && number(destination) == unix.NFT_REG_VERDICT {
			j.effect.Verdict = ruleset.Verdict{Kind: ruleset.Accept} // it may be anything
		}
		if mapped && number(destination) != unix.NFT_REG_VERDICT {
			j.load(number(destination), nil)
		}
	}
	if s == nil || s.opaque {
		unknown()
		return
	}
	key, known := j.value(f.number(unix.NFTA_LOOKUP_SREG), s.keyLen)
	if !known {
		unknown()
		return
	}
	found := s.find(key)
	j.met((found != nil) != (f.number(unix.NFTA_LOOKUP_FLAGS)&unix.NFT_LOOKUP_F_INV != 0))
	switch {
	case found == nil || !mapped:
	case number(destination) == unix.NFT_REG_VERDICT:
		j.verdict(found.data)
	default:
		value, _, _ := only(found.data, unix.NFTA_DATA_VALUE)
		j.load(number(destination), value)
	}
}
