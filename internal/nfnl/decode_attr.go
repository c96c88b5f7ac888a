//go:build linux

package nfnl

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/nftdp/go-nftdp/internal/ruleset"
)

// nfgenmsgLen is the size of struct nfgenmsg, which precedes the attributes
// of every message: family, version and a resource number.
const nfgenmsgLen = 4

// body splits a message into its family and its attributes.
func body(msg []byte) (ruleset.Family, []byte, error) {
	if len(msg) < nfgenmsgLen {
		return 0, nil, fmt.Errorf("message of %d bytes has no header", len(msg))
	}
	return ruleset.Family(msg[0]), msg[nfgenmsgLen:], nil
}

// cursor walks over a row of attributes. It allocates nothing: val is a part
// of the bytes it was made from.
type cursor struct {
	rest []byte
	typ  uint16
	val  []byte
	err  error
}

// next moves to the next attribute. It returns false at the end and at the
// first malformed one; err tells which.
func (c *cursor) next() bool {
	if len(c.rest) == 0 || c.err != nil {
		return false
	}
	if len(c.rest) < unix.NLA_HDRLEN {
		c.err = fmt.Errorf("%d bytes after the last attribute", len(c.rest))
		return false
	}
	n := int(binary.NativeEndian.Uint16(c.rest))
	c.typ = binary.NativeEndian.Uint16(c.rest[2:]) &^ (unix.NLA_F_NESTED | unix.NLA_F_NET_BYTEORDER)
	if n < unix.NLA_HDRLEN || n > len(c.rest) {
		c.err = fmt.Errorf("attribute %d of %d bytes in %d", c.typ, n, len(c.rest))
		return false
	}
	c.val = c.rest[unix.NLA_HDRLEN:n]
	// The last attribute may go without padding.
	c.rest = c.rest[min((n+unix.NLA_ALIGNTO-1)&^(unix.NLA_ALIGNTO-1), len(c.rest)):]
	return true
}

// unknown is a well-formed thing that has no form in package ruleset: not an
// error of decoding, but a reason to make its owner opaque.
type unknown string

// Error says what was found.
func (u unknown) Error() string { return string(u) }

// opaqueText splits an error into what makes an object opaque and what means
// that its bytes are malformed.
func opaqueText(err error) (string, error) {
	if u, ok := errors.AsType[unknown](err); ok {
		return string(u), nil
	}
	return "", err
}

// maxFields is more than the number of attributes of any object here.
const maxFields = 24

// fields are the attributes of one object by their type; nil is absent. The
// first attribute that is not of the expected size is kept in err, so that
// callers read all they need and look at err once.
type fields struct {
	val   [maxFields][]byte
	err   error
	outer *fields // of nested attributes: fails with them
}

// readFields collects attributes. Attributes that are not among the known
// ones, or that come twice, make the object unknown.
func readFields(b []byte, known ...uint16) *fields {
	var isKnown [maxFields]bool
	for _, k := range known {
		isKnown[k] = true
	}
	f := &fields{}
	c := cursor{rest: b}
	for c.next() {
		if c.typ >= maxFields || !isKnown[c.typ] || f.val[c.typ] != nil {
			f.fail(unknown(fmt.Sprintf("attribute %d", c.typ)))
			continue
		}
		f.val[c.typ] = c.val
	}
	if c.err != nil {
		f.fail(c.err)
	}
	return f
}

// fail keeps the first error, but prefers malformed bytes to what is merely
// unknown.
func (f *fields) fail(err error) {
	_, bad := opaqueText(err)
	if _, was := opaqueText(f.err); f.err == nil || bad != nil && was == nil {
		f.err = err
	}
	if f.outer != nil {
		f.outer.fail(err)
	}
}

func (f *fields) has(typ uint16) bool { return f.val[typ] != nil }

// sized is the attribute's bytes if there are n of them, and else n zeroes.
func (f *fields) sized(typ uint16, n int) []byte {
	if v := f.val[typ]; len(v) == n {
		return v
	}
	if f.has(typ) {
		f.fail(unknown(fmt.Sprintf("attribute %d of %d bytes", typ, len(f.val[typ]))))
	} else {
		f.fail(unknown(fmt.Sprintf("no attribute %d", typ)))
	}
	return make([]byte, n)
}

func (f *fields) u8(typ uint16) uint8 { return f.sized(typ, 1)[0] }

func (f *fields) u32(typ uint16) uint32 { return binary.BigEndian.Uint32(f.sized(typ, 4)) }

// optU32 is zero when the attribute is absent: the kernel leaves out what has
// its default value.
func (f *fields) optU32(typ uint16) uint32 {
	if !f.has(typ) {
		return 0
	}
	return f.u32(typ)
}

func (f *fields) str(typ uint16) string { return cstring(f.val[typ]) }

// nested reads the attributes inside of one.
func (f *fields) nested(typ uint16, known ...uint16) *fields {
	if !f.has(typ) {
		f.fail(unknown(fmt.Sprintf("no attribute %d", typ)))
	}
	in := readFields(f.val[typ], known...)
	in.outer = f
	if in.err != nil {
		f.fail(in.err)
	}
	return in
}

// cstring is a string up to its terminating zero.
func cstring(b []byte) string {
	if i := bytes.IndexByte(b, 0); i >= 0 {
		b = b[:i]
	}
	return string(b)
}

// comment finds the comment in user data of nft: one byte each for type and
// length, then the value. The kernel does not look inside, so that anything
// may be there; ok is false when it is not of that form or has more than a
// comment and the types in alsoKnown.
func comment(b []byte, alsoKnown ...byte) (text []byte, ok bool) {
	for len(b) > 0 {
		if len(b) < 2 || len(b)-2 < int(b[1]) {
			return nil, false
		}
		typ, val := b[0], b[2:2+int(b[1])]
		b = b[2+len(val):]
		if typ == udataComment {
			text = bytes.TrimSuffix(val, []byte{0})
		} else if bytes.IndexByte(alsoKnown, typ) < 0 {
			return nil, false
		}
	}
	return text, true
}
