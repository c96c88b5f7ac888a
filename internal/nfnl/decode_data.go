//go:build linux

package nfnl

import (
	"encoding/binary"

	"golang.org/x/sys/unix"

	"github.com/nftdp/go-nftdp/internal/ruleset"
)

// maxTuple is the most bytes that a ruleset.Tuple holds.
const maxTuple = 32

// layout says how a key or data lies in the kernel.
type layout struct {
	size   int // bytes in the kernel; 0: the types are not known, or too long
	padded int // bytes in a ruleset.Tuple
	// slots are the places of host-endian numbers.
	slots  [maxTuple / 4]uint8
	nSlots int
}

// layoutOf lays out a type or a concatenation. Only the fields of a
// concatenation are padded in the kernel; a type by itself is not.
func layoutOf(types []ruleset.Type, f ruleset.Family) layout {
	var l layout
	for _, t := range types {
		if l.padded+t.Len(f) > maxTuple {
			return layout{}
		}
		if t == ruleset.Slot {
			l.slots[l.nSlots] = uint8(l.padded)
			l.nSlots++
		}
		l.padded += t.Len(f)
	}
	l.size = l.padded
	if len(types) == 1 {
		l.size = typeLen(types[0], f)
	}
	return l
}

// read makes a tuple of what a nested NFTA_DATA_VALUE holds; ok is false when
// it is something else.
func (l *layout) read(b []byte, t *ruleset.Tuple) (ok bool, err error) {
	val, ok, err := dataValue(b)
	if !ok || l.size == 0 || len(val) != l.size {
		return false, err
	}
	var padded [maxTuple]byte
	copy(padded[:], val)
	for _, at := range l.slots[:l.nSlots] {
		swapNative(padded[at : at+4])
	}
	*t, ok = ruleset.TupleOf(padded[:l.padded])
	return ok, err
}

// swapNative turns a host-endian number into a big-endian one.
func swapNative(b []byte) {
	binary.BigEndian.PutUint32(b, binary.NativeEndian.Uint32(b))
}

// dataValue unwraps NFTA_DATA_VALUE.
func dataValue(b []byte) (val []byte, ok bool, err error) {
	ok = true
	c := cursor{rest: b}
	for c.next() {
		ok = ok && c.typ == unix.NFTA_DATA_VALUE && val == nil
		val = c.val
	}
	return val, ok && val != nil, c.err
}

// readVerdictData reads a nested NFTA_DATA_VERDICT. The chain's name is last
// if it is the same, which saves its allocation.
func readVerdictData(b []byte, last string) (v ruleset.Verdict, ok bool, err error) {
	n := 0
	c := cursor{rest: b}
	for ok = true; c.next(); n++ {
		if c.typ != unix.NFTA_DATA_VERDICT {
			ok = false
			continue
		}
		var known bool
		if v, known, err = readVerdict(c.val, last); err != nil {
			return ruleset.Verdict{}, false, err
		}
		ok = ok && known
	}
	return v, ok && n == 1, c.err
}

func readVerdict(b []byte, last string) (v ruleset.Verdict, ok bool, err error) {
	ok = true
	c := cursor{rest: b}
	for c.next() {
		switch {
		case c.typ == unix.NFTA_VERDICT_CODE && len(c.val) == 4:
			v.Kind = verdictKind(int32(binary.BigEndian.Uint32(c.val)))
		case c.typ == unix.NFTA_VERDICT_CHAIN:
			v.Chain = intern(c.val, last)
		default:
			ok = false
		}
	}
	hasChain := v.Kind == ruleset.Jump || v.Kind == ruleset.Goto
	return v, ok && v.Kind != 0 && hasChain == (v.Chain != ""), c.err
}

// verdictKind is zero for the verdicts without a form, such as queue.
func verdictKind(code int32) ruleset.VerdictKind {
	switch code {
	case nfDrop:
		return ruleset.Drop
	case nfAccept:
		return ruleset.Accept
	case unix.NFT_RETURN:
		return ruleset.Return
	case unix.NFT_JUMP:
		return ruleset.Jump
	case unix.NFT_GOTO:
		return ruleset.Goto
	}
	return 0
}

// intern is cstring(b), without an allocation if that is last.
func intern(b []byte, last string) string {
	if n := len(b) - 1; n == len(last) && b[n] == 0 && string(b[:n]) == last {
		return last
	}
	return cstring(b)
}
