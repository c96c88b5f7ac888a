// Package flows compares what conntrack holds with what services want: it lists
// the flows of services, finds those that are stale, and keeps the map of
// clients with affinity.
package flows

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"syscall"

	"github.com/nftdp/go-nftdp/internal/compile"
	"github.com/nftdp/go-nftdp/internal/conntrack"
	"github.com/nftdp/go-nftdp/internal/ruleset"
)

// Kernel has the operations on one network namespace that a Table needs. It may be
// used concurrently, also by accept.
type Kernel interface {
	// List lists the flows that pass a filter and that accept accepts. The
	// flow passed to accept is valid until it returns.
	List(ctx context.Context, f conntrack.Filter, accept func(*conntrack.Flow) bool) ([]conntrack.Flow, error)
	// Delete deletes flows that List returned, and returns how many were still
	// there, also with an error.
	Delete(ctx context.Context, flows []conntrack.Flow) (int, error)
	// DeleteMatching deletes the flows that List would return, and returns how
	// many it deleted, also with an error.
	DeleteMatching(ctx context.Context, f conntrack.Filter, accept func(*conntrack.Flow) bool) (int, error)
	// LocalAddrs lists the prefixes of a family that are the node's own.
	LocalAddrs(ctx context.Context, f ruleset.Family) ([]netip.Prefix, error)
}

// Flow is an entry of the conntrack table.
type Flow = conntrack.Flow

var (
	// ErrNotSupported says that the kernel lacks a feature.
	ErrNotSupported = errors.New("not supported by this kernel")
	// ErrNoService says that there is no service of that name.
	ErrNoService = errors.New("no such service")
)

// Table finds and deletes flows of one network namespace. It is not safe for
// concurrent use.
type Table struct {
	cfg        compile.Config
	kernel     Kernel
	affinities Affinities
	suspects   suspects // frontends whose flows may be stale
	purge      bool     // clients of former backends may be remembered; initially those of a former process
}

// New returns a Table.
func New(cfg compile.Config, kernel Kernel, affinities Affinities) *Table {
	return &Table{cfg: cfg, kernel: kernel, affinities: affinities, suspects: suspects{}, purge: true}
}

// List lists the flows that began at the frontends of a service.
func (t *Table) List(ctx context.Context, state *compile.State, service string) ([]conntrack.Flow, error) {
	s := state.Service(service)
	if s == nil {
		return nil, ErrNoService
	}
	return t.ofService(ctx, state, s, false, func(*conntrack.Flow) bool { return true })
}

// To lists the flows of a service that lead to some backends or, if none are
// given, to those that get no new connections. Flows that have ended are left
// out.
func (t *Table) To(ctx context.Context, state *compile.State, service string, backends []netip.AddrPort) ([]conntrack.Flow, error) {
	s := state.Service(service)
	if s == nil {
		return nil, ErrNoService
	}
	among, listed := newBackends(s.Backends(), s.Reserve), false
	if len(backends) > 0 {
		among, listed = newBackends(backends), true
	}
	return t.ofService(ctx, state, s, true, func(f *conntrack.Flow) bool {
		return !f.Ended && among.has(f.ReplySrc) == listed
	})
}

// ofService lists the flows of a service's frontends that accept accepts: all
// flows, or only translated ones.
func (t *Table) ofService(ctx context.Context, state *compile.State, s *compile.Service, translated bool,
	accept func(*conntrack.Flow) bool,
) ([]conntrack.Flow, error) {
	var out []conntrack.Flow
	for _, f := range ruleset.Families {
		var at []compile.Key
		for i := range s.Frontends {
			if front := &s.Frontends[i]; ruleset.FamilyOf(front.Addr) == f {
				at = append(at, s.Key(front))
			}
		}
		found, err := t.list(ctx, state, at, translated, func(flow *conntrack.Flow, node *nodeAddrs) bool {
			addressed, wide := keysOf(flow, node)
			key, ok := matching(state, addressed, wide)
			owner, _ := state.Index().Owner(key)
			return ok && owner == s.Name && accept(flow)
		})
		if err != nil {
			return nil, explain(err)
		}
		out = append(out, found...)
	}
	return out, nil
}

// list lists the flows to any of these frontends, which are of one family and
// protocol, that accept accepts.
func (t *Table) list(ctx context.Context, state *compile.State, at []compile.Key, translated bool,
	accept func(*conntrack.Flow, *nodeAddrs) bool,
) (out []conntrack.Flow, err error) {
	if len(at) == 0 {
		return nil, nil
	}
	node, err := t.nodeAddrs(ctx, state, at)
	if err != nil {
		return nil, err
	}
	for _, filter := range filters(at, translated) {
		found, err := t.kernel.List(ctx, filter, func(flow *conntrack.Flow) bool { return accept(flow, node) })
		if err != nil {
			return nil, err
		}
		out = append(out, found...)
	}
	return out, nil
}

// maxDumps bounds the dumps by port. With more ports, one dump lists the flows to
// all ports. A walk over the buckets of an empty table costs as much as listing a
// few thousand flows.
const maxDumps = 4

// filters returns filters that pass all flows to these frontends, and few others.
func filters(at []compile.Key, translated bool) []conntrack.Filter {
	byPort := map[uint16][]compile.Key{}
	ranged := false
	for _, k := range at {
		byPort[k.Port] = append(byPort[k.Port], k)
		ranged = ranged || k.Ranged
	}
	// Compared with all flows, few translated flows go to other ports.
	if ranged || len(byPort) > 1 && translated || len(byPort) > maxDumps {
		byPort = map[uint16][]compile.Key{0: at}
	}
	out := make([]conntrack.Filter, 0, len(byPort))
	for port, at := range byPort {
		filter := conntrack.Filter{
			Family: ruleset.FamilyOf(at[0].Addr), Proto: at[0].Proto, Addr: at[0].Addr, Port: port, Translated: translated,
		}
		for _, k := range at {
			if k.Addr != filter.Addr || k.Addr.IsUnspecified() {
				filter.Addr = netip.Addr{}
			}
		}
		out = append(out, filter)
	}
	return out
}

// Delete deletes flows and returns how many were still there.
func (t *Table) Delete(ctx context.Context, flows []conntrack.Flow) (int, error) {
	n, err := t.kernel.Delete(ctx, flows)
	return n, explain(err)
}

// explain names the kernel option that an error of the kernel points to.
// nfnetlink answers EINVAL if a subsystem does not exist (nfnetlink_rcv_msg in
// net/netfilter/nfnetlink.c).
func explain(err error) error {
	if errors.Is(err, syscall.EINVAL) || errors.Is(err, syscall.EOPNOTSUPP) || errors.Is(err, syscall.EPROTONOSUPPORT) {
		return fmt.Errorf("conntrack over netlink (CONFIG_NF_CT_NETLINK): %w: %w", ErrNotSupported, err)
	}
	return err
}

// backends is a set of backends. One without a port stands for all ports.
type backends map[netip.AddrPort]bool

func newBackends(lists ...[]netip.AddrPort) backends {
	out := backends{}
	for _, b := range slices.Concat(lists...) {
		out[b] = true
	}
	return out
}

func (b backends) has(a netip.AddrPort) bool {
	return b[a] || b[netip.AddrPortFrom(a.Addr(), 0)]
}

// usable returns the backends that a frontend's flows may lead to: those that get
// new flows, and those that keep established ones.
func usable(state *compile.State, k compile.Key) backends {
	name, _ := state.Index().Owner(k)
	if s := state.Service(name); s != nil {
		return newBackends(s.Backends(), s.Draining, s.Reserve)
	}
	return backends{}
}
