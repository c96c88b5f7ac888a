//go:build linux

package main

import (
	"context"
	"maps"
	"net/netip"
	"sync"
	"time"

	"github.com/nftdp/go-nftdp/internal/nstest"
)

const (
	loadWorkers = 4
	// loadPause keeps the demo's connections well below the number of a
	// client's ports and of entries in a small conntrack table, where each
	// stays for two minutes after its end.
	loadPause = 2 * time.Millisecond
)

// load makes fresh connections all the time. A connection belongs to the step
// in which it begins.
type load struct {
	done     sync.WaitGroup
	halt     func()
	progress chan struct{} // holds a token after a connection has ended

	mu       sync.Mutex
	step     int
	finished [loadWorkers]int // connections of this step
	servers  tally            // where those went
	served   int              // connections of all steps that were answered
	failed   tally            // reasons, of all steps
}

func startLoad(ctx context.Context, from *nstest.Namespace, to netip.AddrPort) *load {
	halt := make(chan struct{})
	l := &load{
		halt:     sync.OnceFunc(func() { close(halt) }),
		progress: make(chan struct{}, 1),
		servers:  tally{},
		failed:   tally{},
	}
	for i := range loadWorkers {
		l.done.Go(func() { l.work(ctx, halt, i, from, to) })
	}
	return l
}

// stop lets the connections that have begun end.
func (l *load) stop() {
	l.halt()
	l.done.Wait()
}

func (l *load) work(ctx context.Context, halt <-chan struct{}, worker int, from *nstest.Namespace, to netip.AddrPort) {
	pause := time.NewTicker(loadPause)
	defer pause.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-halt:
			return
		case <-pause.C:
		}
		step := l.currentStep()
		a, err := get(ctx, from, to, connectTimeout)
		if ctx.Err() != nil {
			return
		}
		l.record(worker, step, a.Server, err)
	}
}

func (l *load) currentStep() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.step
}

func (l *load) record(worker, step int, server string, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err != nil {
		l.failed[reason(err)]++
	} else {
		l.served++
	}
	if step == l.step {
		l.finished[worker]++
		if err == nil {
			l.servers[server]++
		}
	}
	select {
	case l.progress <- struct{}{}:
	default:
	}
}

// nextStep begins a step.
func (l *load) nextStep() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.step++
	l.finished = [loadWorkers]int{}
	l.servers = tally{}
}

// wait returns when each worker has finished n connections of this step, and
// so all those that it began before.
func (l *load) wait(ctx context.Context, n int) error {
	for !l.reached(n) {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-l.progress:
		}
	}
	return nil
}

func (l *load) reached(n int) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, f := range l.finished {
		if f < n {
			return false
		}
	}
	return true
}

// landed is where the connections of this step went.
func (l *load) landed() tally {
	l.mu.Lock()
	defer l.mu.Unlock()
	return maps.Clone(l.servers)
}

// total is the number of connections of all steps.
func (l *load) total() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.served + l.failed.sum()
}
