package flows

import (
	"context"
	"net/netip"

	"github.com/nftdp/go-nftdp/internal/compile"
	"github.com/nftdp/go-nftdp/internal/conntrack"
)

// Owner returns the frontend that takes packets to a destination, and the name of
// its service; the name is empty if there is none.
func (t *Table) Owner(ctx context.Context, state *compile.State, proto uint8, dst netip.AddrPort) (name string, at compile.Key, err error) {
	node, err := t.nodeAddrs(ctx, state, []compile.Key{{Addr: dst.Addr(), Port: dst.Port(), Proto: proto}})
	if err != nil {
		return "", at, explain(err)
	}
	addressed, wide := keysOf(&conntrack.Flow{Proto: proto, Dst: dst}, node)
	at, ok := matching(state, addressed, wide)
	if ok {
		name, _ = state.Index().Owner(at)
	}
	return name, at, nil
}
