//go:build linux

// Package conntrack lists and deletes flows of one network namespace over
// ctnetlink. It asks the kernel for as few flows as it can name, and decodes
// of each just what tells whose it is.
//
// A library for ctnetlink exists (github.com/ti-mo/conntrack), but gives all
// flows fully decoded at once: with a large table that is most of the cost of
// deleting a few.
package conntrack

import (
	"context"
	"errors"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/nftdp/go-nftdp/internal/kernel"
	"github.com/nftdp/go-nftdp/internal/ruleset"
)

// Message types of linux/netfilter/nfnetlink_conntrack.h.
const (
	msgGet    = unix.NFNL_SUBSYS_CTNETLINK<<8 | 1
	msgDelete = unix.NFNL_SUBSYS_CTNETLINK<<8 | 2
)

// List gives the flows that pass the filter and that the caller accepts. A
// flow that begins or ends meanwhile may be in it or not, and what is moved
// while the kernel resizes its table may be missed. What accept gets is valid
// until it returns.
func List(ctx context.Context, c *kernel.Conn, f Filter, accept func(*Flow) bool) ([]Flow, error) {
	var out []Flow
	seen := map[string]bool{}
	err := c.Request(ctx, msgGet, unix.NLM_F_DUMP, int(f.Family), f.marshal(), func(b []byte) error {
		flow, ok := decode(b)
		if !ok || !f.matches(&flow) || !accept(&flow) {
			return nil
		}
		// The kernel continues a dump at the flow it ended with, and at the
		// head of its bucket if that one is gone (ctnetlink_dump_table), so
		// that a flow may come twice.
		if flow.name = appendName(nil, b); !seen[string(flow.name)] {
			seen[string(flow.name)] = true
			out = append(out, flow)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list flows: %w", err)
	}
	return out, nil
}

// Delete deletes a flow that List gave, and reports whether it still was
// there. A newer flow with the same addresses is left alone, unless the kernel
// put it in the same place of its memory, which is what it makes identifiers
// of (nf_ct_get_id): between a List and the Delete after it that is rare, and
// costs such a flow no more than to begin anew.
func Delete(ctx context.Context, c *kernel.Conn, f *Flow) (bool, error) {
	family := ruleset.IPv4
	if f.Dst.Addr().Is6() {
		family = ruleset.IPv6
	}
	err := c.Request(ctx, msgDelete, unix.NLM_F_ACK, int(family), f.name, func([]byte) error { return nil })
	switch {
	case errors.Is(err, unix.ENOENT):
		return false, nil
	case err != nil:
		return false, fmt.Errorf("delete flow %v to %v: %w", f.Src, f.Dst, err)
	}
	return true, nil
}

// Filter names flows by their original direction.
type Filter struct {
	Family ruleset.Family
	Proto  uint8
	Addr   netip.Addr // destination of the family; unset: any
	Port   uint16     // destination; 0: any

	Translated bool // only those whose destination is translated
}

// matches decides, as the kernel leaves out part of the others only: kernels
// before 5.14 or so do not look at the status.
func (f *Filter) matches(flow *Flow) bool {
	return flow.Proto == f.Proto && (f.Port == 0 || f.Port == flow.Dst.Port()) &&
		(!f.Addr.IsValid() || f.Addr == flow.Dst.Addr()) && (!f.Translated || flow.Dst != flow.ReplySrc)
}
