//go:build linux

package kernel

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/nftdp/go-nftdp/internal/netlink"
	"github.com/nftdp/go-nftdp/internal/nfnl"
	"github.com/nftdp/go-nftdp/internal/ruleset"
)

// ReadElements reads the elements of a set that Read has left out. The keys are
// those that the set probably has, each once.
//
// The kernel walks a set from its start for every message of a dump
// (nft_set_dump in nft_set_hash.c skips what former messages contained), so a
// dump takes time that grows with the square of the number of elements. Asking
// for keys takes an answer of its own for each, but grows with their number only.
// Whether the set has other elements, too, is known from its count, which the
// kernel reports since Linux 6.16 (NFTA_SET_COUNT). If it has, or the kernel does
// not report it, the set is dumped.
func (c *Conn) ReadElements(ctx context.Context, t *ruleset.Table, s *ruleset.Set, keys []ruleset.Tuple) error {
	complete, err := c.readKeys(ctx, t, s, keys)
	if err == nil && !complete {
		err = c.dumpElements(ctx, t, s)
	}
	if errors.Is(err, unix.ENOENT) {
		return ruleset.ErrStale // the table was deleted meanwhile
	}
	if err != nil {
		return fmt.Errorf("read table %s %s: elements of %s: %w", t.Family, t.Name, s.Name, err)
	}
	return nil
}

// Names of linux/netfilter/nf_tables.h that package unix lacks.
const (
	nftaSetCount       = 20 // NFTA_SET_COUNT
	nftSetElemCatchAll = 2  // NFT_SET_ELEM_CATCHALL
)

// ManyKeys is the number of elements from which on asking for keys is faster than
// a dump.
const ManyKeys = 1 << 16

// readKeys reads elements by their keys, if that is faster, and reports whether
// the set has no others.
func (c *Conn) readKeys(ctx context.Context, t *ruleset.Table, s *ruleset.Set, keys []ruleset.Tuple) (complete bool, err error) {
	if len(keys) < ManyKeys || s.Dynamic || s.Interval {
		return false, nil
	}
	count, err := c.count(ctx, t, s)
	if err != nil || count == 0 || count > len(keys) {
		return false, err
	}
	if others, err := c.hasCatchAll(ctx, t, s); others || err != nil {
		return false, err
	}
	s.Elements, err = c.elementsOf(ctx, &ruleset.Change{Family: t.Family, Table: t.Name, Set: s}, keys)
	return len(s.Elements) == count, err
}

// elementsOf reads the elements that a set has of a list of keys, in that order. The
// kernel spends most of the time, so half of them are read by each socket.
func (c *Conn) elementsOf(ctx context.Context, at *ruleset.Change, keys []ruleset.Tuple) ([]ruleset.Element, error) {
	all, half := make([]ruleset.Element, len(keys)), len(keys)/2
	first, second := all[:0:half], all[half:half]
	var failed [2]error
	var both sync.WaitGroup
	both.Go(func() { first, failed[0] = c.appendElements(ctx, c.socket, at, keys[:half], first) })
	both.Go(func() { second, failed[1] = c.appendElements(ctx, c.dumps, at, keys[half:], second) })
	both.Wait()
	return append(all[:len(first)], second...), errors.Join(failed[:]...)
}

// appendElements reads elements by their keys with one socket.
func (c *Conn) appendElements(ctx context.Context, by *netlink.Socket, at *ruleset.Change, keys []ruleset.Tuple, to []ruleset.Element) ([]ruleset.Element, error) {
	asked := make([]ruleset.Element, keysAtOnce)
	for chunk := range slices.Chunk(keys, keysAtOnce) {
		for i := range chunk {
			asked[i].Key = chunk[i]
		}
		err := c.askElements(ctx, by, at, asked[:len(chunk)], func(_ *ruleset.Element, e ruleset.Element) { to = append(to, e) })
		if err != nil {
			return nil, err
		}
	}
	return to, nil
}

// count reads the number of a set's elements; 0 means that the kernel does not
// report it. While another process prepares a commit, the number contains the elements
// that it adds already, but no fewer than the set has.
func (c *Conn) count(ctx context.Context, t *ruleset.Table, s *ruleset.Set) (n int, err error) {
	var attrs netlink.Buffer
	attrs.PutString(unix.NFTA_SET_TABLE, t.Name)
	attrs.PutString(unix.NFTA_SET_NAME, s.Name)
	err = c.ask(ctx, c.socket, unix.NFT_MSG_GETSET, 0, t.Family, attrs, func(b []byte) error {
		for a := netlink.ReadAttributes(b[min(netlink.NetfilterHeaderLen, len(b)):]); a.Next(); {
			if a.Type == nftaSetCount && len(a.Value) == 4 {
				n = int(binary.BigEndian.Uint32(a.Value))
			}
		}
		return nil
	})
	return n, err
}

// hasCatchAll reports whether a set has a catch-all element, which does not count
// (nft_add_set_elem in nf_tables_api.c).
func (c *Conn) hasCatchAll(ctx context.Context, t *ruleset.Table, s *ruleset.Set) (bool, error) {
	attrs := elementList(t.Name, s.Name)
	list := attrs.Nest(unix.NFTA_SET_ELEM_LIST_ELEMENTS)
	element := attrs.Nest(unix.NFTA_LIST_ELEM)
	attrs.PutUint32(unix.NFTA_SET_ELEM_FLAGS, nftSetElemCatchAll)
	attrs.Unnest(element)
	attrs.Unnest(list)
	err := c.ask(ctx, c.socket, unix.NFT_MSG_GETSETELEM, unix.NLM_F_ACK, t.Family, attrs, func([]byte) error { return nil })
	if errors.Is(err, unix.ENOENT) {
		return false, nil
	}
	return err == nil, err
}

// keysAtOnce bounds the keys of one request: each is answered by a message of its
// own, and all of them must fit into the receive buffer.
const keysAtOnce = 128

// askElements reads elements by their keys, at most keysAtOnce, and calls each with
// what was asked for and what the set has. Keys that it does not have are left out.
func (c *Conn) askElements(ctx context.Context, by *netlink.Socket, at *ruleset.Change, keys []ruleset.Element, each func(asked *ruleset.Element, e ruleset.Element)) error {
	for len(keys) > 0 {
		answers := 0
		take := func(e ruleset.Element) {
			if answers < len(keys) && keys[answers].Key == e.Key {
				each(&keys[answers], e)
			}
			answers++
		}
		attrs := append(elementList(at.Table, at.Set.Name), nfnl.ElementKeys(at, keys)...)
		err := c.ask(ctx, by, unix.NFT_MSG_GETSETELEM, unix.NLM_F_ACK, at.Family, attrs, func(b []byte) error {
			return nfnl.DecodeElements(b, at.Set, at.Family, take)
		})
		if !errors.Is(err, unix.ENOENT) || answers >= len(keys) {
			return err
		}
		keys = keys[answers+1:] // the kernel stops at the first key that the set does not have
	}
	return nil
}

// ReadCounters reads the counters of these elements of a set, and calls each for those
// that the kernel has, if it is not nil. The others keep their counters.
func (c *Conn) ReadCounters(ctx context.Context, change *ruleset.Change, elements []ruleset.Element, each func(*ruleset.Element)) error {
	for asked := range slices.Chunk(elements, keysAtOnce) {
		err := c.askElements(ctx, c.socket, change, asked, func(asked *ruleset.Element, e ruleset.Element) {
			asked.Packets, asked.Bytes = e.Packets, e.Bytes
			if each != nil {
				each(asked)
			}
		})
		if err != nil {
			return fmt.Errorf("read counters of %s: %w", change.Set.Name, err)
		}
	}
	return nil
}
