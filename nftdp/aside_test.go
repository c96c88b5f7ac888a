//go:build linux

package nftdp

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nftdp/go-nftdp/internal/engine"
	"github.com/nftdp/go-nftdp/internal/host"
	"github.com/nftdp/go-nftdp/internal/ruleset"
)

// TestReadersDoNotDelay: an Update is made while Inspect, Ruleset and Affinities are in
// the middle of their reading. What they return is right nevertheless.
func TestReadersDoNotDelay(t *testing.T) {
	sticky := web("sticky", 9, 1)
	sticky.Affinity = Duration(time.Hour)
	services := append(someServices(), sticky)
	for name, read := range map[string]func(context.Context, *Dataplane) (int, error){
		"inspect": func(ctx context.Context, d *Dataplane) (int, error) { s, err := d.Inspect(ctx); return len(s), err },
		"one": func(ctx context.Context, d *Dataplane) (int, error) {
			s, err := d.Inspect(ctx, "sticky")
			return len(s) - 1 + len(services), err
		},
		"ruleset": func(ctx context.Context, d *Dataplane) (int, error) {
			r, err := d.Ruleset(ctx)
			return len(r.status()), err
		},
		"affinities": func(ctx context.Context, d *Dataplane) (int, error) {
			l, err := d.Affinities(ctx)
			return len(l) + len(services), err
		},
	} {
		t.Run(name, func(t *testing.T) {
			n := newNode(t)
			h, err := host.Open(int(n.Handle()), DefaultTable, engine.DecodableSet)
			if err != nil {
				t.Fatal(err)
			}
			slow := &slowReader{Reader: h.Aside(), reading: make(chan struct{}), proceed: make(chan struct{})}
			d, err := Config{}.OpenKernel(t.Context(), &besideSlow{h, slow})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { closeOf(t, d) })
			apply(t, d, services)
			slow.on.Store(true)
			done := make(chan int)
			go func() {
				got, err := read(t.Context(), d)
				if err != nil {
					t.Error(err)
				}
				done <- got
			}()
			<-slow.reading
			changed := web("d", 4, 2)
			updateWith(t, d, Change{Set: []Service{changed}})
			slow.on.Store(false)
			close(slow.proceed)
			if got := <-done; got < len(services) || got > len(services)+1 {
				t.Errorf("%d services, want %d, or one more", got, len(services))
			}
		})
	}
}

// besideSlow is a kernel whose second Reader is slow.
type besideSlow struct {
	*host.Host
	slow *slowReader
}

func (b *besideSlow) Aside() engine.Reader { return b.slow }

// slowReader stops in the middle of a reading.
type slowReader struct {
	engine.Reader
	on               atomic.Bool
	reading, proceed chan struct{}
}

func (s *slowReader) pause() {
	if s.on.CompareAndSwap(true, false) {
		close(s.reading)
		<-s.proceed
	}
}

func (s *slowReader) ReadElements(ctx context.Context, t *ruleset.Table, set *ruleset.Set, keys []ruleset.Tuple) error {
	s.pause()
	return s.Reader.ReadElements(ctx, t, set, keys)
}

func (s *slowReader) ReadCounters(ctx context.Context, c *ruleset.Change, e []ruleset.Element, each func(*ruleset.Element)) error {
	s.pause()
	return s.Reader.ReadCounters(ctx, c, e, each)
}

func (s *slowReader) Entries(ctx context.Context, table string, f ruleset.Family, set *ruleset.Set) ([]ruleset.Entry, error) {
	s.pause()
	return s.Reader.Entries(ctx, table, f, set)
}
