//go:build linux

package nfnl

import (
	"encoding/binary"
	"errors"

	"golang.org/x/sys/unix"

	"github.com/nftdp/go-nftdp/internal/ruleset"
)

// nfElemIntervalEnd is NFT_SET_ELEM_INTERVAL_END of linux/netfilter/nf_tables.h.
const nftElemIntervalEnd = 1

// elementEncoder writes elements of one set. It is the hot path of a load, so
// it appends bytes with lengths that it knows beforehand.
type elementEncoder struct {
	set    *ruleset.Set
	del    bool
	slot   int // where the key's slot is, which the kernel keeps host-endian; -1: none
	single int // bytes of a key that is no concatenation and shorter than four; 0: whole
	halves bool
}

func newElementEncoder(c *ruleset.Change) *elementEncoder {
	enc := &elementEncoder{set: c.Set, del: c.Verb == ruleset.Delete, slot: -1, halves: halved(c.Set)}
	at := 0
	for _, t := range c.Set.Key {
		if t == ruleset.Slot {
			enc.slot = at
		}
		at += t.Len(c.Family)
	}
	if len(c.Set.Key) == 1 {
		enc.single = typeLen(c.Set.Key[0], c.Family)
	}
	return enc
}

// halved reports whether the kernel keeps each element of a set as two, the
// ends of an interval: see FoldIntervals. An interval of concatenations is one
// element with two keys.
func halved(s *ruleset.Set) bool { return s.Interval && len(s.Key) == 1 }

// typical is about the size of an element with a comment of usual length.
func (enc *elementEncoder) typical() int {
	size := 96
	if !enc.set.Verdict && len(enc.set.Data) == 0 {
		size = 48
	}
	return size
}

var errOpaque = errors.New("it holds what this library can not express")

func (enc *elementEncoder) append(buf []byte, e *ruleset.Element) ([]byte, error) {
	if e.Opaque && !enc.del {
		return nil, errOpaque
	}
	at := len(buf)
	buf = appendNest(buf, unix.NFTA_LIST_ELEM)
	buf = enc.key(buf, unix.NFTA_SET_ELEM_KEY, &e.Key)
	if enc.set.Interval && !enc.halves {
		buf = enc.key(buf, nftaSetElemKeyEnd, &e.End)
	}
	if !enc.del {
		buf = enc.value(buf, e)
	}
	unnest(buf, at)
	if enc.halves {
		buf = enc.intervalEnd(buf, e)
	}
	return buf, nil
}

func (enc *elementEncoder) key(buf []byte, typ int, k *ruleset.Tuple) []byte {
	b := k.Bytes()
	if enc.single > 0 {
		b = b[:enc.single]
	}
	buf = appendAttrHeader(buf, typ|unix.NLA_F_NESTED, attrHeader+align4(len(b)))
	buf = appendAttrHeader(buf, unix.NFTA_DATA_VALUE, len(b))
	start := len(buf)
	buf = append(buf, b...)
	if enc.slot >= 0 {
		slot := buf[start+enc.slot:]
		binary.NativeEndian.PutUint32(slot, binary.BigEndian.Uint32(slot))
	}
	return pad(buf)
}

func (enc *elementEncoder) value(buf []byte, e *ruleset.Element) []byte {
	switch {
	case enc.set.Verdict:
		buf = verdictData(buf, e.Verdict)
	case len(enc.set.Data) > 0:
		b := e.Data.Bytes()
		buf = appendAttrHeader(buf, unix.NFTA_SET_ELEM_DATA|unix.NLA_F_NESTED, attrHeader+align4(len(b)))
		buf = appendAttr(buf, unix.NFTA_DATA_VALUE, b)
	}
	if e.Comment != "" {
		buf = appendAttrHeader(buf, unix.NFTA_SET_ELEM_USERDATA, len(e.Comment)+3)
		buf = pad(appendComment(buf, e.Comment))
	}
	if e.Packets > 0 || e.Bytes > 0 {
		buf = counterExpr(buf, unix.NFTA_SET_ELEM_EXPR, e.Packets, e.Bytes)
	}
	return buf
}

func verdictData(buf []byte, v ruleset.Verdict) []byte {
	data := len(buf)
	buf = appendNest(buf, unix.NFTA_SET_ELEM_DATA)
	verdict := len(buf)
	buf = appendNest(buf, unix.NFTA_DATA_VERDICT)
	buf = appendAttr32(buf, unix.NFTA_VERDICT_CODE, verdictCode(v.Kind))
	if v.Chain != "" {
		buf = AppendAttrString(buf, unix.NFTA_VERDICT_CHAIN, v.Chain)
	}
	unnest(buf, verdict)
	unnest(buf, data)
	return buf
}

// verdictCode numbers verdicts as linux/netfilter.h (accept, drop) and
// linux/netfilter/nf_tables.h (the negative ones) do.
func verdictCode(k ruleset.VerdictKind) uint32 {
	code := int32(nfDrop)
	switch k {
	case ruleset.Drop:
	case ruleset.Accept:
		code = nfAccept
	case ruleset.Return:
		code = unix.NFT_RETURN
	case ruleset.Jump:
		code = unix.NFT_JUMP
	case ruleset.Goto:
		code = unix.NFT_GOTO
	}
	return uint32(code)
}

// counterExpr appends a counter that starts at the given state.
func counterExpr(buf []byte, typ int, packets, size uint64) []byte {
	at := len(buf)
	buf = appendNest(buf, typ)
	buf = AppendAttrString(buf, unix.NFTA_EXPR_NAME, "counter")
	data := len(buf)
	buf = appendNest(buf, unix.NFTA_EXPR_DATA)
	buf = binary.BigEndian.AppendUint64(appendAttrHeader(buf, unix.NFTA_COUNTER_BYTES, 8), size)
	buf = binary.BigEndian.AppendUint64(appendAttrHeader(buf, unix.NFTA_COUNTER_PACKETS, 8), packets)
	unnest(buf, data)
	unnest(buf, at)
	return buf
}

// intervalEnd appends the element that ends an interval: the first key behind
// it, flagged. The kernel's rbtree needs none behind the greatest key.
func (enc *elementEncoder) intervalEnd(buf []byte, e *ruleset.Element) []byte {
	after, ok := successor(e.End, enc.single)
	if !ok {
		return buf
	}
	at := len(buf)
	buf = appendNest(buf, unix.NFTA_LIST_ELEM)
	buf = enc.key(buf, unix.NFTA_SET_ELEM_KEY, &after)
	buf = appendAttr32(buf, unix.NFTA_SET_ELEM_FLAGS, nftElemIntervalEnd)
	unnest(buf, at)
	return buf
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

// ElementKeys gives the attribute that names elements of the change's set by
// their keys, for a request.
func ElementKeys(c *ruleset.Change, elements []ruleset.Element) []byte {
	enc := newElementEncoder(&ruleset.Change{Verb: ruleset.Delete, Family: c.Family, Set: c.Set})
	buf := appendNest(nil, unix.NFTA_SET_ELEM_LIST_ELEMENTS)
	for i := range elements {
		buf, _ = enc.append(buf, &elements[i]) // a key alone can always be encoded
	}
	unnest(buf, 0)
	return buf
}
