//go:build linux

package nfnl

import (
	"encoding/binary"

	"golang.org/x/sys/unix"

	"github.com/nftdp/go-nftdp/internal/ruleset"
)

const (
	msgHeader  = 16 + 4 // nlmsghdr and nfgenmsg
	attrHeader = 4

	nfnlBatchGenID = 1 // NFNL_BATCH_GENID of linux/netfilter/nfnetlink.h
)

func align4(n int) int { return (n + 3) &^ 3 }

// message begins a message of nf_tables; the offset it returns goes to end.
func (b *Batch) message(c *ruleset.Change, typ, flags int) int {
	return b.begin(unix.NFNL_SUBSYS_NFTABLES<<8|typ, int(c.Family), 0, flags, c)
}

func (b *Batch) begin(typ, family, resource, flags int, c *ruleset.Change) int {
	at := len(b.buf)
	seq := b.first + uint32(len(b.refs))
	b.buf = AppendMessage(b.buf, typ, unix.NLM_F_REQUEST|flags, seq)
	b.buf = AppendHeader(b.buf, family, resource)
	if typ != unix.NFNL_MSG_BATCH_END {
		b.refs = append(b.refs, ref{change: c, at: at})
	}
	return at
}

// end writes the length of the message that began at the offset.
func (b *Batch) end(at int) {
	binary.NativeEndian.PutUint32(b.buf[at:], uint32(len(b.buf)-at))
}

// AppendMessage appends the header of a netlink message to the kernel, whose
// length is still to be written to its first four bytes.
func AppendMessage(buf []byte, typ, flags int, seq uint32) []byte {
	buf = binary.NativeEndian.AppendUint32(buf, 0)
	buf = binary.NativeEndian.AppendUint16(buf, uint16(typ))
	buf = binary.NativeEndian.AppendUint16(buf, uint16(flags))
	buf = binary.NativeEndian.AppendUint32(buf, seq)
	return binary.NativeEndian.AppendUint32(buf, 0) // to the kernel
}

// AppendHeader appends the header that messages of netfilter have behind that
// of netlink: struct nfgenmsg.
func AppendHeader(buf []byte, family, resource int) []byte {
	buf = append(buf, byte(family), unix.NFNETLINK_V0)
	return binary.BigEndian.AppendUint16(buf, uint16(resource))
}

func (b *Batch) attr32(typ int, v uint32)     { b.buf = appendAttr32(b.buf, typ, v) }
func (b *Batch) attrString(typ int, s string) { b.buf = AppendAttrString(b.buf, typ, s) }
func (b *Batch) attrBytes(typ int, v []byte)  { b.buf = appendAttr(b.buf, typ, v) }
func (b *Batch) attrNested(typ int, v []byte) { b.buf = appendAttr(b.buf, typ|unix.NLA_F_NESTED, v) }

func (b *Batch) nest(typ int) int { b.buf = appendNest(b.buf, typ); return len(b.buf) - attrHeader }
func (b *Batch) unnest(at int)    { unnest(b.buf, at) }
func appendAttr(buf []byte, typ int, v []byte) []byte {
	buf = appendAttrHeader(buf, typ, len(v))
	return pad(append(buf, v...))
}

func appendAttrHeader(buf []byte, typ, payload int) []byte {
	buf = binary.NativeEndian.AppendUint16(buf, uint16(attrHeader+payload))
	return binary.NativeEndian.AppendUint16(buf, uint16(typ))
}

func appendAttr32(buf []byte, typ int, v uint32) []byte {
	return binary.BigEndian.AppendUint32(appendAttrHeader(buf, typ, 4), v)
}

// AppendAttrString appends an attribute that holds a NUL-terminated string.
func AppendAttrString(buf []byte, typ int, s string) []byte {
	buf = appendAttrHeader(buf, typ, len(s)+1)
	return pad(append(append(buf, s...), 0))
}

// appendNest begins an attribute that holds attributes; unnest ends it.
func appendNest(buf []byte, typ int) []byte {
	return appendAttrHeader(buf, typ|unix.NLA_F_NESTED, 0)
}

func unnest(buf []byte, at int) {
	binary.NativeEndian.PutUint16(buf[at:], uint16(len(buf)-at))
}

// pad fills up to a multiple of four bytes. Every message and every attribute
// begins at one, so the buffer's length tells.
func pad(buf []byte) []byte {
	for len(buf)%4 != 0 {
		buf = append(buf, 0)
	}
	return buf
}

// appendComment appends a comment as libnftnl lays it out in user data: a type, a
// length and a NUL-terminated string.
func appendComment(buf []byte, s string) []byte {
	buf = append(buf, udataComment, byte(len(s)+1))
	return append(append(buf, s...), 0)
}
