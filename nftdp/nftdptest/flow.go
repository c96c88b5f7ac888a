package nftdptest

import (
	"context"
	"net/netip"
	"slices"
	"time"

	"github.com/nftdp/go-nftdp/internal/compile"
	"github.com/nftdp/go-nftdp/internal/conntrack"
	"github.com/nftdp/go-nftdp/internal/ruleset"
)

// tuple names a connection by its first packet.
type tuple struct {
	proto    uint8
	src, dst netip.AddrPort
}

// flow is a connection that the node tracks.
type flow struct {
	conntrack.Flow
	outcome Outcome
	used    time.Duration // when its last packet was sent, in the node's time
}

// timeout is how long the kernel keeps a flow that is not used, by default:
// net.netfilter.nf_conntrack_udp_timeout_stream, …_tcp_timeout_time_wait and
// …_tcp_timeout_established.
func (f *flow) timeout() time.Duration {
	if f.Phase == conntrack.Closed || f.Proto == compile.UDP {
		return 2 * time.Minute
	}
	return 5 * 24 * time.Hour
}

// follow notes that a packet went a way.
func (n *Node) follow(at tuple, p *ruleset.Packet, w *way) {
	if f := n.flow(at); f != nil {
		f.used = n.now
		return
	}
	if w.of != nil {
		count(&w.path, w.of.rules.Table(p.Family()))
		n.learn(p, w)
	}
	if w.Verdict == VerdictDelivered {
		n.flows[at] = &flow{
			Flow:    conntrack.Flow{Proto: at.proto, Src: at.src, Dst: at.dst, ReplySrc: w.Destination, ReplyDst: w.Source},
			outcome: w.Outcome, used: n.now,
		}
	}
}

// flow is the one that further packets follow, or nil.
func (n *Node) flow(at tuple) *flow {
	if f := n.flows[at]; f != nil && f.Phase != conntrack.Closed {
		return f
	}
	return nil
}

// count counts a lookup for each element with a counter on the way.
func count(path *ruleset.Path, in *ruleset.Table) {
	for _, step := range path.Trace {
		for _, s := range step.Rule {
			if set := in.Set(mapOf(s)); set != nil && set.Counter && step.Found != nil {
				step.Found.Packets++
			}
		}
	}
}

// mapOf is the map that a statement takes an element from; empty: none.
func mapOf(s ruleset.Statement) string {
	switch s := s.(type) {
	case ruleset.VMap:
		return s.Map
	case ruleset.DNAT:
		return s.Map
	}
	return ""
}

// List implements flows.Kernel, sorted by client.
func (k *kernel) List(ctx context.Context, f conntrack.Filter, accept func(*conntrack.Flow) bool) ([]conntrack.Flow, error) {
	var out []conntrack.Flow
	k.node.mu.Lock()
	for _, flow := range k.node.flows {
		if (f.Family == 0 || ruleset.FamilyOf(flow.Dst.Addr()) == f.Family) && f.Matches(&flow.Flow) {
			out = append(out, flow.Flow)
		}
	}
	k.node.mu.Unlock() // accept may ask for LocalAddrs
	out = slices.DeleteFunc(out, func(f conntrack.Flow) bool { return !accept(&f) })
	slices.SortFunc(out, func(x, y conntrack.Flow) int { return x.Src.Compare(y.Src) })
	return out, ctx.Err()
}

// Delete implements flows.Kernel.
func (k *kernel) Delete(ctx context.Context, flows []conntrack.Flow) (n int, err error) {
	k.node.mu.Lock()
	defer k.node.mu.Unlock()
	for _, f := range flows {
		at := tuple{f.Proto, f.Src, f.Dst}
		if k.node.flows[at] != nil {
			n++
		}
		delete(k.node.flows, at)
	}
	return n, ctx.Err()
}

// DeleteMatching implements flows.Kernel.
func (k *kernel) DeleteMatching(ctx context.Context, f conntrack.Filter, judge func(*conntrack.Flow) conntrack.Fate) (int, error) {
	found, err := k.List(ctx, f, func(f *conntrack.Flow) bool { return judge(f) != conntrack.Keep })
	if err != nil {
		return 0, err
	}
	return k.Delete(ctx, found)
}

// Get implements flows.Kernel.
func (k *kernel) Get(ctx context.Context, f *conntrack.Flow) (now conntrack.Flow, ok bool, err error) {
	k.node.mu.Lock()
	defer k.node.mu.Unlock()
	if held := k.node.flows[tuple{f.Proto, f.Src, f.Dst}]; held != nil {
		now, ok = held.Flow, true
	}
	return now, ok, ctx.Err()
}

// Find implements flows.Kernel.
func (k *kernel) Find(ctx context.Context, proto uint8, source, to netip.AddrPort) (f conntrack.Flow, ok bool, err error) {
	k.node.mu.Lock()
	defer k.node.mu.Unlock()
	for _, flow := range k.node.flows {
		if flow.Proto == proto && flow.ReplySrc == to && flow.ReplyDst == source {
			return flow.Flow, true, ctx.Err()
		}
	}
	return f, false, ctx.Err()
}

// Count implements flows.Kernel.
func (k *kernel) Count(ctx context.Context) (int, error) {
	k.node.mu.Lock()
	defer k.node.mu.Unlock()
	return len(k.node.flows), ctx.Err()
}

// LocalAddrs implements flows.Kernel.
func (k *kernel) LocalAddrs(ctx context.Context, f ruleset.Family) ([]netip.Prefix, error) {
	loopback := netip.PrefixFrom(netip.IPv6Loopback(), 128)
	if f == ruleset.IPv4 {
		loopback = netip.PrefixFrom(netip.AddrFrom4([4]byte{127}), 8)
	}
	out := []netip.Prefix{loopback}
	for _, a := range k.node.addrs {
		if ruleset.FamilyOf(a) == f {
			out = append(out, netip.PrefixFrom(a, a.BitLen()))
		}
	}
	return out, ctx.Err()
}
