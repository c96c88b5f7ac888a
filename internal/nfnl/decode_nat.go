//go:build linux

package nfnl

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/nftdp/go-nftdp/internal/ruleset"
)

// nat knows the translation to an address, and perhaps a port, that a map has
// given or that stand in the rule. The kernel reports the upper ends of the
// ranges too; they are the same registers.
func (r *ruleRun) nat(f *fields) error {
	typ, addr := f.u32(unix.NFTA_NAT_TYPE), f.u32(unix.NFTA_NAT_REG_ADDR_MIN)
	flags := f.optU32(unix.NFTA_NAT_FLAGS)
	var port uint32 // 0: the packet's
	if f.has(unix.NFTA_NAT_REG_PROTO_MIN) {
		port = f.u32(unix.NFTA_NAT_REG_PROTO_MIN)
	}
	known := uint32(natRangeAddr)
	if port != 0 {
		known |= natRangePort
	}
	if f.u32(unix.NFTA_NAT_FAMILY) != uint32(r.family) {
		f.fail(unknown("family"))
	}
	same := func(typ uint16, reg uint32) bool { return !f.has(typ) || f.u32(typ) == reg }
	if !same(unix.NFTA_NAT_REG_ADDR_MAX, addr) || !same(unix.NFTA_NAT_REG_PROTO_MAX, port) {
		f.fail(unknown("range"))
	}
	if flags&^known != 0 {
		f.fail(unknown(fmt.Sprintf("flags %#x", flags)))
	}
	if f.err != nil {
		return f.err
	}
	v, err := r.regs.useReg(addr)
	switch {
	case err != nil:
		return err
	case v.from != nil:
		return r.natFromMap(typ, v, port)
	}
	return r.natTo(typ, v, port)
}

func (r *ruleRun) natFromMap(typ uint32, v *value, port uint32) error {
	want := []ruleset.Type{ruleset.Addr, ruleset.Port}
	s := *v.from
	if port == 0 {
		want, s.AddrOnly = want[:1], true
	} else if at, ok := wordOf(port); !ok || at != v.at+r.family.AddrLen()/4 {
		return unknown("port from elsewhere")
	}
	if typ != unix.NFT_NAT_DNAT || !slices.Equal(v.of, want) {
		return unknown("type, or data of the map")
	}
	return r.act(s)
}

func (r *ruleRun) natTo(typ uint32, v *value, port uint32) error {
	addr, ok := netip.AddrFromSlice(v.data)
	if !ok || len(v.data) != r.family.AddrLen() {
		return unknown("address that is not in the rule")
	}
	var number uint16
	if port != 0 {
		p, err := r.regs.useReg(port)
		if err != nil {
			return err
		}
		if len(p.data) != 2 || binary.BigEndian.Uint16(p.data) == 0 {
			return unknown("port that is not in the rule")
		}
		number = binary.BigEndian.Uint16(p.data)
	}
	switch {
	case typ == unix.NFT_NAT_DNAT:
		return r.act(ruleset.DNATTo{Addr: netip.AddrPortFrom(addr, number)})
	case typ == unix.NFT_NAT_SNAT && port == 0:
		return r.act(ruleset.SNATTo{Addr: addr})
	}
	return unknown("type")
}
