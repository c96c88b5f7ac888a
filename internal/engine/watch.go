package engine

import (
	"context"
	"errors"
	"iter"
	"time"

	"github.com/nftdp/go-nftdp/internal/flows"
	"github.com/nftdp/go-nftdp/internal/ruleset"
)

// Drift is a difference between our tables and the wanted state.
type Drift struct {
	Changes []ruleset.Change // that repair it
	By      []ruleset.Process
}

// Follow yields the drift of our tables as soon as others cause it, until the
// context ends or the Engine is closed, which is the last error. With repair it
// also repairs the drift, and deletes the flows that are stale because the node has
// got or lost addresses. The monitors listen meanwhile; that of addresses only with
// repair.
func (e *Engine) Follow(ctx context.Context, repair bool) iter.Seq2[*Drift, error] {
	return func(yield func(*Drift, error) bool) {
		w, err := e.watcher(ctx, repair)
		if err != nil {
			yield(nil, err)
			return
		}
		defer w.close()
		defer context.AfterFunc(ctx, w.waker.Wake)()
		for {
			drift, err := w.look(ctx)
			if (drift != nil || err != nil) && !yield(drift, err) || Ended(ctx, err) {
				return
			}
			w.wait(ctx, drift != nil, err != nil)
		}
	}
}

// Ended reports whether an error of Follow is the last one.
func Ended(ctx context.Context, err error) bool {
	return err != nil && ctx.Err() != nil || errors.Is(err, ErrClosed)
}

// watcher waits for drift.
type watcher struct {
	*Engine
	repair bool
	waker  Waker
	seen   int  // the value of alerts at the last check
	moved  bool // the node may have got or lost addresses that flows were not compared with
	pause  time.Duration
	last   time.Time // of drift or an error
}

// watcher returns a watcher. It makes the monitor listen, unless it does already.
func (e *Engine) watcher(ctx context.Context, repair bool) (*watcher, error) {
	if err := e.lock(ctx); err != nil {
		return nil, err
	}
	defer e.unlock()
	waker, err := e.kernel.Waker(repair)
	if err != nil {
		return nil, err
	}
	w := &watcher{Engine: e, repair: repair, waker: waker, seen: -1, moved: repair}
	if !e.watched() {
		err = e.startListening(ctx)
	}
	if err == nil && repair && !e.kept() {
		err = e.addresses.Join()
	}
	e.watchers[w] = true
	if err != nil {
		return nil, errors.Join(err, w.leave())
	}
	return w, nil
}

// kept reports whether a watcher repairs.
func (e *Engine) kept() bool {
	for w := range e.watchers {
		if w.repair {
			return true
		}
	}
	return false
}

// startListening makes the monitor listen. What it receives adds to what is known,
// if our tables are known at the present generation.
func (e *Engine) startListening(ctx context.Context) error {
	if err := e.monitor.Join(); err != nil {
		return err
	}
	generation, err := e.kernel.Generation(ctx)
	if err != nil {
		return errors.Join(err, e.monitor.Leave())
	}
	if generation == e.held {
		e.monitor.Known(generation)
		return nil
	}
	e.invalidate()
	return nil
}

func (w *watcher) close() {
	w.turn <- struct{}{}
	defer w.unlock()
	_ = w.leave()
}

// leave is close with the lock. Monitors that nobody needs any more stop listening.
func (w *watcher) leave() error {
	delete(w.watchers, w)
	err := w.waker.Close()
	if !w.watched() && w.kernel != nil {
		err = errors.Join(err, w.monitor.Leave())
	}
	if w.repair && !w.kept() && w.kernel != nil {
		err = errors.Join(err, w.addresses.Leave())
	}
	return err
}

// look checks our tables if there is a reason to.
func (w *watcher) look(ctx context.Context) (*Drift, error) {
	if err := w.lock(ctx); err != nil {
		return nil, err
	}
	drift, rest, err := w.check(ctx)
	w.unlock()
	failed := w.followUp(ctx, rest)
	if rest != nil && failed == nil {
		w.moved = false
	}
	return drift, errors.Join(err, failed)
}

// check is look with the lock. It returns also what is left to do without it.
func (w *watcher) check(ctx context.Context) (_ *Drift, rest *flows.Job, err error) {
	if err := errors.Join(w.waker.Reset(), ctx.Err(), w.noticeAddresses()); err != nil {
		return nil, nil, err
	}
	if w.state == nil {
		return nil, nil, w.monitor.Discard()
	}
	if err := w.catchUp(ctx); err != nil {
		return nil, nil, err
	}
	if w.alerts == w.seen || w.held != 0 && !w.lost && w.drift.empty() {
		w.seen = w.alerts
		return nil, w.compareAddresses(), nil
	}
	by, alerts := w.drift.by, w.alerts
	var changes []ruleset.Change
	if w.repair {
		changes, rest, err = w.commit(ctx, &Edit{})
	} else {
		_, changes, err = w.plan(ctx, &Edit{})
	}
	if err == nil {
		w.seen = alerts // others may have changed our tables again meanwhile
	}
	if len(changes) == 0 {
		return nil, rest, err
	}
	return &Drift{Changes: changes, By: by}, rest, err
}

// noticeAddresses receives which addresses may have changed.
func (w *watcher) noticeAddresses() error {
	if !w.repair {
		return nil
	}
	changed, err := w.addresses.Changed()
	w.moved = w.moved || len(changed) > 0
	return err
}

// compareAddresses returns the work that new or lost addresses of the node leave, if
// there may be any. A repair includes it.
func (w *watcher) compareAddresses() *flows.Job {
	if !w.moved {
		return nil
	}
	w.flows.Note(flows.Change{Addresses: true})
	return w.flows.FollowUp(w.state)
}

const (
	firstPause = time.Millisecond
	longPause  = time.Second
)

// wait waits until there may be something to repair. If there was drift just now,
// and shortly before, it waits longer each time.
func (w *watcher) wait(ctx context.Context, drifted, failed bool) {
	if drifted || failed {
		pause := max(2*w.pause, firstPause)
		if time.Since(w.last) > 2*longPause {
			pause = 0
		}
		if failed {
			pause = max(pause, firstPause)
		}
		w.pause, w.last = min(pause, longPause), time.Now()
		sleep(ctx, w.pause)
	}
	if !failed {
		_ = w.waker.Wait() // an error of the socket shows when it is read
	}
}

func sleep(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}
