package flows

import (
	"context"
	"net/netip"

	"github.com/nftdp/go-nftdp/internal/compile"
	"github.com/nftdp/go-nftdp/internal/ruleset"
)

// Owner returns the service and its frontend that take packets to a destination, or
// nil.
func (t *Table) Owner(ctx context.Context, state *compile.State, proto uint8, dst netip.AddrPort) (*compile.Service, *compile.Frontend, error) {
	s, wide := state.Find(compile.Key{Addr: dst.Addr(), Port: dst.Port(), Proto: proto})
	if s == nil {
		return nil, nil, nil
	}
	addr := dst.Addr()
	if state.Foreign(compile.Key{Addr: addr, Port: dst.Port(), Proto: proto}, wide) {
		return nil, nil, nil
	}
	if wide {
		node, err := t.nodeAddrs(ctx, state, s)
		if err != nil || !node.contains(addr) {
			return nil, nil, explain(err)
		}
		addr = ruleset.FamilyOf(addr).Unspecified()
	}
	var ranged *compile.Frontend
	for _, f := range s.Frontends {
		switch {
		case f.Addr != addr:
		case f.End == 0 && f.Port == dst.Port():
			return s, f, nil
		case f.Port <= dst.Port() && dst.Port() <= f.End:
			ranged = f
		}
	}
	return s, ranged, nil
}
