//go:build linux

package lab

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/nftdp/go-nftdp/internal/nstest"
)

// streamPause is between two lines of a connection.
const streamPause = 10 * time.Millisecond

// streamTimeout is for a line and its echo. TCP repeats what was lost, a few times
// within some seconds.
const streamTimeout = 30 * time.Second

// Streams are long connections, over each of which lines go to the server and back
// all the time. Where nothing comes back, the client sends probes.
type Streams struct {
	Servers  Tally // where they lead
	halt     context.CancelFunc
	done     sync.WaitGroup
	mu       sync.Mutex
	progress *sync.Cond // when a line is back, a connection is broken, or the context has ended
	lines    []int      // of each connection, since Wait was called
	longest  time.Duration
	broken   []error
}

// OpenStreams opens a connection for each visit.
func OpenStreams(ctx context.Context, visits []Visit) (*Streams, error) {
	s := &Streams{Servers: Tally{}}
	s.progress = sync.NewCond(&s.mu)
	ctx, s.halt = context.WithCancel(ctx)
	var conns []*nstest.Conn
	for _, v := range visits {
		c, err := nstest.DialTCP(v.From, v.Source, v.To, Timeout)
		if err == nil {
			conns = append(conns, c)
			err = c.KeepAlive(time.Second)
		}
		if err != nil {
			s.halt()
			for _, c := range conns {
				_ = c.Close()
			}
			return nil, fmt.Errorf("%s to %v: %w", v.Client(), v.To, err)
		}
		s.Servers[c.Answer.Server]++
	}
	s.lines = make([]int, len(conns))
	for i, c := range conns {
		s.done.Go(func() { s.talk(ctx, i, c) })
	}
	return s, nil
}

func (s *Streams) talk(ctx context.Context, i int, c *nstest.Conn) {
	defer c.Close()
	pause := time.NewTicker(streamPause)
	defer pause.Stop()
	for n := 0; ctx.Err() == nil; n++ {
		begin := time.Now()
		err := c.Echo(fmt.Sprint("line ", n), streamTimeout)
		s.record(i, time.Since(begin), err)
		if err != nil {
			return
		}
		<-pause.C
	}
}

func (s *Streams) record(i int, took time.Duration, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.longest = max(s.longest, took)
	s.lines[i]++
	if err != nil {
		s.broken = append(s.broken, err)
	}
	s.progress.Broadcast()
}

// Wait waits until n more lines of each connection are back, the first of which may
// have been sent before. A connection that breaks is an error.
func (s *Streams) Wait(ctx context.Context, n int) error {
	defer context.AfterFunc(ctx, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.progress.Broadcast()
	})()
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.lines)
	for slices.Min(s.lines) < n && len(s.broken) == 0 && ctx.Err() == nil {
		s.progress.Wait()
	}
	if len(s.broken) > 0 {
		return fmt.Errorf("%d of %d connections are broken: %w", len(s.broken), len(s.lines), errors.Join(s.broken...))
	}
	return ctx.Err()
}

// Stop ends the connections. It returns how many there were, and the longest time
// that a line took.
func (s *Streams) Stop() (n int, longest time.Duration) {
	s.halt()
	s.done.Wait()
	return len(s.lines), s.longest
}
