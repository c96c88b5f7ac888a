// Package netlink reads and writes netlink messages of any family.
package netlink

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"slices"
)

// Sizes and flags of struct nlmsghdr and struct nlattr in linux/netlink.h, and
// of struct nfgenmsg in linux/netfilter/nfnetlink.h. They are repeated here,
// since golang.org/x/sys/unix has them on Linux only.
const (
	MessageHeaderLen   = 16
	NetfilterHeaderLen = 4
	AttributeHeaderLen = 4

	nested   = 1 << 15 // NLA_F_NESTED
	netOrder = 1 << 14 // NLA_F_NET_BYTEORDER
)

// Align rounds up to a multiple of four, where the next attribute or message
// begins.
func Align(n int) int { return (n + 3) &^ 3 }

// Attributes walks over attributes that follow each other:
//
//	a := netlink.ReadAttributes(b)
//	for a.Next() {
//		switch a.Type {
//		…
//		}
//	}
//	return a.Err()
//
// It allocates nothing: Value is a part of the bytes that are read. The value
// of a nested attribute can be walked over in turn.
type Attributes struct {
	Type  uint16 // without NLA_F_NESTED and NLA_F_NET_BYTEORDER
	Value []byte

	rest []byte
	err  error
}

// ReadAttributes begins before the first attribute.
func ReadAttributes(b []byte) Attributes { return Attributes{rest: b} }

// Next moves to the next attribute. It returns false at the end and at the first
// malformed attribute; Err distinguishes them.
func (a *Attributes) Next() bool {
	if len(a.rest) == 0 || a.err != nil {
		return false
	}
	if len(a.rest) < AttributeHeaderLen {
		a.err = fmt.Errorf("%d bytes after the last attribute", len(a.rest))
		return false
	}
	n := int(binary.NativeEndian.Uint16(a.rest))
	a.Type = binary.NativeEndian.Uint16(a.rest[2:]) &^ (nested | netOrder)
	if n < AttributeHeaderLen || n > len(a.rest) {
		a.err = fmt.Errorf("attribute %d of %d bytes in %d", a.Type, n, len(a.rest))
		return false
	}
	a.Value = a.rest[AttributeHeaderLen:n]
	a.rest = a.rest[min(Align(n), len(a.rest)):] // the last attribute may lack its padding
	return true
}

// Err is nil unless an attribute was malformed.
func (a *Attributes) Err() error { return a.err }

// String is the string in an attribute's value: up to the terminating zero, if
// there is one.
func String(value []byte) string { return string(Text(value)) }

// Text is String as a part of the value.
func Text(value []byte) []byte {
	if i := bytes.IndexByte(value, 0); i >= 0 {
		value = value[:i]
	}
	return value
}

// Messages walks over the messages of a datagram in the same way.
type Messages struct {
	Type, Flags uint16
	Seq         uint32
	Port        uint32 // the netlink port that an event was caused by
	Data        []byte // what follows the header

	rest []byte
	err  error
}

// ReadMessages begins before the first message.
func ReadMessages(b []byte) Messages { return Messages{rest: b} }

// Next moves to the next message. It returns false at the end and at the first
// malformed message.
func (m *Messages) Next() bool {
	if len(m.rest) == 0 || m.err != nil {
		return false
	}
	if len(m.rest) < MessageHeaderLen {
		m.err = fmt.Errorf("%d bytes after the last message", len(m.rest))
		return false
	}
	n := binary.NativeEndian.Uint32(m.rest)
	if n < MessageHeaderLen || int64(n) > int64(len(m.rest)) {
		m.err = fmt.Errorf("message of %d bytes in %d", n, len(m.rest))
		return false
	}
	m.Type, m.Flags = binary.NativeEndian.Uint16(m.rest[4:]), binary.NativeEndian.Uint16(m.rest[6:])
	m.Seq, m.Port = binary.NativeEndian.Uint32(m.rest[8:]), binary.NativeEndian.Uint32(m.rest[12:])
	m.Data = m.rest[MessageHeaderLen:n]
	m.rest = m.rest[min(Align(int(n)), len(m.rest)):]
	return true
}

// Err is nil unless a message was malformed.
func (m *Messages) Err() error { return m.err }

// Buffer collects messages and attributes, each padded to a multiple of four
// bytes.
type Buffer []byte

// extend appends n bytes, whose contents are undefined.
func (b *Buffer) extend(n int) []byte {
	if cap(*b)-len(*b) < n {
		*b = slices.Grow(*b, n)
	}
	*b = (*b)[:len(*b)+n]
	return (*b)[len(*b)-n:]
}

// Message begins a message to the kernel; EndMessage ends it.
func (b *Buffer) Message(typ, flags uint16, seq uint32) (at int) {
	at = len(*b)
	header := b.extend(MessageHeaderLen)
	clear(header) // also of the port: 0 is the kernel
	binary.NativeEndian.PutUint16(header[4:], typ)
	binary.NativeEndian.PutUint16(header[6:], flags)
	binary.NativeEndian.PutUint32(header[8:], seq)
	return at
}

// EndMessage sets the length of the message that begins at an offset.
func (b Buffer) EndMessage(at int) { binary.NativeEndian.PutUint32(b[at:], uint32(len(b)-at)) }

// Netfilter appends struct nfgenmsg, with which every message of netfilter
// begins.
func (b *Buffer) Netfilter(family uint8, resource uint16) {
	*b = binary.BigEndian.AppendUint16(append(*b, family, 0), resource)
}

// Nest begins an attribute that contains those which are appended until Unnest.
func (b *Buffer) Nest(typ uint16) (at int) {
	b.Reserve(typ|nested, 0)
	return len(*b) - AttributeHeaderLen
}

// Unnest sets the length of the attribute that begins at an offset.
func (b Buffer) Unnest(at int) { binary.NativeEndian.PutUint16(b[at:], uint16(len(b)-at)) }

// Reserve appends an attribute and returns its value of n bytes, which the caller
// has to fill: its contents are undefined.
func (b *Buffer) Reserve(typ uint16, n int) (value []byte) {
	return attribute(b.extend(AttributeHeaderLen+Align(n)), typ, n)
}

// ReserveNested is Reserve for the only attribute inside another one.
func (b *Buffer) ReserveNested(outer, inner uint16, n int) (value []byte) {
	size := AttributeHeaderLen + Align(n)
	return attribute(attribute(b.extend(AttributeHeaderLen+size), outer|nested, size), inner, n)
}

// attribute writes the header and the padding of an attribute that fills s, and
// returns its value.
func attribute(s []byte, typ uint16, n int) (value []byte) {
	binary.NativeEndian.PutUint16(s, uint16(AttributeHeaderLen+n))
	binary.NativeEndian.PutUint16(s[2:], typ)
	for i := AttributeHeaderLen + n; i < len(s); i++ {
		s[i] = 0
	}
	return s[AttributeHeaderLen : AttributeHeaderLen+n]
}

// Put appends an attribute.
func (b *Buffer) Put(typ uint16, value []byte) { copy(b.Reserve(typ, len(value)), value) }

// PutNested appends an attribute that contains attributes.
func (b *Buffer) PutNested(typ uint16, attributes []byte) { b.Put(typ|nested, attributes) }

// PutString appends an attribute with a string and its terminating zero.
func (b *Buffer) PutString(typ uint16, s string) {
	value := b.Reserve(typ, len(s)+1)
	value[copy(value, s)] = 0
}

// PutUint8 appends an attribute of one byte.
func (b *Buffer) PutUint8(typ uint16, v uint8) { b.Reserve(typ, 1)[0] = v }

// PutUint16 appends an attribute with a big-endian number.
func (b *Buffer) PutUint16(typ, v uint16) { binary.BigEndian.PutUint16(b.Reserve(typ, 2), v) }

// PutUint32 appends an attribute with a big-endian number.
func (b *Buffer) PutUint32(typ uint16, v uint32) { binary.BigEndian.PutUint32(b.Reserve(typ, 4), v) }

// PutUint64 appends an attribute with a big-endian number.
func (b *Buffer) PutUint64(typ uint16, v uint64) { binary.BigEndian.PutUint64(b.Reserve(typ, 8), v) }

// PutHostUint32 appends an attribute with a number in the machine's byte order.
func (b *Buffer) PutHostUint32(typ uint16, v uint32) {
	binary.NativeEndian.PutUint32(b.Reserve(typ, 4), v)
}
