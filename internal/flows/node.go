package flows

import (
	"context"
	"net/netip"

	"github.com/nftdp/go-nftdp/internal/compile"
	"github.com/nftdp/go-nftdp/internal/conntrack"
	"github.com/nftdp/go-nftdp/internal/ruleset"
)

// nodeAddrs holds the addresses that node-wide frontends have.
type nodeAddrs struct {
	limits   []netip.Prefix // Config.NodeAddrs: none means no limit
	loopback bool           // loopback addresses are included
	addrs    map[netip.Addr]bool
	nets     []netip.Prefix // prefixes that are local as a whole
}

// nodeAddrs reads the node's addresses if flows to these frontends may match
// node-wide frontends. Otherwise it reads nothing.
func (t *Table) nodeAddrs(ctx context.Context, state *compile.State, at []compile.Key) (*nodeAddrs, error) {
	out := &nodeAddrs{limits: t.cfg.NodeAddrs, loopback: t.cfg.Localhost, addrs: map[netip.Addr]bool{}}
	needed := false
	for _, k := range at {
		_, claimed := state.Index().Owner(k)
		needed = needed || k.Addr.IsUnspecified() || !claimed
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

// keysOf returns the keys of the frontends that a flow can match: one with its
// address, and a node-wide one, which is zero if the address is not the node's.
func keysOf(flow *conntrack.Flow, node *nodeAddrs) (addressed, wide compile.Key) {
	addressed = compile.Key{Addr: flow.Dst.Addr(), Port: flow.Dst.Port(), Proto: flow.Proto}
	if node.contains(addressed.Addr) {
		wide = nodeWide(addressed)
	}
	return addressed, wide
}

// nodeWide returns the key of the node-wide frontend with the same port.
func nodeWide(k compile.Key) compile.Key {
	k.Addr = ruleset.FamilyOf(k.Addr).Unspecified()
	return k
}

// matching returns the frontend that packets of either key match: one with an
// address comes before a node-wide one.
func matching(state *compile.State, addressed, wide compile.Key) (compile.Key, bool) {
	for _, k := range [...]compile.Key{addressed, wide} {
		if k.Port == 0 {
			continue
		}
		if state.Foreign(k) {
			break
		}
		if at, ok := state.Index().Match(k); ok {
			return at, true
		}
	}
	return compile.Key{}, false
}

// foreign reports whether packets of either key match a frontend of another owner
// in shared tables before any of ours.
func foreign(state *compile.State, addressed, wide compile.Key) bool {
	for _, k := range [...]compile.Key{addressed, wide} {
		if k.Port == 0 {
			continue
		}
		if state.Foreign(k) {
			return true
		}
		if _, ours := state.Index().Match(k); ours {
			return false
		}
	}
	return false
}
