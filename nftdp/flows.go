package nftdp

import (
	"context"
	"errors"
	"net/netip"
	"time"

	"github.com/nftdp/go-nftdp/internal/compile"
	"github.com/nftdp/go-nftdp/internal/flows"
)

// Flow is an established connection to a frontend as the kernel tracks it; for
// UDP, datagrams between two sockets.
type Flow struct {
	Protocol Protocol `json:"protocol"`
	// Client sent the first packet.
	Client netip.AddrPort `json:"client"`
	// Frontend is where the client sent it, also for node-wide frontends.
	Frontend netip.AddrPort `json:"frontend"`
	// Backend is where the flow leads. It is zero for one that began before
	// the frontend existed and so is not translated.
	Backend netip.AddrPort `json:"backend,omitzero"`
	// Source is the client as the backend sees it: the client itself, or an
	// address of the node if the flow is masqueraded.
	Source netip.AddrPort `json:"source"`
	// Ended says that both sides are done (TCP in TIME_WAIT or CLOSE, SCTP
	// in CLOSED): the kernel keeps the entry for stray packets only.
	Ended bool `json:"ended,omitempty"`
}

// Flows lists the flows that began at the frontends of a service, in no order.
// It reads them out of the kernel's table, which goes on changing meanwhile. A
// service that the Dataplane does not have is *FieldError; a kernel without
// conntrack over netlink ErrNotSupported; tables of an older version, before
// the first Apply, ErrOutdated.
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
	out := Flow{Protocol: protocolOf(f.Proto), Client: f.Src, Frontend: f.Dst, Source: f.ReplyDst, Ended: f.Ended}
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

// drainPoll is how often Drain counts.
const drainPoll = 250 * time.Millisecond

// Drain waits until no flow leads from a service's frontends to these backends
// any more: (0, nil). If the context ends before, it returns how many were left
// at the last count, 0 if there was none, and the context's error. Without
// backends it waits for all that take no new connections: draining, down and
// removed ones, but not backups in reserve. It changes nothing: make the
// backends StateDraining by Apply or Update first, and Cut the rest afterwards.
//
// It counts four times a second, and others can use the Dataplane in between.
// TCP connections in TIME_WAIT or CLOSE do not count, nor do closed SCTP
// associations. UDP has no end: a flow counts until the kernel forgets it, by
// default 30 seconds after its last datagram, or 120 if datagrams went both
// ways (net.netfilter.nf_conntrack_udp_timeout and …_udp_timeout_stream). So do
// TCP connections whose end this node did not see, for up to five days.
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

func (d *Dataplane) countLeft(ctx context.Context, service string, backends []netip.AddrPort) (n int, err error) {
	err = d.withFlows(ctx, service, func(t *flows.Table, state *compile.State) error {
		found, err := t.To(ctx, state, service, allUnmapped(backends))
		n = len(found)
		return err
	})
	return n, err
}

// Cut deletes the flows from a service's frontends to these backends, of any
// protocol, and returns how many there were. Which ones these are, also without
// backends, is as for Drain: those that ended by themselves stay.
//
// The next packet of a flow that is cut begins a new one, to a usable backend.
// That is what a UDP client wants. A TCP connection breaks at once: the new
// backend, or the node if there is none, answers the client's next segment with
// a reset. The former backend is not told and finds out by itself. Errors are
// those of Flows.
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

func allUnmapped(list []netip.AddrPort) []netip.AddrPort {
	out := make([]netip.AddrPort, len(list))
	for i, a := range list {
		out[i] = unmapped(a)
	}
	return out
}

// Affinity is a client that comes back to its backend, as the kernel remembers
// it for a service with Service.Affinity.
type Affinity struct {
	Service  string   `json:"service"`
	Protocol Protocol `json:"protocol,omitzero"`
	// Client is the client's address as it arrived here.
	Client netip.Addr `json:"client"`
	// Frontend is where the client connected to, also for node-wide
	// frontends.
	Frontend netip.AddrPort `json:"frontend"`
	Backend  netip.AddrPort `json:"backend"`
	// Expires is what is left of the time, unless the client comes back
	// before.
	Expires Duration `json:"expires"`
}

// Affinities lists the clients that come back to their backends, sorted by
// service, frontend and client. With AddAffinities another node can be told
// about them before it takes over. Packets go on changing the list meanwhile.
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

// AddAffinities remembers clients, as Affinities of this or another node has
// listed them, and returns how many it remembers now as listed. It leaves out
// those whose time has run out, those of services that have no affinity here or
// not this frontend, those whose backend gets no connections from it, and
// clients for which the kernel remembers another backend already. If there are
// more than the map has room for (see Config.AffinitySize), the error matches
// syscall.ENFILE; they are added in groups of 500, each as a whole.
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
