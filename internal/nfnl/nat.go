//go:build linux

package nfnl

import (
	"encoding/binary"
	"net/netip"
	"slices"

	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/nftdp/go-nftdp/internal/ruleset"
)

func (e *ruleEncoder) dnat(s ruleset.DNAT) {
	e.key(s.Key, reg0)
	e.add(&expr.Lookup{SourceRegister: reg0, SetName: s.Map, DestRegister: reg0, IsDestRegSet: true})
	nat := &expr.NAT{Type: expr.NATTypeDestNAT, Family: uint32(e.family), RegAddrMin: reg0, RegAddrMax: reg0}
	if !s.AddrOnly {
		nat.RegProtoMin = reg0 + uint32(e.family.AddrLen())/4
		nat.RegProtoMax = nat.RegProtoMin
	}
	e.add(nat)
}

func (e *ruleEncoder) dnatTo(s ruleset.DNATTo) { e.natTo(expr.NATTypeDestNAT, s.Addr) }

func (e *ruleEncoder) snatTo(s ruleset.SNATTo) {
	e.natTo(expr.NATTypeSourceNAT, netip.AddrPortFrom(s.Addr, 0))
}

// natTo translates to an address and port of the rule itself. The address has
// sixteen bytes of registers in each family, as in nft.
func (e *ruleEncoder) natTo(typ expr.NATType, to netip.AddrPort) {
	const port = reg0 + 4
	nat := &expr.NAT{
		Type: typ, Family: uint32(e.family), RegAddrMin: reg0, RegAddrMax: reg0,
		FullyRandom: typ == expr.NATTypeSourceNAT,
	}
	e.add(&expr.Immediate{Register: reg0, Data: to.Addr().AsSlice()})
	if to.Port() != 0 {
		e.add(&expr.Immediate{Register: port, Data: binary.BigEndian.AppendUint16(nil, to.Port())})
		nat.RegProtoMin, nat.RegProtoMax, nat.Specified = port, port, true
	}
	e.add(nat)
}

// nat knows the translation to an address, and perhaps a port, which are found in
// a map or are part of the rule. The kernel also reports the upper ends of the
// ranges, which are the same registers.
func (d *ruleDecoder) nat() {
	typ, addr := d.u32(unix.NFTA_NAT_TYPE), d.u32(unix.NFTA_NAT_REG_ADDR_MIN)
	port, flags := d.optU32(unix.NFTA_NAT_REG_PROTO_MIN), d.optU32(unix.NFTA_NAT_FLAGS)
	known := uint32(unix.NF_NAT_RANGE_MAP_IPS)
	if port != 0 { // otherwise the packet keeps its own
		known |= unix.NF_NAT_RANGE_PROTO_SPECIFIED
	}
	if typ == unix.NFT_NAT_SNAT {
		known |= unix.NF_NAT_RANGE_PROTO_RANDOM_FULLY
	}
	same := func(typ uint16, reg uint32) bool { return !d.has(typ) || d.u32(typ) == reg }
	d.check(d.u32(unix.NFTA_NAT_FAMILY) == uint32(d.family), "family")
	d.check(same(unix.NFTA_NAT_REG_ADDR_MAX, addr) && same(unix.NFTA_NAT_REG_PROTO_MAX, port), "range")
	if flags&^known != 0 {
		d.opaque("flags %#x", flags)
	}
	if v := d.use(addr); v.from != nil {
		d.natFromMap(typ, v, port)
	} else {
		d.natTo(typ, v, port)
	}
}

func (d *ruleDecoder) natFromMap(typ uint32, v *value, port uint32) {
	want, s := []ruleset.Type{ruleset.Addr, ruleset.Port}, *v.from
	if port == 0 {
		want, s.AddrOnly = want[:1], true
	} else {
		at, ok := wordOf(port)
		d.check(ok && at == v.at+d.family.AddrLen()/4, "port from elsewhere")
	}
	d.check(typ == unix.NFT_NAT_DNAT && slices.Equal(v.of, want), "type, or data of the map")
	d.act(s)
}

func (d *ruleDecoder) natTo(typ uint32, v *value, port uint32) {
	addr, _ := netip.AddrFromSlice(v.data)
	d.check(len(v.data) == d.family.AddrLen(), "address that is not in the rule")
	var number uint16
	if port != 0 {
		if p := d.use(port).data; d.check(len(p) == 2, "port that is not in the rule") {
			number = binary.BigEndian.Uint16(p)
		}
		d.check(number != 0, "port that is not in the rule")
	}
	switch {
	case typ == unix.NFT_NAT_DNAT:
		d.act(ruleset.DNATTo{Addr: netip.AddrPortFrom(addr, number)})
	case d.check(typ == unix.NFT_NAT_SNAT && port == 0, "type"):
		d.check(d.optU32(unix.NFTA_NAT_FLAGS)&unix.NF_NAT_RANGE_PROTO_RANDOM_FULLY != 0, "source port that is not random")
		d.act(ruleset.SNATTo{Addr: addr})
	}
}

// redirect leads to a port of the rule itself.
func (e *ruleEncoder) redirect(s ruleset.Redirect) {
	if s.Port == 0 {
		e.refuse("redirect without a port")
	}
	e.add(&expr.Immediate{Register: reg0, Data: binary.BigEndian.AppendUint16(nil, s.Port)})
	e.add(&expr.Redir{RegisterProtoMin: reg0, RegisterProtoMax: reg0, Flags: unix.NF_NAT_RANGE_PROTO_SPECIFIED})
}

// redir knows a redirection to a single port. The kernel also reports the upper end of
// the range, which is the same register.
func (d *ruleDecoder) redir() {
	port, most := d.u32(unix.NFTA_REDIR_REG_PROTO_MIN), d.optU32(unix.NFTA_REDIR_REG_PROTO_MAX)
	d.check(most == 0 || most == port, "range")
	d.check(d.optU32(unix.NFTA_REDIR_FLAGS)&^unix.NF_NAT_RANGE_PROTO_SPECIFIED == 0, "flags")
	if p := d.use(port).data; d.check(len(p) == 2, "port that is not in the rule") {
		number := binary.BigEndian.Uint16(p)
		d.check(number != 0, "port that is not in the rule")
		d.act(ruleset.Redirect{Port: number})
	}
}

func (e *ruleEncoder) masquerade(ruleset.Masquerade) { e.add(&expr.Masq{FullyRandom: true}) }

func (d *ruleDecoder) masq() {
	d.check(d.optU32(unix.NFTA_MASQ_FLAGS) == unix.NF_NAT_RANGE_PROTO_RANDOM_FULLY, "flags")
	d.act(ruleset.Masquerade{})
}

// setAddr loads what it writes into an address field. It does not use
// expr.Payload, which leaves out the flags where the network header has no
// checksum, as in IPv6.
func (e *ruleEncoder) setAddr(s ruleset.SetAddr) {
	offset, ok := addrOffsets[s.Field]
	switch {
	case !ok || s.From != 0 && !writable(s.From) || s.From == 0 && len(s.Addr.AsSlice()) != e.family.AddrLen():
		e.refuse("write of field %d, address %v, into field %d", s.From, s.Addr, s.Field)
	case s.From == 0:
		e.add(&expr.Immediate{Register: reg0, Data: s.Addr.AsSlice()})
	default:
		e.add(e.field(s.From))
	}
	at := e.list.Nest(unix.NFTA_LIST_ELEM)
	e.list.PutString(unix.NFTA_EXPR_NAME, "payload")
	data := e.list.Nest(unix.NFTA_EXPR_DATA)
	e.list.PutUint32(unix.NFTA_PAYLOAD_SREG, reg0)
	e.list.PutUint32(unix.NFTA_PAYLOAD_BASE, unix.NFT_PAYLOAD_NETWORK_HEADER)
	e.list.PutUint32(unix.NFTA_PAYLOAD_OFFSET, offset.of(e.family))
	e.list.PutUint32(unix.NFTA_PAYLOAD_LEN, uint32(e.family.AddrLen()))
	if typ := checksumType.of(e.family); typ != unix.NFT_PAYLOAD_CSUM_NONE {
		e.list.PutUint32(unix.NFTA_PAYLOAD_CSUM_TYPE, typ)
		e.list.PutUint32(unix.NFTA_PAYLOAD_CSUM_OFFSET, checksumOffset.of(e.family))
	}
	e.list.PutUint32(unix.NFTA_PAYLOAD_CSUM_FLAGS, unix.NFT_PAYLOAD_L4CSUM_PSEUDOHDR)
	e.list.Unnest(data)
	e.list.Unnest(at)
}

// addrOffsets are the places of the addresses that can be written.
var addrOffsets = map[ruleset.Field]inFamily{ruleset.Saddr: saddrOffset, ruleset.Daddr: daddrOffset}

// The checksum of the network header, which IPv6 does not have.
var (
	checksumType   = inFamily{unix.NFT_PAYLOAD_CSUM_INET, unix.NFT_PAYLOAD_CSUM_NONE}
	checksumOffset = inFamily{10, 0}
)

func writable(f ruleset.Field) bool { return f == ruleset.OrigSaddr || f == ruleset.ReplyDaddr }

// payloadWrite knows the addresses of a header, with their checksums.
func (d *ruleDecoder) payloadWrite() {
	base, offset, size := d.u32(unix.NFTA_PAYLOAD_BASE), d.u32(unix.NFTA_PAYLOAD_OFFSET), d.u32(unix.NFTA_PAYLOAD_LEN)
	typ, at := d.optU32(unix.NFTA_PAYLOAD_CSUM_TYPE), d.optU32(unix.NFTA_PAYLOAD_CSUM_OFFSET)
	var s ruleset.SetAddr
	for field, place := range addrOffsets {
		if offset == place.of(d.family) {
			s.Field = field
		}
	}
	if base != unix.NFT_PAYLOAD_NETWORK_HEADER || s.Field == 0 || size != uint32(d.family.AddrLen()) {
		d.opaque("write of %d bytes at %d of header %d", size, offset, base)
	}
	d.check(typ == checksumType.of(d.family) && at == checksumOffset.of(d.family) &&
		d.optU32(unix.NFTA_PAYLOAD_CSUM_FLAGS) == unix.NFT_PAYLOAD_L4CSUM_PSEUDOHDR, "checksum")
	switch v := d.use(d.u32(unix.NFTA_PAYLOAD_SREG)); {
	case len(v.data) == d.family.AddrLen():
		s.Addr, _ = netip.AddrFromSlice(v.data)
	default:
		d.check(v.whole(d.family) && writable(v.op.Field), "value that is written")
		s.From = v.op.Field
	}
	d.act(s)
}
