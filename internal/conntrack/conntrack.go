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
	"context"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/nftdp/go-nftdp/internal/netlink"
	"github.com/nftdp/go-nftdp/internal/ruleset"
)

// Message types of linux/netfilter/nfnetlink_conntrack.h.
const (
	msgGet    = unix.NFNL_SUBSYS_CTNETLINK<<8 | 1
	msgDelete = unix.NFNL_SUBSYS_CTNETLINK<<8 | 2
)

// Conn lists and deletes flows of a network namespace. It is not safe for
// concurrent use.
type Conn struct{ socket *netlink.Socket }

// Dial opens a socket in the network namespace of a file descriptor, or
// netlink.Here.
func Dial(ns int) (*Conn, error) {
	s, err := netlink.Dial(unix.NETLINK_NETFILTER, ns)
	if err != nil {
		return nil, err
	}
	return &Conn{s}, nil
}

// Close closes the socket.
func (c *Conn) Close() error { return c.socket.Close() }

// List lists the flows that pass the filter and that accept accepts. A flow that
// begins or ends meanwhile may be listed or not, and flows that move while the
// kernel resizes its table may be missed. The flow passed to accept is valid until
// it returns.
func (c *Conn) List(ctx context.Context, f Filter, accept func(*Flow) bool) (out []Flow, err error) {
	err = again(func() error {
		out, err = c.list(ctx, f, accept)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("list flows: %w", err)
	}
	return out, nil
}

// again repeats a request whose replies were lost.
func again(ask func() error) (err error) {
	const attempts = 16
	for range attempts {
		if err = ask(); !errors.Is(err, netlink.ErrLost) {
			break
		}
	}
	return err
}

func (c *Conn) list(ctx context.Context, f Filter, accept func(*Flow) bool) ([]Flow, error) {
	var out []Flow
	seen := map[string]bool{}
	err := c.socket.AskNetfilter(ctx, msgGet, unix.NLM_F_DUMP, uint8(f.Family), f.marshal(), func(b []byte) error {
		flow, ok := decode(b)
		if !ok || !f.Matches(&flow) || !accept(&flow) {
			return nil
		}
		// The kernel continues a dump at the flow where it stopped or, if that
		// flow no longer exists, at the head of its bucket
		// (ctnetlink_dump_table), so that a flow may come twice.
		if flow.name = appendName(nil, b); !seen[string(flow.name)] {
			seen[string(flow.name)] = true
			out = append(out, flow)
		}
		return nil
	})
	return out, err
}

// Delete deletes a flow that List returned, and reports whether it was still
// there. A newer flow with the same addresses is left alone, unless its entry has
// the same address in the kernel's memory, from which the kernel derives
// identifiers (nf_ct_get_id). Between a List and the Delete after it that is rare,
// and such a flow only begins again.
func (c *Conn) Delete(ctx context.Context, f *Flow) (bool, error) {
	family := uint8(ruleset.FamilyOf(f.Dst.Addr()))
	err := again(func() error {
		return c.socket.AskNetfilter(ctx, msgDelete, unix.NLM_F_ACK, family, f.name, func([]byte) error { return nil })
	})
	switch {
	case errors.Is(err, unix.ENOENT):
		return false, nil
	case err != nil:
		return false, fmt.Errorf("delete flow %v to %v: %w", f.Src, f.Dst, err)
	}
	return true, nil
}
