package health

import (
	"cmp"
	"container/heap"
	"context"
	"errors"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/nftdp/go-nftdp/nftdp"
)

// result is the outcome of a check.
type result struct {
	of   *backend
	err  error
	took time.Duration
	cut  bool // Run has ended before it
}

const (
	// pause is the time between two changes of the dataplane. What is found meanwhile
	// becomes one change, since in a large pool one costs as much as many.
	pause = 100 * time.Millisecond
	// retryAfter is the time until what the dataplane has refused is tried again.
	retryAfter = time.Second
)

// Run checks backends and sets their states until the context ends, and returns its
// error when all checks have ended. Backends keep their states then. It can be called
// again, but not twice at a time.
func (c *Checker) Run(ctx context.Context) error {
	if !c.begin() {
		return errors.New("health: Run is running already")
	}
	var checks sync.WaitGroup
	timer := time.NewTimer(0)
	for ctx.Err() == nil {
		timer.Reset(c.step(ctx, &checks))
		select {
		case r := <-c.results:
			c.take(r)
		case <-timer.C:
		case <-c.wake:
		case <-ctx.Done():
		}
	}
	checks.Wait()
	c.end()
	return context.Cause(ctx)
}

func (c *Checker) begin() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	ok := !c.active
	c.active = true
	return ok
}

// end puts the backends back whose checks have been cut short.
func (c *Checker) end() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for c.running > 0 {
		c.finish(<-c.results)
	}
	c.active = false
}

// step begins the checks that are due, sets states and reports. It returns the time
// until there is more to do, unless a check ends before.
func (c *Checker) step(ctx context.Context, checks *sync.WaitGroup) time.Duration {
	c.mu.Lock()
	now := time.Now()
	for c.running < c.options.Concurrency && len(c.schedule) > 0 && !c.schedule[0].next.After(now) {
		switch b := heap.Pop(&c.schedule).(*backend); {
		case b.gone:
		case b.target.Port() == 0:
			b.next = time.Time{} // It is not checked any more.
		default:
			c.begins(ctx, b, now, checks)
		}
	}
	c.program(ctx, now)
	wait := time.Hour
	if c.running < c.options.Concurrency && len(c.schedule) > 0 {
		wait = c.schedule[0].next.Sub(now)
	}
	if len(c.dirty) > 0 {
		wait = min(wait, c.notBefore.Sub(now))
	}
	events := c.events
	c.events = nil
	c.mu.Unlock()
	for _, e := range events {
		if c.options.Report != nil {
			c.options.Report(e)
		}
	}
	return wait
}

// begins begins a check.
func (c *Checker) begins(ctx context.Context, b *backend, now time.Time, checks *sync.WaitGroup) {
	check, target := b.service.check, b.target
	c.counts.Late = now.Sub(b.next)
	c.counts.Checks++
	c.running++
	b.next = now.Add(check.Interval - check.Interval/10 + rand.N(check.Interval/5+1))
	checks.Go(func() {
		limited, cancel := context.WithTimeout(ctx, check.Timeout)
		defer cancel()
		err := check.Probe.Probe(limited, c.options.Dial, target)
		c.results <- result{b, err, time.Since(now), ctx.Err() != nil}
	})
}

// take takes the outcomes of checks: one, and those that have ended meanwhile.
func (c *Checker) take(r result) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for {
		c.finish(r)
		c.judge(r)
		select {
		case r = <-c.results:
		default:
			return
		}
	}
}

// finish puts a backend back into the schedule.
func (c *Checker) finish(r result) {
	c.running--
	if !r.of.gone {
		heap.Push(&c.schedule, r.of)
	}
}

func (c *Checker) judge(r result) {
	b := r.of
	if b.gone || r.cut {
		return
	}
	if r.err != nil {
		c.counts.Failures++
	}
	if b.judge(r.err, r.took) {
		c.counts.Changes++
		c.dirty[b.service.name] = true
		c.events = append(c.events, Event{Service: b.service.name, Backend: b.addr, Healthy: b.healthy, Err: r.err})
	}
}

// program sets the states that have changed.
func (c *Checker) program(ctx context.Context, now time.Time) {
	if len(c.dirty) == 0 || c.notBefore.After(now) {
		return
	}
	next := pause
	for _, name := range slices.Sorted(maps.Keys(c.dirty)) {
		err := c.set(ctx, c.services[name])
		if err == nil {
			delete(c.dirty, name)
		} else if ctx.Err() == nil {
			next = retryAfter
			c.events = append(c.events, Event{Service: name, Err: err})
		}
	}
	c.notBefore = now.Add(next)
}

// set sets the states of a service: first of those that come back, so that others are
// there when some go.
func (c *Checker) set(ctx context.Context, s *service) error {
	states, panics := s.states()
	for _, state := range []nftdp.State{nftdp.StateActive, nftdp.StateDown} {
		var addrs []netip.AddrPort
		for i := range s.members {
			if m := &s.members[i]; states[i] == state && m.set != state {
				addrs = append(addrs, m.addr)
			}
		}
		if len(addrs) == 0 {
			continue
		}
		plan, err := c.dataplane.SetState(ctx, s.name, state, addrs...)
		if plan == nil {
			return err
		}
		if err != nil { // The states are set, but not all flows were looked at.
			c.events = append(c.events, Event{Service: s.name, Err: err})
		}
		for i := range s.members {
			if states[i] == state {
				s.members[i].set = state
			}
		}
	}
	if panics != s.panics {
		s.panics = panics
		c.events = append(c.events, Event{Service: s.name, Panic: panics})
	}
	return nil
}

// Stats counts what a Checker has done and how it is doing.
type Stats struct {
	Services, Backends, Healthy int
	Running                     int    // checks under way
	Checks, Failures, Changes   uint64 // since New; Changes of a backend from healthy to failed, or back
	// Late is how much later than it should have the last check began. If it grows,
	// Options.Concurrency is too low for so many backends that hang.
	Late time.Duration
}

// Stats returns the Checker's counts.
func (c *Checker) Stats() Stats {
	c.mu.Lock()
	defer c.mu.Unlock()
	out := c.counts
	out.Services, out.Running = len(c.services), c.running
	for _, s := range c.services {
		out.Backends += len(s.members)
		for _, m := range s.members {
			if m.healthy {
				out.Healthy++
			}
		}
	}
	return out
}

// Status is what is known about a backend.
type Status struct {
	Service string
	Backend netip.AddrPort
	Healthy bool
	Since   time.Time     // when it became healthy, or failed
	Err     error         // the last failure; nil while it is healthy and no check has failed
	Took    time.Duration // how long the last check took
	State   nftdp.State   // as it was last set
}

// Status returns what is known about all backends, sorted by service and address.
func (c *Checker) Status() []Status {
	c.mu.Lock()
	defer c.mu.Unlock()
	var out []Status
	for _, s := range c.services {
		for _, m := range s.members {
			out = append(out, Status{s.name, m.addr, m.healthy, m.since, m.err, m.took, m.set})
		}
	}
	slices.SortFunc(out, func(a, b Status) int {
		return cmp.Or(cmp.Compare(a.Service, b.Service), a.Backend.Compare(b.Backend))
	})
	return out
}
