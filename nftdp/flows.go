package nftdp

import (
	"context"
	"errors"
	"iter"
	"net/netip"
	"slices"
	"time"

	"github.com/nftdp/go-nftdp/internal/compile"
	"github.com/nftdp/go-nftdp/internal/conntrack"
	"github.com/nftdp/go-nftdp/internal/flows"
	"github.com/nftdp/go-nftdp/internal/ruleset"
)

// Flow is an established connection to a frontend as the kernel tracks it; for
// UDP, datagrams between two sockets.
type Flow struct {
	Protocol Protocol `json:"protocol"`
	// Client sent the first packet.
	Client netip.AddrPort `json:"client"`
	// Frontend is the packet's destination, also for node-wide frontends.
	Frontend netip.AddrPort `json:"frontend"`
	// Backend is where the flow leads. It is zero if the flow began before the
	// frontend existed, and so is not translated.
	Backend netip.AddrPort `json:"backend,omitzero"`
	// Source is the client as the backend sees it: the client itself, or an
	// address of the node if the flow is masqueraded.
	Source netip.AddrPort `json:"source"`
	// Ended says that both sides have ended the connection (TCP in TIME_WAIT
	// or CLOSE, SCTP in CLOSED after a reply): the kernel keeps the entry for
	// stray packets only.
	Ended bool `json:"ended,omitempty"`
}

// Flows lists the flows that began at the frontends of a service, in no particular
// order. It reads them from the kernel's table, which changes meanwhile. An unknown
// service is a *FieldError. On a kernel without conntrack over netlink the error
// matches ErrNotSupported; with tables of an older version, before the first Apply,
// ErrOutdated.
func (d *Dataplane) Flows(ctx context.Context, service string) (out []Flow, err error) {
	err = d.withFlows(ctx, service, func(t *flows.Table, state *compile.State) error {
		found, err := t.List(ctx, state, service)
		for i := range found {
			out = append(out, flowOf(&found[i]))
		}
		return err
	})
	return out, err
}

func flowOf(f *flows.Flow) Flow {
	out := Flow{Protocol: protocolOf(f.Proto), Client: f.Src, Frontend: f.Dst, Source: f.ReplyDst, Ended: f.Phase == conntrack.Closed}
	if f.ReplySrc != f.Dst {
		out.Backend = f.ReplySrc
	}
	return out
}

// withFlows runs a function on the flows of a service.
func (d *Dataplane) withFlows(ctx context.Context, service string, do func(*flows.Table, *compile.State) error) error {
	err := d.engine.Flows(ctx, do)
	if errors.Is(err, flows.ErrNoService) {
		return &FieldError{Service: service, Field: "name", Reason: "no such service"}
	}
	return err
}

// drainPoll is the interval at which Drain counts.
const drainPoll = 250 * time.Millisecond

// Drain waits until no flow leads from a service's frontends to these backends any
// more, and then returns 0. If the context ends before, it returns the context's
// error and how many flows were left at the last count, or 0 if it has not counted
// yet. Draining yields each count, for a program that shows them, or for which a few
// flows that are left are few enough.
//
// Without backends it waits for all that get no new connections: draining, down
// and removed ones, but not backups in reserve; and for flows that are not translated,
// since they began before the frontend existed. Make the backends StateDraining by
// Apply or Update first, and Cut the rest afterwards.
//
// It counts four times a second, and other methods can run in between. Connections
// that have ended (TCP in TIME_WAIT or CLOSE, closed SCTP associations) do not count.
// Drain deletes their entries: the kernel would lead a new connection between the same
// addresses and ports by such an entry, to a backend that may have stopped by then.
// UDP has no end: a flow counts until its entry expires, by default 30 seconds after
// its last datagram, or 120 if datagrams went both ways
// (net.netfilter.nf_conntrack_udp_timeout and …_udp_timeout_stream). So do TCP
// connections whose end did not pass this node, for up to five days.
//
// Errors are those of Flows.
func (d *Dataplane) Drain(ctx context.Context, service string, backends ...netip.AddrPort) (left int, err error) {
	for left, err = range d.Draining(ctx, service, backends...) { //nolint:revive // The last count is wanted.
	}
	return left, err
}

// Draining is Drain step by step: it yields how many flows are left, at once and then
// four times a second, and ends after 0. An error comes with the last count and is the
// end, too. The loop may stop before, at a number that the caller does not wait for.
func (d *Dataplane) Draining(ctx context.Context, service string, backends ...netip.AddrPort) iter.Seq2[int, error] {
	return func(yield func(int, error) bool) {
		ticker := time.NewTicker(drainPoll)
		defer ticker.Stop()
		left := 0
		for {
			n, ended, err := d.drain(ctx, service, backends)
			if err == nil {
				left = n
			}
			switch {
			case err == nil && n+ended == 0:
			case ctx.Err() != nil:
				err = ctx.Err()
			case err == nil && n == 0: // a new connection may have taken the place of one that has ended
				continue
			}
			if !yield(left, err) || err != nil || left == 0 {
				return
			}
			select {
			case <-ticker.C:
			case <-ctx.Done():
				yield(left, ctx.Err())
				return
			}
		}
	}
}

// drain deletes the flows that have ended, and returns how many there were, and how
// many are left.
func (d *Dataplane) drain(ctx context.Context, service string, backends []netip.AddrPort) (left, ended int, err error) {
	err = d.withFlows(ctx, service, func(t *flows.Table, state *compile.State) error {
		found, err := t.To(ctx, state, service, allUnmapped(backends))
		if err != nil {
			return err
		}
		all := len(found)
		found = slices.DeleteFunc(found, func(f flows.Flow) bool { return f.Phase != conntrack.Closed })
		left, ended = all-len(found), len(found)
		_, err = t.DeleteUnused(ctx, found)
		return err
	})
	return left, ended, err
}

// Cut deletes the flows from a service's frontends to these backends, of any
// protocol, and returns how many it deleted. It selects flows as Drain does, also
// without backends, and those that have ended as well: what Flows lists, Cut deletes.
//
// The next packet of a deleted flow begins a new one, to a usable backend. That is
// what a UDP client needs. A TCP connection breaks at once: the new backend, or the
// node if there is none, answers the client's next segment with a reset. The former
// backend is not notified, and finds out by its own timeouts. Errors are those of
// Flows.
func (d *Dataplane) Cut(ctx context.Context, service string, backends ...netip.AddrPort) (n int, err error) {
	err = d.withFlows(ctx, service, func(t *flows.Table, state *compile.State) error {
		found, err := t.To(ctx, state, service, allUnmapped(backends))
		if err == nil {
			n, err = t.Delete(ctx, found)
		}
		return err
	})
	return n, err
}

// allUnmapped returns the compiler's forms of backends' addresses. A port without an
// address is one of the node, in both families.
func allUnmapped(list []netip.AddrPort) []netip.AddrPort {
	out := make([]netip.AddrPort, 0, len(list))
	for _, a := range list {
		if a.Addr().IsValid() {
			out = append(out, unmapped(a))
			continue
		}
		for _, family := range ruleset.Families {
			out = append(out, netip.AddrPortFrom(family.Unspecified(), a.Port()))
		}
	}
	return out
}

// Affinity is a client that the kernel sends back to its backend, for a service with
// Service.Affinity.
type Affinity struct {
	Service  string   `json:"service"`
	Protocol Protocol `json:"protocol,omitzero"`
	// Client is the client's address as seen by this node.
	Client netip.Addr `json:"client"`
	// Frontend is one at which the client is remembered, whether it has come by this
	// one or by another one of the service. If it is node-wide, its address is 0.0.0.0
	// or ::.
	Frontend netip.AddrPort `json:"frontend"`
	Backend  netip.AddrPort `json:"backend"`
	// Expires is the remaining time, if the client does not come back before.
	Expires Duration `json:"expires"`
}

// Affinities lists the clients with affinity, sorted by service, frontend and client:
// a client once for each frontend at which it is remembered.
// AddAffinities passes them to another node before it takes over. Packets change the
// list meanwhile. Entries that others have added and that no rule can have made are
// left out: they hold until Keep, or an Apply that reads the tables, removes them.
func (d *Dataplane) Affinities(ctx context.Context) (out []Affinity, err error) {
	err = d.engine.Flows(ctx, func(t *flows.Table, state *compile.State) error {
		found, err := t.Affinities(ctx, state)
		for _, a := range found {
			out = append(out, Affinity{a.Service, protocolOf(a.Proto), a.Client, a.Frontend, a.Backend, Duration(a.Expires)})
		}
		return err
	})
	return out, err
}

// AddAffinities adds clients that Affinities of this or another node has listed, and
// returns for how many of them the kernel now has the listed backend. It leaves out
// clients whose time has expired, those of services that have no affinity here or not
// this frontend, those that may not be led to the backend from it, and those for which
// the kernel has another backend already. If the map has no room for all (see
// Config.AffinitySize), the error matches syscall.ENFILE; clients are added in groups
// of 500, each as a whole.
func (d *Dataplane) AddAffinities(ctx context.Context, list []Affinity) (n int, err error) {
	var known []flows.Affinity
	for _, a := range list {
		if a.Protocol.word().known() {
			known = append(known, flows.Affinity{
				Service: a.Service, Proto: a.Protocol.protoNumber(), Client: a.Client,
				Frontend: a.Frontend, Backend: a.Backend, Expires: time.Duration(a.Expires),
			})
		}
	}
	err = d.engine.Flows(ctx, func(t *flows.Table, state *compile.State) error {
		n, err = t.AddAffinities(ctx, state, known)
		return err
	})
	return n, err
}
