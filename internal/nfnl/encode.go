//go:build linux

// Package nfnl encodes changes of a ruleset as netlink messages of nf_tables,
// and decodes what the kernel tells about its rulesets.
package nfnl

import (
	"encoding/binary"
	"fmt"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/nftdp/go-nftdp/internal/ruleset"
)

// maxPayload bounds the elements of one message: the length of the attribute
// that holds them has 16 bits, and the largest element must still fit.
const maxPayload = 1<<16 - 1024

// Batch is a transaction in the making: a buffer of netlink messages that the
// kernel applies as one, and for each message what it is for.
type Batch struct {
	buf   []byte
	first uint32 // sequence number of the begin message
	refs  []ref  // by sequence number after first
	setID uint32
}

// ref says what a message does.
type ref struct {
	change  *ruleset.Change
	entries *EntryChange
	element int // the first of its elements, or its entry
	at      int // where the message begins in the buffer
}

// NewBatch begins a transaction that the kernel refuses with ERESTART unless
// the generation of the namespace's rules is still the given one. Its messages
// are numbered from seq.
func NewBatch(seq, generation uint32) *Batch {
	b := &Batch{first: seq}
	at := b.begin(unix.NFNL_MSG_BATCH_BEGIN, unix.NFPROTO_UNSPEC, unix.NFNL_SUBSYS_NFTABLES, 0, nil)
	b.attr32(nfnlBatchGenID, generation)
	b.end(at)
	return b
}

// Finish ends the transaction and gives its bytes. The kernel acknowledges the
// message before the end, LastSeq, so the last change must not be empty.
func (b *Batch) Finish() []byte {
	last := b.refs[len(b.refs)-1].at
	flags := binary.NativeEndian.Uint16(b.buf[last+6:])
	binary.NativeEndian.PutUint16(b.buf[last+6:], flags|unix.NLM_F_ACK)
	b.end(b.begin(unix.NFNL_MSG_BATCH_END, unix.NFPROTO_UNSPEC, unix.NFNL_SUBSYS_NFTABLES, 0, nil))
	return b.buf
}

// FirstSeq and LastSeq number the begin message, which errors of the whole
// batch refer to, and the message that is acknowledged.
func (b *Batch) FirstSeq() uint32 { return b.first }

// LastSeq is the sequence number of the last change's last message.
func (b *Batch) LastSeq() uint32 { return b.first + uint32(len(b.refs)) - 1 }

// NextSeq is the first sequence number that the batch does not use.
func (b *Batch) NextSeq() uint32 { return b.first + uint32(len(b.refs)) }

// Len is the batch's size in bytes so far.
func (b *Batch) Len() int { return len(b.buf) }

// Find gives the change that a message was for and, where the kernel named the
// offending attribute by its offset in the message, the element; otherwise
// element is -1 (unless the message has one element only).
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

// elementAt walks the elements of a message up to the offset.
func (b *Batch) elementAt(r ref, offset int) int {
	size := int(binary.NativeEndian.Uint32(b.buf[r.at:]))
	at, n := r.at+msgHeader, -1
	for at < r.at+size { // the attributes of the message; the elements are the last
		length := int(binary.NativeEndian.Uint16(b.buf[at:]))
		if binary.NativeEndian.Uint16(b.buf[at+2:])&^unix.NLA_F_NESTED == unix.NFTA_SET_ELEM_LIST_ELEMENTS {
			break
		}
		at += align4(length)
	}
	count := 0
	for at += attrHeader; at < r.at+size; count++ {
		next := at + align4(int(binary.NativeEndian.Uint16(b.buf[at:])))
		if offset > 0 && r.at+offset >= at && r.at+offset < next {
			n = count
		}
		at = next
	}
	switch {
	case halved(r.change.Set): // an element takes two places there
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
	default:
		b.table(c)
	}
	return nil
}

func (b *Batch) table(c *ruleset.Change) {
	typ, flags := verb(c, unix.NFT_MSG_NEWTABLE, unix.NFT_MSG_DELTABLE)
	at := b.message(c, typ, flags)
	b.attrString(unix.NFTA_TABLE_NAME, c.Table)
	if c.Verb != ruleset.Delete {
		b.attr32(unix.NFTA_TABLE_FLAGS, uint32(c.Flags))
		if c.Comment != "" {
			b.attrBytes(nftaTableUserdata, appendComment(nil, c.Comment))
		}
	}
	b.end(at)
}

// verb gives the message type and flags for adding, updating or deleting an
// object.
func verb(c *ruleset.Change, add, del int) (typ, flags int) {
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
		at := b.message(c, unix.NFT_MSG_DELRULE, 0)
		b.attrString(unix.NFTA_RULE_TABLE, c.Table)
		b.attrString(unix.NFTA_RULE_CHAIN, c.Chain.Name)
		b.end(at)
		return
	}
	typ, flags := verb(c, unix.NFT_MSG_NEWCHAIN, unix.NFT_MSG_DELCHAIN)
	at := b.message(c, typ, flags)
	b.attrString(unix.NFTA_CHAIN_TABLE, c.Table)
	b.attrString(unix.NFTA_CHAIN_NAME, c.Chain.Name)
	if h := c.Chain.Hook; h != nil && c.Verb == ruleset.Add {
		hook := b.nest(unix.NFTA_CHAIN_HOOK)
		b.attr32(unix.NFTA_HOOK_HOOKNUM, uint32(h.Num))
		b.attr32(unix.NFTA_HOOK_PRIORITY, uint32(h.Priority))
		b.unnest(hook)
		b.attr32(unix.NFTA_CHAIN_POLICY, nfAccept)
		b.attrString(unix.NFTA_CHAIN_TYPE, chainType(h))
	}
	b.end(at)
}

func chainType(h *ruleset.Hook) string {
	if h.Filter {
		return "filter"
	}
	return "nat"
}

func (b *Batch) rule(c *ruleset.Change) error {
	at := b.message(c, unix.NFT_MSG_NEWRULE, unix.NLM_F_CREATE|unix.NLM_F_APPEND)
	b.attrString(unix.NFTA_RULE_TABLE, c.Table)
	b.attrString(unix.NFTA_RULE_CHAIN, c.Chain.Name)
	list := b.nest(unix.NFTA_RULE_EXPRESSIONS)
	exprs, err := expressions(c.Rule, c.Family)
	if err != nil {
		return fmt.Errorf("encode rule %q: %w", c.Rule.Text(c.Family), err)
	}
	for _, e := range exprs {
		b.attrNested(unix.NFTA_LIST_ELEM, e)
	}
	b.unnest(list)
	b.end(at)
	return nil
}

// elements writes as many messages as the elements need, each as full as the
// attribute's length allows.
func (b *Batch) elements(c *ruleset.Change) error {
	typ, flags := verb(c, unix.NFT_MSG_NEWSETELEM, unix.NFT_MSG_DELSETELEM)
	enc := newElementEncoder(c)
	b.buf = slices.Grow(b.buf, len(c.Elements)*enc.typical())
	for i := 0; i < len(c.Elements); {
		at := b.message(c, typ, flags)
		b.refs[len(b.refs)-1].element = i
		b.attrString(unix.NFTA_SET_ELEM_LIST_TABLE, c.Table)
		b.attrString(unix.NFTA_SET_ELEM_LIST_SET, c.Set.Name)
		list := b.nest(unix.NFTA_SET_ELEM_LIST_ELEMENTS)
		for ; i < len(c.Elements) && len(b.buf)-list < maxPayload; i++ {
			var err error
			if b.buf, err = enc.append(b.buf, &c.Elements[i]); err != nil {
				return fmt.Errorf("encode %q: %w", c.ElementString(i), err)
			}
		}
		b.unnest(list)
		b.end(at)
	}
	return nil
}
