package engine

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"net/netip"
	"slices"
	"syscall"
	"time"

	"github.com/nftdp/go-nftdp/internal/compile"
	"github.com/nftdp/go-nftdp/internal/flows"
	"github.com/nftdp/go-nftdp/internal/ruleset"
	"github.com/nftdp/go-nftdp/internal/trace"
)

// Tracing is implemented by a Kernel that can report the way of packets.
type Tracing interface {
	// Tracer opens sockets of their own. Rules of the tables of that name are
	// ours.
	Tracer(table string) (Tracer, error)
}

// Tracer makes the kernel report the way of packets while it is open.
type Tracer interface {
	// Begin makes a table whose rules select packets, and Table is its name.
	Begin(ctx context.Context, f *trace.Filter) error
	Table() string
	// Messages waits for messages, but at most for a given time, and calls
	// each for some that have arrived. ruleset.ErrMissed: some were missed.
	Messages(ctx context.Context, atMost time.Duration, each func(*trace.Message)) error
	// Refresh forgets what is known about rules if they have changed.
	Refresh(ctx context.Context) error
	// Rule and Chain describe those of a message.
	Rule(ctx context.Context, m *trace.Message) (trace.RuleInfo, error)
	Chain(ctx context.Context, m *trace.Message) (trace.ChainInfo, error)
	// Device returns the name of a network device.
	Device(d trace.Device) string
	// Close deletes the table.
	Close() error
}

// Traced is the way of a packet together with what is known about it.
type Traced struct {
	*trace.Way
	Steps    []Step
	In, Out  string // names of devices
	Service  string // whose frontend takes packets to the original destination
	Internal bool   // internal clients of the frontend have a pool of their own
}

// Step is a message with its rule and base chain.
type Step struct {
	trace.Message
	Rule trace.RuleInfo
	Base trace.ChainInfo // where the packet is
}

// Selection is a filter of which the engine knows the services.
type Selection struct {
	trace.Filter
	Service string // only packets to its frontends; empty: all
	Match   trace.Match
}

const (
	idle      = 250 * time.Millisecond // how soon a closed Engine is noticed
	nextCheck = 20 * time.Millisecond  // while packets are on their way
)

// Trace yields the ways of packets, until the context ends or the Engine is closed,
// which is the last error. The kernel reports them only meanwhile.
func (e *Engine) Trace(ctx context.Context, s Selection) iter.Seq2[*Traced, error] {
	return func(yield func(*Traced, error) bool) {
		s := s // each loop has its own
		t, err := e.tracer(ctx, &s)
		if err != nil {
			yield(nil, err)
			return
		}
		defer t.Close()
		r := tracing{Engine: e, tracer: t, join: trace.NewJoiner(t.Table())}
		for {
			found, err := r.next(ctx)
			for _, way := range found {
				if !yield(way, nil) {
					return
				}
			}
			if err != nil && (!yield(nil, err) || Ended(ctx, err)) {
				return
			}
			if err != nil && !errors.Is(err, ErrMissed) {
				sleep(ctx, idle) // it may last
			}
		}
	}
}

// tracer opens a Tracer and begins.
func (e *Engine) tracer(ctx context.Context, s *Selection) (Tracer, error) {
	if err := e.selectMatches(ctx, s); err != nil {
		return nil, err
	}
	if err := e.lock(ctx); err != nil {
		return nil, err
	}
	defer e.unlock()
	kernel, ok := e.kernel.(Tracing)
	if !ok {
		return nil, fmt.Errorf("trace packets: %w", ErrNotSupported)
	}
	t, err := kernel.Tracer(e.cfg.Table)
	if err != nil {
		return nil, Explain(err)
	}
	if err := t.Begin(ctx, &s.Filter); err != nil {
		return nil, errors.Join(explainTrace(err), t.Close())
	}
	return t, nil
}

// explainTrace names what a kernel without family inet or an expression lacks.
func explainTrace(err error) error {
	if errors.Is(err, syscall.EAFNOSUPPORT) || errors.Is(err, syscall.ENOENT) {
		return fmt.Errorf("nf_tables' family inet with limit, ct and fib (CONFIG_NF_TABLES_INET, CONFIG_NFT_FIB_INET): %w: %w", ErrNotSupported, err)
	}
	return Explain(err)
}

// selectMatches adds the match of a selection, for each frontend of its service.
func (e *Engine) selectMatches(ctx context.Context, s *Selection) error {
	if s.Service == "" {
		s.Matches = []trace.Match{s.Match}
		return nil
	}
	return e.Flows(ctx, func(_ *flows.Table, state *compile.State) error {
		service := state.Service(s.Service)
		if service == nil {
			return flows.ErrNoService
		}
		for i := range service.Frontends {
			if m, ok := matchOf(s.Match, service.Proto, service.Frontends[i]); ok {
				s.Matches = append(s.Matches, m)
			}
		}
		return nil
	})
}

// matchOf restricts a match to a frontend; ok is false if it has another family or
// protocol.
func matchOf(m trace.Match, proto uint8, f *compile.Frontend) (_ trace.Match, ok bool) {
	family := ruleset.FamilyOf(f.Addr)
	if m.Family != 0 && m.Family != family || m.Proto != 0 && m.Proto != proto {
		return m, false
	}
	m.Family, m.Proto = family, proto
	if f.Addr.IsUnspecified() {
		m.Local = true
	} else {
		m.Destinations = append(slices.Clone(m.Destinations), netip.PrefixFrom(f.Addr, f.Addr.BitLen()))
	}
	ports := trace.Ports{First: f.Port, Last: max(f.Port, f.End)}
	if m.Dport != (trace.Ports{}) {
		ports = trace.Ports{First: max(ports.First, m.Dport.First), Last: min(ports.Last, m.Dport.Last)}
	}
	m.Dport = ports
	return m, ports.First <= ports.Last
}

// tracing is a trace that runs.
type tracing struct {
	*Engine
	tracer Tracer
	join   *trace.Joiner
}

// next waits for messages, and returns the ways that have ended.
func (r *tracing) next(ctx context.Context) ([]*Traced, error) {
	wait := idle
	if r.join.Pending() {
		wait = nextCheck
	}
	err := r.tracer.Messages(ctx, wait, func(m *trace.Message) { r.join.Add(m, time.Now()) })
	if errors.Is(err, ruleset.ErrMissed) {
		r.join.Missed()
	}
	ways := r.join.Done(time.Now())
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	var out []*Traced
	if len(ways) > 0 {
		err = errors.Join(err, r.tracer.Refresh(ctx))
	}
	for _, w := range ways {
		way, failed := r.complete(ctx, w)
		out, err = append(out, way), errors.Join(err, failed)
	}
	err = errors.Join(err, r.findServices(ctx, out))
	if locked := r.lock(ctx); locked != nil {
		return out, locked
	}
	r.unlock()
	return out, err
}

// findServices finds the services of ways. A process that has not programmed anything
// reads them from the kernel for that, once for all ways.
func (r *tracing) findServices(ctx context.Context, of []*Traced) error {
	if len(of) == 0 {
		return nil
	}
	return r.Flows(ctx, func(t *flows.Table, state *compile.State) (err error) {
		for _, way := range of {
			err = errors.Join(err, way.findService(ctx, t, state))
		}
		return err
	})
}

// complete adds what is known about a way, but for its service.
func (r *tracing) complete(ctx context.Context, w *trace.Way) (out *Traced, err error) {
	out = &Traced{Way: w, In: r.tracer.Device(w.In), Out: r.tracer.Device(w.Out)}
	var base trace.ChainInfo
	for i := range w.Messages {
		s := Step{Message: w.Messages[i]}
		rule, failed := r.tracer.Rule(ctx, &s.Message)
		chain, failed2 := r.tracer.Chain(ctx, &s.Message)
		if s.Rule = rule; chain.Hook != "" {
			base = chain
		}
		s.Base, err = base, errors.Join(err, failed, failed2)
		out.Steps = append(out.Steps, s)
	}
	w.Reply = w.Reply || w.Conn.Reply
	return out, err
}

// findService finds the service of the frontend that the client has sent the first
// packet of the connection to. Before Linux 6.18 messages do not say whether the
// packet is a reply: then it is one if it goes on as if it came from a frontend.
func (w *Traced) findService(ctx context.Context, t *flows.Table, state *compile.State) error {
	owner := func(a netip.AddrPort) error {
		if a.Port() == 0 || w.Packet.Proto == trace.ICMP || w.Packet.Proto == trace.ICMPv6 {
			return nil
		}
		s, f, err := t.Owner(ctx, state, w.Packet.Proto, a)
		if w.Service, w.Internal = "", f != nil && f.Internal != nil; s != nil {
			w.Service = s.Name
		}
		return err
	}
	if !w.Reply {
		if err := owner(w.Packet.Dst); err != nil || w.Service != "" {
			return err
		}
	}
	if w.Last() != trace.PostroutingEnd && w.Last() != trace.InputEnd {
		return nil // it is not translated back yet
	}
	src := w.Seen[len(w.Seen)-1].Packet.Src
	if !w.Reply && (w.Conn.State != 0 || src == w.Packet.Src) {
		return nil
	}
	err := owner(src)
	w.Reply = w.Reply || w.Service != ""
	return err
}
