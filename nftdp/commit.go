//go:build linux

package nftdp

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/nftdp/go-nftdp/internal/compile"
	"github.com/nftdp/go-nftdp/internal/kernel"
	"github.com/nftdp/go-nftdp/internal/ruleset"
)

// edit is what a caller wants to change.
type edit struct {
	whole  bool // set is all there shall be
	set    []Service
	remove []string
}

// staged is an edit, computed against what the kernel holds.
type staged struct {
	changes    []ruleset.Change
	generation uint32
	former     *compile.State
	set        []*compile.Service // added to it or replaced
	gone       []string           // deleted from it
	taken      claims             // by all services that there will be
	guessed    bool               // of the kernel's answers not all were asked for
	adopt      func()             // makes it the Dataplane's state once it is committed
}

// empty reports whether nothing is wanted but what there shall be already.
func (e *edit) empty() bool { return !e.whole && len(e.set)+len(e.remove) == 0 }

// attempts bounds how often a transaction is begun anew because others changed
// the rules while it was computed.
const attempts = 16

// retry repeats f until the rules stay the same while it works.
func (d *Dataplane) retry(ctx context.Context, f func() error) error {
	return again(ctx, func() error {
		err := f()
		d.busy = d.busy || overtaken(err)
		if errors.Is(err, kernel.ErrUnknown) {
			d.unsync() // the next attempt reads what there is: it may be what we sent
		}
		return err
	})
}

// overtaken reports whether others changed what was read or written.
func overtaken(err error) bool {
	return errors.Is(err, kernel.ErrStale) || errors.Is(err, kernel.ErrUnknown)
}

// again repeats f while it is overtaken.
func again(ctx context.Context, f func() error) error {
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

// stage computes a plan without committing it.
func (d *Dataplane) stage(ctx context.Context, e *edit) (plan *Plan, err error) {
	err = d.retry(ctx, func() error {
		st, undo, err := d.prepare(ctx, e)
		if err != nil {
			return err
		}
		undo()
		plan = &Plan{st.changes}
		d.learn(e, st)
		return nil
	})
	return plan, err
}

// commit computes a plan and commits it.
func (d *Dataplane) commit(ctx context.Context, e *edit) (plan *Plan, err error) {
	plan = &Plan{}
	err = d.retry(ctx, func() error {
		st, undo, err := d.prepare(ctx, e)
		if err != nil {
			return err
		}
		d.touched.add(st)
		d.touched.rewire(st)
		d.mindful = d.mindful || d.state == nil || st.parts()
		listening := d.listens(st)
		if err := d.sendAll(ctx, st, plan, listening); err != nil {
			undo()
			return err
		}
		st.adopt()
		d.synced, d.drift = true, drift{}
		if listening {
			d.hearOwn()
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return plan, errors.Join(d.reconcile(ctx), d.forget(ctx))
}

// sendAll commits what is staged and notes what is committed in the plan. If it
// fails, what the kernel holds is known only if it was before and nothing has
// been committed.
func (d *Dataplane) sendAll(ctx context.Context, st *staged, plan *Plan, listening bool) error {
	batches := phases(st.changes)
	known := d.synced && d.generation == st.generation // nothing is left unheard
	d.synced, d.generation = false, st.generation
	if len(batches) == 0 {
		return nil
	}
	send := func() error {
		for _, changes := range batches {
			if err := d.send(ctx, changes, st.taken); err != nil {
				return err
			}
			plan.changes = append(plan.changes, changes...)
		}
		return nil
	}
	var err error
	if listening {
		err = send()
	} else {
		err = d.unheard(send)
	}
	switch {
	case err == nil:
		return nil
	case known && d.generation == st.generation && errors.Is(err, kernel.ErrStale):
		d.synced = true
	default:
		d.noticed++
	}
	if _, ok := errors.AsType[*kernel.RefusedError](err); ok && st.guessed {
		return kernel.ErrStale // it is not as we were told: read it
	}
	return refused(err, st.taken)
}

// send commits changes as one batch, or in parts if that does not fit.
func (d *Dataplane) send(ctx context.Context, changes []ruleset.Change, taken claims) error {
	generation, err := d.conn.Commit(ctx, d.generation, changes)
	if big, ok := errors.AsType[*kernel.TooBigError](err); ok {
		return d.sendParts(ctx, changes, taken, big)
	}
	if err == nil {
		d.generation = generation
	}
	return err
}

// prepare validates an edit and stages it: against the state that we know the
// kernel to be in, or else against what we read. The claims of the edit are
// taken until undo is called.
func (d *Dataplane) prepare(ctx context.Context, e *edit) (*staged, func(), error) {
	if err := d.catchUp(ctx); err != nil {
		return nil, nil, err
	}
	switch {
	case d.synced && d.drift.empty():
		return d.stageKnown(ctx, e)
	case d.synced && e.empty():
		return d.stageDrift(ctx)
	}
	return d.stageRead(ctx, e)
}

// stageKnown needs nothing of the kernel but the counters of what it replaces.
func (d *Dataplane) stageKnown(ctx context.Context, e *edit) (*staged, func(), error) {
	taken, undo, err := e.claim(d.state, d.taken)
	if err != nil {
		return nil, nil, err
	}
	set, gone := lowerAll(e.set), e.gone(d.state)
	delta := d.state.Stage(set, gone)
	if !delta.Fits() {
		undo()
		return d.stageRead(ctx, e)
	}
	st := &staged{
		changes: delta.Changes(), generation: d.generation, former: d.state, set: set, gone: gone, taken: taken,
	}
	if err := d.carryCounters(ctx, st.changes); err != nil {
		undo()
		return nil, nil, err
	}
	st.adopt = func() { delta.Commit(); d.taken = taken }
	return st, undo, nil
}

// stageRead reads what the kernel holds and compares it with all that it is to
// hold. An Update of a Dataplane that has not applied anything takes over what
// is there.
func (d *Dataplane) stageRead(ctx context.Context, e *edit) (*staged, func(), error) {
	current, generation, err := d.readAnew(ctx)
	if err == nil {
		err = d.checkChangeable(current)
	}
	if err != nil {
		return nil, nil, err
	}
	state, index := d.state, d.taken
	if state == nil {
		if state, index, err = d.takeOver(current, e.whole); err != nil {
			return nil, nil, err
		}
	}
	taken, undo, err := e.claim(state, index)
	if err != nil {
		return nil, nil, err
	}
	set, gone := lowerAll(e.set), e.gone(state)
	next := state
	switch {
	case e.whole:
		next = compile.New(d.cfg, set)
	case !e.empty():
		next = state.With(set, gone)
	}
	st := &staged{
		changes: ruleset.Diff(current, next.Ruleset()), generation: generation,
		former: state, set: set, gone: gone, taken: taken,
	}
	next.SetSizes(current, st.changes)
	st.adopt = func() { d.state, d.taken = next, taken }
	return st, undo, nil
}

// takeOver gives the services that the kernel holds as the state to start from.
// It is kept only once an edit of it is committed: until then others may change
// what there is. Where all of them are to be replaced, those of UDP suffice,
// whose flows may have to be reconciled. What an older version has left can be
// replaced, but not be started from.
func (d *Dataplane) takeOver(current *ruleset.Ruleset, whole bool) (*compile.State, claims, error) {
	if err := checkCurrent(current); err != nil {
		if whole {
			err = nil
		}
		return compile.New(d.cfg, nil), claims{}, err
	}
	held := compile.Holds(current)
	services := make([]*compile.Service, 0, len(held))
	taken := newClaims(len(held))
	for i := range held {
		if whole && held[i].Proto != compile.UDP {
			continue
		}
		s := &held[i].Service
		services = append(services, s)
		taken.add(i, lift(s))
	}
	return compile.New(d.cfg, services), taken, nil
}

// readAnew reads our tables. If it was not known what they hold, what has been
// heard so far means nothing any more.
func (d *Dataplane) readAnew(ctx context.Context) (*ruleset.Ruleset, uint32, error) {
	if d.synced {
		return d.read(ctx)
	}
	if err := d.ears.Discard(); err != nil {
		return nil, 0, err
	}
	current, generation, err := d.read(ctx)
	if err == nil {
		d.ears.Known(generation)
	}
	return current, generation, err
}

// read reads our tables, which have to be ours.
func (d *Dataplane) read(ctx context.Context) (*ruleset.Ruleset, uint32, error) {
	r, generation, err := d.conn.Read(ctx, d.cfg.Table)
	if err != nil {
		return nil, 0, err
	}
	for _, t := range r.Tables {
		if err := checkOwned(t); err != nil {
			return nil, 0, err
		}
	}
	return r, generation, nil
}

// claim validates the edit and takes its frontends in the index, which is
// that of the state. With undo the index is again what it was.
func (e *edit) claim(state *compile.State, index claims) (taken claims, undo func(), err error) {
	if e.whole {
		taken = newClaims(len(e.set))
		return taken, func() {}, joinProblems(taken.admit(e.set))
	}
	former, err := e.former(state)
	if err != nil {
		return claims{}, nil, err
	}
	for _, s := range former {
		index.remove(s)
	}
	restore := func() {
		for i, s := range former {
			index.add(i, s)
		}
	}
	if problems := index.admit(e.set); len(problems) > 0 {
		restore()
		return claims{}, nil, joinProblems(problems)
	}
	return index, func() {
		for i := range e.set {
			index.remove(&e.set[i])
		}
		restore()
	}, nil
}

// former lists the services that an Update replaces or deletes.
func (e *edit) former(state *compile.State) ([]*Service, error) {
	var out []*Service
	var problems []*FieldError
	take := func(name string) {
		if s := state.Service(name); s != nil {
			out = append(out, lift(s))
		}
	}
	set := make(map[string]bool, len(e.set))
	for i := range e.set {
		if name := e.set[i].Name; !set[name] { // admit reports duplicates
			set[name] = true
			take(name)
		}
	}
	deleted := make(map[string]bool, len(e.remove))
	for _, name := range e.remove {
		switch {
		case set[name]:
			problems = append(problems, &FieldError{Service: name, Field: "name", Reason: "is to be set and to be deleted: choose one"})
		case !deleted[name]:
			deleted[name] = true
			take(name)
		}
	}
	return out, joinProblems(problems)
}

// gone names the services of the state that the edit deletes.
func (e *edit) gone(state *compile.State) []string {
	if !e.whole {
		return slices.Compact(slices.Sorted(slices.Values(e.remove)))
	}
	wanted := make(map[string]bool, len(e.set))
	for i := range e.set {
		wanted[e.set[i].Name] = true
	}
	var out []string
	for name := range state.Names() {
		if !wanted[name] {
			out = append(out, name)
		}
	}
	slices.Sort(out)
	return out
}

// carryCounters gives elements that take the place of others their counts.
func (d *Dataplane) carryCounters(ctx context.Context, changes []ruleset.Change) error {
	type set struct {
		family ruleset.Family
		name   string
	}
	gone := map[set]*ruleset.Change{}
	for i := range changes {
		c := &changes[i]
		if len(c.Elements) == 0 || !c.Set.Counter {
			continue
		}
		at := set{c.Family, c.Set.Name}
		if c.Verb == ruleset.Delete {
			gone[at] = c
			continue
		}
		old := gone[at]
		if old == nil {
			continue
		}
		from := c.Set.Heirs(old.Elements, c.Elements)
		if err := d.conn.ReadCounters(ctx, old, from); err != nil {
			return err
		}
		ruleset.CarryCounters(c.Set, from, c.Elements)
	}
	return nil
}

// refused makes the public error of what the kernel refused.
func refused(err error, taken claims) error {
	r, ok := errors.AsType[*kernel.RefusedError](err)
	if !ok {
		return err
	}
	out := &ApplyError{Service: owner(r, taken), Change: r.Command(), Err: r.Errno}
	if c := r.Change; c != nil && c.Chain != nil && c.Verb == ruleset.Add &&
		(errors.Is(r.Errno, unix.ENOENT) || errors.Is(r.Errno, unix.EOPNOTSUPP)) {
		// Tables, chains and sets that a rule needs are in the batch: what is
		// missing is the expression or the type of the chain.
		out.Err = fmt.Errorf("%w: %w", ErrNotSupported, r.Errno)
	}
	if refusedFlags(r) {
		out.Err = fmt.Errorf("tables that outlive their owner (Config.Protect, Linux 6.9): %w: %w", ErrNotSupported, r.Errno)
	}
	return out
}

// owner is the service that a refused element belongs to.
func owner(r *kernel.RefusedError, taken claims) string {
	if r.Change == nil || r.Element < 0 {
		return ""
	}
	e := &r.Change.Elements[r.Element]
	if e.Comment != "" {
		return e.Comment
	}
	c, ok := claimOf(r.Change, e)
	if !ok {
		return ""
	}
	return taken.owner[c]
}

// claimOf is the frontend that an element of the change is part of.
func claimOf(c *ruleset.Change, e *ruleset.Element) (claim, bool) {
	id := compile.SetNamed(c.Set.Name)
	addr, proto, port, ok := compile.FrontendOf(id, c.Family, e.Key)
	return claim{addr, port, protocolOf(proto), id.Ranged()}, ok
}
