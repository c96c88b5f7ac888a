//go:build linux

package nfnl

import (
	"encoding/binary"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/nftdp/go-nftdp/internal/netlink"
	"github.com/nftdp/go-nftdp/internal/ruleset"
)

// DecodeElements decodes a message of type NFT_MSG_NEWSETELEM, which contains
// elements of a set, and calls yield for each of them if the set has the name of
// s. The table is that of the request. The elements of an interval set
// are halves until FoldIntervals has joined them. Those of a dynamic set are no
// part of a ruleset, and are not yielded.
//
// An element without a key, such as the catch-all element, cannot be deleted by
// its key, so it makes s as a whole opaque.
//
// A node with many services has hundreds of thousands of elements, all of which
// are read when a process starts. So this path allocates memory only for comments
// and for names of chains.
func DecodeElements(msg []byte, s *ruleset.Set, f ruleset.Family, yield func(ruleset.Element)) error {
	set, list, err := elementList(msg, f)
	if err == nil && string(set) == s.Name && !s.Dynamic {
		d := elementDecoder{set: s, key: layoutOf(s.Key, f), data: layoutOf(s.Data, f), yield: yield}
		err = d.list(list)
	}
	if err != nil {
		return fmt.Errorf("decode elements of %q: %w", set, err)
	}
	return nil
}

// elementList returns the name of the set whose elements a message contains, and the
// list of them, as parts of the message.
func elementList(msg []byte, f ruleset.Family) (set, list []byte, err error) {
	if len(msg) < netlink.NetfilterHeaderLen {
		return nil, nil, errHeader
	}
	family, named := ruleset.Family(msg[0]), false
	c := netlink.ReadAttributes(msg[netlink.NetfilterHeaderLen:])
	for c.Next() {
		switch c.Type {
		case unix.NFTA_SET_ELEM_LIST_TABLE:
			named = len(netlink.Text(c.Value)) > 0
		case unix.NFTA_SET_ELEM_LIST_SET:
			set = netlink.Text(c.Value)
		case unix.NFTA_SET_ELEM_LIST_ELEMENTS:
			if list != nil {
				return set, nil, errors.New("two lists")
			}
			list = c.Value
		}
	}
	switch {
	case c.Err() != nil:
		err = c.Err()
	case !named || len(set) == 0:
		err = errors.New("no name")
	case family != f:
		err = fmt.Errorf("family %d, not %d", family, f)
	}
	return set, list, err
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
	c := netlink.ReadAttributes(b)
	for c.Next() {
		// The kernel neither accepts nor sends another type here.
		if c.Type != unix.NFTA_LIST_ELEM {
			d.e = ruleset.Element{Opaque: true}
		} else if err := d.element(c.Value); err != nil {
			return err
		}
		if d.set.Opaque == "" && bound(&d.e).IsZero() {
			d.set.Opaque = "element without a key"
		}
		d.yield(d.e)
	}
	return c.Err()
}

func (d *elementDecoder) element(b []byte) error {
	d.e, d.flags, d.counter = ruleset.Element{}, 0, counter{}
	c := netlink.ReadAttributes(b)
	for c.Next() {
		ok, err := d.attribute(c.Type, c.Value)
		if err != nil {
			return err
		}
		if !ok {
			d.e.Opaque = true
		}
	}
	d.finish()
	return c.Err()
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
		d.e.Verdict, ok, err = readVerdict(val, d.lastChain)
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
	var flags []byte
	if d.set.Interval {
		flags = []byte{udataElemFlags}
	}
	text, ok := comment(b, flags...)
	if string(text) != d.lastComment {
		d.lastComment = string(text)
	}
	d.e.Comment = d.lastComment
	return ok
}

// finish checks the element as a whole.
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
		// A single key, which nft_set_pipapo.c accepts without an end.
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

// readList reads a list that should contain one counter.
func (n *counter) readList(b []byte) (ok bool, err error) {
	item, ok, err := only(b, unix.NFTA_LIST_ELEM)
	if err != nil {
		return false, err
	}
	isCounter, err := n.readExpr(item)
	return ok && isCounter, err
}

// readExpr reads an expression that should be the only counter.
func (n *counter) readExpr(b []byte) (ok bool, err error) {
	ok = !n.seen
	n.seen = true
	isCounter := false
	c := netlink.ReadAttributes(b)
	for c.Next() {
		switch {
		case c.Type == unix.NFTA_EXPR_NAME:
			isCounter = string(c.Value) == "counter\x00"
		case c.Type == unix.NFTA_EXPR_DATA && isCounter:
			known, err := n.readState(c.Value)
			if err != nil {
				return false, err
			}
			ok = ok && known
		default:
			ok = false
		}
	}
	return ok && isCounter, c.Err()
}

func (n *counter) readState(b []byte) (ok bool, err error) {
	ok = true
	c := netlink.ReadAttributes(b)
	for c.Next() {
		switch {
		case c.Type == unix.NFTA_COUNTER_BYTES && len(c.Value) == 8:
			n.bytes = binary.BigEndian.Uint64(c.Value)
		case c.Type == unix.NFTA_COUNTER_PACKETS && len(c.Value) == 8:
			n.packets = binary.BigEndian.Uint64(c.Value)
		case c.Type != unix.NFTA_COUNTER_PAD:
			ok = false
		}
	}
	return ok, c.Err()
}
