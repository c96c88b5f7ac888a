package engine

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"syscall"

	"github.com/nftdp/go-nftdp/internal/compile"
	"github.com/nftdp/go-nftdp/internal/flows"
	"github.com/nftdp/go-nftdp/internal/ruleset"
)

// In shared tables (Config.Owner) other processes change services of their own at
// any time. An edit of ours commutes with that: it adds and deletes elements of our
// services only, and the kernel refuses it if a chain, a set or an element that it
// adds is there already, or one that it needs is not. So it is sent at any
// generation, and computed again from a reading if it is refused. There are two
// exceptions. What no service needs any more is deleted only at a generation at
// which that is known, since another process may begin to use it: the kernel would
// not refuse to delete an address from the set of hairpins, or a base chain. And a transaction that
// replaces a table or a set carries everybody's elements, so it is bound to the
// generation of an exact reading.

// shared reports whether our tables have owners.
func (e *Engine) shared() bool { return e.cfg.Owner != "" }

// exact reports whether it is known what other services have in shared tables.
func (e *Engine) exact() bool { return e.held != 0 && !e.moved }

// checkConfig refuses tables that others have made with another configuration.
func (e *Engine) checkConfig(r *ruleset.Ruleset) error {
	for _, t := range r.Tables {
		if reason, err := e.configFlaw(t); err != nil {
			return fmt.Errorf("table %s %s: %w: %s", t.Family, t.Name, err, reason)
		}
	}
	return nil
}

func (e *Engine) configFlaw(t *ruleset.Table) (reason string, err error) {
	switch theirs := compile.HasOwners(t); {
	case compile.Outdated(t) && (theirs || e.shared()):
		return fmt.Sprintf("its comment is %q, this version writes %q: TakeOver replaces it; others then apply their services again",
			t.Comment, e.cfg.Comment()), ErrOutdated
	case compile.Outdated(t):
		return "", nil
	case theirs && !e.shared():
		return "its services have owners: set Config.Owner, or choose another Config.Table; TakeOver replaces all of them", ErrOtherConfig
	case e.shared() && !theirs:
		return "its services have no owners: choose another Config.Table, or TakeOver, which deletes them", ErrOtherConfig
	case e.shared():
		if differing := e.cfg.Differing(t); len(differing) > 0 {
			return fmt.Sprintf("the owners that share it have another value of %s: use the same, or TakeOver to change it for all",
				strings.Join(differing, ", ")), ErrOtherConfig
		}
	}
	return "", nil
}

// mine returns a function that reports whether an edit, or our state, has a service
// of that name. A complete list is about all services of the owner.
func (e *Engine) mine(ed *Edit) func(name string) bool {
	named := map[string]bool{}
	for _, s := range ed.Set {
		named[s.Name] = true
	}
	for _, name := range ed.Delete {
		named[name] = true
	}
	return func(name string) bool {
		return named[name] || ed.Whole && compile.OwnerOf(name) == e.cfg.Owner || e.state != nil && e.state.Service(name) != nil
	}
}

// mostLeft bounds how many objects that nobody may need any more are left in the
// tables before they are read to find out.
const mostLeft = 256

// stageShared is stage for shared tables.
func (e *Engine) stageShared(ctx context.Context, ed *Edit) (*staged, error) {
	if e.state == nil || e.lost || ed.TakeOver {
		return e.stageSharedRead(ctx, ed)
	}
	if err := e.catchUp(ctx); err != nil {
		return nil, err
	}
	intact := e.held != 0 && e.drift.empty()
	switch {
	case ed.partial() && e.left < mostLeft && e.knows(ed),
		ed.Whole && intact && e.exact() && !e.state.OthersOf(e.cfg.Owner),
		ed.empty() && intact && !ed.sweep:
		return e.stageSharedKnown(ctx, ed)
	case ed.empty() && e.held != 0 && !ed.sweep && e.drift.deepest() == elementsChanged:
		return e.stageDrift(ctx)
	}
	return e.stageSharedRead(ctx, ed)
}

// knows reports whether an edit can be computed without a reading: not if it is
// about services of our owner that another process has set, or may have.
func (e *Engine) knows(ed *Edit) bool {
	for _, s := range ed.Set {
		if e.state.Other(s.Name) {
			return false
		}
	}
	return !slices.ContainsFunc(ed.Delete, func(name string) bool {
		return e.state.Service(name) == nil && (!e.exact() || e.state.Other(name))
	})
}

func (e *Engine) stageSharedKnown(ctx context.Context, ed *Edit) (*staged, error) {
	st, err := e.stageKnown(ctx, ed)
	if _, conflict := errors.AsType[ConflictError](err); conflict && !e.exact() {
		return e.stageSharedRead(ctx, ed) // the other service may be gone
	}
	if err != nil || st.read {
		return st, err
	}
	st.commutes = true
	if st.exact = e.exact(); !st.exact {
		e.left += len(st.Unused)
		st.Unused = nil
	}
	return st, nil
}

// stageSharedRead stages an edit against a reading. What belongs to other services
// stays as it is.
func (e *Engine) stageSharedRead(ctx context.Context, ed *Edit) (*staged, error) {
	mine := e.mine(ed)
	current, generation, exact, err := e.readShared(ctx, mine)
	if err == nil {
		err = e.checkChangeable(current)
	}
	if err == nil && !ed.TakeOver {
		err = e.checkConfig(current)
	}
	if err != nil {
		return nil, err
	}
	if ed.TakeOver && !slices.ContainsFunc(current.Tables, compile.HasOwners) {
		mine = func(string) bool { return true } // of one list, which this one replaces
	}
	held := compile.HeldByName(current)
	before := e.before(held, mine)
	gone := ed.gone(before)
	if !exact && ed.missing(before) {
		return nil, ruleset.ErrStale // the kernel may have passed over a service that is to be deleted
	}
	next := e.next(ed).ArrangedAs(held)
	wanted := next.Beside(current, mine)
	if err := conflicts(before, next, ed); err != nil {
		return nil, err
	}
	st := &staged{
		Transaction: ruleset.Diff(current, wanted), generation: generation, state: before, set: ed.Set, gone: gone,
		assumed: !exact, exact: exact, commutes: true, read: true, note: next.Note,
		next: next, clients: true, adopts: e.state == nil,
	}
	if st.adopts && checkCurrent(current) == nil {
		st.found = current
	}
	st.Now = compile.Rewriting(st.Now)
	e.left = 0
	if compile.Exclusive(st.Transaction) {
		st.commutes = false
		if !exact {
			return nil, ruleset.ErrStale
		}
	} else {
		next.Apart(st.Transaction, current, mine)
		e.leaveUnused(ed, st)
	}
	next.SetSizes(current, st.Changes())
	st.adopt = func() { e.state, e.drift, e.moved = next, drift{}, !exact }
	return st, nil
}

// ensured returns additions that are necessary unless it is exactly known what the
// tables hold: another process may have deleted what our service needs and nothing
// refers to, which the kernel does not notice.
func (st *staged) ensured(generation uint32) []ruleset.Change {
	if !st.commutes || st.parts || st.exact && generation != 0 {
		return nil
	}
	return st.state.Unreferred(st.set)
}

// split distributes changes over batches. What is ensured comes last: once the
// services are there, nobody deletes it.
func (st *staged) split(by *Splitter, changes []ruleset.Change) ([][]ruleset.Change, error) {
	batches, err := by.Split(changes)
	if err != nil || !st.commutes || st.parts {
		return batches, err
	}
	st.parts = true
	last, err := by.Split(st.state.Unreferred(st.set))
	return append(batches, last...), err
}

// leaveUnused leaves alone what no service needs, unless that is known exactly and
// the edit deletes something anyway. A process that adds a service does not delete
// the chains that others are about to use.
func (e *Engine) leaveUnused(ed *Edit, st *staged) {
	deletes := func(c ruleset.Change) bool { return c.Verb == ruleset.Delete }
	if st.assumed || !ed.Whole && !ed.sweep && !slices.ContainsFunc(st.Now, deletes) && !slices.ContainsFunc(st.Behind, deletes) {
		e.left = len(st.Unused)
		st.Unused = nil
	}
}

// before returns the state before an edit: our services, and those that the tables
// hold in their place.
func (e *Engine) before(held map[string]*compile.Service, mine func(string) bool) *compile.State {
	state := e.state
	if state == nil {
		state = compile.New(e.cfg, nil)
	}
	var found []*compile.Service
	for name, s := range held {
		if mine(name) && state.Service(name) == nil {
			found = append(found, s)
		}
	}
	if len(found) == 0 {
		return state
	}
	return compile.New(e.cfg, state.Replaced(found, nil))
}

// missing reports whether a service that the edit deletes is not in the state, and
// counts how often that was asked.
func (ed *Edit) missing(state *compile.State) bool {
	const most = 8
	ed.looked++
	return ed.looked < most && slices.ContainsFunc(ed.Delete, func(name string) bool { return state.Service(name) == nil })
}

// next returns the state of our services after an edit.
func (e *Engine) next(ed *Edit) *compile.State {
	switch {
	case ed.Whole || e.state == nil:
		return compile.New(e.cfg, ed.Set)
	case ed.partial():
		return compile.New(e.cfg, e.state.Replaced(ed.Set, ed.Delete))
	}
	return e.state
}

// unused commits the deletion of what no service needs any more, if the rules are
// still as they were when that was found out. Otherwise it asks for another
// attempt, a few times, or leaves the rest to a later edit.
func (s *sending) unused(ctx context.Context, st *staged) error {
	if len(st.Unused) == 0 {
		return nil
	}
	err := ruleset.ErrStale
	if s.held != 0 {
		err = s.bound(len(st.Unused), false, func(generation uint32) (uint32, error) {
			return s.kernel.Commit(ctx, generation, st.Unused)
		})
	}
	switch {
	case err == nil:
		s.done = append(s.done, st.Unused...)
		st.note(st.Unused)
	case errors.Is(err, ruleset.ErrUnknown):
		return err
	case st.read && s.swept < maxOvertaken:
		s.swept++
		return ruleset.ErrStale
	default:
		s.left += len(st.Unused)
	}
	return nil
}

// removeShared deletes the services of our owner, and the tables if no other
// service is in them.
func (e *Engine) removeShared(ctx context.Context) (rest *flows.Job, err error) {
	tables, err := e.tables(ctx)
	if err == nil {
		err = errors.Join(e.checkChangeable(tables), e.checkConfig(tables))
	}
	if err != nil || len(tables.Tables) == 0 {
		return nil, err
	}
	if _, rest, err = e.commit(ctx, &Edit{Whole: true}); err != nil {
		return rest, err
	}
	err = e.retry(ctx, func() error { return e.removeEmpty(ctx) })
	if errors.Is(err, ErrConflict) {
		err = nil // the tables are in use
	}
	return rest, err
}

// removeEmpty deletes shared tables in which there are no services, if nobody has
// changed any rule since they were read. Whoever adds a service at that moment is
// refused, and makes the tables again.
func (e *Engine) removeEmpty(ctx context.Context) error {
	nobody := func(string) bool { return false }
	current, generation, exact, err := e.readShared(ctx, nobody)
	if err != nil {
		return err
	}
	state := compile.New(e.cfg, nil)
	state.Beside(current, nobody)
	switch {
	case state.Others() || len(current.Tables) == 0:
		return nil
	case !exact:
		return ruleset.ErrStale
	}
	e.state, e.held = nil, generation
	err = e.bound(wholeTables, false, func(generation uint32) (uint32, error) {
		return e.kernel.Commit(ctx, generation, ruleset.Diff(current, &ruleset.Ruleset{}).Now)
	})
	if errors.Is(err, syscall.ENOENT) {
		return ruleset.ErrStale // another process deleted a table
	}
	e.loseTrack()
	return e.refused(err, nil)
}
