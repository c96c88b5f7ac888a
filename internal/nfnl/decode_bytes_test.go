//go:build linux

package nfnl

import (
	"encoding/binary"
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/nftdp/go-nftdp/internal/ruleset"
)

// Messages that stock nft does not cause are built of bytes here.

// attr is an attribute whose value is the concatenated parts.
func attr(typ uint16, parts ...[]byte) []byte {
	val := slices.Concat(parts...)
	b := binary.NativeEndian.AppendUint16(nil, uint16(len(val)+unix.NLA_HDRLEN))
	b = append(binary.NativeEndian.AppendUint16(b, typ), val...)
	return append(b, make([]byte, -len(b)&3)...)
}

func num(v uint32) []byte { return binary.BigEndian.AppendUint32(nil, v) }

func num64(v uint64) []byte { return binary.BigEndian.AppendUint64(nil, v) }

func host(v uint32) []byte { return binary.NativeEndian.AppendUint32(nil, v) }

func zstr(s string) []byte { return append([]byte(s), 0) }

func valueOf(b ...byte) []byte { return attr(unix.NFTA_DATA_VALUE, b) }

func message(f ruleset.Family, attrs ...[]byte) []byte {
	return append([]byte{byte(f), 0, 0, 0}, slices.Concat(attrs...)...)
}

// expression is an item of a list of expressions.
func expression(name string, attrs ...[]byte) []byte {
	return attr(unix.NFTA_LIST_ELEM, attr(unix.NFTA_EXPR_NAME, zstr(name)), attr(unix.NFTA_EXPR_DATA, attrs...))
}

func ruleMessage(f ruleset.Family, expressions ...[]byte) []byte {
	return message(f, attr(unix.NFTA_RULE_TABLE, zstr("t")), attr(unix.NFTA_RULE_CHAIN, zstr("c")),
		attr(unix.NFTA_RULE_EXPRESSIONS, expressions...))
}

func loadL4proto(reg uint32) []byte {
	return expression("meta", attr(unix.NFTA_META_DREG, num(reg)), attr(unix.NFTA_META_KEY, num(unix.NFT_META_L4PROTO)))
}

func loadPayload(reg, base, offset, size uint32, more ...[]byte) []byte {
	return expression("payload", attr(unix.NFTA_PAYLOAD_DREG, num(reg)), attr(unix.NFTA_PAYLOAD_BASE, num(base)),
		attr(unix.NFTA_PAYLOAD_OFFSET, num(offset)), attr(unix.NFTA_PAYLOAD_LEN, num(size)), slices.Concat(more...))
}

func loadDaddr(reg uint32) []byte { return loadPayload(reg, unix.NFT_PAYLOAD_NETWORK_HEADER, 16, 4) }

func loadDport(reg uint32) []byte { return loadPayload(reg, unix.NFT_PAYLOAD_TRANSPORT_HEADER, 2, 2) }

func loadStatus() []byte {
	return expression("ct", attr(unix.NFTA_CT_DREG, num(unix.NFT_REG_1)), attr(unix.NFTA_CT_KEY, num(unix.NFT_CT_STATUS)))
}

func loadRandom(reg, mod uint32) []byte {
	return expression("numgen", attr(unix.NFTA_NG_DREG, num(reg)), attr(unix.NFTA_NG_MODULUS, num(mod)),
		attr(unix.NFTA_NG_TYPE, num(unix.NFT_NG_RANDOM)))
}

func and(sreg, dreg uint32, mask []byte) []byte {
	return expression("bitwise", attr(unix.NFTA_BITWISE_SREG, num(sreg)), attr(unix.NFTA_BITWISE_DREG, num(dreg)),
		attr(unix.NFTA_BITWISE_LEN, num(uint32(len(mask)))),
		attr(unix.NFTA_BITWISE_MASK, valueOf(mask...)), attr(unix.NFTA_BITWISE_XOR, valueOf(make([]byte, len(mask))...)))
}

func compare(reg, op uint32, val ...byte) []byte {
	return expression("cmp", attr(unix.NFTA_CMP_SREG, num(reg)), attr(unix.NFTA_CMP_OP, num(op)),
		attr(unix.NFTA_CMP_DATA, valueOf(val...)))
}

func lookUp(set string, reg uint32, more ...[]byte) []byte {
	return expression("lookup", attr(unix.NFTA_LOOKUP_SET, zstr(set)), attr(unix.NFTA_LOOKUP_SREG, num(reg)), slices.Concat(more...))
}

func into(reg uint32) []byte { return attr(unix.NFTA_LOOKUP_DREG, num(reg)) }

func dnatTo(addr, port uint32) []byte {
	return expression("nat", attr(unix.NFTA_NAT_TYPE, num(unix.NFT_NAT_DNAT)), attr(unix.NFTA_NAT_FAMILY, num(unix.NFPROTO_IPV4)),
		attr(unix.NFTA_NAT_REG_ADDR_MIN, num(addr)), attr(unix.NFTA_NAT_REG_PROTO_MIN, num(port)))
}

func verdictExpr(code uint32) []byte {
	return expression("immediate", attr(unix.NFTA_IMMEDIATE_DREG, num(unix.NFT_REG_VERDICT)),
		attr(unix.NFTA_IMMEDIATE_DATA, attr(unix.NFTA_DATA_VERDICT, attr(unix.NFTA_VERDICT_CODE, num(code)))))
}

func syntheticTable() *ruleset.Table {
	endpoint := []ruleset.Type{ruleset.Addr, ruleset.Port}
	return &ruleset.Table{Family: ruleset.IPv4, Name: "t", Sets: []*ruleset.Set{
		{Name: "protos", Key: []ruleset.Type{ruleset.Proto}},
		{Name: "addrs", Key: []ruleset.Type{ruleset.Addr}},
		{Name: "map", Key: endpoint, Data: endpoint},
		{Name: "slots", Key: []ruleset.Type{ruleset.Slot}, Data: endpoint},
		{Name: "ports", Key: []ruleset.Type{ruleset.Port}, Data: []ruleset.Type{ruleset.Port}},
	}}
}

func TestDecodeRuleBytes(t *testing.T) {
	dnat := ruleset.DNAT{Key: ops(ruleset.Daddr, ruleset.Dport), Map: "map"}
	isTCP := equals(ruleset.L4proto, tcp)
	dnatBit := host(ruleset.StatusDNAT)
	dropped := verdictExpr(0)
	eq, neq := uint32(unix.NFT_CMP_EQ), uint32(unix.NFT_CMP_NEQ)
	for name, c := range map[string]struct {
		expressions [][]byte
		want        ruleset.Rule
	}{
		"no expressions":           {nil, nil},
		"names of one register":    {[][]byte{loadL4proto(8), compare(1, eq, tcp)}, ruleset.Rule{isTCP}},
		"a value used twice":       {[][]byte{loadL4proto(8), compare(8, eq, tcp), lookUp("protos", 1)}, ruleset.Rule{isTCP, ruleset.Lookup{Key: ops(ruleset.L4proto), Set: "protos"}}},
		"bit in another register":  {[][]byte{loadStatus(), and(1, 20, dnatBit), compare(20, neq, 0, 0, 0, 0)}, ruleset.Rule{equals(ruleset.CtStatus, ruleset.StatusDNAT)}},
		"bit compared with itself": {[][]byte{loadStatus(), and(1, 1, dnatBit), compare(1, eq, dnatBit...)}, ruleset.Rule{equals(ruleset.CtStatus, ruleset.StatusDNAT)}},
		"masked single bytes": {
			[][]byte{loadPayload(1, 1, 16, 2), and(1, 1, []byte{0xff, 0xf0}), compare(1, eq, 172, 16)},
			ruleset.Rule{ruleset.MatchAddr{Field: ruleset.Daddr, Prefix: netip.MustParsePrefix("172.16.0.0/12")}},
		},
		"dnat": {[][]byte{loadDaddr(8), loadDport(9), lookUp("map", 8, into(12)), dnatTo(12, 13)}, ruleset.Rule{dnat}},
		"match between load and use": {
			[][]byte{loadDaddr(8), loadL4proto(10), compare(10, eq, tcp), loadDport(9), lookUp("map", 8, into(12)), dnatTo(12, 13)},
			ruleset.Rule{isTCP, dnat},
		},

		"unused load":                  {[][]byte{loadL4proto(1), dropped}, opaqueRule("immediate: value that is loaded and not used before it")},
		"unused load at the end":       {[][]byte{dropped, loadL4proto(1)}, opaqueRule("value that is loaded and not used")},
		"verdict between load and use": {[][]byte{loadL4proto(1), dropped, compare(1, eq, tcp)}, opaqueRule("immediate: value that is loaded and not used before it")},
		"statement between map and dnat": {
			[][]byte{loadDaddr(8), loadDport(9), lookUp("map", 8, into(12)), dropped, dnatTo(12, 13)},
			opaqueRule("immediate: value that is loaded and not used before it"),
		},
		"unused data of a map":       {[][]byte{loadDport(8), lookUp("ports", 8, into(8))}, opaqueRule("value that is loaded and not used")},
		"random number used twice":   {[][]byte{loadRandom(8, 3), lookUp("slots", 8, into(12)), dnatTo(12, 13), lookUp("slots", 8, into(12)), dnatTo(12, 13)}, opaqueRule("lookup: part of a value")},
		"address and port of two":    {[][]byte{loadDaddr(8), loadDport(9), lookUp("map", 8, into(12)), lookUp("map", 8, into(14)), dnatTo(12, 15)}, opaqueRule("nat: port from elsewhere")},
		"dnat to a packet's address": {[][]byte{loadDaddr(8), loadDport(9), dnatTo(8, 9)}, opaqueRule("nat: address that is not in the rule")},
		"key of other types":         {[][]byte{loadDport(8), loadDaddr(9), lookUp("map", 8, into(12)), dnatTo(12, 13)}, opaqueRule("lookup: type of a lookup's key")},
		"part of an address as key":  {[][]byte{loadPayload(8, 1, 16, 3), lookUp("addrs", 8)}, opaqueRule("lookup: type of a lookup's key")},
		"masked key":                 {[][]byte{loadDaddr(8), and(8, 8, []byte{0xff, 0, 0, 0}), lookUp("addrs", 8)}, opaqueRule("lookup: type of a lookup's key")},
		"key that is not loaded":     {[][]byte{loadDaddr(8), lookUp("map", 8, into(12))}, opaqueRule("lookup: register that is not loaded")},
		"key after the registers":    {[][]byte{loadDaddr(23), lookUp("map", 23, into(12))}, opaqueRule("lookup: register that is not loaded")},
		"map into the last register": {[][]byte{loadDaddr(8), loadDport(9), lookUp("map", 8, into(23))}, opaqueRule("lookup: register")},
		"data into the verdict":      {[][]byte{loadDport(8), lookUp("ports", 8, into(0))}, opaqueRule("lookup: register")},
		"no such register":           {[][]byte{loadDaddr(7)}, opaqueRule("payload: register")},
		"register overwritten":       {[][]byte{loadDaddr(8), loadDport(9), lookUp("map", 8, into(12)), loadL4proto(13), compare(13, eq, tcp), dnatTo(12, 13)}, opaqueRule("nat: part of a value")},
		"second half of a value":     {[][]byte{loadDaddr(8), loadDport(9), lookUp("map", 8, into(12)), compare(13, eq, 0, 80)}, opaqueRule("cmp: part of a value")},
		"comparison of a part":       {[][]byte{loadDaddr(8), compare(8, eq, 10)}, opaqueRule("cmp: part of a value")},
		"mask twice":                 {[][]byte{loadDaddr(8), and(8, 8, []byte{0xff, 0, 0, 0}), and(8, 8, []byte{0xff, 0, 0, 0})}, opaqueRule("bitwise: operand")},
		"two bits":                   {[][]byte{loadStatus(), and(1, 1, host(0x30)), compare(1, neq, 0, 0, 0, 0)}, opaqueRule("cmp: operation")},
		"one bit against another":    {[][]byte{loadStatus(), and(1, 1, dnatBit), compare(1, eq, host(0x10)...)}, opaqueRule("cmp: operation")},
		"no such set":                {[][]byte{loadDaddr(8), lookUp("gone", 8)}, opaqueRule("lookup: set gone")},
		"payload with a checksum":    {[][]byte{loadPayload(8, 1, 16, 4, attr(unix.NFTA_PAYLOAD_CSUM_TYPE, num(0)))}, opaqueRule("payload: checksum of what is read")},
		"attribute of a new kernel":  {[][]byte{loadPayload(8, 1, 16, 4, attr(77, num(0)))}, opaqueRule("payload: attribute 77")},
		"attribute twice":            {[][]byte{expression("reject", attr(1, num(1)), attr(1, num(1)))}, opaqueRule("reject: attribute 1")},
		"attribute of other length":  {[][]byte{expression("reject", attr(1, []byte{1}))}, opaqueRule("reject: attribute 1 of 1 bytes")},
		"queue":                      {[][]byte{verdictExpr(0x10003)}, opaqueRule("immediate: not a verdict that has a form")},
		"jump without a chain":       {[][]byte{verdictExpr(0xfffffffd)}, opaqueRule("immediate: not a verdict that has a form")},
		"no name":                    {[][]byte{attr(unix.NFTA_LIST_ELEM)}, opaqueRule(": not known")},
		"not an expression":          {[][]byte{attr(9)}, opaqueRule("list of expressions")},
		"reject by icmpx":            {[][]byte{expression("reject", attr(1, num(2)), attr(2, []byte{1}))}, opaqueRule("reject: type 2 code 1")},
	} {
		t.Run(name, func(t *testing.T) {
			_, _, _, got, err := DecodeRule(ruleMessage(ruleset.IPv4, c.expressions...), syntheticTable().Names())
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(c.want, got, byValue); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
		})
	}
}

func opaqueRule(what string) ruleset.Rule { return ruleset.Rule{ruleset.Opaque{What: what}} }

// TestDecodeForeignRule decodes rules of a table whose sets are not known, and one
// with an attribute that is not known.
func TestDecodeForeignRule(t *testing.T) {
	lookup := ruleMessage(ruleset.IPv4, loadDaddr(8), lookUp("addrs", 8))
	other := syntheticTable()
	other.Name = "other"
	for _, table := range []*ruleset.Table{nil, other, {Family: ruleset.IPv6, Name: "t"}} {
		if _, _, _, got, err := DecodeRule(lookup, table.Names()); err != nil || !cmp.Equal(got, opaqueRule("lookup: set addrs"), byValue) {
			t.Errorf("got %v, %v", got, err)
		}
	}
	compat := append(lookup, attr(unix.NFTA_RULE_COMPAT, num(0))...)
	if _, _, _, got, err := DecodeRule(compat, syntheticTable().Names()); err != nil || !cmp.Equal(got, opaqueRule("attribute 5"), byValue) {
		t.Errorf("got %v, %v", got, err)
	}
}

func counterAttrs(packets, size uint64) []byte {
	return slices.Concat(attr(unix.NFTA_EXPR_NAME, zstr("counter")), attr(unix.NFTA_EXPR_DATA,
		attr(unix.NFTA_COUNTER_BYTES, num64(size)), attr(unix.NFTA_COUNTER_PAD), attr(unix.NFTA_COUNTER_PACKETS, num64(packets))))
}

func elementsMessage(elements ...[]byte) []byte {
	return message(ruleset.IPv4, attr(unix.NFTA_SET_ELEM_LIST_TABLE, zstr("t")), attr(unix.NFTA_SET_ELEM_LIST_SET, zstr("s")),
		attr(unix.NFTA_SET_ELEM_LIST_ELEMENTS, elements...))
}

func element(attrs ...[]byte) []byte { return attr(unix.NFTA_LIST_ELEM, attrs...) }

func TestDecodeElementBytes(t *testing.T) {
	key := attr(unix.NFTA_SET_ELEM_KEY, valueOf(host(258)...))
	data := attr(unix.NFTA_SET_ELEM_DATA, valueOf(0, 80))
	want := ruleset.Element{Key: ruleset.Tuple{}.Slot(258), Data: portTuple(80)}
	counted, opaque, keyless := want, want, want
	counted.Packets, counted.Bytes = 3, 4
	opaque.Opaque, keyless.Opaque = true, true
	keyless.Key = ruleset.Tuple{}
	opaqueCounted, commented := counted, want
	opaqueCounted.Opaque = true
	commented.Comment = "x"
	one := attr(unix.NFTA_LIST_ELEM, counterAttrs(3, 4))
	for name, c := range map[string]struct {
		attrs [][]byte
		want  ruleset.Element
	}{
		"plain":               {[][]byte{key, data}, want},
		"counter":             {[][]byte{key, data, attr(unix.NFTA_SET_ELEM_EXPR, counterAttrs(3, 4))}, counted},
		"list of a counter":   {[][]byte{key, data, attr(nftaSetElemExpressions, one)}, counted},
		"two counters":        {[][]byte{key, data, attr(nftaSetElemExpressions, one, one)}, opaqueCounted},
		"both attributes":     {[][]byte{key, data, attr(unix.NFTA_SET_ELEM_EXPR, counterAttrs(3, 4)), attr(nftaSetElemExpressions, one)}, opaqueCounted},
		"empty list":          {[][]byte{key, data, attr(nftaSetElemExpressions)}, opaque},
		"quota":               {[][]byte{key, data, attr(unix.NFTA_SET_ELEM_EXPR, attr(unix.NFTA_EXPR_NAME, zstr("quota")))}, opaque},
		"comment":             {[][]byte{key, data, attr(unix.NFTA_SET_ELEM_USERDATA, []byte{0, 2, 'x', 0})}, commented},
		"comment and more":    {[][]byte{key, data, attr(unix.NFTA_SET_ELEM_USERDATA, []byte{0, 2, 'x', 0, 9, 0})}, opaque},
		"user data cut off":   {[][]byte{key, data, attr(unix.NFTA_SET_ELEM_USERDATA, []byte{0, 3, 'x', 0})}, opaque},
		"timeout":             {[][]byte{key, data, attr(unix.NFTA_SET_ELEM_TIMEOUT, num64(1))}, opaque},
		"expiration":          {[][]byte{key, data, attr(unix.NFTA_SET_ELEM_EXPIRATION, num64(1))}, opaque},
		"object":              {[][]byte{key, data, attr(unix.NFTA_SET_ELEM_OBJREF, zstr("o"))}, opaque},
		"new attribute":       {[][]byte{key, data, attr(99)}, opaque},
		"catch-all":           {[][]byte{data, attr(unix.NFTA_SET_ELEM_FLAGS, num(2))}, keyless},
		"flag of no interval": {[][]byte{key, data, attr(unix.NFTA_SET_ELEM_FLAGS, num(1))}, opaque},
		"long key":            {[][]byte{attr(unix.NFTA_SET_ELEM_KEY, valueOf(make([]byte, 80)...)), data}, keyless},
		"verdict for data":    {[][]byte{key, attr(unix.NFTA_SET_ELEM_DATA, attr(unix.NFTA_DATA_VERDICT))}, ruleset.Element{Key: want.Key, Opaque: true}},
		"no data":             {[][]byte{key}, ruleset.Element{Key: want.Key, Opaque: true}},
	} {
		t.Run(name, func(t *testing.T) {
			s := &ruleset.Set{Name: "s", Key: []ruleset.Type{ruleset.Slot}, Data: []ruleset.Type{ruleset.Port}, Counter: true}
			var got []ruleset.Element
			err := DecodeElements(elementsMessage(element(c.attrs...)), s, ruleset.IPv4, func(e ruleset.Element) { got = append(got, e) })
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff([]ruleset.Element{c.want}, got, byValue); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
			if (s.Opaque != "") != c.want.Key.IsZero() {
				t.Errorf("set is opaque: %q", s.Opaque)
			}
		})
	}
}

// TestDecodeOtherElements leaves the elements of other sets alone.
func TestDecodeOtherElements(t *testing.T) {
	s := &ruleset.Set{Name: "another"}
	err := DecodeElements(elementsMessage(element()), s, ruleset.IPv4, func(e ruleset.Element) { t.Error(e) })
	if err != nil || s.Opaque != "" {
		t.Errorf("got %v; %q", err, s.Opaque)
	}
}

func setMessage(attrs ...[]byte) []byte {
	return message(ruleset.IPv4, attr(unix.NFTA_SET_TABLE, zstr("t")), attr(unix.NFTA_SET_NAME, zstr("s")), slices.Concat(attrs...))
}

func keyAttrs(typ, size uint32) []byte {
	return slices.Concat(attr(unix.NFTA_SET_KEY_TYPE, num(typ)), attr(unix.NFTA_SET_KEY_LEN, num(size)))
}

func TestDecodeSetBytes(t *testing.T) {
	const addrPort = nftTypeIPv4Addr<<nftTypeBits | nftTypeInetService
	endpoint := []ruleset.Type{ruleset.Addr, ruleset.Port}
	addr := []ruleset.Type{ruleset.Addr}
	key, pair := keyAttrs(nftTypeIPv4Addr, 4), keyAttrs(addrPort, 8)
	one := attr(unix.NFTA_LIST_ELEM, counterAttrs(0, 0))
	flags := func(v uint32) []byte { return attr(unix.NFTA_SET_FLAGS, num(v)) }
	lengths := func(n ...uint32) []byte {
		var list []byte
		for _, v := range n {
			list = append(list, attr(unix.NFTA_LIST_ELEM, attr(nftaSetFieldLen, num(v)))...)
		}
		return attr(unix.NFTA_SET_DESC, attr(unix.NFTA_SET_DESC_SIZE, num(9)), attr(nftaSetDescConcat, list))
	}
	for name, c := range map[string]struct {
		attrs [][]byte
		want  ruleset.Set
	}{
		"plain":                {[][]byte{key}, ruleset.Set{Key: addr}},
		"counter":              {[][]byte{key, attr(nftaSetExpr, counterAttrs(0, 0))}, ruleset.Set{Key: addr, Counter: true}},
		"list of a counter":    {[][]byte{key, attr(nftaSetExpressions, one)}, ruleset.Set{Key: addr, Counter: true}},
		"two counters":         {[][]byte{key, attr(nftaSetExpressions, one, one)}, ruleset.Set{Key: addr, Opaque: "expressions"}},
		"lengths":              {[][]byte{pair, flags(0x84), lengths(4, 2)}, ruleset.Set{Key: endpoint, Interval: true, Size: 9}},
		"wrong lengths":        {[][]byte{pair, flags(0x84), lengths(2, 4)}, ruleset.Set{Key: endpoint, Interval: true, Size: 9, Opaque: "lengths of a concatenation's fields"}},
		"few lengths":          {[][]byte{pair, flags(0x84), lengths(4)}, ruleset.Set{Key: endpoint, Interval: true, Size: 9, Opaque: "number of a concatenation's fields"}},
		"one long number":      {[][]byte{pair, flags(0x04)}, ruleset.Set{Key: endpoint, Interval: true, Opaque: "interval of a concatenation"}},
		"interval of numbers":  {[][]byte{keyAttrs(nftTypeInteger, 4), flags(0x04)}, ruleset.Set{Key: []ruleset.Type{ruleset.Slot}, Interval: true, Opaque: "interval of numbers"}},
		"wrong size":           {[][]byte{keyAttrs(nftTypeIPv4Addr, 8)}, ruleset.Set{Opaque: "type 0x7 of 8 bytes"}},
		"no type":              {[][]byte{keyAttrs(0, 4)}, ruleset.Set{Opaque: "type 0x0 of 4 bytes"}},
		"policy":               {[][]byte{key, attr(unix.NFTA_SET_POLICY, num(1))}, ruleset.Set{Key: addr, Opaque: "policy"}},
		"interval of timeouts": {[][]byte{key, attr(unix.NFTA_SET_GC_INTERVAL, num(1))}, ruleset.Set{Key: addr, Opaque: "attribute 12"}},
		"dynamic":              {[][]byte{key, flags(0x30)}, ruleset.Set{Key: addr, Dynamic: true}},
		"dynamic intervals":    {[][]byte{key, flags(0x34)}, ruleset.Set{Key: addr, Interval: true, Opaque: "flags 0x34"}},
		"new attribute":        {[][]byte{key, attr(23)}, ruleset.Set{Key: addr, Opaque: "attribute 23"}},
		"what 6.16 reports":    {[][]byte{key, attr(nftaSetType, zstr("hash")), attr(nftaSetCount, num(4))}, ruleset.Set{Key: addr}},
	} {
		t.Run(name, func(t *testing.T) {
			c.want.Name = "s"
			table, f, got, err := DecodeSet(setMessage(c.attrs...))
			if table != "t" || f != ruleset.IPv4 || err != nil {
				t.Fatalf("got %q, %v, %v", table, f, err)
			}
			if diff := cmp.Diff(&c.want, got, byValue); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
		})
	}
}

// TestDecodeMalformed decodes messages with malformed attributes or without names.
func TestDecodeMalformed(t *testing.T) {
	cut := func(b []byte) []byte { return b[:len(b)-1] }
	short := []byte{3, 0, 1, 0}
	names := slices.Concat(attr(1, zstr("t")), attr(2, zstr("s")))
	for name, msg := range map[string][]byte{
		"empty":            nil,
		"no header":        {2, 0, 0},
		"no name":          message(ruleset.IPv4),
		"header cut off":   message(ruleset.IPv4, names, []byte{4, 0}),
		"length too long":  cut(message(ruleset.IPv4, names, attr(9, num(1)))),
		"length too short": message(ruleset.IPv4, names, short),
		"nested too short": message(ruleset.IPv4, names, attr(3, attr(1, short)), attr(4, attr(1, short)), attr(9, short)),
	} {
		t.Run(name, func(t *testing.T) {
			for what, err := range decodeAny(msg) {
				// Tables have no nested attributes, and other attributes
				// of chains stand where sets and rules have theirs.
				if err == nil && (name != "nested too short" || what == "rule" || what == "elements" || what == "set") {
					t.Errorf("%s: no error", what)
				}
			}
		})
	}
}

// decodeAny passes a message to all decoders.
func decodeAny(msg []byte) map[string]error {
	errs := map[string]error{}
	_, errs["table"] = DecodeTable(msg)
	_, _, _, errs["chain"] = DecodeChain(msg)
	_, _, _, errs["set"] = DecodeSet(msg)
	_, _, _, _, errs["rule"] = DecodeRule(msg, syntheticTable().Names())
	errs["elements"] = DecodeElements(msg, &ruleset.Set{Name: "s"}, ruleset.IPv4, func(ruleset.Element) {})
	return errs
}
