//go:build linux

// Package conntrack lists and deletes flows of one network namespace over
// ctnetlink. It has the kernel filter flows as far as possible, and decodes only
// the attributes that identify a flow.
//
// A library for ctnetlink exists (github.com/ti-mo/conntrack), but it returns all
// flows fully decoded at once, which with a large table is most of the cost of
// deleting a few.
package conntrack

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"net/netip"
	"sync/atomic"

	mdnetlink "github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/nftdp/go-nftdp/internal/netlink"
	"github.com/nftdp/go-nftdp/internal/ruleset"
)

// Message types of linux/netfilter/nfnetlink_conntrack.h.
const (
	msgGet    = unix.NFNL_SUBSYS_CTNETLINK<<8 | 1
	msgDelete = unix.NFNL_SUBSYS_CTNETLINK<<8 | 2
	msgStats  = unix.NFNL_SUBSYS_CTNETLINK<<8 | 5
)

// Conn lists and deletes flows of a network namespace. It may be used concurrently:
// each call has a socket of its own.
type Conn struct {
	sockets *netlink.Pool
	lists   atomic.Bool // this kernel deletes only flows that were listed
}

// Dial opens a socket in the network namespace of a file descriptor, which may be
// closed afterwards, or netlink.Here.
func Dial(ns int) (*Conn, error) {
	p, err := netlink.NewPool(ns, func(ns int) (*netlink.Socket, error) {
		return netlink.Dial(unix.NETLINK_NETFILTER, ns, mdnetlink.CapAcknowledge)
	})
	if err != nil {
		return nil, err
	}
	return &Conn{sockets: p}, nil
}

// Close closes all sockets. Calls that are running end with os.ErrClosed.
func (c *Conn) Close() error { return c.sockets.Close() }

// List lists the flows that pass the filter and that accept accepts. A flow that
// begins or ends meanwhile may be listed or not, and flows that move while the
// kernel resizes its table may be missed. The flow passed to accept is valid until
// it returns.
func (c *Conn) List(ctx context.Context, f Filter, accept func(*Flow) bool) ([]Flow, error) {
	var out []Flow
	var names arena
	seen := map[uint64]int{} // the last flow whose name has this hash
	seed := maphash.MakeSeed()
	err := c.each(ctx, f, accept, func(flow *Flow, b []byte) {
		// The kernel continues a dump at the flow where it stopped or, if that
		// flow no longer exists, at the head of its bucket (ctnetlink_dump_table),
		// so that a flow may come twice.
		name := names.add(b)
		hash := maphash.Bytes(seed, name)
		if i, ok := seen[hash]; ok && bytes.Equal(out[i].name, name) {
			return
		}
		seen[hash] = len(out)
		out = append(out, *flow)
		out[len(out)-1].name = name
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

// each calls do for all flows that pass the filter and that accept accepts, with
// their messages. Both are valid until do returns. A flow may come twice.
func (c *Conn) each(ctx context.Context, f Filter, accept func(*Flow) bool, do func(*Flow, []byte)) error {
	var flow Flow // one for all, since it escapes
	err := c.sockets.Do(ctx, func(s *netlink.Socket) (err error) {
		const attempts = 16
		for range attempts {
			err = s.AskNetfilter(ctx, msgGet, unix.NLM_F_DUMP, uint8(f.Family), f.marshal(), func(b []byte) error {
				if decode(b, &flow) && f.Matches(&flow) && accept(&flow) {
					do(&flow, b)
				}
				return nil
			})
			if !errors.Is(err, netlink.ErrLost) {
				break
			}
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("list flows: %w", err)
	}
	return nil
}

// again makes a request, and repeats it if the reply was lost.
func (c *Conn) again(ctx context.Context, ask func(*netlink.Socket) error) error {
	return c.sockets.Do(ctx, func(s *netlink.Socket) (err error) {
		const attempts = 16
		for range attempts {
			if err = ask(s); !errors.Is(err, netlink.ErrLost) {
				break
			}
		}
		return err
	})
}

// Get reads a flow that List returned again; ok is false if it is no longer there.
func (c *Conn) Get(ctx context.Context, f *Flow) (now Flow, ok bool, err error) {
	err = c.again(ctx, func(s *netlink.Socket) error {
		return s.AskNetfilter(ctx, msgGet, 0, f.name[0], f.name[netlink.NetfilterHeaderLen:], func(b []byte) error {
			ok = decode(b, &now) && bytes.Equal(appendName(nil, b), f.name)
			return nil
		})
	})
	if err != nil && !errors.Is(err, unix.ENOENT) {
		return now, false, fmt.Errorf("read flow %v to %v: %w", f.Src, f.Dst, err)
	}
	now.name = f.name
	return now, ok, nil
}

// Find returns the flow that leads to an address and port, where it is seen as one from
// source; ok is false if there is none. It costs one request, however many flows there
// are: the kernel looks the replies' tuple up (ctnetlink_get_conntrack).
func (c *Conn) Find(ctx context.Context, proto uint8, source, to netip.AddrPort) (f Flow, ok bool, err error) {
	var b netlink.Buffer
	putTuple(&b, ctaTupleReply, proto, to, source)
	err = c.again(ctx, func(s *netlink.Socket) error {
		return s.AskNetfilter(ctx, msgGet, 0, uint8(ruleset.FamilyOf(to.Addr())), b, func(b []byte) error {
			// The tuple may also be that of the other direction.
			ok = decode(b, &f) && f.Proto == proto && f.ReplySrc == to && f.ReplyDst == source
			f.name = appendName(nil, b)
			return nil
		})
	})
	if err != nil && !errors.Is(err, unix.ENOENT) {
		return f, false, fmt.Errorf("find flow from %v to %v: %w", source, to, err)
	}
	return f, ok, nil
}

// Count returns how many flows there are, at a cost that does not depend on their
// number or on the size of the kernel's table, through all of which List walks.
func (c *Conn) Count(ctx context.Context) (n int, err error) {
	err = c.again(ctx, func(s *netlink.Socket) error {
		n, err = count(ctx, s)
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("count flows: %w", err)
	}
	return n, nil
}

func count(ctx context.Context, s *netlink.Socket) (n int, err error) {
	err = s.AskNetfilter(ctx, msgStats, 0, unix.AF_UNSPEC, nil, func(b []byte) error {
		n = decodeCount(b)
		return nil
	})
	return n, err
}

// arena has the memory of many names.
type arena struct{ last []byte }

// add returns the name of the flow in a message.
func (a *arena) add(b []byte) []byte {
	const chunk, longest = 1 << 16, 256
	if cap(a.last)-len(a.last) < longest {
		a.last = make([]byte, 0, chunk)
	}
	at := len(a.last)
	a.last = appendName(a.last, b)
	return a.last[at:len(a.last):len(a.last)]
}
