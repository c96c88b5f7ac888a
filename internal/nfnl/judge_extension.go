//go:build linux

package nfnl

import (
	"encoding/binary"
	"net/netip"
)

// extension evaluates a match of iptables that is not one of nf_tables: those that
// are used most. Its contents are structures in the machine's byte order.
func (j *judge) extension(name string, info []byte) {
	host := func(at int) uint16 { return binary.NativeEndian.Uint16(info[at:]) }
	switch {
	case name == "comment", name == "limit": // packets are few, so a limit is not reached
	case name == "rt", name == "frag": // first packets have no such header
		j.met(false)
	case name == "addrtype" && len(info) == 8: // struct xt_addrtype_info_v1
		j.addressType(host(0), host(2), binary.NativeEndian.Uint32(info[4:]))
	case (name == "tcp" || name == "udp") && len(info) >= 10: // struct xt_tcp, xt_udp
		const inverted, flags, invertedTCP = 8, 9, 11
		port := j.packet.Dst.Port()
		switch {
		case name == "udp" && info[inverted] != 0, name == "tcp" && (len(info) <= invertedTCP || info[invertedTCP] != 0 || info[inverted] != 0):
			j.doubt()
		case host(4) > port || port > host(6):
			j.met(false)
		case host(0) != 0 || host(2) != 0xffff || name == "tcp" && info[flags] != 0:
			j.doubt()
		}
	case name == "conntrack" && len(info) >= 152: // struct xt_conntrack_mtinfo3
		const matchFlags, invertFlags, states = 146, 148, 150
		const onlyState, isNew, isTranslated = 1, 1 << 3, 1 << 7
		state := uint16(isNew)
		if j.packet.Translated {
			state |= isTranslated
		}
		if host(matchFlags) != onlyState {
			j.doubt()
			return
		}
		j.met((state&host(states) != 0) != (host(invertFlags)&onlyState != 0))
	default:
		j.doubt()
	}
}

// addressType evaluates the match addrtype, as far as it asks whether the destination
// is an address of this node. What else another address is depends on the routes.
func (j *judge) addressType(source, destination uint16, flags uint32) {
	const local, invertDestination = 1 << 2, 1 << 1 // XT_ADDRTYPE_LOCAL, XT_ADDRTYPE_INVERT_DEST
	if source != 0 || destination == 0 || flags&^invertDestination != 0 || !j.packet.Local && destination != local {
		j.doubt()
		return
	}
	j.met((j.packet.Local && destination&local != 0) != (flags&invertDestination != 0))
}

// sourceOf returns the address that the target SNAT rewrites to, if it is one.
func (j *judge) sourceOf(info []byte) netip.Addr {
	at, size := 4, 16 // struct nf_nat_range: flags, then two unions
	if len(info) < at+2*size {
		at, size = 8, 4 // struct nf_nat_ipv4_multi_range_compat: a count, flags, two addresses
	}
	if len(info) < at+2*size {
		return netip.Addr{}
	}
	n := min(size, len(j.packet.Dst.Addr().AsSlice()))
	from, _ := netip.AddrFromSlice(info[at : at+n])
	to, _ := netip.AddrFromSlice(info[at+size : at+size+n])
	if from != to {
		return netip.Addr{}
	}
	return from
}
