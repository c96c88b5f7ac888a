//go:build linux

package nfnl

import (
	"encoding/binary"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/nftdp/go-nftdp/internal/ruleset"
)

// DecodeElements decodes a message of type NFT_MSG_NEWSETELEM, which has some
// of the elements of a set, and calls yield for each, if the set has the name
// of s. The table's name is for the caller to compare. The elements of an
// interval set are halves until FoldIntervals has seen all of them. Those of a
// dynamic set are no part of a ruleset, and none is yielded.
//
// An element without a key, such as the catch-all element, can not be deleted
// by its key: it makes s as a whole opaque.
//
// A node with many services has hundreds of thousands of elements, all of
// which are read when a process starts: this path allocates memory for
// comments and for names of chains only.
func DecodeElements(msg []byte, s *ruleset.Set, f ruleset.Family, yield func(ruleset.Element)) (table, set string, err error) {
	table, set, list, err := elementList(msg, f)
	if err == nil && set == s.Name && !s.Dynamic {
		d := elementDecoder{set: s, key: layoutOf(s.Key, f), data: layoutOf(s.Data, f), yield: yield}
		err = d.list(list)
	}
	if err != nil {
		return "", "", fmt.Errorf("decode elements of %q: %w", set, err)
	}
	return table, set, nil
}

// elementList finds whose elements a message has, and their list.
func elementList(msg []byte, f ruleset.Family) (table, set string, list []byte, err error) {
	family, attrs, err := body(msg)
	if err != nil {
		return "", "", nil, err
	}
	c := cursor{rest: attrs}
	for c.next() {
		switch c.typ {
		case unix.NFTA_SET_ELEM_LIST_TABLE:
			table = cstring(c.val)
		case unix.NFTA_SET_ELEM_LIST_SET:
			set = cstring(c.val)
		case unix.NFTA_SET_ELEM_LIST_ELEMENTS:
			if list != nil {
				return table, set, nil, errors.New("two lists")
			}
			list = c.val
		}
	}
	switch {
	case c.err != nil:
		err = c.err
	case table == "" || set == "":
		err = errors.New("no name")
	case family != f:
		err = fmt.Errorf("family %d, not %d", family, f)
	}
	return table, set, list, err
}

// elementDecoder decodes one element after the other into e.
type elementDecoder struct {
	set       *ruleset.Set
	key, data layout
	yield     func(ruleset.Element)

	e       ruleset.Element
	flags   uint32
	counter counter
	// Elements that follow each other often have the same strings.
	lastChain, lastComment string
}

func (d *elementDecoder) list(b []byte) error {
	c := cursor{rest: b}
	for c.next() {
		// The kernel takes and gives no other type here.
		if c.typ != unix.NFTA_LIST_ELEM {
			d.e = ruleset.Element{Opaque: true}
		} else if err := d.element(c.val); err != nil {
			return err
		}
		if d.set.Opaque == "" && bound(&d.e).IsZero() {
			d.set.Opaque = "element without a key"
		}
		d.yield(d.e)
	}
	return c.err
}

func (d *elementDecoder) element(b []byte) error {
	d.e, d.flags, d.counter = ruleset.Element{}, 0, counter{}
	c := cursor{rest: b}
	for c.next() {
		ok, err := d.attribute(c.typ, c.val)
		if err != nil {
			return err
		}
		if !ok {
			d.e.Opaque = true
		}
	}
	d.finish()
	return c.err
}

// attribute reads one attribute of an element; ok is false for one that is
// not known, such as a timeout or a reference to a stateful object.
func (d *elementDecoder) attribute(typ uint16, val []byte) (ok bool, err error) {
	switch typ {
	case unix.NFTA_SET_ELEM_KEY:
		return d.key.read(val, &d.e.Key)
	case nftaSetElemKeyEnd:
		return d.key.read(val, &d.e.End)
	case unix.NFTA_SET_ELEM_DATA:
		if !d.set.Verdict {
			return d.data.read(val, &d.e.Data)
		}
		d.e.Verdict, ok, err = readVerdictData(val, d.lastChain)
		d.lastChain = d.e.Verdict.Chain
		return ok, err
	case unix.NFTA_SET_ELEM_FLAGS:
		if len(val) != 4 {
			return false, nil
		}
		d.flags = binary.BigEndian.Uint32(val)
		return true, nil
	case unix.NFTA_SET_ELEM_USERDATA:
		return d.comment(val), nil
	case unix.NFTA_SET_ELEM_EXPR:
		return d.counter.readExpr(val)
	case nftaSetElemExpressions:
		return d.counter.readList(val)
	case unix.NFTA_SET_ELEM_PAD:
		return true, nil
	}
	return false, nil
}

func (d *elementDecoder) comment(b []byte) bool {
	text, ok := comment(b, udataElemFlags)
	if string(text) != d.lastComment {
		d.lastComment = string(text)
	}
	d.e.Comment = d.lastComment
	return ok
}

// finish looks at the element as a whole.
func (d *elementDecoder) finish() {
	e := &d.e
	e.Packets, e.Bytes = d.counter.packets, d.counter.bytes
	isEnd := d.set.Interval && len(d.set.Key) == 1 && d.flags == unix.NFT_SET_ELEM_INTERVAL_END
	switch {
	case isEnd:
		*e = endHalf(e)
		return
	case d.flags != 0: // such as NFT_SET_ELEM_CATCHALL
		e.Opaque = true
	case !d.set.Interval && !e.End.IsZero():
		e.Opaque = true
	case d.set.Interval && len(d.set.Key) > 1 && e.End.IsZero():
		// A single key, which nft_set_pipapo.c takes without an end.
		e.End = e.Key
	}
	complete := !e.Key.IsZero() &&
		(!d.set.Verdict || e.Verdict.Kind != 0) &&
		(len(d.set.Data) == 0 || !e.Data.IsZero()) &&
		(d.set.Counter || !d.counter.seen)
	if !complete {
		e.Opaque = true
	}
}

// counter is the state of a counter expression.
type counter struct {
	packets, bytes uint64
	seen           bool
}

// readList reads a list that is expected to have one counter in it.
func (n *counter) readList(b []byte) (ok bool, err error) {
	c := cursor{rest: b}
	ok = true
	for c.next() {
		isCounter, err := n.readExpr(c.val)
		if err != nil {
			return false, err
		}
		ok = ok && isCounter && c.typ == unix.NFTA_LIST_ELEM
	}
	return ok && n.seen, c.err
}

// readExpr reads an expression that is expected to be the only counter.
func (n *counter) readExpr(b []byte) (ok bool, err error) {
	ok = !n.seen
	n.seen = true
	isCounter := false
	c := cursor{rest: b}
	for c.next() {
		switch {
		case c.typ == unix.NFTA_EXPR_NAME:
			isCounter = string(c.val) == "counter\x00"
		case c.typ == unix.NFTA_EXPR_DATA && isCounter:
			known, err := n.readState(c.val)
			if err != nil {
				return false, err
			}
			ok = ok && known
		default:
			ok = false
		}
	}
	return ok && isCounter, c.err
}

func (n *counter) readState(b []byte) (ok bool, err error) {
	ok = true
	c := cursor{rest: b}
	for c.next() {
		switch {
		case c.typ == unix.NFTA_COUNTER_BYTES && len(c.val) == 8:
			n.bytes = binary.BigEndian.Uint64(c.val)
		case c.typ == unix.NFTA_COUNTER_PACKETS && len(c.val) == 8:
			n.packets = binary.BigEndian.Uint64(c.val)
		case c.typ != unix.NFTA_COUNTER_PAD:
			ok = false
		}
	}
	return ok, c.err
}
