//go:build linux

package main

import (
	"cmp"
	"context"
	"errors"
	"maps"
	"net/netip"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/nftdp/go-nftdp/nftdp"
)

// topping is how rates are shown.
type topping struct {
	interval time.Duration
	count    int
	plain    bool
}

func (t *tool) topCommand() *cobra.Command {
	var how topping
	c := &cobra.Command{
		Use:   "top",
		Short: "Show new connections per second by service and backend, as they come",
		Long: "top shows how many connections per second begin, by service and backend. In a terminal it\n" +
			"takes the whole screen until q or Ctrl-C; otherwise it prints a line for each that has any:\n" +
			"time, service, backend (- for the service as a whole), connections per second.",
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if how.interval < 100*time.Millisecond {
				return usage("--interval %v is too short: the tables are read each time; use 100ms or more", how.interval)
			}
			return t.with(c.Context(), func(d *nftdp.Dataplane) error { return ended(c.Context(), t.top(c.Context(), d, how)) })
		},
	}
	c.Flags().DurationVar(&how.interval, "interval", time.Second, "time between two readings of the counters")
	c.Flags().IntVarP(&how.count, "count", "n", 0, "end after so many readings")
	c.Flags().BoolVar(&how.plain, "plain", false, "lines instead of a screen")
	return c
}

func (t *tool) top(ctx context.Context, d *nftdp.Dataplane, how topping) error {
	r := &rates{}
	held, err := counters(ctx, d)
	if err != nil {
		return err
	}
	r.add(held, time.Now())
	out, file := t.out.(*os.File)
	if file && term.IsTerminal(int(out.Fd())) && !how.plain {
		return t.screen(ctx, d, r, how)
	}
	ticker := time.NewTicker(how.interval)
	defer ticker.Stop()
	for n := 0; how.count == 0 || n < how.count; n++ {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-ticker.C:
		}
		now := time.Now()
		held, err := counters(ctx, d)
		if err != nil {
			return err
		}
		r.add(held, now)
		for _, s := range r.sorted() {
			t.plainRate(now, s)
		}
	}
	return nil
}

func (t *tool) plainRate(now time.Time, s *serviceRate) {
	if s.last() == 0 {
		return
	}
	at := now.Format(time.TimeOnly)
	t.printf("%s %q - %.1f\n", at, s.name, s.last())
	for _, b := range s.sorted() {
		if b.last() > 0 {
			t.printf("%s %q %s %.1f\n", at, s.name, address(b.addr), b.last())
		}
	}
}

// history is how many readings are remembered.
const history = 120

// rate is what one counter did in the last readings.
type rate struct {
	counter uint64
	seen    bool
	samples []float64 // connections per second, the latest last
}

// add adds a reading. A counter that is lower than before has begun anew.
func (r *rate) add(counter uint64, elapsed time.Duration) {
	if r.seen && elapsed > 0 {
		grown := counter - r.counter
		if counter < r.counter {
			grown = counter
		}
		r.samples = append(r.samples, float64(grown)/elapsed.Seconds())
		r.samples = r.samples[max(0, len(r.samples)-history):]
	}
	r.counter, r.seen = counter, true
}

func (r *rate) last() float64 {
	if len(r.samples) == 0 {
		return 0
	}
	return r.samples[len(r.samples)-1]
}

type backendRate struct {
	rate
	addr netip.AddrPort
}

type serviceRate struct {
	rate
	name     string
	backends map[netip.AddrPort]*backendRate
}

// sorted returns the backends by their addresses, so that they do not jump.
func (s *serviceRate) sorted() []*backendRate {
	return slices.SortedFunc(maps.Values(s.backends), func(a, b *backendRate) int { return a.addr.Compare(b.addr) })
}

// rates are those of all services.
type rates struct {
	services map[string]*serviceRate
	at       time.Time
}

// counters reads the counters. There are none while others change the rules.
func counters(ctx context.Context, d *nftdp.Dataplane) ([]nftdp.ServiceStatus, error) {
	held, err := d.Inspect(ctx)
	if errors.Is(err, nftdp.ErrConflict) {
		return nil, nil
	}
	return held, err
}

// sorted returns the services, the busiest first.
func (r *rates) sorted() []*serviceRate {
	return slices.SortedFunc(maps.Values(r.services), func(a, b *serviceRate) int {
		return cmp.Or(cmp.Compare(b.last(), a.last()), strings.Compare(a.name, b.name))
	})
}

// add adds a reading of all counters. What exists no more is forgotten.
func (r *rates) add(held []nftdp.ServiceStatus, now time.Time) {
	if held == nil {
		return
	}
	elapsed := now.Sub(r.at)
	r.at = now
	next := map[string]*serviceRate{}
	for i := range held {
		s := held[i]
		old := r.services[s.Name]
		if old == nil {
			old = &serviceRate{name: s.Name}
		}
		next[s.Name] = old
		old.addService(&s, elapsed)
	}
	r.services = next
}

func (s *serviceRate) addService(held *nftdp.ServiceStatus, elapsed time.Duration) {
	var all uint64
	sums := map[netip.AddrPort]uint64{}
	for i := range held.Frontends {
		all += held.Frontends[i].Counter.Connections
		for _, b := range held.Frontends[i].Backends {
			sums[b.Addr] += b.Counter.Connections
		}
	}
	s.add(all, elapsed)
	next := map[netip.AddrPort]*backendRate{}
	for addr, sum := range sums {
		old := s.backends[addr]
		if old == nil {
			old = &backendRate{addr: addr}
		}
		next[addr] = old
		old.add(sum, elapsed)
	}
	s.backends = next
}

// bars are the heights of a sparkline.
const bars = "▁▂▃▄▅▆▇█"

// sparkline draws the latest samples, the highest of which has the full height.
func sparkline(samples []float64, width int) string {
	samples = samples[max(0, len(samples)-width):]
	top := 0.0
	for _, s := range samples {
		top = max(top, s)
	}
	heights := []rune(bars)
	var b strings.Builder
	b.WriteString(strings.Repeat(" ", width-len(samples)))
	for _, s := range samples {
		if s == 0 {
			b.WriteByte(' ')
			continue
		}
		b.WriteRune(heights[int(s/top*float64(len(heights)-1)+0.5)])
	}
	return b.String()
}
