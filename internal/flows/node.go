package flows

import (
	"context"
	"net/netip"

	"github.com/nftdp/go-nftdp/internal/compile"
	"github.com/nftdp/go-nftdp/internal/conntrack"
	"github.com/nftdp/go-nftdp/internal/ruleset"
)

// nodeAddrs are the addresses that take node-wide frontends.
type nodeAddrs struct {
	limits   []netip.Prefix // none: no limit
	loopback bool           // so do loopback addresses
	addrs    map[netip.Addr]bool
	nets     []netip.Prefix // local as a whole
}

// nodeAddrs reads them if flows to these frontends can have to do with
// node-wide ones. Otherwise there are none.
func (t *Table) nodeAddrs(ctx context.Context, state *compile.State, at []compile.Key) (*nodeAddrs, error) {
	out := &nodeAddrs{limits: t.cfg.NodeAddrs, loopback: t.cfg.Localhost, addrs: map[netip.Addr]bool{}}
	needed := false
	for _, k := range at {
		_, taken := state.Index().Owner(k)
		needed = needed || k.Addr.IsUnspecified() || !taken
	}
	if !needed {
		return out, nil
	}
	local, err := t.kernel.LocalAddrs(ctx, ruleset.FamilyOf(at[0].Addr))
	if err != nil {
		return nil, err
	}
	for _, p := range local {
		if p.IsSingleIP() {
			out.addrs[p.Addr()] = true
		} else {
			out.nets = append(out.nets, p)
		}
	}
	return out, nil
}

func (n *nodeAddrs) contains(a netip.Addr) bool {
	if a.IsLoopback() {
		return n.loopback
	}
	if !n.addrs[a] && !inAny(n.nets, a) {
		return false
	}
	return len(n.limits) == 0 || inAny(n.limits, a)
}

func inAny(prefixes []netip.Prefix, a netip.Addr) bool {
	for _, p := range prefixes {
		if p.Contains(a) {
			return true
		}
	}
	return false
}

// keysOf are the frontends that can have taken a flow: one with its address,
// else a node-wide one, which is zero if the address is not the node's.
func keysOf(flow *conntrack.Flow, node *nodeAddrs) (addressed, wide compile.Key) {
	addressed = compile.Key{Addr: flow.Dst.Addr(), Port: flow.Dst.Port(), Proto: flow.Proto}
	if node.contains(addressed.Addr) {
		wide = nodeWide(addressed)
	}
	return addressed, wide
}

// nodeWide is the key of the node-wide frontend with the same port.
func nodeWide(k compile.Key) compile.Key {
	k.Addr = ruleset.FamilyOf(k.Addr).Unspecified()
	return k
}

// taking is the frontend that takes the packets of a flow today.
func taking(state *compile.State, flow *conntrack.Flow, node *nodeAddrs) (compile.Key, bool) {
	addressed, wide := keysOf(flow, node)
	return firstTaking(state, addressed, wide)
}

// firstTaking is the frontend that takes packets which can be for either.
func firstTaking(state *compile.State, addressed, wide compile.Key) (compile.Key, bool) {
	for _, k := range [...]compile.Key{addressed, wide} {
		if k.Port == 0 {
			continue
		}
		if at, ok := state.Index().Taking(k); ok {
			return at, true
		}
	}
	return compile.Key{}, false
}
