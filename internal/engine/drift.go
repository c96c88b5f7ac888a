package engine

import (
	"context"
	"errors"
	"slices"

	"github.com/nftdp/go-nftdp/internal/compile"
	"github.com/nftdp/go-nftdp/internal/ruleset"
)

// drift is what others have done to our tables since the kernel held what it
// shall hold, as far as events tell.
type drift struct {
	depth    [len(ruleset.Families)]depth
	elements map[compile.Place]*ruleset.Element // as they are now, nil: gone
	by       []ruleset.Process
	ours     bool // the transaction under way touches our tables
}

// depth is how much of a family's table has to be read to know what it holds.
type depth uint8

const (
	nothingChanged  depth = iota
	elementsChanged       // events tell what they are now
	rulesChanged          // chains, rules, or sets that are no service's: read all but services' elements
	tableChanged          // tables or sets, or nothing is known: read all
)

func (d *drift) empty() bool { return d.deepest() == nothingChanged }

func (d *drift) deepest() depth { return slices.Max(d.depth[:]) }

func (d *drift) deepen(f ruleset.Family, to depth) {
	d.depth[f.Index()] = max(d.depth[f.Index()], to)
}

// watched reports whether the monitor listens all the time.
func (e *Engine) watched() bool { return len(e.watchers) > 0 }

// doubt notes that others may have changed our tables, nobody knows how.
func (e *Engine) doubt() {
	e.held, e.drift = 0, drift{}
	e.reasons++
}

// lose notes that it is not known either what became of a change of ours.
func (e *Engine) lose() {
	e.doubt()
	e.lost = true
}

// catchUp finds out whether others have committed something since our last
// look and, if the monitor listens, what.
func (e *Engine) catchUp(ctx context.Context) error {
	generation, err := e.kernel.Generation(ctx)
	switch {
	case err != nil:
		return err
	case !e.watched():
		if e.held != generation {
			e.held = 0
		}
		return nil
	case e.held == 0:
		return nil
	}
	return e.hear(ctx, generation)
}

// hear notes what others have committed up to a generation.
func (e *Engine) hear(ctx context.Context, to uint32) error {
	at, err := e.monitor.CatchUp(ctx, to, e.note)
	switch {
	case err == nil:
		e.held = at
		return nil
	case ctx.Err() == nil:
		e.doubt()
	}
	if errors.Is(err, ruleset.ErrMissed) {
		return nil
	}
	return err
}

// unheard runs a commit of n objects without listening to it, unless these are
// few: it saves the kernel to write down what we know. Somebody else's commit
// right behind ours is missed with it. The generation tells whether there was
// one.
func (e *Engine) unheard(n int, commit func() error) error {
	const few = 100
	if n <= few || !e.watched() {
		return commit()
	}
	if err := e.monitor.Leave(); err != nil {
		return err
	}
	err := errors.Join(commit(), e.monitor.Join())
	generation, unknown := e.kernel.Generation(context.Background())
	if unknown == nil && generation == e.held {
		e.monitor.Known(generation)
	} else {
		e.doubt()
	}
	return err
}

// concerns reports whether an event is about our tables. Entries of the
// affinity map are not: packets make them and time takes them away.
func (e *Engine) concerns(ev *ruleset.Event) bool {
	return ev.Kind != ruleset.KindEnd && ev.Table == e.cfg.Table && slices.Contains(ruleset.Families[:], ev.Family) &&
		(ev.Kind != ruleset.KindElement || ev.Set != e.cfg.AffinityMap().Name)
}

// note takes an event of somebody else's transaction.
func (e *Engine) note(ev *ruleset.Event) {
	d := &e.drift
	if ev.Kind == ruleset.KindEnd {
		const most = 16 // who would read more of them?
		if d.ours && len(d.by) < most && !slices.Contains(d.by, ev.Process) {
			d.by = append(d.by, ev.Process)
		}
		d.ours = false
		return
	}
	if !e.concerns(ev) {
		return
	}
	e.reasons++
	d.ours = true
	switch ev.Kind {
	case ruleset.KindElement:
		d.deepen(ev.Family, d.note(ev))
	case ruleset.KindChain, ruleset.KindRule:
		d.deepen(ev.Family, rulesChanged)
	default:
		d.deepen(ev.Family, tableChanged)
	}
}

// note takes elements that came or went.
func (d *drift) note(ev *ruleset.Event) depth {
	id := compile.SetNamed(ev.Set)
	switch {
	case id == compile.NumSets:
		return rulesChanged
	case ev.Opaque:
		return tableChanged
	}
	if d.elements == nil {
		d.elements = map[compile.Place]*ruleset.Element{}
	}
	for i := range ev.Elements {
		el := &ev.Elements[i]
		at := compile.Place{Family: ev.Family, Set: id, Key: el.Key}
		d.elements[at] = el
		if ev.Verb == ruleset.Delete {
			d.elements[at] = nil
		}
	}
	return elementsChanged
}

// Known returns the declaration of a set whose elements events tell, or nil. The
// kernel tells intervals in halves.
func Known(set string) *ruleset.Set {
	id := compile.SetNamed(set)
	if id == compile.NumSets || compile.Declaration(id).Interval {
		return nil
	}
	return compile.Declaration(id)
}

// learn keeps what a plan to mend the drift has found out.
func (e *Engine) learn(ed *Edit, st *staged) {
	if !ed.empty() {
		return
	}
	if e.held == 0 || e.lost {
		e.held, e.lost, e.drift = st.generation, false, drift{}
		for _, c := range st.Changes() {
			e.drift.deepen(c.Family, tableChanged)
		}
	}
	if st.Empty() {
		e.drift = drift{}
	}
}

// stageDrift mends the drift. What events have not told is read, and it is
// compared with the same excerpt of what there shall be.
func (e *Engine) stageDrift(ctx context.Context) (*staged, error) {
	current, err := e.readDrift(ctx)
	if err != nil {
		return nil, err
	}
	tx := ruleset.Diff(current, e.wantedOfDrift())
	changes := tx.Changes()
	for i := range changes {
		c := &changes[i]
		if e.drift.depth[c.Family.Index()] < tableChanged && c.Rule == nil && c.Chain == nil && len(c.Elements) == 0 {
			e.drift.deepen(c.Family, tableChanged) // a table or a set is made anew: with all of its elements
			return e.stageDrift(ctx)
		}
	}
	depth := e.drift.depth
	return &staged{
		Transaction: tx, generation: e.held, state: e.state, guessed: true,
		adopt: func() {
			for i, f := range ruleset.Families {
				if depth[i] == tableChanged {
					e.state.SetSizesOf(f, current, changes)
				}
			}
			e.drift = drift{}
		},
	}, nil
}

// readDrift returns the tables that have drifted: those of which elements alone
// did with their service's sets, of which it has the elements that changed.
func (e *Engine) readDrift(ctx context.Context) (*ruleset.Ruleset, error) {
	out := &ruleset.Ruleset{}
	if e.drift.deepest() > elementsChanged {
		read, err := e.readDeep(ctx)
		if err != nil {
			return nil, err
		}
		out = read
	}
	for i, f := range ruleset.Families {
		if e.drift.depth[i] == elementsChanged {
			t := &ruleset.Table{Family: f, Name: e.cfg.Table, Comment: compile.Schema}
			for id := range compile.NumSets {
				t.Sets = append(t.Sets, compile.Declaration(id))
			}
			out.Tables = append(out.Tables, t)
		}
	}
	e.drift.addTo(out)
	return out, nil
}

// addTo adds the elements that are there now to tables that were not read with
// their elements.
func (d *drift) addTo(out *ruleset.Ruleset) {
	for at, e := range d.elements {
		if e == nil || d.depth[at.Family.Index()] == tableChanged {
			continue
		}
		if t := out.Table(at.Family); t != nil {
			if s := t.Set(compile.Declaration(at.Set).Name); s != nil {
				s.Elements = append(s.Elements, *e)
			}
		}
	}
	for _, t := range out.Tables {
		if d.depth[t.Family.Index()] == tableChanged {
			continue
		}
		for _, s := range t.Sets {
			slices.SortFunc(s.Elements, func(x, y ruleset.Element) int { return x.Key.Compare(&y.Key) })
		}
	}
}

// readDeep reads the tables of which more than elements have changed.
func (e *Engine) readDeep(ctx context.Context) (*ruleset.Ruleset, error) {
	whole := map[ruleset.Family]bool{}
	var families []ruleset.Family
	for i, f := range ruleset.Families {
		if e.drift.depth[i] > elementsChanged {
			families = append(families, f)
			whole[f] = e.drift.depth[i] == tableChanged
		}
	}
	out, err := e.kernel.Read(ctx, e.cfg.Table, families, func(f ruleset.Family, set string) bool {
		return whole[f] || compile.SetNamed(set) == compile.NumSets
	})
	if err != nil {
		return nil, err
	}
	reasons := e.reasons
	if err := e.catchUp(ctx); err != nil {
		return nil, err
	}
	if e.reasons != reasons || e.held == 0 {
		return nil, ruleset.ErrStale // there is more to mend
	}
	return out, checkOwned(out)
}

// wantedOfDrift is what there shall be, as far as readDrift tells what there is.
func (e *Engine) wantedOfDrift() *ruleset.Ruleset {
	at, services := map[compile.Place]bool{}, map[string]bool{}
	for p := range e.drift.elements {
		at[p] = true
		if name, ok := e.state.OwnerOf(p); ok {
			services[name] = true
		}
	}
	excerpt := e.state.Excerpt(at, services, e.drift.deepest() > elementsChanged)
	var all *ruleset.Ruleset
	out := &ruleset.Ruleset{}
	for i, f := range ruleset.Families {
		t := excerpt.Table(f)
		switch e.drift.depth[i] {
		case nothingChanged:
			continue
		case elementsChanged:
			t.Sets, t.Chains = t.Sets[:compile.NumSets], nil
		case tableChanged:
			if all == nil {
				all = e.state.Ruleset()
			}
			t = all.Table(f)
		case rulesChanged:
		}
		out.Tables = append(out.Tables, t)
	}
	return out
}
