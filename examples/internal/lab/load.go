//go:build linux

package lab

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"
)

// LoadWorkers is how many connections of a load there are at a time.
const LoadWorkers = 4

// loadPause keeps the connections well below the number of a client's ports and
// of entries in a small conntrack table, where each stays for two minutes after
// its end.
const loadPause = 2 * time.Millisecond

// Load makes fresh connections all the time. A connection belongs to the step
// in which it begins.
type Load struct {
	visit Visit
	done  sync.WaitGroup
	halt  context.CancelFunc

	mu       sync.Mutex
	progress *sync.Cond // when a connection has ended, or the context
	step     int
	finished [LoadWorkers]int // connections of this step
	servers  Tally            // where those went
	total    int              // connections of all steps
	failed   Tally            // reasons, of all steps
}

// StartLoad starts a load.
func StartLoad(ctx context.Context, v Visit) *Load {
	l := &Load{visit: v, servers: Tally{}, failed: Tally{}}
	l.progress = sync.NewCond(&l.mu)
	ctx, l.halt = context.WithCancel(ctx)
	for i := range l.finished {
		l.done.Go(func() { l.work(ctx, i) })
	}
	return l
}

// Stop lets the connections that have begun end.
func (l *Load) Stop() {
	l.halt()
	l.done.Wait()
}

func (l *Load) work(ctx context.Context, worker int) {
	pause := time.NewTicker(loadPause)
	defer pause.Stop()
	for ctx.Err() == nil {
		l.mu.Lock()
		step := l.step
		l.mu.Unlock()
		a, err := l.visit.dial(Timeout)
		l.record(worker, step, a.Server, err)
		<-pause.C
	}
}

func (l *Load) record(worker, step int, server string, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.total++
	if err != nil {
		l.failed[reason(err)]++
	}
	if step == l.step {
		l.finished[worker]++
		if err == nil {
			l.servers[server]++
		}
	}
	l.progress.Broadcast()
}

// NextStep begins a step.
func (l *Load) NextStep() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.step++
	l.finished = [LoadWorkers]int{}
	l.servers = Tally{}
}

// Wait waits until each worker has finished n connections of this step, and so
// all those that it began before. It returns where the step's went.
func (l *Load) Wait(ctx context.Context, n int) (Landing, error) {
	defer context.AfterFunc(ctx, func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.progress.Broadcast()
	})()
	l.mu.Lock()
	defer l.mu.Unlock()
	for slices.Min(l.finished[:]) < n && ctx.Err() == nil {
		l.progress.Wait()
	}
	return Landing{Servers: maps.Clone(l.servers)}, ctx.Err()
}

// Result is the number of connections of all steps, and an error if some of them
// failed. Stop the load before.
func (l *Load) Result() (string, error) {
	failed := l.failed.Sum()
	text := fmt.Sprintf("%d connections, %d failed", l.total, failed)
	if failed > 0 {
		return text, fmt.Errorf("failed connections: %v", Landing{Failed: l.failed})
	}
	return text, nil
}
