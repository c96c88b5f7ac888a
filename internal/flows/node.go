package flows

import (
	"context"
	"net/netip"
	"slices"
	"sync"

	"github.com/nftdp/go-nftdp/internal/compile"
	"github.com/nftdp/go-nftdp/internal/ruleset"
)

// nodeAddrs are the addresses that node-wide frontends have.
type nodeAddrs struct {
	*addrSet
	cfg compile.Config
}

// nodeAddrs reads the node's addresses if a service has node-wide frontends.
// Otherwise it reads nothing.
func (t *Table) nodeAddrs(ctx context.Context, state *compile.State, s *compile.Service) (*nodeAddrs, error) {
	out := &nodeAddrs{addrSet: newAddrSet(nil), cfg: state.Config()}
	if !slices.ContainsFunc(s.Frontends, func(f *compile.Frontend) bool { return f.Addr.IsUnspecified() }) {
		return out, nil
	}
	local, err := t.readLocal(ctx)
	if err == nil {
		out.addrSet = local
	}
	return out, err
}

func (n *nodeAddrs) contains(a netip.Addr) bool {
	return n.cfg.TakesNodeWide(a) && (a.IsLoopback() || n.has(a))
}

// readLocal reads the node's addresses of both families.
func (t *Table) readLocal(ctx context.Context) (*addrSet, error) {
	all, err := t.Local(ctx)
	return newAddrSet(all), err
}

// Local returns the prefixes that are the node's own, of both families.
func (t *Table) Local(ctx context.Context) ([]netip.Prefix, error) {
	all := []netip.Prefix{}
	for _, f := range ruleset.Families {
		local, err := t.kernel.LocalAddrs(ctx, f)
		if err != nil {
			return nil, err
		}
		all = append(all, local...)
	}
	return all, nil
}

// moved reads the prefixes that are the node's own, and returns also which of them are
// new since a Job last compared them, and which have left since then. The first Job
// looks at all flows.
func (t *Table) moved(ctx context.Context) (local, arrived, left []netip.Prefix, err error) {
	if local, err = t.Local(ctx); err != nil {
		return nil, nil, nil, err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.local == nil {
		return local, nil, nil, nil
	}
	return local, without(local, t.local), without(t.local, local), nil
}

// without lists the prefixes of a list that are not in another one.
func without(list, other []netip.Prefix) (out []netip.Prefix) {
	known := map[netip.Prefix]bool{}
	for _, p := range other {
		known[p] = true
	}
	for _, p := range list {
		if !known[p] {
			out = append(out, p)
		}
	}
	return out
}

// turns makes the Kernel's LocalAddrs usable by several goroutines: they take turns.
type turns struct {
	Kernel
	addresses sync.Mutex
}

func (t *turns) LocalAddrs(ctx context.Context, f ruleset.Family) ([]netip.Prefix, error) {
	t.addresses.Lock()
	defer t.addresses.Unlock()
	return t.Kernel.LocalAddrs(ctx, f)
}
