package engine

import (
	"cmp"
	"context"
	"errors"
	"slices"

	"github.com/nftdp/go-nftdp/internal/compile"
	"github.com/nftdp/go-nftdp/internal/ruleset"
)

// drift collects, from events, what others have done to our tables since the
// kernel held the wanted state.
type drift struct {
	depth    [len(ruleset.Families)]depth
	elements map[compile.Place]*ruleset.Element             // as they are now; nil: deleted
	objects  [len(ruleset.Families)]map[ruleset.Object]bool // as they are now; false: deleted
	clients  bool                                           // others have added entries to the maps of clients with affinity
	by       []ruleset.Process
	ours     bool // the current transaction changes our tables
}

// depth says how much of a family's table has to be read to know what it holds.
type depth uint8

const (
	nothingChanged  depth = iota
	elementsChanged       // of services, or objects: the events contain them, nothing has to be read
	rulesChanged          // chains, rules, or sets of the skeleton: read everything but services' elements
	tableChanged          // tables or sets, or the change is unknown: read everything
)

func (d *drift) empty() bool { return d.deepest() == nothingChanged && !d.clients }

func (d *drift) deepest() depth { return slices.Max(d.depth[:]) }

func (d *drift) deepen(f ruleset.Family, to depth) {
	d.depth[f.Index()] = max(d.depth[f.Index()], to)
}

// watched reports whether the monitor receives events all the time.
func (e *Engine) watched() bool { return len(e.watchers) > 0 }

// invalidate records that others may have changed our tables in an unknown way.
func (e *Engine) invalidate() {
	e.held, e.drift = 0, drift{}
	e.alerts++
}

// loseTrack records that, besides, the outcome of a commit of ours is unknown.
func (e *Engine) loseTrack() {
	e.invalidate()
	e.lost = true
}

// catchUp finds out whether others have committed something since the last call
// and, if the monitor receives events, what it was.
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
	return e.catchUpTo(ctx, generation)
}

// catchUpTo records what others have committed up to a generation.
func (e *Engine) catchUpTo(ctx context.Context, to uint32) error {
	at, err := e.monitor.CatchUp(ctx, to, e.record)
	switch {
	case err == nil:
		e.held = at
		return nil
	case ctx.Err() == nil:
		e.invalidate()
	}
	if errors.Is(err, ruleset.ErrMissed) {
		return nil
	}
	return err
}

// withoutEvents runs a commit of n objects while the monitor has left the group,
// unless there are few: the kernel then need not build events that we do not
// need. Commits of others in that time are missed, too. The generation shows
// whether there were any.
func (e *Engine) withoutEvents(n int, commit func() error) error {
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
		e.invalidate()
	}
	return err
}

// concerns reports whether an event is about our tables. Entries of the affinity
// map do not count: packets add them, and they expire.
func (e *Engine) concerns(ev *ruleset.Event) bool {
	return ev.Kind != ruleset.KindEnd && ev.Table == e.cfg.Table && slices.Contains(ruleset.Families[:], ev.Family) &&
		(ev.Kind != ruleset.KindElement || !compile.IsAffinityMap(ev.Set))
}

// addsClients reports whether an event is about added entries of the affinity maps.
// The kernel has none for those that packets add (nft_dynset_eval).
func (e *Engine) addsClients(ev *ruleset.Event) bool {
	return ev.Kind == ruleset.KindElement && ev.Verb == ruleset.Add && ev.Table == e.cfg.Table && compile.IsAffinityMap(ev.Set)
}

// record adds an event of another process's transaction to the drift.
func (e *Engine) record(ev *ruleset.Event) {
	d := &e.drift
	if ev.Kind == ruleset.KindEnd {
		const most = 16 // a longer list would help nobody
		if d.ours && len(d.by) < most && !slices.Contains(d.by, ev.Process) {
			d.by = append(d.by, ev.Process)
		}
		d.ours = false
		return
	}
	if e.addsClients(ev) {
		e.alerts++
		d.ours, d.clients = true, true
		return
	}
	if !e.concerns(ev) {
		return
	}
	if e.shared() {
		if ev = e.touching(ev, func(string) bool { return false }); ev == nil {
			e.moved = true
			return
		}
	}
	e.alerts++
	d.ours = true
	switch ev.Kind {
	case ruleset.KindElement:
		d.deepen(ev.Family, d.recordElements(ev))
	case ruleset.KindObject:
		d.recordObject(ev)
		d.deepen(ev.Family, elementsChanged)
	case ruleset.KindChain, ruleset.KindRule:
		d.deepen(ev.Family, rulesChanged)
	default:
		d.deepen(ev.Family, tableChanged)
	}
}

// recordElements records added and deleted elements, and returns the depth of
// that change.
func (d *drift) recordElements(ev *ruleset.Event) depth {
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

// recordObject records an added or deleted object.
func (d *drift) recordObject(ev *ruleset.Event) {
	of := &d.objects[ev.Family.Index()]
	if *of == nil {
		*of = map[ruleset.Object]bool{}
	}
	(*of)[ev.Object] = ev.Verb == ruleset.Add
}

// DecodableSet returns the declaration of a set whose elements can be decoded
// from events, or nil. Those of interval sets cannot, since an event has only one
// end of an interval.
func DecodableSet(set string) *ruleset.Set {
	id := compile.SetNamed(set)
	if id == compile.NumSets || compile.Declaration(id).Interval {
		return nil
	}
	return compile.Declaration(id)
}

// adoptPlan keeps what a plan to repair the drift has found out.
func (e *Engine) adoptPlan(ed *Edit, st *staged) {
	if !ed.empty() {
		return
	}
	if e.held == 0 || e.lost {
		e.held, e.lost, e.drift = st.generation, false, drift{}
		for _, c := range st.Changes() {
			e.drift.deepen(c.Family, tableChanged)
		}
	}
	if st.read {
		e.moved = !st.exact
	}
	if st.Empty() {
		e.drift = drift{}
	}
}

// stageDrift stages the repair of the drift. Whatever the events do not contain is
// read. The result is compared with the same excerpt of the wanted ruleset.
func (e *Engine) stageDrift(ctx context.Context) (*staged, error) {
	current, err := e.readDrift(ctx)
	if err != nil {
		return nil, err
	}
	tx := ruleset.Diff(current, e.wantedOfDrift())
	changes := tx.Changes()
	for i := range changes {
		c := &changes[i]
		if e.drift.depth[c.Family.Index()] < tableChanged && (c.OfTable() || c.Set != nil && len(c.Elements) == 0) {
			if e.shared() {
				return e.stageSharedRead(ctx, &Edit{})
			}
			e.drift.deepen(c.Family, tableChanged) // a table or set is replaced, with all of its elements
			return e.stageDrift(ctx)
		}
	}
	depth := e.drift.depth
	return &staged{
		Transaction: tx, generation: e.held, state: e.state, assumed: true, note: e.state.Note, next: e.state, clients: e.drift.clients,
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

// readDrift returns the tables that have drifted. A table in which only elements
// of services have changed is not read: it has just these elements.
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
			t := &ruleset.Table{Family: f, Name: e.cfg.Table, Comment: e.cfg.Comment(), Sets: e.state.ServiceSets(f), Objects: e.drift.present(f)}
			out.Tables = append(out.Tables, t)
		}
	}
	e.drift.addTo(out)
	return out, nil
}

// present lists the objects that the events have shown.
func (d *drift) present(f ruleset.Family) (out []ruleset.Object) {
	for o, there := range d.objects[f.Index()] {
		if there {
			out = append(out, o)
		}
	}
	slices.SortFunc(out, func(x, y ruleset.Object) int {
		return cmp.Or(cmp.Compare(x.Kind, y.Kind), cmp.Compare(x.Name, y.Name))
	})
	return out
}

// addTo adds the present elements to those tables that were not read as a whole.
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

// readDeep reads the tables in which more than elements have changed.
func (e *Engine) readDeep(ctx context.Context) (*ruleset.Ruleset, error) {
	whole := map[ruleset.Family]bool{}
	var families []ruleset.Family
	for i, f := range ruleset.Families {
		if e.drift.depth[i] > elementsChanged {
			families = append(families, f)
			whole[f] = e.drift.depth[i] == tableChanged
		}
	}
	out, err := readTables(ctx, e.kernel, e.cfg.Table, families, func(f ruleset.Family) bool { return whole[f] }, nil)
	if err != nil {
		return nil, err
	}
	alerts := e.alerts
	if err := e.catchUp(ctx); err != nil {
		return nil, err
	}
	if e.alerts != alerts || e.held == 0 {
		return nil, ruleset.ErrStale // there is more to repair
	}
	return out, checkOwned(out)
}

// wantedOfDrift returns the wanted counterpart of what readDrift returns.
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
			t.Sets, t.Chains = t.Sets[:len(e.state.ServiceSets(f))], nil
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
