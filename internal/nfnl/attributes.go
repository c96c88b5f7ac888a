//go:build linux

package nfnl

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/nftdp/go-nftdp/internal/netlink"
	"github.com/nftdp/go-nftdp/internal/ruleset"
)

// unknown is something well-formed that package ruleset cannot express. It is no
// error of decoding, but makes the object that contains it opaque.
type unknown string

// Error describes it.
func (u unknown) Error() string { return string(u) }

// opaqueText distinguishes an error that makes an object opaque from one of
// malformed bytes.
func opaqueText(err error) (string, error) {
	if u, ok := errors.AsType[unknown](err); ok {
		return string(u), nil
	}
	return "", err
}

// maxAttributes is more than the number of attributes of any object here.
const maxAttributes = 24

// attributes are those of one object by their type; nil is absent. The first
// reason why the object is opaque or malformed stays in err, so that callers read
// all they need and check err once.
type attributes struct {
	val   [maxAttributes][]byte
	err   error
	outer *attributes // what contains them, if they are nested; it fails with them
}

// readAttributes collects attributes. Attributes that are not among the known
// ones, or that occur twice, make the object opaque.
func readAttributes(b []byte, known ...uint16) *attributes {
	a, bits := &attributes{}, uint32(0)
	for _, typ := range known {
		bits |= 1 << typ
	}
	a.read(b, bits)
	return a
}

var errHeader = errors.New("message without a header")

// readMessage reads a message from struct nfgenmsg on, which contains the family.
func readMessage(msg []byte, known ...uint16) (ruleset.Family, *attributes) {
	if len(msg) < netlink.NetfilterHeaderLen {
		return 0, &attributes{err: errHeader}
	}
	return ruleset.Family(msg[0]), readAttributes(msg[netlink.NetfilterHeaderLen:], known...)
}

// read is readAttributes with a bit for each known attribute.
func (a *attributes) read(b []byte, known uint32) {
	all := netlink.ReadAttributes(b)
	for all.Next() {
		if all.Type >= maxAttributes || known>>all.Type&1 == 0 || a.val[all.Type] != nil {
			a.opaque("attribute %d", all.Type)
			continue
		}
		a.val[all.Type] = all.Value
	}
	a.malformed(all.Err())
}

// opaque makes the object opaque, and says why.
func (a *attributes) opaque(format string, args ...any) {
	a.fail(unknown(fmt.Sprintf(format, args...)))
}

// check makes the object opaque unless a condition holds.
func (a *attributes) check(holds bool, otherwise string) bool {
	if !holds {
		a.fail(unknown(otherwise))
	}
	return holds
}

// malformed notes an error of reading, unless it is nil.
func (a *attributes) malformed(err error) {
	if err != nil {
		a.fail(err)
	}
}

// fail keeps the first error, but prefers malformed bytes to a merely opaque
// object.
func (a *attributes) fail(err error) {
	_, bad := opaqueText(err)
	if _, was := opaqueText(a.err); a.err == nil || bad != nil && was == nil {
		a.err = err
	}
	if a.outer != nil {
		a.outer.fail(err)
	}
}

func (a *attributes) has(typ uint16) bool { return a.val[typ] != nil }

// sized returns the attribute's bytes if there are n of them, and else n
// zeroes.
func (a *attributes) sized(typ uint16, n int) []byte {
	v := a.val[typ]
	switch {
	case len(v) == n:
		return v
	case v == nil:
		a.opaque("no attribute %d", typ)
	default:
		a.opaque("attribute %d of %d bytes", typ, len(v))
	}
	return make([]byte, n)
}

func (a *attributes) u8(typ uint16) uint8 { return a.sized(typ, 1)[0] }

func (a *attributes) u32(typ uint16) uint32 { return binary.BigEndian.Uint32(a.sized(typ, 4)) }

// optU32 is zero when the attribute is absent: the kernel leaves out what has
// its default value.
func (a *attributes) optU32(typ uint16) uint32 {
	if !a.has(typ) {
		return 0
	}
	return a.u32(typ)
}

func (a *attributes) str(typ uint16) string { return netlink.String(a.val[typ]) }

// data unwraps an attribute that holds NFTA_DATA_VALUE.
func (a *attributes) data(typ uint16) []byte {
	val, ok, err := only(a.val[typ], unix.NFTA_DATA_VALUE)
	a.malformed(err)
	if !ok {
		a.opaque("value of attribute %d", typ)
	}
	return val
}

// nested reads the attributes inside another one.
func (a *attributes) nested(typ uint16, known ...uint16) *attributes {
	if !a.has(typ) {
		a.opaque("no attribute %d", typ)
	}
	in := readAttributes(a.val[typ], known...)
	in.outer = a
	a.malformed(in.err)
	return in
}

// comment finds the comment in user data of nft, in which each field has a byte
// for its type, one for its length, and the value. The kernel does not interpret
// it, so it may contain anything; ok is false when it does not have that form, or
// has more than a comment and the types in alsoKnown.
func comment(b []byte, alsoKnown ...byte) (text []byte, ok bool) {
	for len(b) > 0 {
		if len(b) < 2 || len(b)-2 < int(b[1]) {
			return nil, false
		}
		typ, val := b[0], b[2:2+int(b[1])]
		b = b[2+len(val):]
		switch {
		case typ == udataComment: // nft shows it only with a zero at its end
			text, ok = bytes.CutSuffix(val, []byte{0})
			if !ok || bytes.IndexByte(text, 0) >= 0 {
				return text, false
			}
		case bytes.IndexByte(alsoKnown, typ) < 0:
			return nil, false
		}
	}
	return text, true
}
