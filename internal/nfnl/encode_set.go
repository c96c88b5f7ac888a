//go:build linux

package nfnl

import (
	"encoding/binary"
	"fmt"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/nftdp/go-nftdp/internal/ruleset"
)

// Types of the user data that nft keeps in sets: libnftnl's
// include/libnftnl/udata.h.
const (
	udataKeyByteorder  = 0
	udataDataByteorder = 1
	udataKeyTypeof     = 3
	udataDataTypeof    = 4
	udataDataInterval  = 6
)

func (b *Batch) set(c *ruleset.Change) error {
	s := c.Set
	typ, flags := verb(c, unix.NFT_MSG_NEWSET, unix.NFT_MSG_DELSET)
	at := b.message(typ, flags, c.Family, c.Table, ref{change: c})
	b.buf.PutString(unix.NFTA_SET_NAME, s.Name)
	if c.Verb == ruleset.Add {
		if s.Opaque != "" {
			return fmt.Errorf("encode set %s: %w", s.Name, errOpaque)
		}
		b.declaration(s, c.Family)
	}
	b.buf.EndMessage(at)
	return nil
}

func (b *Batch) declaration(s *ruleset.Set, f ruleset.Family) {
	flags := uint32(0)
	if s.Interval {
		flags |= unix.NFT_SET_INTERVAL
	}
	if fieldwise(s) {
		flags |= nftSetConcat
	}
	if s.Dynamic {
		flags |= nftSetDynamic
	}
	id, length := concat(s.Key, f)
	b.buf.PutUint32(unix.NFTA_SET_KEY_TYPE, id)
	b.buf.PutUint32(unix.NFTA_SET_KEY_LEN, length)
	if isMap(s) {
		flags |= unix.NFT_SET_MAP
		id, length := concat(s.Data, f)
		if s.Verdict {
			id, length = unix.NFT_DATA_VERDICT, 16 // the length as in nft; the kernel ignores it
		}
		b.buf.PutUint32(unix.NFTA_SET_DATA_TYPE, id)
		b.buf.PutUint32(unix.NFTA_SET_DATA_LEN, length)
	}
	b.buf.PutUint32(unix.NFTA_SET_FLAGS, flags)
	b.setID++ // the kernel insists on a number, although we refer to sets by name
	b.buf.PutUint32(unix.NFTA_SET_ID, b.setID)
	b.description(s, f)
	b.buf.Put(unix.NFTA_SET_USERDATA, setUserdata(s, f))
	if s.Counter {
		putCounter(&b.buf, nftaSetExpr)
	}
}

func isMap(s *ruleset.Set) bool { return s.Verdict || len(s.Data) > 0 }

// fieldwise reports whether every field of the keys has a range of its own.
func fieldwise(s *ruleset.Set) bool { return s.Interval && len(s.Key) > 1 }

// description declares the size, and the fields that have ranges. A set with a
// known size becomes a hash table that never has to grow, which loads more than
// twice as fast.
func (b *Batch) description(s *ruleset.Set, f ruleset.Family) {
	if s.Size == 0 && !fieldwise(s) {
		return
	}
	desc := b.buf.Nest(unix.NFTA_SET_DESC)
	if s.Size > 0 {
		b.buf.PutUint32(unix.NFTA_SET_DESC_SIZE, s.Size)
	}
	if fieldwise(s) {
		list := b.buf.Nest(nftaSetDescConcat)
		for _, t := range s.Key {
			field := b.buf.Nest(unix.NFTA_LIST_ELEM)
			b.buf.PutUint32(nftaSetFieldLen, uint32(t.Size(f)))
			b.buf.Unnest(field)
		}
		b.buf.Unnest(list)
	}
	b.buf.Unnest(desc)
}

// setUserdata returns what stock nft needs to print the set as it was declared:
// the byte order, and the expressions for types that have no width of their own.
func setUserdata(s *ruleset.Set, f ruleset.Family) []byte {
	u := udata32(nil, udataKeyByteorder, byteorder(s.Key))
	if isMap(s) {
		u = udata32(u, udataDataByteorder, byteorder(s.Data))
	}
	if slices.Contains(s.Key, ruleset.Slot) {
		u = udata(u, udataKeyTypeof, typeof(s.Key, f))
		switch {
		case s.Verdict:
			u = udata(u, udataDataTypeof, typeofExpr(exprVerdict, nil))
		case isMap(s):
			u = udata(u, udataDataTypeof, typeof(s.Data, f))
		}
	}
	if isMap(s) {
		u = udata32(u, udataDataInterval, 0) // data is no range
	}
	return u
}

// byteorder is a value of nft's enum byteorder: big-endian, or 0 for a
// concatenation, a single byte and verdicts.
func byteorder(types []ruleset.Type) uint32 {
	const bigEndian = 2
	if len(types) != 1 || types[0] == ruleset.Proto {
		return 0
	}
	return bigEndian
}

// udata appends a field of user data: type, length, value, without padding.
func udata(buf []byte, typ int, v []byte) []byte {
	return append(append(buf, byte(typ), byte(len(v))), v...)
}

// udata32 appends a number, which nft keeps host-endian.
func udata32(buf []byte, typ int, v uint32) []byte {
	return binary.NativeEndian.AppendUint32(append(buf, byte(typ), 4), v)
}
