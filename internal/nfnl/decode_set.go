//go:build linux

package nfnl

import (
	"fmt"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/nftdp/go-nftdp/internal/netlink"
	"github.com/nftdp/go-nftdp/internal/ruleset"
)

// DecodeSet decodes a message of type NFT_MSG_NEWSET: a set without its
// elements.
func DecodeSet(msg []byte) (table string, family ruleset.Family, s *ruleset.Set, err error) {
	family, a := readMessage(msg, unix.NFTA_SET_TABLE, unix.NFTA_SET_NAME, unix.NFTA_SET_FLAGS,
		unix.NFTA_SET_KEY_TYPE, unix.NFTA_SET_KEY_LEN, unix.NFTA_SET_DATA_TYPE, unix.NFTA_SET_DATA_LEN,
		unix.NFTA_SET_POLICY, unix.NFTA_SET_DESC, unix.NFTA_SET_USERDATA, nftaSetHandle, unix.NFTA_SET_ID,
		nftaSetExpr, nftaSetExpressions, nftaSetType, nftaSetCount)
	table = a.str(unix.NFTA_SET_TABLE)
	s = &ruleset.Set{Name: a.str(unix.NFTA_SET_NAME)}
	setTypes(a, family, s)
	setFlags(a, s)
	setDesc(a, family, s)
	setExpressions(a, s)
	if s.Opaque, err = ownerError(family, a.err, table, s.Name); err != nil {
		return "", 0, nil, fmt.Errorf("decode set: %w", err)
	}
	if s.Opaque == "" && !sameUserdata(a.val[unix.NFTA_SET_USERDATA], setUserdata(s, family)) {
		s.Note = "user data"
	}
	return table, family, s, nil
}

// setTypes reads the types of keys and data. Key and Data stay nil if they are
// not known.
func setTypes(a *attributes, family ruleset.Family, s *ruleset.Set) {
	s.Key = typesOf(a, family, unix.NFTA_SET_KEY_TYPE, unix.NFTA_SET_KEY_LEN)
	if a.optU32(unix.NFTA_SET_FLAGS)&unix.NFT_SET_MAP == 0 {
		return
	}
	if a.u32(unix.NFTA_SET_DATA_TYPE) == unix.NFT_DATA_VERDICT {
		s.Verdict = true
		return
	}
	s.Data = typesOf(a, family, unix.NFTA_SET_DATA_TYPE, unix.NFTA_SET_DATA_LEN)
}

// typesOf reads nft's number for a type or a concatenation of types, and
// checks that values have its length.
func typesOf(a *attributes, family ruleset.Family, typeAttr, lenAttr uint16) []ruleset.Type {
	number, size := a.u32(typeAttr), a.u32(lenAttr)
	var types []ruleset.Type
	for n := number; n != 0; n >>= nftTypeBits {
		t, ok := typeOf(n&(1<<nftTypeBits-1), family)
		if !ok {
			a.opaque("type %#x", number)
			return nil
		}
		types = append(types, t)
	}
	slices.Reverse(types)
	// The elements of a dynamic set are not read as tuples, so they may be
	// longer.
	_, length := concat(types, family)
	const kind = nftSetDynamic | unix.NFT_SET_INTERVAL
	readable := layoutOf(types, family).size > 0 || a.optU32(unix.NFTA_SET_FLAGS)&kind == nftSetDynamic
	if len(types) == 0 || length != size || !readable {
		a.opaque("type %#x of %d bytes", number, size)
		return nil
	}
	return types
}

// setFlags reads the flags. NFT_SET_EXPR only says that there are expressions.
func setFlags(a *attributes, s *ruleset.Set) {
	flags := a.optU32(unix.NFTA_SET_FLAGS)
	s.Interval = flags&unix.NFT_SET_INTERVAL != 0
	known := uint32(unix.NFT_SET_INTERVAL | unix.NFT_SET_MAP | nftSetConcat | nftSetExpr)
	if flags&nftSetDynamic == nftSetDynamic && !s.Interval {
		s.Dynamic = true
		known |= nftSetDynamic
	}
	if flags&^known != 0 {
		a.opaque("flags %#x", flags)
	}
	// Without NFT_SET_CONCAT the kernel treats a concatenation as one long
	// number, so an interval has another meaning.
	a.check(!s.Interval || (flags&nftSetConcat != 0) == (len(s.Key) > 1), "interval of a concatenation")
	// The kernel compares bytes, so nft stores host-endian numbers as
	// big-endian ones in such sets.
	a.check(!s.Interval || !slices.Contains(s.Key, ruleset.Slot), "interval of numbers")
	a.check(a.optU32(unix.NFTA_SET_POLICY) == unix.NFT_SET_POL_PERFORMANCE, "policy")
}

// setDesc reads the size, and the lengths of a concatenation's fields.
func setDesc(a *attributes, family ruleset.Family, s *ruleset.Set) {
	if !a.has(unix.NFTA_SET_DESC) {
		return
	}
	in := a.nested(unix.NFTA_SET_DESC, unix.NFTA_SET_DESC_SIZE, nftaSetDescConcat)
	s.Size = in.optU32(unix.NFTA_SET_DESC_SIZE)
	if !in.has(nftaSetDescConcat) || s.Key == nil {
		return
	}
	i := 0
	c := netlink.ReadAttributes(in.val[nftaSetDescConcat])
	for ; c.Next(); i++ {
		field := readAttributes(c.Value, nftaSetFieldLen)
		n := field.u32(nftaSetFieldLen)
		a.malformed(field.err)
		if i >= len(s.Key) || s.Key[i].Size(family) != int(n) {
			a.opaque("lengths of a concatenation's fields")
		}
	}
	a.malformed(c.Err())
	if i != len(s.Key) {
		a.opaque("number of a concatenation's fields")
	}
}

// sameUserdata compares what nft keeps in a set with what we write, field by field.
// A comment is a field, too. Besides ours, nft writes zeroes for what it was not
// asked for, such as the merging of intervals, and in some versions an expression
// without contents for a concatenation that was declared by types. Only typeof may
// not be missing: nft does without the other fields.
func sameUserdata(b, ours []byte) bool {
	want := map[byte]string{}
	for ; len(ours) > 0; ours = ours[2+ours[1]:] {
		want[ours[0]] = string(ours[2 : 2+ours[1]])
	}
	for len(b) > 0 {
		if len(b) < 2 || len(b)-2 < int(b[1]) {
			return false
		}
		typ, val := b[0], string(b[2:2+int(b[1])])
		b = b[2+len(val):]
		own, ok := want[typ]
		empty := strings.Trim(val, "\x00") == "" || (typ == udataKeyTypeof || typ == udataDataTypeof) && emptyExpr(val)
		if ok && val != own || !ok && !empty {
			return false
		}
		delete(want, typ)
	}
	return want[udataKeyTypeof]+want[udataDataTypeof] == ""
}

// emptyExpr reports whether an expression in user data, which has a number for its
// type and nested fields, has none of the latter.
func emptyExpr(val string) bool {
	return len(val) == 8 && val[:2] == "\x00\x04" && val[6:] == "\x01\x00"
}

// setExpressions reads what is evaluated for each element: a counter or nothing.
// The kernel reports a single one as NFTA_SET_EXPR.
func setExpressions(a *attributes, s *ruleset.Set) {
	var n counter
	for _, typ := range []uint16{nftaSetExpr, nftaSetExpressions} {
		if !a.has(typ) {
			continue
		}
		read := n.readExpr
		if typ == nftaSetExpressions {
			read = n.readList
		}
		ok, err := read(a.val[typ])
		a.malformed(err)
		s.Counter = a.check(ok, "expressions")
	}
}
