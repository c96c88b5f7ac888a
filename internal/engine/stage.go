package engine

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/nftdp/go-nftdp/internal/compile"
	"github.com/nftdp/go-nftdp/internal/flows"
	"github.com/nftdp/go-nftdp/internal/ruleset"
)

// Edit is what a caller wants to change. The empty one wants what there shall
// be already, and so mends what others have damaged.
type Edit struct {
	Whole  bool               // Set is all there shall be
	Set    []*compile.Service // added, or in place of those with the same names
	Delete []string           // names; unknown ones are ignored
}

// partial reports whether the edit is about some services only.
func (ed *Edit) partial() bool { return !ed.Whole && len(ed.Set)+len(ed.Delete) > 0 }

func (ed *Edit) empty() bool { return !ed.Whole && !ed.partial() }

// gone lists the services of the state that the edit deletes.
func (ed *Edit) gone(state *compile.State) []string {
	if !ed.Whole {
		return slices.Compact(slices.Sorted(slices.Values(ed.Delete)))
	}
	wanted := make(map[string]bool, len(ed.Set))
	for _, s := range ed.Set {
		wanted[s.Name] = true
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

// ConflictError lists frontends that services of an Edit want and other
// services have.
type ConflictError []compile.Conflict

// Error names the services. Package nftdp words the details.
func (e ConflictError) Error() string {
	var words []string
	for _, c := range e {
		words = append(words, fmt.Sprintf("service %q: a frontend of service %q", c.Service.Name, c.Owner))
	}
	return strings.Join(words, "\n")
}

// staged is an edit, computed against what the kernel holds.
type staged struct {
	*ruleset.Transaction
	generation uint32         // at which the kernel held what this was computed against; 0: any
	state      *compile.State // before
	set        []*compile.Service
	gone       []string
	guessed    bool   // not all of what the kernel holds was read for this
	adopt      func() // makes it the engine's state, once Now is committed
}

// owner is the service that has a frontend, before or after.
func (st *staged) owner(k compile.Key) string {
	if st == nil {
		return ""
	}
	for _, s := range st.set {
		for i := range s.Frontends {
			if s.Key(&s.Frontends[i]) == k {
				return s.Name
			}
		}
	}
	name, _ := st.state.Index().Owner(k)
	return name
}

// stage computes an edit: against the state that the kernel is known to hold,
// or else against what is read.
//
// An edit of some services commutes with what others do elsewhere, so it needs
// no more than our own state. Should others have changed just what it is about,
// the kernel refuses it, and only then everything is read.
func (e *Engine) stage(ctx context.Context, ed *Edit) (*staged, error) {
	if e.state == nil || e.lost {
		return e.stageRead(ctx, ed)
	}
	if err := e.catchUp(ctx); err != nil {
		return nil, err
	}
	switch {
	case ed.partial(), e.held != 0 && e.drift.empty():
		return e.stageKnown(ctx, ed)
	case e.held != 0 && ed.empty():
		return e.stageDrift(ctx)
	}
	return e.stageRead(ctx, ed)
}

// stageKnown needs nothing of the kernel but the counters of what it replaces.
func (e *Engine) stageKnown(ctx context.Context, ed *Edit) (*staged, error) {
	if err := conflicts(e.state, ed); err != nil {
		return nil, err
	}
	gone := ed.gone(e.state)
	delta := e.state.Stage(ed.Set, gone)
	if !delta.Fits() {
		return e.stageRead(ctx, ed)
	}
	st := &staged{
		Transaction: delta.Transaction(), generation: e.held, state: e.state,
		set: ed.Set, gone: gone, guessed: true, adopt: delta.Commit,
	}
	return st, e.carryCounters(ctx, st.Now)
}

func conflicts(state *compile.State, ed *Edit) error {
	if ed.Whole {
		return nil // nothing else stays
	}
	if found := state.Conflicts(ed.Set, ed.Delete); len(found) > 0 {
		return ConflictError(found)
	}
	return nil
}

// current is what shall be or, if this Engine has not committed anything, what
// the kernel holds.
func (e *Engine) current(ctx context.Context) (*compile.State, error) {
	if e.state != nil {
		return e.state, nil
	}
	held, _, err := e.readAt(ctx)
	if err != nil {
		return nil, err
	}
	return e.takeOver(held, false)
}

// Conflicts lists the frontends of services that others have already.
func (e *Engine) Conflicts(ctx context.Context, ed *Edit) (ConflictError, error) {
	if err := e.lock(ctx); err != nil {
		return nil, err
	}
	defer e.unlock()
	state, err := e.current(ctx)
	if err != nil {
		return nil, err
	}
	return state.Conflicts(ed.Set, ed.Delete), nil
}

// Flows runs a function on the flows of what shall be.
func (e *Engine) Flows(ctx context.Context, do func(*flows.Table, *compile.State) error) error {
	if err := e.lock(ctx); err != nil {
		return err
	}
	defer e.unlock()
	state, err := e.current(ctx)
	if err != nil {
		return err
	}
	return explainPermission(do(e.flows, state))
}

// stageRead reads what the kernel holds and compares it with all that it shall
// hold. An edit of some services of an Engine that has not committed anything
// starts from what is there.
func (e *Engine) stageRead(ctx context.Context, ed *Edit) (*staged, error) {
	current, generation, err := e.readAt(ctx)
	if err == nil {
		err = e.checkChangeable(current)
	}
	if err != nil {
		return nil, err
	}
	state := e.state
	if state == nil {
		if state, err = e.takeOver(current, ed.Whole); err != nil {
			return nil, err
		}
	}
	if err := conflicts(state, ed); err != nil {
		return nil, err
	}
	gone := ed.gone(state)
	next := state
	switch {
	case ed.Whole:
		next = compile.New(e.cfg, ed.Set)
	case ed.partial():
		next = state.With(ed.Set, gone)
	}
	st := &staged{
		Transaction: ruleset.Diff(current, next.Ruleset()), generation: generation, state: state, set: ed.Set, gone: gone,
	}
	next.SetSizes(current, st.Changes())
	st.adopt = func() { e.state, e.drift = next, drift{} }
	return st, nil
}

// takeOver makes a state of the services that the kernel holds. It is kept only
// once an edit of it is committed: until then others may change what there is.
// Where all of them are to be replaced, those of UDP suffice, whose flows may
// have to be reconciled. What an older version has left can be replaced, but
// not be started from.
func (e *Engine) takeOver(current *ruleset.Ruleset, whole bool) (*compile.State, error) {
	if err := checkCurrent(current); err != nil {
		if whole {
			err = nil
		}
		return compile.New(e.cfg, nil), err
	}
	held := compile.Holds(current)
	services := make([]*compile.Service, 0, len(held))
	for i := range held {
		if !whole || held[i].Proto == compile.UDP {
			services = append(services, &held[i].Service)
		}
	}
	return compile.New(e.cfg, services), nil
}
