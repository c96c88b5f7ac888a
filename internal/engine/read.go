package engine

import (
	"context"
	"errors"
	"fmt"

	"github.com/nftdp/go-nftdp/internal/ruleset"
)

// attempts bounds how often something is begun anew because others changed the
// rules meanwhile.
const attempts = 16

// retry repeats f while others change what it has read or written.
func (e *Engine) retry(ctx context.Context, f func() error) error {
	return e.again(ctx, func() error {
		err := f()
		if errors.Is(err, ruleset.ErrUnknown) {
			e.lose() // the next attempt reads what there is: it may be what we sent
		}
		return err
	})
}

// again repeats f while it is overtaken.
func (e *Engine) again(ctx context.Context, f func() error) error {
	for range attempts {
		err := f()
		if !overtaken(err) {
			return explainPermission(err)
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
	return conflict()
}

func overtaken(err error) bool {
	return errors.Is(err, ruleset.ErrStale) || errors.Is(err, ruleset.ErrUnknown)
}

func conflict() error {
	return fmt.Errorf("%w: %d attempts: try again when there are fewer changes to the namespace's rules", ErrConflict, attempts)
}

// readAt reads our tables, which have to be ours, and returns the generation
// that they are of. If others change rules meanwhile, it listens to them, to
// know whether they change ours.
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
	r, err := e.kernel.Read(ctx, e.cfg.Table, ruleset.Families[:], allElements)
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

func allElements(ruleset.Family, string) bool { return true }

// beginReading returns the present generation. If the monitor listens, it has
// heard all up to that.
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
		err = e.hear(ctx, generation)
	default:
		e.monitor.Known(generation)
	}
	return generation, err
}

// unchanged fails with ErrStale if our tables changed, or may have, up to a
// generation. It returns the last one that was heard of.
func (e *Engine) unchanged(ctx context.Context, to uint32) (uint32, error) {
	changed := false
	at, err := e.monitor.CatchUp(ctx, to, func(ev *ruleset.Event) {
		if e.concerns(ev) {
			changed = true
		}
		if e.watched() && e.held != 0 {
			e.note(ev)
		}
	})
	switch {
	case err != nil:
		e.doubt()
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
