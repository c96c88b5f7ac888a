//go:build linux

package nftdp

import (
	"context"
	"net/netip"

	"github.com/nftdp/go-nftdp/internal/compile"
	"github.com/nftdp/go-nftdp/internal/conntrack"
	"github.com/nftdp/go-nftdp/internal/ruleset"
)

// Flow is an established connection to a frontend as the kernel tracks it; for
// UDP, datagrams between two sockets.
type Flow struct {
	Protocol Protocol
	// Client sent the first packet.
	Client netip.AddrPort
	// Frontend is where the client sent it, also for node-wide frontends.
	Frontend netip.AddrPort
	// Backend is where the flow leads. It is zero for one that began before
	// the frontend existed and so is not translated.
	Backend netip.AddrPort
	// Source is the client as the backend sees it: the client itself, or an
	// address of the node if the flow is masqueraded.
	Source netip.AddrPort
	// Ended says that both sides are done (TCP in TIME_WAIT or CLOSE, SCTP
	// in CLOSED): the kernel keeps the entry for stray packets only.
	Ended bool
}

// Flows lists the flows that began at the frontends of a service, in no order.
// It reads them out of the kernel's table, which goes on changing meanwhile. A
// service that the Dataplane does not have gives *FieldError; a kernel without
// conntrack over netlink ErrNotSupported.
func (d *Dataplane) Flows(ctx context.Context, service string) ([]Flow, error) {
	if err := d.lock(ctx); err != nil {
		return nil, err
	}
	defer d.unlock()
	s, users, err := d.service(ctx, service)
	if err != nil {
		return nil, err
	}
	found, err := d.flowsOf(ctx, users, s, false, func(*conntrack.Flow) bool { return true })
	if err != nil {
		return nil, err
	}
	out := make([]Flow, len(found))
	for i := range found {
		out[i] = flowOf(&found[i], s)
	}
	return out, nil
}

func flowOf(f *conntrack.Flow, s *compile.Service) Flow {
	out := Flow{Protocol: protocolOf(s.Proto), Client: f.Src, Frontend: f.Dst, Source: f.ReplyDst, Ended: f.Ended}
	if f.ReplySrc != f.Dst {
		out.Backend = f.ReplySrc
	}
	return out
}

// service gives a service by name: of those that the kernel holds, if this
// Dataplane has not applied anything.
func (d *Dataplane) service(ctx context.Context, name string) (*compile.Service, *users, error) {
	users, err := d.users(ctx)
	if err != nil {
		return nil, nil, err
	}
	if s := users.state.Service(name); s != nil {
		return s, users, nil
	}
	return nil, nil, &FieldError{Service: name, Field: "name", Reason: "no such service"}
}

// users gives all services, likewise.
func (d *Dataplane) users(ctx context.Context) (*users, error) {
	users := &users{state: d.state, taken: d.taken}
	if d.state != nil {
		return users, nil
	}
	err := d.retry(ctx, func() error {
		current, _, err := d.read(ctx)
		if err == nil {
			users.state, users.taken, err = d.takeOver(current, false)
		}
		return err
	})
	return users, err
}

// flowsOf lists flows of a service's frontends, all or only translated ones.
func (d *Dataplane) flowsOf(ctx context.Context, users *users, s *compile.Service, translated bool,
	accept func(*conntrack.Flow) bool,
) ([]conntrack.Flow, error) {
	var out []conntrack.Flow
	for _, f := range ruleset.Families {
		var at []claim
		for _, front := range s.Frontends {
			if familyFor(front.Addr) == f {
				at = append(at, claim{front.Addr, front.Port, protocolOf(s.Proto), front.End > 0})
			}
		}
		found, err := d.listFlows(ctx, users, at, translated, func(flow *conntrack.Flow, local *nodeAddrs) bool {
			owner, ok := users.owner(claimsOf(flow, local))
			return ok && users.taken.owner[owner] == s.Name && accept(flow)
		})
		if err != nil {
			return nil, explainConntrack(err)
		}
		out = append(out, found...)
	}
	return out, nil
}

// listFlows lists flows to any of these frontends, which are of one family and
// protocol: those that accept wants.
func (d *Dataplane) listFlows(ctx context.Context, users *users, at []claim, translated bool,
	accept func(*conntrack.Flow, *nodeAddrs) bool,
) (out []conntrack.Flow, err error) {
	if len(at) == 0 {
		return nil, nil
	}
	err = again(ctx, func() error {
		local, err := d.nodeAddrs(ctx, users, at)
		if err != nil {
			return err
		}
		out = nil
		for _, filter := range filters(at, translated) {
			found, err := conntrack.List(ctx, d.conn, filter, func(flow *conntrack.Flow) bool {
				return accept(flow, local)
			})
			if err != nil {
				return err
			}
			out = append(out, found...)
		}
		return nil
	})
	return out, err
}

// maxDumps is how often the whole table is gone through, rather than to have
// the kernel list flows to all ports. A walk over the buckets of an empty
// table costs as much as listing a few thousand flows.
const maxDumps = 4

// filters let through all flows to these frontends, and few others.
func filters(at []claim, translated bool) []conntrack.Filter {
	byPort := map[uint16][]claim{}
	ranged := false
	for _, c := range at {
		byPort[c.port] = append(byPort[c.port], c)
		ranged = ranged || c.ranged
	}
	// There are few translated flows to other ports, compared with all.
	if ranged || len(byPort) > 1 && translated || len(byPort) > maxDumps {
		byPort = map[uint16][]claim{0: at}
	}
	out := make([]conntrack.Filter, 0, len(byPort))
	for port, at := range byPort {
		filter := conntrack.Filter{
			Family: familyFor(at[0].addr), Proto: at[0].proto.protoNumber(), Addr: at[0].addr, Port: port, Translated: translated,
		}
		for _, c := range at {
			if c.addr != filter.Addr || c.addr.IsUnspecified() {
				filter.Addr = netip.Addr{}
			}
		}
		out = append(out, filter)
	}
	return out
}

func familyFor(a netip.Addr) ruleset.Family {
	if a.Is4() {
		return ruleset.IPv4
	}
	return ruleset.IPv6
}

// deleteFlows deletes flows and counts those that were still there.
func (d *Dataplane) deleteFlows(ctx context.Context, flows []conntrack.Flow) (n int, err error) {
	for i := range flows {
		deleted, err := conntrack.Delete(ctx, d.conn, &flows[i])
		if err != nil {
			return n, err
		}
		if deleted {
			n++
		}
	}
	return n, nil
}

// claimsOf are the frontends that can have taken a flow: one with its address,
// else a node-wide one. The latter is zero if the address is not the node's.
func claimsOf(flow *conntrack.Flow, local *nodeAddrs) (addressed, node claim) {
	addressed = claim{addr: flow.Dst.Addr(), port: flow.Dst.Port(), proto: protocolOf(flow.Proto)}
	if !local.contains(addressed.addr) {
		return addressed, claim{}
	}
	node = addressed
	node.addr = netip.IPv4Unspecified()
	if addressed.addr.Is6() {
		node.addr = netip.IPv6Unspecified()
	}
	return addressed, node
}

// nodeAddrs are the addresses that take node-wide frontends.
type nodeAddrs struct {
	limits   []netip.Prefix // none: no limit
	loopback bool           // so do loopback addresses
	addrs    map[netip.Addr]bool
	nets     []netip.Prefix // local as a whole
}

// nodeAddrs reads them if the flows to these frontends can have to do with
// node-wide ones. Otherwise there are none.
func (d *Dataplane) nodeAddrs(ctx context.Context, users *users, at []claim) (*nodeAddrs, error) {
	out := &nodeAddrs{limits: d.cfg.NodeAddrs, loopback: d.cfg.Localhost, addrs: map[netip.Addr]bool{}}
	needed := false
	for _, c := range at {
		needed = needed || c.addr.IsUnspecified() || !users.taken.has(c)
	}
	if !needed {
		return out, nil
	}
	local, err := d.conn.LocalAddrs(ctx, familyFor(at[0].addr))
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
