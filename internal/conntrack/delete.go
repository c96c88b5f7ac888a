//go:build linux

package conntrack

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/nftdp/go-nftdp/internal/netlink"
)

// Delete deletes flows that List returned, and returns how many were still there. A
// newer flow with the same addresses is left alone, unless its entry has the same
// address in the kernel's memory, from which the kernel derives identifiers
// (nf_ct_get_id). Between a List and the Delete after it that is rare, and such a
// flow only begins again.
//
// A flow that cannot be deleted does not keep others from being deleted; the error
// names the first one. The number is exact, also if the context ends.
func (c *Conn) Delete(ctx context.Context, flows []Flow) (deleted int, err error) {
	err = c.sockets.Do(ctx, func(s *netlink.Socket) error {
		d := deleter{ctx: ctx, socket: s}
		for some := range slices.Chunk(flows, atOnce) {
			names := make([][]byte, len(some))
			for i := range some {
				names[i] = some[i].name
			}
			d.delete(names)
		}
		deleted = d.deleted
		return cmp.Or(d.failed, d.refused)
	})
	return deleted, err
}

// DeleteMatching deletes the flows that List would return, as Delete does. It
// deletes while it lists, which is faster than one after the other.
func (c *Conn) DeleteMatching(ctx context.Context, f Filter, accept func(*Flow) bool) (deleted int, err error) {
	batches, done := make(chan [][]byte, 16), make(chan error, 1)
	go func() {
		// A socket is taken after the list has one: there may be no other.
		first, ok := <-batches
		if !ok {
			done <- nil
			return
		}
		err := c.sockets.Do(ctx, func(s *netlink.Socket) error {
			d := deleter{ctx: ctx, socket: s}
			d.delete(first)
			for names := range batches {
				d.delete(names)
			}
			deleted = d.deleted
			return cmp.Or(d.failed, d.refused)
		})
		for range batches { // if there was no socket
		}
		done <- err
	}()
	listed := c.collect(ctx, f, accept, batches)
	close(batches)
	err = cmp.Or(<-done, listed)
	return deleted, err
}

// collect passes on the names of the flows that List would return. It waits for
// nobody while it lists, since a deletion may be waiting for its socket.
func (c *Conn) collect(ctx context.Context, f Filter, accept func(*Flow) bool, batches chan<- [][]byte) error {
	var names arena
	var late [][][]byte
	batch := make([][]byte, 0, atOnce)
	err := c.each(ctx, f, accept, func(_ *Flow, b []byte) {
		if batch = append(batch, names.add(b)); len(batch) < atOnce {
			return
		}
		select {
		case batches <- batch:
		default:
			late = append(late, batch)
		}
		batch = make([][]byte, 0, atOnce)
	})
	for _, batch := range append(late, batch) {
		batches <- batch
	}
	return err
}

// atOnce is the number of requests in one datagram. Each may be answered by an
// error, and the receive buffer has to have room for all.
const atOnce = 64

// deleter deletes flows over one socket.
type deleter struct {
	ctx     context.Context
	socket  *netlink.Socket
	deleted int
	refused error // the first flow that the kernel has refused to delete
	failed  error // nothing more is deleted
}

// delete sends requests as one datagram. The kernel answers those that fail, and the
// last one.
func (d *deleter) delete(names [][]byte) {
	if len(names) == 0 || d.failed != nil {
		return
	}
	first, last := d.socket.NextSeq(uint32(len(names))), uint32(len(names)-1)
	var b netlink.Buffer
	for i, name := range names {
		flags := uint16(unix.NLM_F_REQUEST)
		if i == len(names)-1 {
			flags |= unix.NLM_F_ACK
		}
		at := b.Message(msgDelete, flags, first+uint32(i))
		b = append(b, name...)
		b.EndMessage(at)
	}
	missing := 0
	err := d.socket.Send(d.ctx, b)
	if err == nil {
		err = d.socket.Receive(func(m *netlink.Message) (done bool, err error) {
			i := m.Seq - first
			if m.Type != unix.NLMSG_ERROR || i > last {
				return false, nil // to a former request
			}
			errno, err := m.Errno()
			if errno != 0 {
				missing++
				d.note(names[i], errno)
			}
			return i == last, err
		})
	}
	if err != nil {
		d.failed = fmt.Errorf("delete flows: %w", err)
		return
	}
	d.deleted += len(names) - missing
}

// note keeps the first refusal. A flow that does not exist is none.
func (d *deleter) note(name []byte, errno unix.Errno) {
	if errors.Is(errno, unix.ENOENT) || d.refused != nil {
		return
	}
	var of tuple
	for a := netlink.ReadAttributes(name[netlink.NetfilterHeaderLen:]); a.Next(); {
		if a.Type == ctaTupleOrig {
			of = decodeTuple(a.Value)
		}
	}
	d.refused = fmt.Errorf("delete flow %v to %v: %w", of.src(), of.dst(), errno)
}
