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
// also repairs the drift. The monitor listens meanwhile.
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
	seen   int // the value of alerts at the last check
	pause  time.Duration
	last   time.Time // of drift or an error
}

// watcher returns a watcher. It makes the monitor listen, unless it does already.
func (e *Engine) watcher(ctx context.Context, repair bool) (*watcher, error) {
	if err := e.lock(ctx); err != nil {
		return nil, err
	}
	defer e.unlock()
	waker, err := e.monitor.Waker()
	if err != nil {
		return nil, err
	}
	w := &watcher{Engine: e, repair: repair, waker: waker, seen: -1}
	if e.watched() {
		e.watchers[w] = true
		return w, nil
	}
	if err := e.startListening(ctx); err != nil {
		return nil, errors.Join(err, waker.Close())
	}
	e.watchers[w] = true
	return w, nil
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
	delete(w.watchers, w)
	if !w.watched() && w.kernel != nil {
		_ = w.monitor.Leave()
	}
	_ = w.waker.Close()
}

// look checks our tables if there is a reason to.
func (w *watcher) look(ctx context.Context) (*Drift, error) {
	if err := w.lock(ctx); err != nil {
		return nil, err
	}
	drift, rest, err := w.check(ctx)
	w.unlock()
	return drift, errors.Join(err, w.followUp(ctx, rest))
}

// check is look with the lock. It returns also what is left to do without it.
func (w *watcher) check(ctx context.Context) (_ *Drift, rest *flows.Job, err error) {
	if err := errors.Join(w.waker.Reset(), ctx.Err()); err != nil {
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
		return nil, nil, nil
	}
	by, alerts := w.drift.by, w.alerts
	var changes []ruleset.Change
	if w.repair {
		changes, rest, err = w.commit(ctx, &Edit{})
	} else {
		changes, err = w.plan(ctx, &Edit{})
	}
	if err == nil {
		w.seen = alerts // others may have changed our tables again meanwhile
	}
	if len(changes) == 0 {
		return nil, rest, err
	}
	return &Drift{Changes: changes, By: by}, rest, err
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
