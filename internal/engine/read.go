package engine

import (
	"context"
	"errors"
	"fmt"

	"github.com/nftdp/go-nftdp/internal/compile"
	"github.com/nftdp/go-nftdp/internal/ruleset"
)

// attempts bounds how often an operation is repeated because others changed the
// rules meanwhile.
const attempts = 16

// attempts are more in shared tables, where others who write are the rule.
func (e *Engine) attempts() int {
	if e.shared() {
		return 8 * attempts
	}
	return attempts
}

// read reads our tables, whatever services they hold.
func (e *Engine) read(ctx context.Context) (r *ruleset.Ruleset, err error) {
	if e.shared() {
		r, _, _, err = e.readShared(ctx, func(string) bool { return false })
	} else {
		r, _, err = e.readAt(ctx)
	}
	return r, err
}

// retry repeats f while others change what it has read or written.
func (e *Engine) retry(ctx context.Context, f func() error) error {
	return e.again(ctx, func() error {
		err := f()
		if errors.Is(err, ruleset.ErrUnknown) {
			e.loseTrack() // the next attempt reads whether the kernel applied it
		}
		return err
	})
}

// again repeats f while others are faster.
func (e *Engine) again(ctx context.Context, f func() error) error {
	for range e.attempts() {
		err := f()
		if !overtaken(err) {
			return explainPermission(err)
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
	return fmt.Errorf("%w: %d attempts: try again when there are fewer changes to the namespace's rules", ErrConflict, e.attempts())
}

func overtaken(err error) bool {
	return errors.Is(err, ruleset.ErrStale) || errors.Is(err, ruleset.ErrUnknown)
}

// readAt reads our tables, checks that they are ours, and returns their
// generation. If others change rules meanwhile, it monitors events, to know
// whether our tables change.
func (e *Engine) readAt(ctx context.Context) (r *ruleset.Ruleset, generation uint32, err error) {
	listening := e.watched()
	err = e.again(ctx, func() error {
		r, generation, err = e.readOnce(ctx, listening)
		if overtaken(err) && !listening {
			if joined := e.monitor.Join(); joined != nil {
				return joined
			}
			listening = true
		}
		return err
	})
	if listening && !e.watched() {
		err = errors.Join(err, e.monitor.Leave())
	}
	return r, generation, err
}

// readOnce fails with ErrStale if our tables may have changed meanwhile.
func (e *Engine) readOnce(ctx context.Context, listening bool) (*ruleset.Ruleset, uint32, error) {
	before, err := e.beginReading(ctx, listening)
	if err != nil {
		return nil, 0, err
	}
	r, err := e.readTables(ctx, ruleset.Families[:], func(ruleset.Family) bool { return true })
	if err != nil {
		return nil, 0, err
	}
	after, err := e.kernel.Generation(ctx)
	switch {
	case err != nil:
		return nil, 0, err
	case listening:
		after, err = e.unchanged(ctx, after)
	case before != after:
		err = ruleset.ErrStale
	}
	if err != nil {
		return nil, 0, err
	}
	return r, after, checkOwned(r)
}

// readTables reads our tables of some families. The elements of services are read
// if services returns true for the family.
func (e *Engine) readTables(ctx context.Context, families []ruleset.Family, services func(ruleset.Family) bool) (*ruleset.Ruleset, error) {
	r, err := e.kernel.Read(ctx, e.cfg.Table, families, func(_ ruleset.Family, set string) bool {
		return compile.SetNamed(set) == compile.NumSets
	})
	if err != nil {
		return nil, err
	}
	for _, t := range r.Tables {
		if !services(t.Family) {
			continue
		}
		for id := range compile.NumSets { // the keys of one set follow from those before it
			s := t.Set(compile.Declaration(id).Name)
			if s == nil {
				continue
			}
			if err := e.kernel.ReadElements(ctx, t, s, compile.Keys(t, id)); err != nil {
				return nil, err
			}
		}
	}
	return r, nil
}

// beginReading returns the present generation. If the monitor is listening, it
// has received all events up to that.
func (e *Engine) beginReading(ctx context.Context, listening bool) (uint32, error) {
	known := e.watched() && e.held != 0
	if listening && !known {
		if err := e.monitor.Discard(); err != nil {
			return 0, err
		}
	}
	generation, err := e.kernel.Generation(ctx)
	switch {
	case err != nil || !listening:
	case known:
		err = e.catchUpTo(ctx, generation)
	default:
		e.monitor.Known(generation)
	}
	return generation, err
}

// unchanged fails with ErrStale if our tables have changed, or may have changed,
// up to a generation. It returns the last generation that the monitor received.
func (e *Engine) unchanged(ctx context.Context, to uint32) (uint32, error) {
	changed := false
	at, err := e.monitor.CatchUp(ctx, to, func(ev *ruleset.Event) {
		if e.concerns(ev) {
			changed = true
		}
		if e.watched() && e.held != 0 {
			e.record(ev)
		}
	})
	switch {
	case err != nil:
		e.invalidate()
		if errors.Is(err, ruleset.ErrMissed) {
			return 0, ruleset.ErrStale
		}
		return 0, err
	case changed:
		err = ruleset.ErrStale
	}
	if e.watched() && e.held != 0 {
		e.held = at
	}
	return at, err
}
