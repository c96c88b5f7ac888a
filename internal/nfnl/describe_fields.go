//go:build linux

package nfnl

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/nftdp/go-nftdp/internal/ruleset"
)

// payload names a field of a header, or its place as nft does.
func (d *describer) payload(f fields) {
	base, offset, size := f.number(unix.NFTA_PAYLOAD_BASE), f.number(unix.NFTA_PAYLOAD_OFFSET), f.number(unix.NFTA_PAYLOAD_LEN)
	if _, written := f[unix.NFTA_PAYLOAD_SREG]; written {
		d.loaded = nil
		d.say("set field of header")
		return
	}
	type place struct{ base, offset, size uint32 }
	ip := d.ipVersion(offset, size)
	known := map[place]struct {
		name string
		show func([]byte) string
	}{
		{unix.NFT_PAYLOAD_LL_HEADER, 0, 6}:         {"ether daddr", ether},
		{unix.NFT_PAYLOAD_LL_HEADER, 6, 6}:         {"ether saddr", ether},
		{unix.NFT_PAYLOAD_LL_HEADER, 12, 2}:        {"ether type", hex},
		{unix.NFT_PAYLOAD_TRANSPORT_HEADER, 0, 2}:  {"th sport", port},
		{unix.NFT_PAYLOAD_TRANSPORT_HEADER, 2, 2}:  {"th dport", port},
		{unix.NFT_PAYLOAD_TRANSPORT_HEADER, 0, 1}:  {"icmp type", decimal},
		{unix.NFT_PAYLOAD_TRANSPORT_HEADER, 13, 1}: {"tcp flags", hex},
	}
	if base == unix.NFT_PAYLOAD_NETWORK_HEADER {
		d.network(ip, offset, size)
		return
	}
	if field, ok := known[place{base, offset, size}]; ok {
		if port, ok := strings.CutPrefix(field.name, "th "); ok && d.l4proto != "" {
			field.name = d.l4proto + " " + port
		}
		d.load(field.name, field.show)
		return
	}
	d.load(fmt.Sprintf("@%s,%d,%d", []string{"ll", "nh", "th", "ih"}[base&3], 8*offset, 8*size), hex)
}

// ipVersion is that of a field of the network header: the rule's family, or that
// which it has matched, or the one that has such a field.
func (d *describer) ipVersion(offset, size uint32) string {
	switch {
	case d.family == unix.NFPROTO_IPV6, d.proto == unix.NFPROTO_IPV6:
		return "ip6"
	case d.family == unix.NFPROTO_IPV4, d.proto == unix.NFPROTO_IPV4:
		return "ip"
	case offset >= 24 || offset == 8 && size > 4:
		return "ip6"
	}
	return "ip"
}

// network names a field of the network header. nft loads only the first bytes of an
// address to compare it with a prefix of whole bytes.
func (d *describer) network(ip string, offset, size uint32) {
	first, length := uint32(12), uint32(4)
	if ip == "ip6" {
		first, length = 8, 16
	}
	show := func(v []byte) string {
		if len(v) == int(length) {
			return address(v)
		}
		padded, ok := netip.AddrFromSlice(append(bytes.Clone(v), make([]byte, max(0, int(length)-len(v)))...))
		if !ok {
			return hex(v)
		}
		return netip.PrefixFrom(padded, 8*len(v)).String()
	}
	switch {
	case offset == first && size <= length:
		d.load(ip+" saddr", show)
	case offset == first+length && size <= length:
		d.load(ip+" daddr", show)
	case ip == "ip" && offset == 9 && size == 1:
		d.load("ip protocol", protocol)
	case ip == "ip6" && offset == 6 && size == 1:
		d.load("ip6 nexthdr", protocol)
	default:
		d.load(fmt.Sprintf("@nh,%d,%d", 8*offset, 8*size), hex)
	}
}

// meta names a property of the packet.
func (d *describer) meta(f fields) {
	known := map[uint32]struct {
		name string
		show func([]byte) string
	}{
		unix.NFT_META_PROTOCOL: {"meta protocol", hex},
		unix.NFT_META_MARK:     {"meta mark", number32},
		unix.NFT_META_IIF:      {"iif", index},
		unix.NFT_META_OIF:      {"oif", index},
		unix.NFT_META_IIFNAME:  {"iifname", device},
		unix.NFT_META_OIFNAME:  {"oifname", device},
		unix.NFT_META_SKUID:    {"meta skuid", index},
		unix.NFT_META_L4PROTO:  {"meta l4proto", protocol},
		unix.NFT_META_NFPROTO:  {"meta nfproto", nfproto},
		unix.NFT_META_PKTTYPE:  {"pkttype", decimal},
		unix.NFT_META_NFTRACE:  {"meta nftrace", decimal},
	}
	field, ok := known[f.number(unix.NFTA_META_KEY)]
	if !ok {
		field.name, field.show = "meta "+strconv.Itoa(int(f.number(unix.NFTA_META_KEY))), hex
	}
	if _, set := f[unix.NFTA_META_SREG]; set {
		d.say("%s set %s", field.name, d.use().as(field.show))
		return
	}
	d.load(field.name, field.show)
}

// ct names a property of the connection.
func (d *describer) ct(f fields) {
	known := map[uint32]struct {
		name string
		show func([]byte) string
	}{
		unix.NFT_CT_STATE:     {"state", states("invalid established related new", 64, "untracked")},
		unix.NFT_CT_STATUS:    {"status", states("expected seen-reply assured confirmed snat dnat", 0, "")},
		unix.NFT_CT_MARK:      {"mark", number32},
		unix.NFT_CT_DIRECTION: {"direction", decimal},
		unix.NFT_CT_PROTO_SRC: {"proto-src", port},
		unix.NFT_CT_PROTO_DST: {"proto-dst", port},
		unix.NFT_CT_SRC:       {"saddr", address},
		unix.NFT_CT_DST:       {"daddr", address},
		19:                    {"ip saddr", address}, // NFT_CT_SRC_IP and those after it
		20:                    {"ip daddr", address},
		21:                    {"ip6 saddr", address},
		22:                    {"ip6 daddr", address},
	}
	field, ok := known[f.number(unix.NFTA_CT_KEY)]
	if !ok {
		field.name, field.show = strconv.Itoa(int(f.number(unix.NFTA_CT_KEY))), hex
	}
	name := "ct "
	if v := f[unix.NFTA_CT_DIRECTION]; len(v) == 1 {
		name += map[byte]string{0: "original ", 1: "reply "}[v[0]]
	}
	if _, set := f[unix.NFTA_CT_SREG]; set {
		d.say("%s%s set %s", name, field.name, d.use().as(field.show))
		return
	}
	d.load(name+field.name, field.show)
}

// as shows what is written to a field.
func (l loadedText) as(show func([]byte) string) string {
	if l.data != nil {
		return show(l.data)
	}
	return l.name
}

func (d *describer) fib(f fields) {
	words := []string{"fib"}
	for _, w := range []struct {
		flag uint32
		word string
	}{
		{unix.NFTA_FIB_F_SADDR, "saddr"},
		{unix.NFTA_FIB_F_DADDR, "daddr"},
		{unix.NFTA_FIB_F_MARK, "mark"},
		{unix.NFTA_FIB_F_IIF, "iif"},
		{unix.NFTA_FIB_F_OIF, "oif"},
	} {
		if f.number(unix.NFTA_FIB_FLAGS)&w.flag != 0 {
			words = append(words, w.word)
		}
	}
	name := strings.Join(words, " ")
	switch f.number(unix.NFTA_FIB_RESULT) {
	case unix.NFT_FIB_RESULT_ADDRTYPE:
		d.load(name+" type", func(v []byte) string {
			types := map[string]string{"1": "unicast", "2": "local", "3": "broadcast", "5": "multicast"}
			if word, ok := types[index(v)]; ok {
				return word
			}
			return index(v)
		})
	default:
		d.load(name+" oif", index)
	}
}

func hex(v []byte) string { return fmt.Sprintf("0x%x", v) }

func address(v []byte) string {
	if a, ok := netip.AddrFromSlice(v); ok {
		return a.String()
	}
	return hex(v)
}

func ether(v []byte) string {
	var words []string
	for _, b := range v {
		words = append(words, fmt.Sprintf("%02x", b))
	}
	return strings.Join(words, ":")
}

func port(v []byte) string {
	if len(v) != 2 {
		return hex(v)
	}
	return strconv.Itoa(int(binary.BigEndian.Uint16(v)))
}

func decimal(v []byte) string {
	if len(v) != 1 {
		return hex(v)
	}
	return strconv.Itoa(int(v[0]))
}

func protocol(v []byte) string {
	if len(v) != 1 {
		return hex(v)
	}
	switch v[0] {
	case unix.IPPROTO_ICMP:
		return "icmp"
	case unix.IPPROTO_ICMPV6:
		return "ipv6-icmp"
	}
	return ruleset.ProtoName(v[0])
}

func nfproto(v []byte) string {
	if len(v) == 1 && v[0] == unix.NFPROTO_IPV4 {
		return "ipv4"
	}
	if len(v) == 1 && v[0] == unix.NFPROTO_IPV6 {
		return "ipv6"
	}
	return decimal(v)
}

// number32 shows a number in the machine's byte order, as nft shows marks.
func number32(v []byte) string {
	if len(v) != 4 {
		return hex(v)
	}
	return fmt.Sprintf("%#08x", binary.NativeEndian.Uint32(v))
}

func index(v []byte) string {
	if len(v) != 4 {
		return hex(v)
	}
	return strconv.Itoa(int(binary.NativeEndian.Uint32(v)))
}

// device shows a name. One without its terminating zeros is a prefix of names.
func device(v []byte) string {
	name, padded, _ := strings.Cut(string(v), "\x00")
	if len(v) < unix.IFNAMSIZ && padded == "" && !strings.HasSuffix(string(v), "\x00") {
		name += "*"
	}
	return strconv.Quote(name)
}

// states shows a set of bits by the words for the lowest ones, and one for another.
func states(words string, bit uint32, word string) func([]byte) string {
	return func(v []byte) string {
		if len(v) != 4 {
			return hex(v)
		}
		n, out := binary.NativeEndian.Uint32(v), []string{}
		for i, w := range strings.Fields(words) {
			if n>>i&1 != 0 {
				out = append(out, w)
			}
		}
		if n&bit != 0 {
			out = append(out, word)
		}
		if len(out) == 0 {
			return hex(v)
		}
		return strings.Join(out, ",")
	}
}
