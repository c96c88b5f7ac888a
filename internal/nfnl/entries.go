//go:build linux

package nfnl

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nftdp/go-nftdp/internal/ruleset"
)

// Entry is an element of a dynamic set. Packets make and renew entries, and
// time takes them away: they are state, and no part of a ruleset.
type Entry struct {
	Key, Data [][]byte      // field by field, without padding, all numbers big-endian; Data is that of a map
	Timeout   time.Duration // how long it lasts if it is not renewed; 0 is for ever
	Expires   time.Duration // what is left of that; 0 is all of it
}

// DecodeEntries decodes a message of type NFT_MSG_NEWSETELEM as DecodeElements
// does, and yields entries. One that does not have the types of the set is left
// out, and so is what an entry has beside its key, data and time.
func DecodeEntries(msg []byte, s *ruleset.Set, f ruleset.Family, yield func(Entry)) (table, set string, err error) {
	table, set, list, err := elementList(msg, f)
	c := cursor{rest: list}
	for err == nil && set == s.Name && c.next() {
		var e Entry
		if e, err = decodeEntry(c.val, s, f); err == nil && e.Key != nil && (e.Data == nil) == (len(s.Data) == 0) {
			yield(e)
		}
	}
	if err = errors.Join(err, c.err); err != nil {
		return "", "", fmt.Errorf("decode entries of %q: %w", set, err)
	}
	return table, set, nil
}

func decodeEntry(b []byte, s *ruleset.Set, f ruleset.Family) (e Entry, err error) {
	c := cursor{rest: b}
	for err == nil && c.next() {
		switch c.typ {
		case unix.NFTA_SET_ELEM_KEY:
			e.Key, err = decodeFields(c.val, s.Key, f)
		case unix.NFTA_SET_ELEM_DATA:
			e.Data, err = decodeFields(c.val, s.Data, f)
		case unix.NFTA_SET_ELEM_TIMEOUT:
			e.Timeout = milliseconds(c.val)
		case unix.NFTA_SET_ELEM_EXPIRATION:
			e.Expires = milliseconds(c.val)
		}
	}
	return e, errors.Join(err, c.err)
}

// milliseconds is zero for what is out of range: about 292 years.
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

// decodeFields splits a nested NFTA_DATA_VALUE; nil: it has other types.
func decodeFields(b []byte, types []ruleset.Type, f ruleset.Family) (out [][]byte, err error) {
	val, ok, err := dataValue(b)
	if _, length := concat(types, f); err != nil || !ok || len(types) == 0 || len(val) != int(length) {
		return nil, err
	}
	out = make([][]byte, 0, len(types))
	val = slices.Clone(val) // the message's buffer is used again
	for _, t := range types {
		n := typeLen(t, f)
		if t == ruleset.Slot {
			swapNative(val[:n])
		}
		out = append(out, val[:n:n])
		val = val[min(align4(n), len(val)):]
	}
	return out, nil
}

// EntryChange adds entries to a set or deletes them.
type EntryChange struct {
	Verb    ruleset.Verb
	Family  ruleset.Family
	Table   string
	Set     *ruleset.Set
	Entries []Entry
}

var errEntry = errors.New("entry does not have the types of its set")

// AddEntries appends a change of entries, a message for each, so that the
// kernel's answer tells which it is about: see FindEntry.
func (b *Batch) AddEntries(c *EntryChange) error {
	typ, flags := unix.NFT_MSG_NEWSETELEM, unix.NLM_F_CREATE
	if c.Verb == ruleset.Delete {
		typ, flags = unix.NFT_MSG_DELSETELEM, 0
	}
	for i := range c.Entries {
		at := b.begin(unix.NFNL_SUBSYS_NFTABLES<<8|typ, int(c.Family), 0, flags, nil)
		b.refs[len(b.refs)-1].entries, b.refs[len(b.refs)-1].element = c, i
		b.attrString(unix.NFTA_SET_ELEM_LIST_TABLE, c.Table)
		b.attrString(unix.NFTA_SET_ELEM_LIST_SET, c.Set.Name)
		list := b.nest(unix.NFTA_SET_ELEM_LIST_ELEMENTS)
		element := b.nest(unix.NFTA_LIST_ELEM)
		if err := b.entry(c, &c.Entries[i]); err != nil {
			return fmt.Errorf("encode entry %d of %s: %w", i, c.Set.Name, err)
		}
		b.unnest(element)
		b.unnest(list)
		b.end(at)
	}
	return nil
}

func (b *Batch) entry(c *EntryChange, e *Entry) error {
	if err := b.fields(unix.NFTA_SET_ELEM_KEY, e.Key, c.Set.Key, c.Family); err != nil || c.Verb == ruleset.Delete {
		return err
	}
	if len(c.Set.Data) > 0 {
		if err := b.fields(unix.NFTA_SET_ELEM_DATA, e.Data, c.Set.Data, c.Family); err != nil {
			return err
		}
	}
	if e.Timeout > 0 { // the kernel takes an expiration with a timeout only, and none above it
		b.milliseconds(unix.NFTA_SET_ELEM_TIMEOUT, e.Timeout)
		if e.Expires > 0 {
			b.milliseconds(unix.NFTA_SET_ELEM_EXPIRATION, min(e.Expires, e.Timeout))
		}
	}
	return nil
}

func (b *Batch) fields(typ int, fields [][]byte, types []ruleset.Type, f ruleset.Family) error {
	if len(fields) != len(types) {
		return errEntry
	}
	outer := b.nest(typ)
	inner := len(b.buf)
	b.buf = appendAttrHeader(b.buf, unix.NFTA_DATA_VALUE, 0)
	for i, t := range types {
		if len(fields[i]) != typeLen(t, f) {
			return errEntry
		}
		at := len(b.buf)
		b.buf = append(b.buf, fields[i]...)
		if t == ruleset.Slot {
			binary.NativeEndian.PutUint32(b.buf[at:], binary.BigEndian.Uint32(fields[i]))
		}
		if len(types) > 1 { // only the fields of a concatenation are padded
			b.buf = pad(b.buf)
		}
	}
	unnest(b.buf, inner)
	b.buf = pad(b.buf)
	b.unnest(outer)
	return nil
}

// milliseconds rounds up: zero would be another thing.
func (b *Batch) milliseconds(typ int, d time.Duration) {
	ms := (d + time.Millisecond - 1) / time.Millisecond
	b.buf = binary.BigEndian.AppendUint64(appendAttrHeader(b.buf, typ, 8), uint64(ms))
}

// FindEntry gives the entry that a message was for; nil: for none.
func (b *Batch) FindEntry(seq uint32) (c *EntryChange, i int) {
	n := seq - b.first
	if int64(n) >= int64(len(b.refs)) {
		return nil, 0
	}
	return b.refs[n].entries, b.refs[n].element
}
