//go:build linux

package nfnl

import (
	"encoding/binary"

	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/nftdp/go-nftdp/internal/netlink"
	"github.com/nftdp/go-nftdp/internal/ruleset"
)

// read makes a tuple of a nested NFTA_DATA_VALUE; ok is false when b contains
// something else.
func (l *layout) read(b []byte, t *ruleset.Tuple) (ok bool, err error) {
	val, ok, err := only(b, unix.NFTA_DATA_VALUE)
	if !ok || l.size == 0 || len(val) != l.size {
		return false, err
	}
	var padded [maxTuple]byte
	copy(padded[:], val)
	l.swap(padded[:])
	*t, ok = ruleset.TupleOf(padded[:l.padded])
	return ok, err
}

// swap converts the host-endian numbers of a key or data to big-endian, or back.
func (l *layout) swap(b []byte) {
	for _, at := range l.slots[:l.nSlots] {
		swapNative(b[at : at+4])
	}
}

// swapNative converts a host-endian number to big-endian, or back.
func swapNative(b []byte) {
	binary.BigEndian.PutUint32(b, binary.NativeEndian.Uint32(b))
}

// only returns the value of the only attribute in b, which must be of a type; ok
// is false when b contains anything else.
func only(b []byte, typ uint16) (val []byte, ok bool, err error) {
	n := 0
	a := netlink.ReadAttributes(b)
	for ok = true; a.Next(); n++ {
		val, ok = a.Value, ok && a.Type == typ
	}
	return val, ok && n == 1, a.Err()
}

// readVerdict reads a nested NFTA_DATA_VERDICT. If the chain's name equals last,
// that is returned, which saves an allocation.
func readVerdict(b []byte, last string) (v ruleset.Verdict, ok bool, err error) {
	b, ok, err = only(b, unix.NFTA_DATA_VERDICT)
	if err != nil {
		return v, false, err
	}
	c := netlink.ReadAttributes(b)
	for c.Next() {
		switch {
		case c.Type == unix.NFTA_VERDICT_CODE && len(c.Value) == 4:
			v.Kind = verdictKind(expr.VerdictKind(int32(binary.BigEndian.Uint32(c.Value))))
		case c.Type == unix.NFTA_VERDICT_CHAIN:
			v.Chain = intern(c.Value, last)
		default:
			ok = false
		}
	}
	hasChain := v.Kind == ruleset.Jump || v.Kind == ruleset.Goto
	return v, ok && v.Kind != 0 && hasChain == (v.Chain != ""), c.Err()
}

// intern returns netlink.String(b), without an allocation if that equals last.
func intern(b []byte, last string) string {
	if n := len(b) - 1; n == len(last) && b[n] == 0 && string(b[:n]) == last {
		return last
	}
	return netlink.String(b)
}
