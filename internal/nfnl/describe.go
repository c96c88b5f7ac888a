//go:build linux

package nfnl

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"unicode"

	"golang.org/x/sys/unix"

	"github.com/nftdp/go-nftdp/internal/netlink"
)

// Description is a rule of any table in words.
type Description struct {
	Handle  uint64
	Text    string // close to nft's words; of what is not known, the expression's name
	Comment string
	Reject  bool // it answers the packets that it drops
}

// DescribeRule describes a message of type NFT_MSG_NEWRULE of any table and family.
// Unlike DecodeRule, it understands no meaning: it names the expressions one after
// the other, so that a person finds the rule.
func DescribeRule(msg []byte) (Description, error) {
	if len(msg) < netlink.NetfilterHeaderLen {
		return Description{}, errHeader
	}
	d := describer{family: msg[0], last: loadedText{show: hex}}
	a := netlink.ReadAttributes(msg[netlink.NetfilterHeaderLen:])
	for a.Next() {
		switch a.Type {
		case unix.NFTA_RULE_HANDLE:
			if len(a.Value) == 8 {
				d.out.Handle = binary.BigEndian.Uint64(a.Value)
			}
		case unix.NFTA_RULE_USERDATA:
			if text, ok := comment(a.Value); ok && len(text) > 0 {
				d.out.Comment = printable(string(text))
			}
		case unix.NFTA_RULE_EXPRESSIONS:
			for e := netlink.ReadAttributes(a.Value); e.Next(); {
				d.expression(e.Value)
			}
		}
	}
	if d.implied != "" {
		d.words = append(d.words, d.implied)
	}
	d.out.Text = strings.Join(d.words, " ")
	return d.out, a.Err()
}

// printable makes text of others harmless for a terminal.
func printable(s string) string {
	if strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }) {
		return strconv.Quote(s)
	}
	return s
}

// describer collects words. The registers have what was loaded and not yet used.
type describer struct {
	family  byte
	proto   uint32 // NFPROTO_* that an earlier expression has matched
	l4proto string // the transport protocol, as well
	loaded  []loadedText
	last    loadedText // what was used last: it is compared twice for a range
	implied string     // a match that nft leaves out if the next one is of that protocol
	words   []string
	out     Description
}

// loadedText is what a register has.
type loadedText struct {
	name string
	show func([]byte) string // a value of it
	mask []byte
	data []byte // of a value that is part of the rule
}

func (d *describer) say(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	follows := strings.HasPrefix(text, "ip ") || strings.HasPrefix(text, "ip6 ") || d.l4proto != "" && strings.HasPrefix(text, d.l4proto+" ")
	if d.implied != "" && !follows {
		d.words = append(d.words, d.implied)
	}
	d.implied = ""
	d.words = append(d.words, printable(text))
}

func (d *describer) load(name string, show func([]byte) string) {
	d.loaded = append(d.loaded, loadedText{name: name, show: show})
}

// use returns what has been loaded, as one key.
func (d *describer) use() loadedText {
	if len(d.loaded) == 0 {
		return d.last
	}
	if len(d.loaded) == 1 {
		d.last, d.loaded = d.loaded[0], nil
		return d.last
	}
	var names []string
	for _, l := range d.loaded {
		names = append(names, l.name)
	}
	d.loaded = nil
	return loadedText{name: strings.Join(names, " . "), show: hex}
}

// fields are the attributes of an expression; absent ones are empty.
type fields map[uint16][]byte

func (f fields) number(typ uint16) uint32 { return number(f[typ]) }

func (f fields) long(typ uint16) uint64 {
	if len(f[typ]) != 8 {
		return 0
	}
	return binary.BigEndian.Uint64(f[typ])
}

// data unwraps NFTA_DATA_VALUE.
func (f fields) data(typ uint16) []byte {
	v, _, _ := only(f[typ], unix.NFTA_DATA_VALUE)
	return v
}

func (f fields) text(typ uint16) string { return netlink.String(f[typ]) }

func fieldsOf(b []byte) fields {
	out := fields{}
	for a := netlink.ReadAttributes(b); a.Next(); {
		out[a.Type] = a.Value
	}
	return out
}

func (d *describer) expression(b []byte) {
	e := fieldsOf(b)
	name, f := e.text(unix.NFTA_EXPR_NAME), fieldsOf(e[unix.NFTA_EXPR_DATA])
	for _, known := range descriptions {
		if known.name == name {
			known.describe(d, f)
			return
		}
	}
	d.say("%s", name)
}

// descriptions describe expressions by name; those that are missing are named only.
var descriptions = []struct {
	name     string
	describe func(*describer, fields)
}{
	{"payload", (*describer).payload},
	{"meta", (*describer).meta},
	{"ct", (*describer).ct},
	{"fib", (*describer).fib},
	{"bitwise", (*describer).bitwise},
	{"byteorder", func(*describer, fields) {}},
	{"cmp", (*describer).cmp},
	{"range", (*describer).between},
	{"lookup", (*describer).lookup},
	{"immediate", (*describer).immediate},
	{"limit", (*describer).limit},
	{"log", (*describer).log},
	{"reject", (*describer).reject},
	{"nat", (*describer).nat},
	{"masq", func(d *describer, _ fields) { d.say("masquerade") }},
	{"redir", func(d *describer, _ fields) { d.loaded = nil; d.say("redirect") }},
	{"connlimit", func(d *describer, f fields) { d.say("ct count %d", f.number(nftaConnlimitCount)) }},
	{"dynset", func(d *describer, f fields) {
		d.say("update @%s { %s }", f.text(unix.NFTA_DYNSET_SET_NAME), d.use().name)
	}},
	{"match", (*describer).xtMatch},
	{"target", (*describer).xtTarget},
}

func (d *describer) cmp(f fields) {
	ops := [...]string{"", "!= ", "< ", "<= ", "> ", ">= "}
	op, value, on := f.number(unix.NFTA_CMP_OP), f.data(unix.NFTA_CMP_DATA), d.use()
	if int(op) >= len(ops) {
		op = 0
	}
	text := on.compared(ops[op], value)
	switch {
	case op != unix.NFT_CMP_EQ || len(value) != 1:
	case on.name == "meta nfproto":
		d.proto, d.implied = uint32(value[0]), text
		return
	case on.name == "meta l4proto":
		if d.implied != "" {
			d.words = append(d.words, d.implied)
		}
		d.l4proto, d.implied = protocol(value), text
		return
	}
	d.say("%s", text)
}

// compared is a comparison with a value, also under a mask.
func (l loadedText) compared(op string, value []byte) string {
	if l.mask == nil {
		return fmt.Sprintf("%s %s%s", l.name, op, l.show(value))
	}
	if addr, ok := netip.AddrFromSlice(value); ok {
		for bits := range 8*len(value) + 1 {
			if p := netip.PrefixFrom(addr, bits); slices.Equal(mask(p), l.mask) {
				return fmt.Sprintf("%s %s%v", l.name, op, p)
			}
		}
	}
	if op == "!= " && strings.Trim(string(value), "\x00") == "" { // any of these bits
		return fmt.Sprintf("%s %s", l.name, l.show(l.mask))
	}
	return fmt.Sprintf("%s & %s %s%s", l.name, hex(l.mask), cmpEqual(op), l.show(value))
}

func cmpEqual(op string) string {
	if op == "" {
		return "== "
	}
	return op
}

func (d *describer) between(f fields) {
	on, not := d.use(), ""
	if f.number(unix.NFTA_RANGE_OP) == unix.NFT_RANGE_NEQ {
		not = "!= "
	}
	d.say("%s %s%s-%s", on.name, not, on.show(f.data(unix.NFTA_RANGE_FROM_DATA)), on.show(f.data(unix.NFTA_RANGE_TO_DATA)))
}

func (d *describer) bitwise(f fields) {
	if n := len(d.loaded); n > 0 {
		d.loaded[n-1].mask = f.data(unix.NFTA_BITWISE_MASK)
	}
}

func (d *describer) lookup(f fields) {
	on, set := d.use(), f.text(unix.NFTA_LOOKUP_SET)
	_, mapped := f[unix.NFTA_LOOKUP_DREG]
	switch {
	case mapped && f.number(unix.NFTA_LOOKUP_DREG) == unix.NFT_REG_VERDICT:
		d.say("%s vmap @%s", on.name, set)
	case mapped:
		d.load(fmt.Sprintf("%s map @%s", on.name, set), hex)
	case f.number(unix.NFTA_LOOKUP_FLAGS)&unix.NFT_LOOKUP_F_INV != 0:
		d.say("%s != @%s", on.name, set)
	default:
		d.say("%s @%s", on.name, set)
	}
}

func (d *describer) immediate(f fields) {
	if f.number(unix.NFTA_IMMEDIATE_DREG) != unix.NFT_REG_VERDICT {
		v := f.data(unix.NFTA_IMMEDIATE_DATA)
		d.loaded = append(d.loaded, loadedText{name: guess(v), show: hex, data: v})
		return
	}
	verdict, _, _ := only(f[unix.NFTA_IMMEDIATE_DATA], unix.NFTA_DATA_VERDICT)
	d.say("%v", traceVerdict(verdict))
}

// guess shows a value of unknown type: an address, a port, or bytes.
func guess(v []byte) string {
	if addr, ok := netip.AddrFromSlice(v); ok {
		return addr.String()
	}
	if len(v) == 2 {
		return port(v)
	}
	return hex(v)
}

func (d *describer) limit(f fields) {
	over, unit := "", map[uint64]string{1: "second", 60: "minute", 3600: "hour", 86400: "day", 604800: "week"}
	if f.number(unix.NFTA_LIMIT_FLAGS)&unix.NFT_LIMIT_F_INV != 0 {
		over = "over "
	}
	d.say("limit rate %s%d/%s", over, f.long(unix.NFTA_LIMIT_RATE), unit[f.long(unix.NFTA_LIMIT_UNIT)])
}

func (d *describer) log(f fields) {
	if prefix := f.text(unix.NFTA_LOG_PREFIX); prefix != "" {
		d.say("log prefix %q", prefix)
		return
	}
	d.say("log")
}

func (d *describer) reject(f fields) {
	d.out.Reject = true
	if f.number(unix.NFTA_REJECT_TYPE) == unix.NFT_REJECT_TCP_RST {
		d.say("reject with tcp reset")
		return
	}
	d.say("reject")
}

func (d *describer) nat(f fields) {
	kind := "snat"
	if f.number(unix.NFTA_NAT_TYPE) == unix.NFT_NAT_DNAT {
		kind = "dnat"
	}
	var to []string
	for _, l := range d.loaded {
		to = append(to, l.name)
	}
	d.loaded = nil
	d.say("%s to %s", kind, strings.Join(to, " "))
}

// xtMatch names an extension of iptables. Its comment is one, too.
func (d *describer) xtMatch(f fields) {
	name := f.text(unix.NFTA_MATCH_NAME)
	if name == "comment" {
		d.out.Comment = printable(f.text(unix.NFTA_MATCH_INFO))
		return
	}
	d.say("xt match %s", name)
}

func (d *describer) xtTarget(f fields) {
	name := f.text(unix.NFTA_TARGET_NAME)
	d.out.Reject = d.out.Reject || name == "REJECT"
	d.say("xt target %s", name)
}

// ChainDescription is a chain of any table.
type ChainDescription struct {
	Base     bool
	Type     string // "filter", "nat" or "route"
	Hook     uint32
	Priority int32
}

// DescribeChain describes a message of type NFT_MSG_NEWCHAIN of any table and
// family.
func DescribeChain(msg []byte) (c ChainDescription, err error) {
	if len(msg) < netlink.NetfilterHeaderLen {
		return c, errHeader
	}
	f := fieldsOf(msg[netlink.NetfilterHeaderLen:])
	hook, base := f[unix.NFTA_CHAIN_HOOK]
	in := fieldsOf(hook)
	return ChainDescription{
		Base: base, Type: f.text(unix.NFTA_CHAIN_TYPE),
		Hook: in.number(unix.NFTA_HOOK_HOOKNUM), Priority: int32(in.number(unix.NFTA_HOOK_PRIORITY)),
	}, nil
}
