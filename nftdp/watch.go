//go:build linux

package nftdp

import (
	"context"
	"errors"
	"iter"
	"time"

	"github.com/nftdp/go-nftdp/internal/kernel"
)

// Drift is what others have made of our tables.
type Drift struct {
	*Plan           // that mends it
	By    []Process // who did it, as far as the kernel told; none if it was before anybody listened
}

// Process is one that has changed rules, as the kernel names it: by the thread
// that did.
type Process struct {
	PID  int    // of the thread, in the initial PID namespace
	Name string // of at most 15 bytes, such as "nft"
}

// Watch waits for others to change our tables and yields, each time, the plan
// that would mend all that is wrong then: what Apply of the wanted services
// would do. It changes nothing. What is wanted is what this Dataplane last
// applied; before that, and after Remove, nothing is, and nothing is yielded.
// What happened before Watch began is noticed at once.
//
// Changes of other tables cost a look at the generation. The Dataplane's own
// methods may be called meanwhile, also by the body of the loop; what they do
// is no drift, and what they mend is not yielded any more. Several may watch.
//
// An error is yielded and does not end it: it tries again after a while, of at
// most a second, unless the loop is left. The last one is the context's, or
// ErrClosed after Close.
func (d *Dataplane) Watch(ctx context.Context) iter.Seq2[*Drift, error] {
	return d.follow(ctx, (*Dataplane).stage)
}

// Keep mends whatever others do to our tables, as soon as they have done it,
// until the context ends: it returns the context's error then, or ErrClosed
// after Close. What is wanted, and when, is as for Watch.
//
// It calls report, unless that is nil, after each repair, and for each error,
// after which it tries again; with both, the repair was made but UDP flows were
// not reconciled (see Apply). Should somebody else insist on another state,
// repairs that follow each other within two seconds become rarer, down to one
// each second.
func (d *Dataplane) Keep(ctx context.Context, report func(*Drift, error)) error {
	var last error
	for drift, err := range d.follow(ctx, (*Dataplane).commit) {
		if last = err; report != nil && !ended(ctx, err) {
			report(drift, err)
		}
	}
	return last
}

// ended reports whether an error is the last one.
func ended(ctx context.Context, err error) bool {
	return err != nil && ctx.Err() != nil || errors.Is(err, ErrClosed)
}

// follow yields what do has made of each drift.
func (d *Dataplane) follow(ctx context.Context, do operation) iter.Seq2[*Drift, error] {
	return func(yield func(*Drift, error) bool) {
		w, err := d.watcher(ctx)
		if err != nil {
			yield(nil, err)
			return
		}
		defer w.close()
		defer context.AfterFunc(ctx, w.bell.Ring)()
		for {
			drift, err := w.look(ctx, do)
			if (drift != nil || err != nil) && !yield(drift, err) || ended(ctx, err) {
				return
			}
			w.wait(ctx, drift != nil, err != nil)
		}
	}
}

// operation is what can be done with an edit.
type operation func(*Dataplane, context.Context, *edit) (*Plan, error)

// watcher is one that waits for drift.
type watcher struct {
	*Dataplane
	bell  *kernel.Bell
	seen  int // noticed, at the last look
	pause time.Duration
	last  time.Time // when there was drift or an error
}

func (d *Dataplane) watcher(ctx context.Context) (*watcher, error) {
	if err := d.lock(ctx); err != nil {
		return nil, err
	}
	defer d.unlock()
	bell, err := d.ears.Bell()
	if err != nil {
		return nil, err
	}
	w := &watcher{Dataplane: d, bell: bell, seen: -1}
	d.watchers[w] = true
	return w, nil
}

func (w *watcher) close() {
	w.turn <- struct{}{}
	defer w.unlock()
	delete(w.watchers, w)
	_ = w.bell.Close()
}

// look looks after our tables if there is reason to.
func (w *watcher) look(ctx context.Context, do operation) (*Drift, error) {
	if err := w.lock(ctx); err != nil {
		return nil, err
	}
	defer w.unlock()
	if err := errors.Join(w.bell.Reset(), ctx.Err()); err != nil {
		return nil, err
	}
	if w.state == nil {
		return nil, w.ears.Discard()
	}
	if err := w.catchUp(ctx); err != nil {
		return nil, err
	}
	if w.noticed == w.seen || w.synced && w.drift.empty() {
		w.seen = w.noticed
		return nil, nil
	}
	by := w.drift.by
	plan, err := do(w.Dataplane, ctx, &edit{})
	if err == nil {
		w.seen = w.noticed
	}
	if plan == nil || plan.Empty() {
		return nil, err
	}
	drift := &Drift{Plan: plan}
	for _, p := range by {
		drift.By = append(drift.By, Process(p))
	}
	return drift, err
}

const (
	firstPause = time.Millisecond
	longPause  = time.Second
)

// wait waits until there is something to look after. If there has just been,
// and lately too, it is not done at once.
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
		_ = w.bell.Wait() // what is wrong with the socket shows when it is read
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
