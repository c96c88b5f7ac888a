//go:build linux

// Package nfnl encodes changes of a ruleset as netlink messages of nf_tables,
// and decodes those that describe the kernel's rulesets.
package nfnl

import (
	"encoding/binary"
	"fmt"
	"slices"

	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/nftdp/go-nftdp/internal/netlink"
	"github.com/nftdp/go-nftdp/internal/ruleset"
)

// maxPayload is how full a message may be before another element is added: the
// length of the attribute that contains them has 16 bits, and the largest element
// must still fit.
const maxPayload = 1<<16 - 1024

const msgHeader = netlink.MessageHeaderLen + netlink.NetfilterHeaderLen

// Batch is a transaction under construction: netlink messages that the kernel
// applies as a whole, and the change that each of them belongs to.
type Batch struct {
	buf   netlink.Buffer
	first uint32 // sequence number of the begin message
	refs  []ref  // by sequence number after first
	setID uint32
}

// ref says which change a message belongs to.
type ref struct {
	change  *ruleset.Change
	entries *ruleset.EntryChange
	element int // index of its first element, or of its entry
	at      int // where the message begins in the buffer
}

// NewBatch begins a transaction that the kernel refuses with ERESTART unless
// the generation of the namespace's rules is still the given one. Its messages
// are numbered from seq.
func NewBatch(seq, generation uint32) *Batch {
	b := &Batch{first: seq}
	at := b.begin(unix.NFNL_MSG_BATCH_BEGIN, unix.NFPROTO_UNSPEC, unix.NFNL_SUBSYS_NFTABLES, 0)
	b.refs = append(b.refs, ref{at: at})
	b.buf.PutUint32(unix.NFNL_BATCH_GENID, generation)
	b.buf.EndMessage(at)
	return b
}

// message begins a message about a table or an object of it. In messages of every
// type, the first attribute is the table's name (NFTA_TABLE_NAME,
// NFTA_RULE_TABLE and so on). The offset that it returns is for EndMessage.
func (b *Batch) message(typ, flags uint16, f ruleset.Family, table string, r ref) int {
	r.at = b.begin(unix.NFNL_SUBSYS_NFTABLES<<8|typ, f, 0, flags)
	b.refs = append(b.refs, r)
	b.buf.PutString(unix.NFTA_TABLE_NAME, table)
	return r.at
}

func (b *Batch) begin(typ uint16, f ruleset.Family, resource, flags uint16) int {
	at := b.buf.Message(typ, unix.NLM_F_REQUEST|flags, b.NextSeq())
	b.buf.Netfilter(uint8(f), resource)
	return at
}

// Finish ends the transaction and returns its bytes. The kernel acknowledges the
// message before the end, LastSeq, so there must be a change.
func (b *Batch) Finish() []byte {
	last := b.refs[len(b.refs)-1].at
	flags := binary.NativeEndian.Uint16(b.buf[last+6:])
	binary.NativeEndian.PutUint16(b.buf[last+6:], flags|unix.NLM_F_ACK)
	at := b.begin(unix.NFNL_MSG_BATCH_END, unix.NFPROTO_UNSPEC, unix.NFNL_SUBSYS_NFTABLES, 0)
	b.buf.EndMessage(at)
	return b.buf
}

// FirstSeq is the sequence number of the begin message, which errors of the whole
// batch refer to.
func (b *Batch) FirstSeq() uint32 { return b.first }

// LastSeq is the sequence number of the last change's last message, which is
// acknowledged.
func (b *Batch) LastSeq() uint32 { return b.first + uint32(len(b.refs)) - 1 }

// NextSeq is the first sequence number that the batch does not use.
func (b *Batch) NextSeq() uint32 { return b.first + uint32(len(b.refs)) }

// Find returns the change that a message belongs to. If the kernel reported the
// offset of the offending attribute in the message, or if the message has only one
// element, it also returns the element; otherwise element is -1.
func (b *Batch) Find(seq uint32, offset int) (c *ruleset.Change, element int) {
	i := seq - b.first
	if int64(i) >= int64(len(b.refs)) || b.refs[i].change == nil {
		return nil, -1
	}
	r := b.refs[i]
	if len(r.change.Elements) == 0 {
		return r.change, -1
	}
	return r.change, b.elementAt(r, offset)
}

// elementAt walks over the elements, which are at the end of a message, up to the
// offset.
func (b *Batch) elementAt(r ref, offset int) int {
	size := int(binary.NativeEndian.Uint32(b.buf[r.at:]))
	list := netlink.ReadAttributes(b.buf[r.at+msgHeader : r.at+size])
	for list.Next() {
		if list.Type == unix.NFTA_SET_ELEM_LIST_ELEMENTS {
			break
		}
	}
	n, count, end := -1, 0, size-len(list.Value)
	for e := netlink.ReadAttributes(list.Value); e.Next(); count++ {
		begin := end
		end += netlink.AttributeHeaderLen + netlink.Align(len(e.Value))
		if begin <= offset && offset < end {
			n = count
		}
	}
	switch {
	case halved(r.change.Set): // an element is written as two
		return -1
	case count == 1:
		return r.element
	case n < 0:
		return -1
	}
	return r.element + n
}

// Add appends a change.
func (b *Batch) Add(c *ruleset.Change) error {
	switch {
	case len(c.Elements) > 0:
		return b.elements(c)
	case c.Set != nil:
		return b.set(c)
	case c.Rule != nil:
		return b.rule(c)
	case c.Chain != nil:
		b.chain(c)
	case c.Object != nil:
		b.object(c)
	default:
		b.table(c)
	}
	return nil
}

func (b *Batch) table(c *ruleset.Change) {
	typ, flags := verb(c, unix.NFT_MSG_NEWTABLE, unix.NFT_MSG_DELTABLE)
	at := b.message(typ, flags, c.Family, c.Table, ref{change: c})
	if c.Verb != ruleset.Delete {
		b.buf.PutUint32(unix.NFTA_TABLE_FLAGS, uint32(c.Flags))
		if c.Comment != "" {
			putComment(&b.buf, nftaTableUserdata, c.Comment)
		}
	}
	b.buf.EndMessage(at)
}

// verb returns the message type and flags for adding, adopting or deleting an
// object.
func verb(c *ruleset.Change, add, del uint16) (typ, flags uint16) {
	switch c.Verb {
	case ruleset.Add:
		return add, unix.NLM_F_CREATE | unix.NLM_F_EXCL
	case ruleset.Adopt:
		return add, 0
	default:
		return del, 0
	}
}

func (b *Batch) chain(c *ruleset.Change) {
	if c.Verb == ruleset.Flush { // a rule deletion without a handle deletes all
		at := b.message(unix.NFT_MSG_DELRULE, 0, c.Family, c.Table, ref{change: c})
		b.buf.PutString(unix.NFTA_RULE_CHAIN, c.Chain.Name)
		b.buf.EndMessage(at)
		return
	}
	typ, flags := verb(c, unix.NFT_MSG_NEWCHAIN, unix.NFT_MSG_DELCHAIN)
	at := b.message(typ, flags, c.Family, c.Table, ref{change: c})
	b.buf.PutString(unix.NFTA_CHAIN_NAME, c.Chain.Name)
	if h := c.Chain.Hook; h != nil && c.Verb == ruleset.Add {
		hook := b.buf.Nest(unix.NFTA_CHAIN_HOOK)
		b.buf.PutUint32(unix.NFTA_HOOK_HOOKNUM, uint32(h.Num))
		b.buf.PutUint32(unix.NFTA_HOOK_PRIORITY, uint32(h.Priority))
		b.buf.Unnest(hook)
		b.buf.PutUint32(unix.NFTA_CHAIN_POLICY, uint32(expr.VerdictAccept))
		b.buf.PutString(unix.NFTA_CHAIN_TYPE, chainType(h))
	}
	b.buf.EndMessage(at)
}

// object deletes a stateful object or a flowtable. The attributes of both have the
// same numbers.
func (b *Batch) object(c *ruleset.Change) {
	typ := uint16(unix.NFT_MSG_DELOBJ)
	if c.Object.Kind == ruleset.Flowtable {
		typ = unix.NFT_MSG_DELFLOWTABLE
	}
	at := b.message(typ, 0, c.Family, c.Table, ref{change: c})
	b.buf.PutString(unix.NFTA_OBJ_NAME, c.Object.Name)
	if c.Object.Kind != ruleset.Flowtable {
		b.buf.PutUint32(unix.NFTA_OBJ_TYPE, uint32(c.Object.Kind))
	}
	b.buf.EndMessage(at)
}

func chainType(h *ruleset.Hook) string {
	if h.Filter {
		return "filter"
	}
	return "nat"
}

func (b *Batch) rule(c *ruleset.Change) error {
	at := b.message(unix.NFT_MSG_NEWRULE, unix.NLM_F_CREATE|unix.NLM_F_APPEND, c.Family, c.Table, ref{change: c})
	b.buf.PutString(unix.NFTA_RULE_CHAIN, c.Chain.Name)
	list := b.buf.Nest(unix.NFTA_RULE_EXPRESSIONS)
	e := ruleEncoder{family: c.Family, list: &b.buf}
	for _, s := range c.Rule {
		e.statement(s)
	}
	if e.err != nil {
		return fmt.Errorf("encode rule %q: %w", c.Rule.Text(c.Family), e.err)
	}
	b.buf.Unnest(list)
	b.buf.EndMessage(at)
	return nil
}

// elements writes as many messages as the elements need, each as full as the
// attribute's length allows.
func (b *Batch) elements(c *ruleset.Change) error {
	typ, flags := verb(c, unix.NFT_MSG_NEWSETELEM, unix.NFT_MSG_DELSETELEM)
	if c.Set.Repeatable {
		flags &^= unix.NLM_F_EXCL
	}
	enc := newElementEncoder(c)
	b.buf = slices.Grow(b.buf, len(c.Elements)*enc.typical())
	for i := 0; i < len(c.Elements); {
		at := b.message(typ, flags, c.Family, c.Table, ref{change: c, element: i})
		b.buf.PutString(unix.NFTA_SET_ELEM_LIST_SET, c.Set.Name)
		list := b.buf.Nest(unix.NFTA_SET_ELEM_LIST_ELEMENTS)
		for ; i < len(c.Elements) && len(b.buf)-list < maxPayload; i++ {
			if err := enc.append(&b.buf, &c.Elements[i]); err != nil {
				return fmt.Errorf("encode %q: %w", c.ElementString(i), err)
			}
		}
		b.buf.Unnest(list)
		b.buf.EndMessage(at)
	}
	return nil
}
