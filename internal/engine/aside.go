package engine

import (
	"context"
	"errors"
	"slices"

	"github.com/nftdp/go-nftdp/internal/compile"
	"github.com/nftdp/go-nftdp/internal/ruleset"
)

// aside reads beside the methods that hold the Engine's lock, which do not wait for it.
// Readings take turns.
type aside struct {
	reader Reader // nil after close
	table  string
	turn   chan struct{}
}

// do runs a function that reads.
func (a *aside) do(ctx context.Context, read func(Reader) error) error {
	select {
	case a.turn <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { <-a.turn }()
	if a.reader == nil {
		return ErrClosed
	}
	return explainPermission(read(a.reader))
}

// close waits for the reading that is under way.
func (a *aside) close() {
	a.turn <- struct{}{}
	a.reader = nil
	<-a.turn
}

// entries reads the entries of a map of clients with affinity.
func (a *aside) entries(ctx context.Context, f ruleset.Family, of *ruleset.Set) (entries []ruleset.Entry, err error) {
	err = again(ctx, attempts, func() error {
		return a.do(ctx, func(r Reader) (err error) {
			entries, err = r.Entries(ctx, a.table, f, of)
			return err
		})
	})
	return entries, err
}

// tables reads our tables, if nobody changes any rule meanwhile. Otherwise it returns
// ErrStale.
func (a *aside) tables(ctx context.Context) (out *ruleset.Ruleset, err error) {
	err = a.do(ctx, func(r Reader) error {
		before, err := r.Generation(ctx)
		if err != nil {
			return err
		}
		if out, err = readTables(ctx, r, a.table, ruleset.Families[:], func(ruleset.Family) bool { return true }, nil); err != nil {
			return err
		}
		after, err := r.Generation(ctx)
		if err == nil && before != after {
			err = ruleset.ErrStale
		}
		return err
	})
	if err == nil {
		err = checkOwned(out)
	}
	return out, err
}

// Ruleset reads our tables, with counters. If current is set, tables of an older
// version are refused with ErrOutdated. Other methods do not wait, unless rules change
// all the time.
func (e *Engine) Ruleset(ctx context.Context, current bool) (r *ruleset.Ruleset, err error) {
	const tries = 3
	for range tries {
		if r, err = e.aside.tables(ctx); !overtaken(err) {
			break
		}
	}
	if overtaken(err) {
		r, err = e.rulesetAtRest(ctx)
	}
	if err == nil && current {
		err = checkCurrent(r)
	}
	if err != nil {
		return nil, err
	}
	return r, nil
}

// rulesetAtRest reads our tables while this Engine changes nothing.
func (e *Engine) rulesetAtRest(ctx context.Context) (*ruleset.Ruleset, error) {
	if err := e.lock(ctx); err != nil {
		return nil, err
	}
	defer e.unlock()
	return e.read(ctx)
}

// Held reads what the kernel holds of the services with these names, or of all if there
// are none, with counters. If the Engine knows that the kernel holds its services, it
// asks for their elements one by one, so that others may change meanwhile, and one
// service costs as much among many as among few. Otherwise it reads everything.
func (e *Engine) Held(ctx context.Context, names []string) (*ruleset.Ruleset, error) {
	state, err := e.known(ctx, names)
	if err != nil {
		return nil, err
	}
	if state == nil {
		return e.Ruleset(ctx, true)
	}
	var r *ruleset.Ruleset
	err = again(ctx, attempts, func() error {
		return e.aside.do(ctx, func(reader Reader) error {
			r = state.Ruleset()
			return keepHeld(ctx, reader, r, e.aside.table)
		})
	})
	return r, err
}

// known returns a state of those services alone whose names are given, or of all if
// there are none. It is nil if the Engine does not know that the kernel holds it.
func (e *Engine) known(ctx context.Context, names []string) (*compile.State, error) {
	cfg, services, err := e.snapshot(ctx, names)
	if err != nil || services == nil {
		return nil, err
	}
	return compile.New(cfg, services), nil // which takes its time, without the lock
}

func (e *Engine) snapshot(ctx context.Context, names []string) (compile.Config, []*compile.Service, error) {
	if err := e.lock(ctx); err != nil {
		return compile.Config{}, nil, err
	}
	defer e.unlock()
	if e.state == nil || e.shared() {
		return e.cfg, nil, nil
	}
	switch err := e.catchUp(ctx); {
	case overtaken(err), err == nil && (e.held == 0 || !e.drift.empty()):
		return e.cfg, nil, nil
	case err != nil:
		return e.cfg, nil, explainPermission(err)
	}
	if len(names) == 0 {
		names = slices.Collect(e.state.Names())
	}
	services := make([]*compile.Service, 0, len(names))
	for _, name := range names {
		if s := e.state.Service(name); s != nil {
			services = append(services, s)
		}
	}
	return e.cfg, services, nil
}

// keepHeld reads the counters of a ruleset's frontends and backends, and leaves out what
// the kernel does not have.
func keepHeld(ctx context.Context, reader Reader, r *ruleset.Ruleset, table string) error {
	present, err := reader.Tables(ctx, table)
	if err == nil {
		err = errors.Join(checkOwned(present), checkCurrent(present))
	}
	if err != nil {
		return err
	}
	r.Tables = slices.DeleteFunc(r.Tables, func(t *ruleset.Table) bool { return present.Table(t.Family) == nil })
	for _, t := range r.Tables {
		for _, s := range t.Sets {
			if id := compile.SetNamed(s.Name); (id.Frontends() || id.Backends()) && len(s.Elements) > 0 {
				if err := keepElements(ctx, reader, t, s); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

func keepElements(ctx context.Context, reader Reader, t *ruleset.Table, s *ruleset.Set) error {
	wanted := s.Elements
	if s.Interval { // the kernel has no requests for single ones
		keys := make(map[ruleset.Tuple]bool, len(wanted))
		for i := range wanted {
			keys[wanted[i].Key] = true
		}
		err := reader.ReadElements(ctx, t, s, nil)
		s.Elements = slices.DeleteFunc(s.Elements, func(e ruleset.Element) bool { return !keys[e.Key] })
		return err
	}
	s.Elements = make([]ruleset.Element, 0, len(wanted))
	at := &ruleset.Change{Family: t.Family, Table: t.Name, Set: s}
	return reader.ReadCounters(ctx, at, wanted, func(e *ruleset.Element) { s.Elements = append(s.Elements, *e) })
}
