//go:build linux

package nftdp

import (
	"context"
	"net/netip"
	"slices"
	"time"

	"github.com/nftdp/go-nftdp/internal/compile"
	"github.com/nftdp/go-nftdp/internal/conntrack"
)

// drainPoll is how often Drain counts.
const drainPoll = 250 * time.Millisecond

// Drain waits until no flow leads from a service's frontends to these backends
// any more: (0, nil). If the context ends before, it returns how many were left
// at the last count, 0 if there was none, and the context's error. Without
// backends it waits for all that take no new connections: draining, down and
// removed ones, but not backups in reserve. It changes nothing: let Apply or
// Update make the backends Draining first, and Cut the rest afterwards.
//
// It counts four times a second, and lets others use the Dataplane in between.
// TCP connections in TIME_WAIT or CLOSE do not count, nor do closed SCTP
// associations. UDP has no end: a flow counts until the kernel forgets it, by
// default 30 seconds after its last datagram, or 120 if datagrams went both
// ways (net.netfilter.nf_conntrack_udp_timeout and …_udp_timeout_stream). So
// do TCP connections whose end this node did not see, for up to five days.
//
// Errors are those of Flows.
func (d *Dataplane) Drain(ctx context.Context, service string, backends ...netip.AddrPort) (left int, err error) {
	ticker := time.NewTicker(drainPoll)
	defer ticker.Stop()
	for {
		n, err := d.countLeft(ctx, service, backends)
		if err == nil {
			left = n
		}
		switch {
		case err == nil && n == 0:
			return 0, nil
		case ctx.Err() != nil:
			return left, ctx.Err()
		case err != nil:
			return left, err
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return left, ctx.Err()
		}
	}
}

func (d *Dataplane) countLeft(ctx context.Context, service string, backends []netip.AddrPort) (int, error) {
	if err := d.lock(ctx); err != nil {
		return 0, err
	}
	defer d.unlock()
	flows, err := d.flowsTo(ctx, service, backends)
	return len(flows), err
}

// Cut deletes the flows from a service's frontends to these backends, of any
// protocol, and returns how many there were. Which ones these are, also without
// backends, is as for Drain: those that ended by themselves stay.
//
// The next packet of a flow that is cut begins a new one, to a backend that is
// usable. For UDP that is just what a client wants. A TCP connection breaks at
// once: the new backend, or the node if there is none, answers the client's
// next segment with a reset. The former backend is not told and finds out by
// itself. Errors are those of Flows.
func (d *Dataplane) Cut(ctx context.Context, service string, backends ...netip.AddrPort) (int, error) {
	if err := d.lock(ctx); err != nil {
		return 0, err
	}
	defer d.unlock()
	flows, err := d.flowsTo(ctx, service, backends)
	if err != nil {
		return 0, err
	}
	n, err := d.deleteFlows(ctx, flows)
	return n, explainConntrack(err)
}

// flowsTo lists the flows of a service to some backends, or to those that take
// no new connections, which have not ended.
func (d *Dataplane) flowsTo(ctx context.Context, service string, backends []netip.AddrPort) ([]conntrack.Flow, error) {
	s, users, err := d.service(ctx, service)
	if err != nil {
		return nil, err
	}
	among, listed := backendsInUse(s), false
	if len(backends) > 0 {
		clear(among)
		listed = true
		for _, b := range backends {
			among[unmapped(b)] = true
		}
	}
	return d.flowsOf(ctx, users, s, true, func(f *conntrack.Flow) bool {
		return !f.Ended && leads(among, f.ReplySrc) == listed
	})
}

// leads reports whether a flow to a backend leads to one of these, of which
// those without a port stand for all ports.
func leads(among map[netip.AddrPort]bool, to netip.AddrPort) bool {
	return among[to] || among[netip.AddrPortFrom(to.Addr(), 0)]
}

// backendsInUse are those that new connections go to, now or if it has to be.
func backendsInUse(s *compile.Service) map[netip.AddrPort]bool {
	out := map[netip.AddrPort]bool{}
	for _, b := range slices.Concat(s.Backends(), s.Reserve) {
		out[b] = true
	}
	return out
}
