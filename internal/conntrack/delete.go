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
	"github.com/nftdp/go-nftdp/internal/ruleset"
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

// DeleteMatching deletes flows that List would return, as judge says, and returns how
// many it has deleted. It deletes while it lists, which is faster than one after the
// other. Of many flows that are alike it lists a few, and has the kernel delete the rest
// by itself, if that can: their number is what the kernel's table then has less.
func (c *Conn) DeleteMatching(ctx context.Context, f Filter, judge func(*Flow) Fate) (deleted int, err error) {
	for again := true; again && err == nil; {
		var n int
		n, again, err = c.deleteMatching(ctx, f, judge)
		deleted += n
	}
	return deleted, err
}

// deleteMatching does it once; again says that the kernel did not delete flows that were
// left to it.
func (c *Conn) deleteMatching(ctx context.Context, f Filter, judge func(*Flow) Fate) (deleted int, again bool, err error) {
	tasks, done := make(chan task, 16), make(chan error, 1)
	go func() {
		// A socket is taken after the list has one: there may be no other.
		first, ok := <-tasks
		if !ok {
			done <- nil
			return
		}
		err := c.sockets.Do(ctx, func(s *netlink.Socket) error {
			d := deleter{ctx: ctx, socket: s}
			d.do(first)
			for t := range tasks {
				d.do(t)
			}
			deleted, again = d.deleted, d.left
			return cmp.Or(d.failed, d.refused)
		})
		for range tasks { // if there was no socket
		}
		done <- err
	}()
	listed := c.collect(ctx, f, judge, tasks)
	close(tasks)
	err = cmp.Or(<-done, listed)
	if again {
		c.lists.Store(true)
	}
	return deleted, again, err
}

// task is something to delete: some flows, or all that pass a filter.
type task struct {
	names [][]byte
	all   *Filter
}

// many is how many flows that are alike are deleted one by one. A request to delete all
// of them has the kernel walk through its table once more.
const many = 512

// collector makes tasks of flows. It waits for nobody while it lists, since a deletion
// may be waiting for its socket.
type collector struct {
	tasks chan<- task
	late  []task
	names arena
	batch [][]byte
	alike map[Filter]int // of flows that pass an exact filter
}

// collect passes on what has to be deleted of what List would return.
func (c *Conn) collect(ctx context.Context, f Filter, judge func(*Flow) Fate, tasks chan<- task) error {
	to := &collector{tasks: tasks, alike: map[Filter]int{}}
	fate, lists := Keep, c.lists.Load()
	err := c.each(ctx, f, func(flow *Flow) bool { fate = judge(flow); return fate != Keep }, func(flow *Flow, b []byte) {
		if fate == DeleteAlike && !lists && to.together(flow) {
			return
		}
		if to.batch = append(to.batch, to.names.add(b)); len(to.batch) == atOnce {
			to.send(task{names: to.batch})
			to.batch = make([][]byte, 0, atOnce)
		}
	})
	for _, t := range append(to.late, task{names: to.batch}) {
		tasks <- t
	}
	return err
}

func (c *collector) send(t task) {
	select {
	case c.tasks <- t:
	default:
		c.late = append(c.late, t)
	}
}

// together counts flows that are alike, and reports whether all are deleted together.
func (c *collector) together(flow *Flow) bool {
	all := Filter{
		Family: ruleset.FamilyOf(flow.Dst.Addr()), Proto: flow.Proto,
		Addr: flow.Dst.Addr(), Port: flow.Dst.Port(), To: flow.ReplySrc,
	}
	if !all.exact() {
		return false
	}
	if c.alike[all]++; c.alike[all] == many {
		c.send(task{all: &all})
	}
	return c.alike[all] >= many
}

// atOnce is the number of requests in one datagram. Each may be answered by an
// error, and the receive buffer has to have room for all.
const atOnce = 64

// deleter deletes flows over one socket.
type deleter struct {
	ctx     context.Context
	socket  *netlink.Socket
	deleted int
	left    bool  // the kernel does not delete by filters
	refused error // the first flow that the kernel has refused to delete
	failed  error // nothing more is deleted
}

func (d *deleter) do(t task) {
	if t.all != nil {
		d.flush(t.all)
	} else {
		d.delete(t.names)
	}
}

// flush deletes all flows that pass an exact filter by one request. A kernel from before
// 2024 ("ctnetlink: support CTA_FILTER for flush") takes the request for one about a
// single flow, and refuses it since it does not name one (ctnetlink_parse_tuple in
// net/netfilter/nf_conntrack_netlink.c).
func (d *deleter) flush(f *Filter) {
	if d.failed != nil || d.left {
		return
	}
	before, err := count(d.ctx, d.socket)
	if err == nil {
		err = d.socket.AskNetfilter(d.ctx, msgDelete, unix.NLM_F_ACK, uint8(f.Family), f.marshal(), func([]byte) error { return nil })
	}
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EOPNOTSUPP) {
		d.left = true
		return
	}
	after := before
	if err == nil {
		after, err = count(d.ctx, d.socket)
	}
	if err != nil {
		d.failed = fmt.Errorf("delete flows to %v: %w", f.To, err)
		return
	}
	d.deleted += max(0, before-after)
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
