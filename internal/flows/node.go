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
	*localAddrs
	limits   []netip.Prefix // Config.NodeAddrs: none means no limit
	loopback bool           // loopback addresses are included
}

// nodeAddrs reads the node's addresses if a service has node-wide frontends.
// Otherwise it reads nothing.
func (t *Table) nodeAddrs(ctx context.Context, s *compile.Service) (*nodeAddrs, error) {
	out := &nodeAddrs{localAddrs: newLocalAddrs(nil), limits: t.cfg.NodeAddrs, loopback: t.cfg.Localhost}
	if !slices.ContainsFunc(s.Frontends, func(f compile.Frontend) bool { return f.Addr.IsUnspecified() }) {
		return out, nil
	}
	local, err := t.readLocal(ctx)
	if err == nil {
		out.localAddrs = local
	}
	return out, err
}

func (n *nodeAddrs) contains(a netip.Addr) bool {
	if a.IsLoopback() {
		return n.loopback
	}
	return n.has(a) && (len(n.limits) == 0 || inAny(n.limits, a))
}

// readLocal reads the node's addresses of both families.
func (t *Table) readLocal(ctx context.Context) (*localAddrs, error) {
	var all []netip.Prefix
	for _, f := range ruleset.Families {
		local, err := t.kernel.LocalAddrs(ctx, f)
		if err != nil {
			return nil, err
		}
		all = append(all, local...)
	}
	return newLocalAddrs(all), nil
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
