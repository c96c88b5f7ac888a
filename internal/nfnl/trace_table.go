//go:build linux

package nfnl

import (
	"encoding/binary"
	"fmt"
	"net/netip"

	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/nftdp/go-nftdp/internal/netlink"
	"github.com/nftdp/go-nftdp/internal/ruleset"
	"github.com/nftdp/go-nftdp/internal/trace"
)

// inet is the family of tables for both IPv4 and IPv6.
const inet = ruleset.Family(unix.NFPROTO_INET)

// AddTraceTable appends the table of a trace.
func (b *Batch) AddTraceTable(name string, flags ruleset.TableFlags, f *trace.Filter) error {
	t := &traceTable{Batch: b, name: name}
	t.object(unix.NFT_MSG_NEWTABLE, func(out *netlink.Buffer) {
		out.PutUint32(unix.NFTA_TABLE_FLAGS, uint32(flags))
	})
	for _, mark := range []string{trace.Arriving, trace.Leaving, trace.Replying} {
		t.chain(mark, nil)
		t.rule(mark, markRule(f.Rate))
	}
	for _, c := range trace.Chains() {
		if c.Marks != "" && !marks(f, &c) {
			continue
		}
		t.chain(c.Name, &c)
		for i := range f.Matches {
			if c.Marks != "" {
				goTo := &expr.Verdict{Kind: expr.VerdictGoto, Chain: c.Marks}
				t.rule(c.Name, append(conditionsOf(f, &f.Matches[i], &c), goTo))
			}
		}
	}
	return t.err
}

// DeleteTraceTable appends the deletion of the table of a trace.
func (b *Batch) DeleteTraceTable(name string) {
	t := &traceTable{Batch: b, name: name}
	t.object(unix.NFT_MSG_DELTABLE, func(*netlink.Buffer) {})
}

// traceTable appends a table's objects to a batch.
type traceTable struct {
	*Batch
	name string
	err  error
}

func (t *traceTable) object(typ uint16, attributes func(*netlink.Buffer)) {
	flags := uint16(unix.NLM_F_CREATE | unix.NLM_F_EXCL)
	switch typ {
	case unix.NFT_MSG_NEWRULE:
		flags = unix.NLM_F_CREATE | unix.NLM_F_APPEND
	case unix.NFT_MSG_DELTABLE:
		flags = 0
	}
	at := t.message(typ, flags, inet, t.name, ref{})
	attributes(&t.buf)
	t.buf.EndMessage(at)
}

func (t *traceTable) chain(name string, base *trace.Chain) {
	t.object(unix.NFT_MSG_NEWCHAIN, func(out *netlink.Buffer) {
		out.PutString(unix.NFTA_CHAIN_NAME, name)
		if base == nil {
			return
		}
		hook := out.Nest(unix.NFTA_CHAIN_HOOK)
		out.PutUint32(unix.NFTA_HOOK_HOOKNUM, uint32(base.Hook))
		out.PutUint32(unix.NFTA_HOOK_PRIORITY, uint32(base.Priority))
		out.Unnest(hook)
		out.PutUint32(unix.NFTA_CHAIN_POLICY, uint32(expr.VerdictAccept))
		out.PutString(unix.NFTA_CHAIN_TYPE, "filter")
	})
}

func (t *traceTable) rule(chain string, exprs []expr.Any) {
	t.object(unix.NFT_MSG_NEWRULE, func(out *netlink.Buffer) {
		out.PutString(unix.NFTA_RULE_CHAIN, chain)
		list := out.Nest(unix.NFTA_RULE_EXPRESSIONS)
		for _, x := range exprs {
			b, err := expr.Marshal(byte(inet), x)
			if err != nil && t.err == nil {
				t.err = fmt.Errorf("marshal %T: %w", x, err)
			}
			out.PutNested(unix.NFTA_LIST_ELEM, b)
		}
		out.Unnest(list)
	})
}

// markRule begins the trace of a packet.
func markRule(rate uint32) []expr.Any {
	return []expr.Any{
		&expr.Limit{Type: expr.LimitTypePkts, Rate: uint64(rate), Unit: expr.LimitTimeSecond, Burst: rate},
		&expr.Immediate{Register: reg0, Data: []byte{1}},
		&expr.Meta{Key: expr.MetaKeyNFTRACE, SourceRegister: true, Register: reg0},
	}
}

// marks reports whether a chain begins traces of packets that the filter selects.
func marks(f *trace.Filter, c *trace.Chain) bool {
	if c.Marks == trace.Replying {
		return f.Replies
	}
	return c.Marks == trace.Arriving || f.Interface == ""
}

// conditionsOf returns the conditions of a match in a chain that begins traces.
func conditionsOf(f *trace.Filter, m *trace.Match, c *trace.Chain) []expr.Any {
	x := conditions{reply: c.Marks == trace.Replying}
	switch {
	case x.reply:
		x.equals(&expr.Ct{Register: reg0, Key: expr.CtKeyDIRECTION}, []byte{1})
	case f.Interface != "":
		name := make([]byte, unix.IFNAMSIZ)
		copy(name, f.Interface)
		x.equals(&expr.Meta{Register: reg0, Key: expr.MetaKeyIIFNAME}, name)
	}
	if m.Family != 0 {
		x.equals(&expr.Meta{Register: reg0, Key: expr.MetaKeyNFPROTO}, []byte{byte(m.Family)})
	}
	if m.Proto != 0 {
		x.equals(&expr.Meta{Register: reg0, Key: expr.MetaKeyL4PROTO}, []byte{m.Proto})
	}
	for _, p := range m.Sources {
		x.prefix(p, false)
	}
	for _, p := range m.Destinations {
		x.prefix(p, true)
	}
	x.ports(m.Sport, false)
	x.ports(m.Dport, true)
	if m.Local && !x.reply { // conntrack does not say whether the original destination is local
		x.equals(&expr.Fib{Register: reg0, ResultADDRTYPE: true, FlagDADDR: true}, binary.NativeEndian.AppendUint32(nil, unix.RTN_LOCAL))
	}
	return x.list
}

// conditions are expressions that a packet has to meet. Those of a reply are about
// the first packet of its connection, as it was before translation.
type conditions struct {
	reply bool
	list  []expr.Any
}

func (x *conditions) equals(load expr.Any, value []byte) {
	x.list = append(x.list, load, &expr.Cmp{Op: expr.CmpOpEq, Register: reg0, Data: value})
}

func (x *conditions) prefix(p netip.Prefix, destination bool) {
	if p.Bits() == 0 {
		return
	}
	addr := p.Masked().Addr().AsSlice()
	key, offset := expr.CtKeySRCIP, uint32(12)
	if p.Addr().Is6() {
		key, offset = expr.CtKeySRCIP6, 8
	}
	if destination {
		key, offset = key+1, offset+uint32(len(addr))
	}
	var load expr.Any = &expr.Payload{
		DestRegister: reg0, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: uint32(len(addr)),
	}
	if x.reply {
		load = &expr.Ct{Register: reg0, Key: key}
	}
	x.list = append(x.list, load, &expr.Bitwise{
		SourceRegister: reg0, DestRegister: reg0, Len: uint32(len(addr)), Mask: mask(p), Xor: make([]byte, len(addr)),
	}, &expr.Cmp{Op: expr.CmpOpEq, Register: reg0, Data: addr})
}

// mask returns the bytes of a prefix's mask.
func mask(p netip.Prefix) []byte {
	out := make([]byte, p.Addr().BitLen()/8)
	for i := range p.Bits() {
		out[i/8] |= 0x80 >> (i % 8)
	}
	return out
}

func (x *conditions) ports(p trace.Ports, destination bool) {
	if p == (trace.Ports{}) {
		return
	}
	key, offset := expr.CtKeyPROTOSRC, uint32(0)
	if destination {
		key, offset = expr.CtKeyPROTODST, 2
	}
	var load expr.Any = &expr.Payload{DestRegister: reg0, Base: expr.PayloadBaseTransportHeader, Offset: offset, Len: 2}
	if x.reply {
		load = &expr.Ct{Register: reg0, Key: key}
	}
	if p.First == p.Last {
		x.equals(load, binary.BigEndian.AppendUint16(nil, p.First))
		return
	}
	x.list = append(x.list, load,
		&expr.Cmp{Op: expr.CmpOpGte, Register: reg0, Data: binary.BigEndian.AppendUint16(nil, p.First)},
		&expr.Cmp{Op: expr.CmpOpLte, Register: reg0, Data: binary.BigEndian.AppendUint16(nil, p.Last)})
}
