//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"

	"github.com/nftdp/go-nftdp/nftdp"
)

// wayOfSYN follows the first packet of a connection through the load balancer and
// node-a, and that of the connection which nginx makes then.
func (s *story) wayOfSYN(ctx context.Context) error {
	s.claim("One SYN's way, from the kernel's own traces: through the balancer, and through node-a to the ingress. Then the ingress's to app-a.")
	a := s.machines[0]
	w := &way{tracers: []tracer{
		{s.router.Name, s.balancer.dataplane, from(clientAddr)},
		{a.name, a.dataplane, from(clientAddr)},
		{a.name, a.dataplane, from(a.node.ingress)},
	}}
	syns, err := w.follow(ctx, func() { s.client.get(ctx, site+"/app-a") })
	if err != nil {
		return err
	}
	for i, to := range []netip.AddrPort{
		netip.AddrPortFrom(a.addr, 80), netip.AddrPortFrom(a.node.ingress, ports[0].podPort), netip.AddrPortFrom(apps[0].pod, appPort),
	} {
		s.timeline(w.tracers[i].at, syns[i])
		if t := syns[i]; t.Code != nftdp.CodeDelivered || t.Backend != to || t.Last.Source != t.Packet.Source || len(hooks(t)) < 2 {
			return fmt.Errorf("not by DNAT to %v with its source kept: %s", to, t.Full())
		}
	}
	return nil
}

// from selects what an address sends to port 80. The default rate would leave gaps.
func from(a netip.Addr) nftdp.TraceFilter {
	return nftdp.TraceFilter{Protocol: "tcp", Source: single(a), DestinationPort: 80, Rate: 10000}
}

// tracer is where packets are followed.
type tracer struct {
	at        string
	dataplane *nftdp.Dataplane
	filter    nftdp.TraceFilter
}

// way is what the tracers have found.
type way struct {
	tracers []tracer
	mu      sync.Mutex
	syns    [3][]*nftdp.Trace
	err     error
}

// follow sends requests until all tracers have found the SYNs of one.
func (w *way) follow(ctx context.Context, send func()) (syns []*nftdp.Trace, err error) {
	ctx, stop := context.WithCancel(ctx)
	var running sync.WaitGroup
	for i := range w.tracers {
		running.Go(func() { w.trace(ctx, i) })
	}
	err = await(ctx, "the kernel reports a SYN", func() bool {
		send()
		w.mu.Lock()
		defer w.mu.Unlock()
		syns = w.joined()
		return syns != nil || w.err != nil
	})
	stop()
	running.Wait()
	return syns, errors.Join(err, w.err)
}

// trace collects what one tracer finds until the context ends.
func (w *way) trace(ctx context.Context, i int) {
	for t, err := range w.tracers[i].dataplane.Trace(ctx, w.tracers[i].filter) {
		w.mu.Lock()
		switch {
		case err == nil && t.Packet.Info == "syn":
			w.syns[i] = append(w.syns[i], t)
		case err != nil && ctx.Err() == nil && !errors.Is(err, nftdp.ErrMissed):
			w.err = err
		}
		w.mu.Unlock()
	}
}

// joined returns the SYN of a client at the balancer and at the node, which is known by
// its source, and that of nginx which came next.
func (w *way) joined() []*nftdp.Trace {
	for _, atNode := range w.syns[1] {
		atBalancer := slices.IndexFunc(w.syns[0], func(t *nftdp.Trace) bool { return t.Packet.Source == atNode.Packet.Source })
		toApp := slices.IndexFunc(w.syns[2], func(t *nftdp.Trace) bool { return t.Time.After(atNode.Time) })
		if atBalancer >= 0 && toApp >= 0 {
			return []*nftdp.Trace{w.syns[0][atBalancer], atNode, w.syns[2][toApp]}
		}
	}
	return nil
}

// timeline prints a packet's way through a namespace.
func (s *story) timeline(at string, t *nftdp.Trace) {
	row := func(what, format string, args ...any) {
		fmt.Fprintf(s.out, "   %-9s %-18s %s\n", at, what, fmt.Sprintf(format, args...))
		at = ""
	}
	row("arrives, "+t.In, "%v", t.Packet)
	for _, h := range hooks(t) {
		row(h.name, "chains %s", strings.Join(h.chains, ", "))
		if h.name == "prerouting" {
			row("DNAT", "service %s → %v", t.Service, t.Backend)
			row("routing", "→ %s", t.Out)
		}
	}
	row("sent, "+t.Out, "%v", t.Last)
}

// hook is one that a packet has passed, with the chains in which it matched rules.
type hook struct {
	name   string
	chains []string
}

func hooks(t *nftdp.Trace) (all []hook) {
	for _, step := range t.Steps {
		if len(all) == 0 || all[len(all)-1].name != step.Hook {
			all = append(all, hook{name: step.Hook})
		}
		h := &all[len(all)-1]
		if !slices.Contains(h.chains, step.Chain) {
			h.chains = append(h.chains, step.Chain)
		}
	}
	return all
}
