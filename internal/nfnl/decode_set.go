//go:build linux

package nfnl

import (
	"fmt"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/nftdp/go-nftdp/internal/ruleset"
)

// DecodeSet decodes a message of type NFT_MSG_NEWSET: a set without its
// elements.
func DecodeSet(msg []byte) (table string, family ruleset.Family, s *ruleset.Set, err error) {
	family, attrs, err := body(msg)
	if err != nil {
		return "", 0, nil, fmt.Errorf("decode set: %w", err)
	}
	f := readFields(attrs, unix.NFTA_SET_TABLE, unix.NFTA_SET_NAME, unix.NFTA_SET_FLAGS,
		unix.NFTA_SET_KEY_TYPE, unix.NFTA_SET_KEY_LEN, unix.NFTA_SET_DATA_TYPE, unix.NFTA_SET_DATA_LEN,
		unix.NFTA_SET_POLICY, unix.NFTA_SET_DESC, unix.NFTA_SET_USERDATA, nftaSetHandle, unix.NFTA_SET_ID,
		nftaSetExpr, nftaSetExpressions, nftaSetType, nftaSetCount)
	table = f.str(unix.NFTA_SET_TABLE)
	s = &ruleset.Set{Name: f.str(unix.NFTA_SET_NAME)}
	setTypes(f, family, s)
	setFlags(f, s)
	setDesc(f, family, s)
	setExpressions(f, s)
	if s.Opaque, err = ownerError(family, f.err, table, s.Name); err != nil {
		return "", 0, nil, fmt.Errorf("decode set: %w", err)
	}
	return table, family, s, nil
}

// setTypes reads what keys and data consist of. Key and Data stay nil where
// they are not known.
func setTypes(f *fields, family ruleset.Family, s *ruleset.Set) {
	s.Key = typesOf(f, family, unix.NFTA_SET_KEY_TYPE, unix.NFTA_SET_KEY_LEN)
	if f.optU32(unix.NFTA_SET_FLAGS)&unix.NFT_SET_MAP == 0 {
		return
	}
	if f.u32(unix.NFTA_SET_DATA_TYPE) == unix.NFT_DATA_VERDICT {
		s.Verdict = true
		return
	}
	s.Data = typesOf(f, family, unix.NFTA_SET_DATA_TYPE, unix.NFTA_SET_DATA_LEN)
}

// typesOf reads nft's number for a type or a concatenation of types, and
// checks that values are of its length.
func typesOf(f *fields, family ruleset.Family, typeAttr, lenAttr uint16) []ruleset.Type {
	number, size := f.u32(typeAttr), f.u32(lenAttr)
	var types []ruleset.Type
	for n := number; n != 0; n >>= nftTypeBits {
		t, ok := typeOf(n&(1<<nftTypeBits-1), family)
		if !ok {
			f.fail(unknown(fmt.Sprintf("type %#x", number)))
			return nil
		}
		types = append(types, t)
	}
	slices.Reverse(types)
	// The elements of a dynamic set are not read as tuples, so that they may
	// be longer.
	_, length := concat(types, family)
	const kind = nftSetDynamic | unix.NFT_SET_INTERVAL
	readable := layoutOf(types, family).size > 0 || f.optU32(unix.NFTA_SET_FLAGS)&kind == nftSetDynamic
	if len(types) == 0 || length != size || !readable {
		f.fail(unknown(fmt.Sprintf("type %#x of %d bytes", number, size)))
		return nil
	}
	return types
}

func typeOf(number uint32, family ruleset.Family) (ruleset.Type, bool) {
	switch number {
	case nftTypeIPv4Addr:
		return ruleset.Addr, family == ruleset.IPv4
	case nftTypeIPv6Addr:
		return ruleset.Addr, family == ruleset.IPv6
	case nftTypeInetProto:
		return ruleset.Proto, true
	case nftTypeInetService:
		return ruleset.Port, true
	case nftTypeInteger:
		return ruleset.Slot, true
	}
	return 0, false
}

// setFlags reads the flags. NFT_SET_EXPR only says that there are expressions.
func setFlags(f *fields, s *ruleset.Set) {
	flags := f.optU32(unix.NFTA_SET_FLAGS)
	s.Interval = flags&unix.NFT_SET_INTERVAL != 0
	known := uint32(unix.NFT_SET_INTERVAL | unix.NFT_SET_MAP | nftSetConcat | nftSetExpr)
	if flags&nftSetDynamic == nftSetDynamic && !s.Interval {
		s.Dynamic = true
		known |= nftSetDynamic
	}
	if flags&^known != 0 {
		f.fail(unknown(fmt.Sprintf("flags %#x", flags)))
	}
	// Without NFT_SET_CONCAT the kernel takes a concatenation for one long
	// number, which makes something else of an interval.
	if s.Interval && (flags&nftSetConcat != 0) != (len(s.Key) > 1) {
		f.fail(unknown("interval of a concatenation"))
	}
	// The kernel compares bytes, for which nft stores host-endian numbers
	// big-endian in such sets.
	if s.Interval && slices.Contains(s.Key, ruleset.Slot) {
		f.fail(unknown("interval of numbers"))
	}
	if f.optU32(unix.NFTA_SET_POLICY) != unix.NFT_SET_POL_PERFORMANCE {
		f.fail(unknown("policy"))
	}
}

// setDesc reads the size, and the lengths of a concatenation's fields.
func setDesc(f *fields, family ruleset.Family, s *ruleset.Set) {
	if !f.has(unix.NFTA_SET_DESC) {
		return
	}
	in := f.nested(unix.NFTA_SET_DESC, unix.NFTA_SET_DESC_SIZE, nftaSetDescConcat)
	s.Size = in.optU32(unix.NFTA_SET_DESC_SIZE)
	if !in.has(nftaSetDescConcat) || s.Key == nil {
		return
	}
	i := 0
	c := cursor{rest: in.val[nftaSetDescConcat]}
	for ; c.next(); i++ {
		field := readFields(c.val, nftaSetFieldLen)
		n := field.u32(nftaSetFieldLen)
		if field.err != nil {
			f.fail(field.err)
		}
		if i >= len(s.Key) || typeLen(s.Key[i], family) != int(n) {
			f.fail(unknown("lengths of a concatenation's fields"))
		}
	}
	if c.err != nil {
		f.fail(c.err)
	}
	if i != len(s.Key) {
		f.fail(unknown("number of a concatenation's fields"))
	}
}

// setExpressions reads what is evaluated for each element: a counter or none.
// The kernel reports a single one as NFTA_SET_EXPR.
func setExpressions(f *fields, s *ruleset.Set) {
	var n counter
	for _, typ := range []uint16{nftaSetExpr, nftaSetExpressions} {
		if !f.has(typ) {
			continue
		}
		read := n.readExpr
		if typ == nftaSetExpressions {
			read = n.readList
		}
		ok, err := read(f.val[typ])
		switch {
		case err != nil:
			f.fail(err)
		case !ok:
			f.fail(unknown("expressions"))
		}
		s.Counter = ok
	}
}
