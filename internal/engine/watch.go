package engine

import (
	"context"
	"errors"
	"iter"
	"time"

	"github.com/nftdp/go-nftdp/internal/ruleset"
)

// Drift is what others have made of our tables.
type Drift struct {
	Changes []ruleset.Change // that repair it
	By      []ruleset.Process
}

// Follow yields what others make of our tables, as soon as they do, until the
// context ends or the Engine is closed: the last error is that. With repair it
// mends it. The monitor listens meanwhile.
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
	seen   int // reasons, at the last look
	pause  time.Duration
	last   time.Time // when there was drift or an error
}

// watcher begins to listen, unless others do already.
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

// startListening goes on from the generation at which our tables are known, if
// that is the present one.
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
	e.doubt()
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

// look looks after our tables if there is a reason to.
func (w *watcher) look(ctx context.Context) (*Drift, error) {
	if err := w.lock(ctx); err != nil {
		return nil, err
	}
	defer w.unlock()
	if err := errors.Join(w.waker.Reset(), ctx.Err()); err != nil {
		return nil, err
	}
	if w.state == nil {
		return nil, w.monitor.Discard()
	}
	if err := w.catchUp(ctx); err != nil {
		return nil, err
	}
	if w.reasons == w.seen || w.held != 0 && !w.lost && w.drift.empty() {
		w.seen = w.reasons
		return nil, nil
	}
	by, reasons := w.drift.by, w.reasons
	do := w.plan
	if w.repair {
		do = w.commit
	}
	changes, err := do(ctx, &Edit{})
	if err == nil {
		w.seen = reasons // others may have been at it meanwhile
	}
	if len(changes) == 0 {
		return nil, err
	}
	return &Drift{Changes: changes, By: by}, err
}

const (
	firstPause = time.Millisecond
	longPause  = time.Second
)

// wait waits until there is something to look after. If there has just been,
// and lately too, it waits longer each time.
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
		_ = w.waker.Wait() // what is wrong with the socket shows when it is read
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
