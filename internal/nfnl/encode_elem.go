//go:build linux

package nfnl

import (
	"encoding/binary"
	"errors"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/nftdp/go-nftdp/internal/netlink"
	"github.com/nftdp/go-nftdp/internal/ruleset"
)

// elementEncoder writes elements of one set. It is the hot path of a load, so it
// copies what is the same in every element.
type elementEncoder struct {
	set     *ruleset.Set
	del     bool
	layout  layout         // of the key
	counter netlink.Buffer // at zero; its bytes and packets are at the end
}

func newElementEncoder(c *ruleset.Change) *elementEncoder {
	enc := &elementEncoder{set: c.Set, del: c.Verb == ruleset.Delete, layout: layoutOf(c.Set.Key, c.Family)}
	putCounter(&enc.counter, unix.NFTA_SET_ELEM_EXPR)
	return enc
}

// halved reports whether the kernel keeps each element of a set as two, the ends
// of an interval (see FoldIntervals). An interval of concatenations is one
// element with two keys.
func halved(s *ruleset.Set) bool { return s.Interval && len(s.Key) == 1 }

// typical is the approximate size of an element with a comment of usual length.
func (enc *elementEncoder) typical() int {
	size := 96
	if !enc.set.Verdict && len(enc.set.Data) == 0 {
		size = 48
	}
	return size
}

var errOpaque = errors.New("it contains what this library cannot express")

func (enc *elementEncoder) append(buf *netlink.Buffer, e *ruleset.Element) error {
	if e.Opaque && !enc.del {
		return errOpaque
	}
	at := buf.Nest(unix.NFTA_LIST_ELEM)
	enc.key(buf, unix.NFTA_SET_ELEM_KEY, &e.Key)
	if enc.set.Interval && !halved(enc.set) {
		enc.key(buf, nftaSetElemKeyEnd, &e.End)
	}
	if !enc.del {
		enc.value(buf, e)
	}
	buf.Unnest(at)
	if halved(enc.set) {
		enc.intervalEnd(buf, e)
	}
	return nil
}

func (enc *elementEncoder) key(buf *netlink.Buffer, typ uint16, k *ruleset.Tuple) {
	enc.layout.swap(putValue(buf, typ, k.Bytes()[:min(k.Len(), enc.layout.size)]))
}

// putValue appends an attribute that contains NFTA_DATA_VALUE, and returns the
// value.
func putValue(buf *netlink.Buffer, typ uint16, b []byte) (value []byte) {
	value = buf.ReserveNested(typ, unix.NFTA_DATA_VALUE, len(b))
	copy(value, b)
	return value
}

func (enc *elementEncoder) value(buf *netlink.Buffer, e *ruleset.Element) {
	switch {
	case enc.set.Verdict:
		putVerdict(buf, e.Verdict)
	case len(enc.set.Data) > 0:
		putValue(buf, unix.NFTA_SET_ELEM_DATA, e.Data.Bytes())
	}
	if e.Comment != "" {
		putComment(buf, unix.NFTA_SET_ELEM_USERDATA, e.Comment)
	}
	if e.Packets > 0 || e.Bytes > 0 {
		*buf = append(*buf, enc.counter...)
		binary.BigEndian.PutUint64((*buf)[len(*buf)-counterBytes:], e.Bytes)
		binary.BigEndian.PutUint64((*buf)[len(*buf)-counterPackets:], e.Packets)
	}
}

// putComment appends an attribute with a comment as libnftnl lays it out in
// user data: a type, a length and a NUL-terminated string.
func putComment(buf *netlink.Buffer, typ uint16, s string) {
	value := buf.Reserve(typ, len(s)+3)
	value[0], value[1] = udataComment, byte(len(s)+1)
	value[2+copy(value[2:], s)] = 0
}

func putVerdict(buf *netlink.Buffer, v ruleset.Verdict) {
	data := buf.Nest(unix.NFTA_SET_ELEM_DATA)
	verdict := buf.Nest(unix.NFTA_DATA_VERDICT)
	buf.PutUint32(unix.NFTA_VERDICT_CODE, uint32(verdictCodes[v.Kind]))
	if v.Chain != "" {
		buf.PutString(unix.NFTA_VERDICT_CHAIN, v.Chain)
	}
	buf.Unnest(verdict)
	buf.Unnest(data)
}

// The distances of the numbers of a counter from its end.
const (
	counterBytes   = 8 + netlink.AttributeHeaderLen + 8
	counterPackets = 8
)

// putCounter appends a counter that stands at zero.
func putCounter(buf *netlink.Buffer, typ uint16) {
	at := buf.Nest(typ)
	buf.PutString(unix.NFTA_EXPR_NAME, "counter")
	data := buf.Nest(unix.NFTA_EXPR_DATA)
	buf.PutUint64(unix.NFTA_COUNTER_BYTES, 0)
	buf.PutUint64(unix.NFTA_COUNTER_PACKETS, 0)
	buf.Unnest(data)
	buf.Unnest(at)
}

// intervalEnd appends the element that ends an interval: the first key after it,
// with a flag. The kernel's rbtree needs none after the greatest key.
func (enc *elementEncoder) intervalEnd(buf *netlink.Buffer, e *ruleset.Element) {
	after, ok := successor(e.End, enc.layout.size)
	if !ok {
		return
	}
	at := buf.Nest(unix.NFTA_LIST_ELEM)
	enc.key(buf, unix.NFTA_SET_ELEM_KEY, &after)
	buf.PutUint32(unix.NFTA_SET_ELEM_FLAGS, unix.NFT_SET_ELEM_INTERVAL_END)
	buf.Unnest(at)
}

// successor is the next key in the order of its first n bytes.
func successor(t ruleset.Tuple, n int) (ruleset.Tuple, bool) {
	b := t.Bytes()
	for i := n - 1; i >= 0; i-- {
		if b[i]++; b[i] != 0 {
			return t, true
		}
	}
	return t, false
}

// ElementKeys returns the attribute by which a request names elements of the
// change's set: a list of their keys.
func ElementKeys(c *ruleset.Change, elements []ruleset.Element) []byte {
	enc := newElementEncoder(&ruleset.Change{Verb: ruleset.Delete, Family: c.Family, Set: c.Set})
	var buf netlink.Buffer
	at := buf.Nest(unix.NFTA_SET_ELEM_LIST_ELEMENTS)
	for i := range elements {
		_ = enc.append(&buf, &elements[i]) // a key alone can always be encoded
		if i == 0 {
			buf = slices.Grow(buf, (len(elements)-1)*(len(buf)-at))
		}
	}
	buf.Unnest(at)
	return buf
}
