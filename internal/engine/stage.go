package engine

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/nftdp/go-nftdp/internal/compile"
	"github.com/nftdp/go-nftdp/internal/flows"
	"github.com/nftdp/go-nftdp/internal/ruleset"
)

// Edit is a change of services. The empty edit changes none, and so repairs what
// others have damaged.
type Edit struct {
	Whole  bool               // Set is the complete list of services
	Set    []*compile.Service // services to add, or to replace those with the same names
	Delete []string           // names; unknown ones are ignored

	// Derive returns Set from the wanted service with a name, or nil if there is
	// none. It is called whenever the edit is staged, and no other edit comes in
	// between.
	Derive func(wanted func(name string) *compile.Service) ([]*compile.Service, error)

	Config   *compile.Config // the configuration from now on; nil: as before
	TakeOver bool            // Whole, whatever configuration and layout the tables have
	sweep    bool            // delete what no service needs, too
	looked   int             // how often services to delete were looked for
}

// partial reports whether the edit is about some services only.
func (ed *Edit) partial() bool { return !ed.Whole && len(ed.Set)+len(ed.Delete) > 0 }

// derive sets what depends on the wanted state.
func (ed *Edit) derive(state *compile.State) (err error) {
	if ed.Derive == nil {
		return nil
	}
	ed.Set, err = ed.Derive(func(name string) *compile.Service {
		if state == nil {
			return nil
		}
		return state.Service(name)
	})
	return err
}

func (ed *Edit) empty() bool { return !ed.Whole && !ed.partial() && ed.Config == nil }

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

// ConflictError lists frontends of an Edit that other services claim already.
type ConflictError []compile.Conflict

// Error names the services. Package nftdp adds the details.
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
	generation uint32         // of the rules that this was computed against; 0: unknown
	state      *compile.State // before the edit
	set        []*compile.Service
	gone       []string
	commutes   bool                   // with what others do meanwhile, to services of theirs
	exact      bool                   // what other services have is known at the generation
	read       bool                   // computed from a reading of shared tables
	parts      bool                   // split into several batches
	note       func([]ruleset.Change) // records what is committed
	next       *compile.State         // after it, or before it if the edit is of some services
	clients    bool                   // the maps of clients with affinity have to be checked
	assumed    bool                   // computed from what the kernel is assumed to hold, without reading all of it
	known      bool                   // computed from the services alone
	adopts     bool                   // this Engine has not committed anything yet
	found      *ruleset.Ruleset       // what it adopts, unless that is of an older version
	former     *compile.Config        // the configuration before, if the edit changes it:
	repairs    []ruleset.Change       // what others have changed, by that
	adopt      func()                 // makes the edit's state the engine's, once Now is committed
}

// flows returns what the edit can make stale.
func (st *staged) flows() flows.Change {
	out := flows.Change{Replaced: flows.Replacements(st.state, st.set, st.gone), Adopted: st.adopts, Found: st.found}
	switch {
	case st.former != nil:
		out.Config, out.Repairs = st.former, st.repairs
	case !st.known && !st.adopts:
		out.Repairs = st.Changes()
	}
	return out
}

// owner returns the service that claims a frontend, before or after the edit.
func (st *staged) owner(k compile.Key) string {
	if st == nil {
		return ""
	}
	for _, s := range st.set {
		for i := range s.Frontends {
			if s.Key(s.Frontends[i]) == k {
				return s.Name
			}
		}
	}
	name, _ := st.state.Index().Owner(k)
	return name
}

// stage computes an edit: against the state that the kernel is known to hold, or
// else against what is read.
//
// An edit of some services commutes with what others do elsewhere, so it needs
// only our own state. If others have changed the very objects that it is about,
// the kernel refuses it, and only then everything is read.
func (e *Engine) stage(ctx context.Context, ed *Edit) (*staged, error) {
	if err := ed.derive(e.state); err != nil {
		return nil, err
	}
	if e.shared() {
		return e.stageShared(ctx, ed)
	}
	if e.state == nil || e.lost || ed.TakeOver {
		return e.stageRead(ctx, ed)
	}
	if err := e.catchUp(ctx); err != nil {
		return nil, err
	}
	switch {
	case ed.Config != nil && ed.Config.SameElements(e.cfg) && e.held != 0 && e.drift.deepest() == nothingChanged:
		return e.stageConfig(ed), nil
	case ed.Config != nil:
		return e.stageRead(ctx, ed)
	case ed.partial(), e.held != 0 && e.drift.deepest() == nothingChanged:
		return e.stageKnown(ctx, ed)
	case e.held != 0 && ed.empty():
		return e.stageDrift(ctx)
	}
	return e.stageRead(ctx, ed)
}

// stageKnown stages an edit against the known state. It reads nothing but the
// counters of the elements that are replaced.
func (e *Engine) stageKnown(ctx context.Context, ed *Edit) (*staged, error) {
	if err := conflicts(e.state, e.state, ed); err != nil {
		return nil, err
	}
	gone, set := ed.gone(e.state), arranged(ed.Set, func(s *compile.Service) *compile.Service { return e.state.Service(s.Name) })
	delta := e.state.Stage(set, gone)
	if !delta.Fits() {
		return e.stageRead(ctx, ed)
	}
	st := &staged{
		Transaction: delta.Transaction(), generation: e.held, state: e.state,
		set: set, gone: gone, assumed: true, known: true, next: e.state, note: e.state.Note, clients: e.drift.clients && !ed.partial(),
	}
	st.adopt = func() {
		delta.Commit()
		if st.clients {
			e.drift = drift{}
		}
	}
	return st, e.carryCounters(ctx, st.Now)
}

// arranged returns services with their backends at the slots that they have in
// former versions.
func arranged(services []*compile.Service, former func(*compile.Service) *compile.Service) []*compile.Service {
	out := make([]*compile.Service, len(services))
	for i, s := range services {
		out[i] = s.Arranged(former(s))
	}
	return out
}

// conflicts returns an error if services of an edit claim what others have: those that
// stay of the state before it, or those that a state knows in shared tables.
func conflicts(before, beside *compile.State, ed *Edit) error {
	found := beside.ConflictsBeside(ed.Set)
	if !ed.Whole { // otherwise no other service stays
		found = append(before.Conflicts(ed.Set, ed.Delete), found...)
	}
	if len(found) > 0 {
		return ConflictError(found)
	}
	return nil
}

// current returns the wanted state or, if this Engine has not committed anything,
// that of the services which the kernel holds.
func (e *Engine) current(ctx context.Context) (*compile.State, error) {
	if e.state != nil {
		return e.state, nil
	}
	if e.shared() {
		return e.currentShared(ctx)
	}
	held, _, err := e.readAt(ctx, nil)
	if err != nil {
		return nil, err
	}
	return e.takeOver(held, compile.HeldByName(held), false)
}

// Known returns the service of that name as this Engine last committed it, or nil. It
// does not wait for other methods, so it may be that of a moment ago.
func (e *Engine) Known(name string) *compile.Service { return e.flows.Known(name) }

// Conflicts lists the frontends of an edit that other services claim already.
func (e *Engine) Conflicts(ctx context.Context, ed *Edit) (ConflictError, error) {
	if err := e.lock(ctx); err != nil {
		return nil, err
	}
	defer e.unlock()
	state, err := e.current(ctx)
	if err != nil {
		return nil, err
	}
	return append(state.Conflicts(ed.Set, ed.Delete), state.ConflictsBeside(ed.Set)...), nil
}

// Flows runs a function on the flows of the namespace and the wanted state. Other
// methods do not wait for it.
func (e *Engine) Flows(ctx context.Context, do func(*flows.Table, *compile.State) error) error {
	if err := e.lock(ctx); err != nil {
		return err
	}
	state, err := e.current(ctx)
	e.unlock()
	if err != nil {
		return err
	}
	return e.orClosed(explainPermission(do(e.flows, state)))
}

// FlowTo returns the flow that leads to a backend, which sees it as one from source, of
// whatever service or none; ok is false if there is none.
func (e *Engine) FlowTo(ctx context.Context, proto uint8, source, backend netip.AddrPort) (f flows.Flow, ok bool, err error) {
	if err = e.lock(ctx); err != nil {
		return f, false, err
	}
	e.unlock()
	f, ok, err = e.flows.FlowTo(ctx, proto, source, backend)
	return f, ok, e.orClosed(explainPermission(err))
}
