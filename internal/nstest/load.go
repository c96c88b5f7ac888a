//go:build linux

package nstest

import (
	"sync"
	"sync/atomic"
	"time"
)

// Load calls functions again and again, all at the same time.
type Load struct {
	calls   atomic.Int64 // without an error
	stopped atomic.Bool
	failed  chan error // has room for the error of each function
	running sync.WaitGroup
}

// StartLoad calls each function until it fails, until Stop, or until the end of the test.
func StartLoad(t TB, functions ...func() error) *Load {
	l := &Load{failed: make(chan error, len(functions))}
	for _, call := range functions {
		l.running.Go(func() {
			for !l.stopped.Load() {
				if err := call(); err != nil {
					l.failed <- err
					return
				}
				l.calls.Add(1)
			}
		})
	}
	t.Cleanup(l.stop)
	return l
}

func (l *Load) stop() {
	l.stopped.Store(true)
	l.running.Wait()
}

// Await waits for n more calls. The test ends if any has failed.
func (l *Load) Await(t TB, n int64) {
	t.Helper()
	poll := time.NewTicker(time.Millisecond)
	defer poll.Stop()
	for until := l.calls.Load() + n; l.calls.Load() < until; {
		select {
		case err := <-l.failed:
			t.Fatal(err)
		case <-poll.C:
		}
	}
}

// Stop waits for the last calls, and returns how many there were. The test ends if any
// has failed.
func (l *Load) Stop(t TB) int64 {
	t.Helper()
	l.stop()
	select {
	case err := <-l.failed:
		t.Fatal(err)
	default:
	}
	return l.calls.Load()
}
