package engine

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/nftdp/go-nftdp/internal/compile"
	"github.com/nftdp/go-nftdp/internal/ruleset"
)

// attempts bounds how often an operation is repeated because others changed the
// rules meanwhile.
const attempts = 32

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
		r, _, err = e.readAt(ctx, nil)
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
	return again(ctx, e.attempts(), func() error {
		began := time.Now()
		err := f()
		if overtaken(err) {
			e.note(Overtaken, 1, began)
		}
		return err
	})
}

func again(ctx context.Context, attempts int, f func() error) error {
	for range attempts {
		err := f()
		if !overtaken(err) {
			return explainPermission(err)
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
	return fmt.Errorf("%w: %d attempts: try again when there are fewer changes to the namespace's rules", ErrConflict, attempts)
}

func overtaken(err error) bool {
	return errors.Is(err, ruleset.ErrStale) || errors.Is(err, ruleset.ErrUnknown)
}

// readAt reads our tables, checks that they are ours, and returns their
// generation. It calls meanwhile as readTables does, and again if it has to read again.
func (e *Engine) readAt(ctx context.Context, meanwhile func(*ruleset.Ruleset)) (r *ruleset.Ruleset, generation uint32, err error) {
	r, generation, _, err = e.readUnless(ctx, func(*ruleset.Event) bool { return true }, meanwhile)
	return r, generation, err
}

// readUnless is readAt by which only those changes of our tables count for which
// disturbs returns true. If there were others, exact is false. If others change rules
// meanwhile, it monitors events, to know whether our tables change.
func (e *Engine) readUnless(ctx context.Context, disturbs func(*ruleset.Event) bool, meanwhile func(*ruleset.Ruleset),
) (r *ruleset.Ruleset, generation uint32, exact bool, err error) {
	listening := e.watched()
	err = e.again(ctx, func() error {
		r, generation, exact, err = e.readOnce(ctx, listening, disturbs, meanwhile)
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
	return r, generation, exact, err
}

// readOnce fails with ErrStale if a change may have disturbed it.
func (e *Engine) readOnce(ctx context.Context, listening bool, disturbs func(*ruleset.Event) bool, meanwhile func(*ruleset.Ruleset),
) (*ruleset.Ruleset, uint32, bool, error) {
	before, err := e.beginReading(ctx, listening)
	if err != nil {
		return nil, 0, false, err
	}
	began := time.Now()
	r, err := readTables(ctx, e.kernel, e.cfg.Table, ruleset.Families[:], func(ruleset.Family) bool { return true }, meanwhile)
	if err != nil {
		return nil, 0, false, err
	}
	e.note(Scanned, elementsOf(r), began)
	after, err := e.kernel.Generation(ctx)
	exact := true
	switch {
	case err != nil:
	case listening:
		after, exact, err = e.undisturbed(ctx, after, disturbs)
	case before != after:
		err = ruleset.ErrStale
	}
	if err != nil {
		return nil, 0, false, err
	}
	return r, after, exact, checkOwned(r)
}

func elementsOf(r *ruleset.Ruleset) (n int) {
	for _, t := range r.Tables {
		for _, s := range t.Sets {
			n += len(s.Elements)
		}
	}
	return n
}

// readTables reads our tables of some families. The elements of services are read
// if services returns true for the family. While it reads the last of them, those that no
// service is read from, it calls meanwhile, if that is not nil, with all others.
func readTables(ctx context.Context, k Reader, table string, families []ruleset.Family, services func(ruleset.Family) bool,
	meanwhile func(*ruleset.Ruleset),
) (*ruleset.Ruleset, error) {
	r, err := k.Read(ctx, table, families, func(_ ruleset.Family, set string) bool {
		return compile.SetNamed(set) == compile.NumSets
	})
	if err != nil {
		return nil, err
	}
	read := func(from, to compile.SetID) error {
		for _, t := range r.Tables {
			if !services(t.Family) {
				continue
			}
			if err := readSets(ctx, k, t, from, to); err != nil {
				return err
			}
		}
		return nil
	}
	if err := read(0, compile.Hairpin); err != nil {
		return nil, err
	}
	var beside sync.WaitGroup
	if meanwhile != nil {
		beside.Go(func() { meanwhile(r) }) // this goroutine asks the kernel: its thread may have rights that others lack
	}
	err = read(compile.Hairpin, compile.NumSets)
	beside.Wait()
	if err != nil {
		return nil, err
	}
	return r, nil
}

// readSets reads the elements of some sets of services. The keys of one follow from those
// before it.
func readSets(ctx context.Context, k Reader, t *ruleset.Table, from, to compile.SetID) error {
	keys := compile.Keys{Table: t}
	for id := from; id < to; id++ {
		s := t.Set(compile.Declaration(id).Name)
		if s == nil {
			continue
		}
		if err := k.ReadElements(ctx, t, s, keys.Of(id)); err != nil {
			return err
		}
	}
	return nil
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

// undisturbed fails with ErrStale if changes of our tables up to a generation disturb
// a reading, or may do so. It returns the last generation that the monitor received,
// and whether there were no changes at all.
func (e *Engine) undisturbed(ctx context.Context, to uint32, disturbs func(*ruleset.Event) bool) (at uint32, exact bool, err error) {
	disturbed, exact := false, true
	known := e.watched() && e.held != 0
	at, err = e.monitor.CatchUp(ctx, to, func(ev *ruleset.Event) {
		if e.concerns(ev) {
			exact = false
			disturbed = disturbed || disturbs(ev)
		}
		if known {
			e.record(ev)
		}
	})
	switch {
	case err != nil:
		e.invalidate()
		if errors.Is(err, ruleset.ErrMissed) {
			err = ruleset.ErrStale
		}
		return 0, false, err
	case disturbed:
		err = ruleset.ErrStale
	}
	if known {
		e.held = at
	}
	return at, exact, err
}
