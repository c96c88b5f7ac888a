//go:build linux

package nfnl

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nftdp/go-nftdp/internal/netlink"
	"github.com/nftdp/go-nftdp/internal/ruleset"
)

// DecodeEntries decodes a message of type NFT_MSG_NEWSETELEM as DecodeElements
// does, but yields entries. It leaves out entries that do not have the types of the
// set.
func DecodeEntries(msg []byte, s *ruleset.Set, f ruleset.Family, yield func(ruleset.Entry)) error {
	set, list, err := elementList(msg, f)
	c := netlink.ReadAttributes(list)
	for err == nil && string(set) == s.Name && c.Next() {
		var e ruleset.Entry
		if e, err = decodeEntry(c.Value, s, f); err == nil && (e.Key != nil || e.CatchAll) && (e.Data == nil) == (len(s.Data) == 0) {
			yield(e)
		}
	}
	if err = errors.Join(err, c.Err()); err != nil {
		return fmt.Errorf("decode entries of %q: %w", set, err)
	}
	return nil
}

func decodeEntry(b []byte, s *ruleset.Set, f ruleset.Family) (e ruleset.Entry, err error) {
	c := netlink.ReadAttributes(b)
	for err == nil && c.Next() {
		switch c.Type {
		case unix.NFTA_SET_ELEM_KEY:
			e.Key, err = decodeFields(c.Value, s.Key, f)
		case unix.NFTA_SET_ELEM_DATA:
			e.Data, err = decodeFields(c.Value, s.Data, f)
		case unix.NFTA_SET_ELEM_TIMEOUT:
			e.Timeout = milliseconds(c.Value)
		case unix.NFTA_SET_ELEM_EXPIRATION:
			e.Expires = milliseconds(c.Value)
		case unix.NFTA_SET_ELEM_FLAGS:
			e.CatchAll = len(c.Value) == 4 && binary.BigEndian.Uint32(c.Value) == nftSetElemCatchAll
			e.Opaque = e.Opaque || !e.CatchAll
		case unix.NFTA_SET_ELEM_PAD:
		default:
			e.Opaque = true
		}
	}
	return e, errors.Join(err, c.Err())
}

// milliseconds returns zero for a duration that is out of range, after about 292
// years.
func milliseconds(b []byte) time.Duration {
	if len(b) != 8 {
		return 0
	}
	d := time.Duration(binary.BigEndian.Uint64(b)) * time.Millisecond
	if uint64(d/time.Millisecond) != binary.BigEndian.Uint64(b) {
		return 0
	}
	return d
}

// decodeFields splits a nested NFTA_DATA_VALUE. It returns nil if that does not
// have the types.
func decodeFields(b []byte, types []ruleset.Type, f ruleset.Family) (out [][]byte, err error) {
	val, ok, err := only(b, unix.NFTA_DATA_VALUE)
	if _, length := concat(types, f); err != nil || !ok || len(types) == 0 || len(val) != int(length) {
		return nil, err
	}
	out = make([][]byte, 0, len(types))
	val = slices.Clone(val) // the message's buffer is used again
	for _, t := range types {
		n := t.Size(f)
		if t == ruleset.Slot {
			swapNative(val[:n])
		}
		out = append(out, val[:n:n])
		val = val[min(netlink.Align(n), len(val)):]
	}
	return out, nil
}

var errEntry = errors.New("entry does not have the types of its set")

// AddEntries appends a change of entries, with a message for each, so that
// FindEntry can tell which of them an answer of the kernel is about.
func (b *Batch) AddEntries(c *ruleset.EntryChange) error {
	typ, flags := uint16(unix.NFT_MSG_NEWSETELEM), uint16(unix.NLM_F_CREATE)
	if c.Verb == ruleset.Delete {
		typ, flags = unix.NFT_MSG_DELSETELEM, 0
	}
	for i := range c.Entries {
		at := b.message(typ, flags, c.Family, c.Table, ref{entries: c, element: i})
		b.buf.PutString(unix.NFTA_SET_ELEM_LIST_SET, c.Set.Name)
		list := b.buf.Nest(unix.NFTA_SET_ELEM_LIST_ELEMENTS)
		element := b.buf.Nest(unix.NFTA_LIST_ELEM)
		if err := b.entry(c, &c.Entries[i]); err != nil {
			return fmt.Errorf("encode entry %d of %s: %w", i, c.Set.Name, err)
		}
		b.buf.Unnest(element)
		b.buf.Unnest(list)
		b.buf.EndMessage(at)
	}
	return nil
}

func (b *Batch) entry(c *ruleset.EntryChange, e *ruleset.Entry) error {
	if e.CatchAll {
		b.buf.PutUint32(unix.NFTA_SET_ELEM_FLAGS, nftSetElemCatchAll)
	} else if err := b.fields(unix.NFTA_SET_ELEM_KEY, e.Key, c.Set.Key, c.Family); err != nil {
		return err
	}
	if c.Verb == ruleset.Delete {
		return nil
	}
	if len(c.Set.Data) > 0 {
		if err := b.fields(unix.NFTA_SET_ELEM_DATA, e.Data, c.Set.Data, c.Family); err != nil {
			return err
		}
	}
	if e.Timeout > 0 { // the kernel accepts an expiration only with a timeout, and none above it
		b.milliseconds(unix.NFTA_SET_ELEM_TIMEOUT, e.Timeout)
		if e.Expires > 0 {
			b.milliseconds(unix.NFTA_SET_ELEM_EXPIRATION, min(e.Expires, e.Timeout))
		}
	}
	return nil
}

func (b *Batch) fields(typ uint16, fields [][]byte, types []ruleset.Type, f ruleset.Family) error {
	if len(fields) != len(types) {
		return errEntry
	}
	_, length := concat(types, f)
	value := putValue(&b.buf, typ, make([]byte, length))
	for i, t := range types {
		if len(fields[i]) != t.Size(f) {
			return errEntry
		}
		copy(value, fields[i])
		if t == ruleset.Slot {
			swapNative(value)
		}
		value = value[min(t.Len(f), len(value)):]
	}
	return nil
}

// milliseconds rounds up, since zero has another meaning.
func (b *Batch) milliseconds(typ uint16, d time.Duration) {
	ms := (d + time.Millisecond - 1) / time.Millisecond
	b.buf.PutUint64(typ, uint64(ms))
}

// FindEntry returns the entry that a message belongs to; nil: to none.
func (b *Batch) FindEntry(seq uint32) (c *ruleset.EntryChange, i int) {
	n := seq - b.first
	if int64(n) >= int64(len(b.refs)) {
		return nil, 0
	}
	return b.refs[n].entries, b.refs[n].element
}
