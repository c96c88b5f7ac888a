// Package flows compares what conntrack holds with what services want: it lists
// the flows of services, finds those that are stale, and keeps the map of
// clients with affinity.
package flows

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"sync/atomic"
	"syscall"

	"github.com/nftdp/go-nftdp/internal/compile"
	"github.com/nftdp/go-nftdp/internal/conntrack"
	"github.com/nftdp/go-nftdp/internal/ruleset"
)

// Kernel has the operations on one network namespace that a Table needs. All but
// LocalAddrs may be used concurrently, also by accept.
type Kernel interface {
	// List lists the flows that pass a filter and that accept accepts. The
	// flow passed to accept is valid until it returns.
	List(ctx context.Context, f conntrack.Filter, accept func(*conntrack.Flow) bool) ([]conntrack.Flow, error)
	// Delete deletes flows that List returned, and returns how many were still
	// there, also with an error.
	Delete(ctx context.Context, flows []conntrack.Flow) (int, error)
	// DeleteMatching deletes flows that pass a filter, as judge says, and returns
	// how many it has deleted, also with an error.
	DeleteMatching(ctx context.Context, f conntrack.Filter, judge func(*conntrack.Flow) conntrack.Fate) (int, error)
	// Get reads a flow that List returned again, if it is still there.
	Get(ctx context.Context, f *conntrack.Flow) (now conntrack.Flow, ok bool, err error)
	// Find returns the flow that leads to an address and port, where it is seen as
	// one from source, if there is one.
	Find(ctx context.Context, proto uint8, source, to netip.AddrPort) (f conntrack.Flow, ok bool, err error)
	// Count returns how many flows there are, of whatever kind, in no time.
	Count(ctx context.Context) (int, error)
	// Settle returns when no packet is under way any more that has met rules
	// before the last commit, as far as that is possible.
	Settle(ctx context.Context) error
	// LocalAddrs lists the prefixes of a family that are the node's own. It
	// may be called while List is running.
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

// Table finds and deletes flows of one network namespace. Its methods may be called
// concurrently.
type Table struct {
	kernel     Kernel
	affinities Affinities
	current    atomic.Pointer[compile.State] // what the kernel holds, after the first FollowUp

	mu    sync.Mutex
	noted []Change       // since the last FollowUp
	jobs  []*Job         // that are not done
	local []netip.Prefix // the node's own when they were last compared; nil: never

	// failed says that jobs of before are not done. purge says that clients of
	// former backends may be remembered; initially those of a former process.
	failed, purge bool

	turn chan struct{} // held by the Job that runs
}

// New returns a Table.
func New(kernel Kernel, affinities Affinities) *Table {
	return &Table{kernel: &turns{Kernel: kernel}, affinities: affinities, turn: make(chan struct{}, 1), purge: true}
}

// Pending reports whether a Job has something to look for.
func (t *Table) Pending() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.purge || len(t.noted)+len(t.jobs) > 0
}

// List lists the flows that began at the frontends of a service.
func (t *Table) List(ctx context.Context, state *compile.State, service string) ([]conntrack.Flow, error) {
	s := state.Service(service)
	if s == nil {
		return nil, ErrNoService
	}
	return t.ofService(ctx, state, s, func(*conntrack.Flow) bool { return true })
}

// To lists the flows of a service that lead to some backends or, if none are
// given, to those that get no new connections, or that are not translated at all.
func (t *Table) To(ctx context.Context, state *compile.State, service string, backends []netip.AddrPort) ([]conntrack.Flow, error) {
	s := state.Service(service)
	if s == nil {
		return nil, ErrNoService
	}
	among := newBackends(s.Backends(), s.Reserve)
	if len(backends) > 0 {
		among = newBackends(backends)
	}
	local := newAddrSet(nil)
	if among.ofNode() {
		var err error
		if local, err = t.readLocal(ctx); err != nil {
			return nil, explain(err)
		}
	}
	return t.ofService(ctx, state, s, func(f *conntrack.Flow) bool {
		return among.has(f.ReplySrc, local.has) == (len(backends) > 0)
	})
}

// FlowTo returns the flow that leads to a backend, which sees it as one from source.
func (t *Table) FlowTo(ctx context.Context, proto uint8, source, backend netip.AddrPort) (f conntrack.Flow, ok bool, err error) {
	f, ok, err = t.kernel.Find(ctx, proto, source, backend)
	return f, ok, explain(err)
}

// ofService lists the flows of a service's frontends that accept accepts.
func (t *Table) ofService(ctx context.Context, state *compile.State, s *compile.Service,
	accept func(*conntrack.Flow) bool,
) ([]conntrack.Flow, error) {
	n, err := t.kernel.Count(ctx)
	if err != nil || n == 0 {
		return nil, explain(err)
	}
	node, err := t.nodeAddrs(ctx, state, s)
	if err != nil {
		return nil, explain(err)
	}
	var out []conntrack.Flow
	for _, filter := range filtersOf(s, n) {
		found, err := t.kernel.List(ctx, filter, func(flow *conntrack.Flow) bool {
			if flow.Proto != s.Proto {
				return false
			}
			k := compile.Key{Addr: flow.Dst.Addr(), Port: flow.Dst.Port(), Proto: flow.Proto}
			owner, wide := state.Find(k)
			return owner != nil && owner.Name == s.Name && (!wide || node.contains(k.Addr)) && !state.Foreign(k, wide) && accept(flow)
		})
		if err != nil {
			return nil, explain(err)
		}
		out = append(out, found...)
	}
	return out, nil
}

// filtersOf returns filters that pass all flows to the frontends of a service.
// There are n flows in all.
func filtersOf(s *compile.Service, n int) (out []conntrack.Filter) {
	var at [len(ruleset.Families)][]compile.Key
	for i := range s.Frontends {
		family := ruleset.FamilyOf(s.Frontends[i].Addr).Index()
		at[family] = append(at[family], s.Key(s.Frontends[i]))
	}
	for _, keys := range at {
		if len(keys) > 0 {
			out = append(out, filters(keys, false)...)
		}
	}
	if n <= fewFlows && len(out) > 1 {
		return []conntrack.Filter{{}}
	}
	return out
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

// DeleteUnused deletes flows, but not those that have become established since they
// were listed. The kernel has no such request: between the look and the deletion are
// some microseconds, instead of the whole time of the list. It returns how many were
// still there.
func (t *Table) DeleteUnused(ctx context.Context, flows []conntrack.Flow) (deleted int, err error) {
	var all []conntrack.Flow
	for i, f := range flows {
		if f.Phase == conntrack.Established {
			all = append(all, f)
			continue
		}
		now, ok, err := t.kernel.Get(ctx, &f)
		if err == nil && ok && now.Phase != conntrack.Established {
			var n int
			n, err = t.kernel.Delete(ctx, flows[i:i+1])
			deleted += n
		}
		if err != nil {
			return deleted, explain(err)
		}
	}
	n, err := t.Delete(ctx, all)
	return deleted + n, err
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
	if errors.Is(err, ErrNotSupported) {
		return err
	}
	if errors.Is(err, syscall.EINVAL) || errors.Is(err, syscall.EOPNOTSUPP) || errors.Is(err, syscall.EPROTONOSUPPORT) {
		return fmt.Errorf("conntrack over netlink (CONFIG_NF_CT_NETLINK): %w: %w", ErrNotSupported, err)
	}
	return err
}
