package nftdptest

import (
	"context"
	"maps"
	"net/netip"

	"github.com/nftdp/go-nftdp/internal/around"
	"github.com/nftdp/go-nftdp/internal/compile"
	"github.com/nftdp/go-nftdp/internal/ruleset"
)

// Examine implements engine.Examining. The node has no interfaces, sockets or other
// rules, and a route to everywhere.
func (k *kernel) Examine(ctx context.Context, q *around.Question) (*around.Node, error) {
	out := &around.Node{Hops: map[netip.Addr]around.Reach{}}
	for _, f := range ruleset.Families {
		local, err := k.LocalAddrs(ctx, f)
		if err != nil {
			return nil, err
		}
		out.Local = append(out.Local, local...)
	}
	k.node.mu.Lock()
	defer k.node.mu.Unlock()
	out.Parameters = maps.Clone(k.node.sysctls)
	out.Links = []around.Link{{Device: around.Device{Index: 1, Name: "eth0"}, Up: true, IPv4: &around.IPv4{
		Forwarding: k.node.sysctls["net.ipv4.ip_forward"] != "0",
	}}}
	for _, a := range q.Addrs {
		out.Hops[a] = around.Reach{Route: around.Route{Out: out.Links[0].Device, Via: a}}
	}
	for i := range k.node.tables {
		for _, t := range k.node.tables[i].rules.Tables {
			switch {
			case t.Name == q.Table:
				out.Tables = append(out.Tables, t)
			case compile.Current(t):
				out.Others = append(out.Others, t)
			}
		}
	}
	return out, ctx.Err()
}
