//go:build linux

package nftdp

import (
	"context"
	"errors"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/nftdp/go-nftdp/internal/compile"
	"github.com/nftdp/go-nftdp/internal/kernel"
	"github.com/nftdp/go-nftdp/internal/nfnl"
	"github.com/nftdp/go-nftdp/internal/ruleset"
)

// drift is what others have done to our tables since the kernel held what it
// is to hold, as far as events tell.
type drift struct {
	depth    [len(ruleset.Families)]depth
	elements map[compile.Place]*ruleset.Element // as they are now, nil: gone
	by       []kernel.Process
	under    bool // the transaction under way is one of them
}

// depth is how much of a family's table has to be read to know what it is.
type depth uint8

const (
	nothingChanged  depth = iota
	elementsChanged       // events tell what they are now
	rulesChanged          // so did chains and rules, or sets that are no service's: read all but services' elements
	tableChanged          // so did tables or sets, or nothing is known
)

func (dr *drift) empty() bool { return slices.Max(dr.depth[:]) == nothingChanged }

func (dr *drift) deepen(family int, to depth) { dr.depth[family] = max(dr.depth[family], to) }

// catchUp learns what others have committed since our last look. The kernel
// tells every transaction, and they are numbered without gaps, so those that
// left our tables alone cost no more than being heard. If some of them went by
// unheard, everything has to be read.
func (d *Dataplane) catchUp(ctx context.Context) error {
	if !d.synced {
		return nil
	}
	generation, err := d.conn.Generation(ctx)
	if err != nil {
		return err
	}
	d.busy = generation != d.generation
	if !d.busy && len(d.watchers) == 0 { // these have heard something
		d.ears.Known(generation)
		return nil
	}
	d.generation, err = d.ears.CatchUp(d.generation, generation, d.note)
	if err != nil {
		d.unsync()
	}
	if errors.Is(err, kernel.ErrMissed) {
		return nil
	}
	return err
}

// unsync says that it is not known any more what the kernel holds.
func (d *Dataplane) unsync() {
	d.synced, d.drift = false, drift{}
	d.noticed++
}

// listens reports whether a commit is made while we listen, among others who
// change rules too: who overtakes us is then heard, and the next attempt costs
// no reading of everything, which takes longer and is overtaken all the more.
// The events of what is small take little of the buffer and of the kernel's time.
func (d *Dataplane) listens(st *staged) bool {
	const small = 100
	return d.busy && (&Plan{st.changes}).Len() <= small
}

// hearOwn drops the events of what we have just committed, and notes those that
// came behind it.
func (d *Dataplane) hearOwn() {
	generation, err := d.ears.CatchUp(d.generation, d.generation, d.note)
	if err != nil {
		d.unsync() // the next method reads
		return
	}
	d.generation = generation
}

// unheard commits while nobody listens: it saves the kernel to write down what
// we know. Somebody else's commit right behind ours is missed with it. Its
// generation tells: the next method, or now those who watch.
func (d *Dataplane) unheard(commit func() error) error {
	if err := d.ears.Leave(); err != nil {
		return err
	}
	err := errors.Join(commit(), d.ears.Join())
	if len(d.watchers) == 0 {
		return err
	}
	generation, unknown := d.conn.Generation(context.Background())
	if unknown == nil && generation == d.generation {
		d.ears.Known(generation)
	} else {
		d.rung = d.noticed - 1 // lets unlock ring
	}
	return err
}

// learn keeps what a plan to mend the drift has found out.
func (d *Dataplane) learn(e *edit, st *staged) {
	if !e.empty() {
		return
	}
	if !d.synced {
		d.synced, d.generation, d.drift = true, st.generation, drift{}
		for i := range st.changes {
			d.drift.deepen(slices.Index(ruleset.Families[:], st.changes[i].Family), tableChanged)
		}
	}
	if len(st.changes) == 0 {
		d.drift = drift{}
	}
}

// note takes an event of somebody else's transaction.
func (d *Dataplane) note(e *kernel.Event) {
	family := slices.Index(ruleset.Families[:], e.Family)
	switch {
	case e.Type == unix.NFT_MSG_NEWGEN:
		const most = 16 // who would read more of them?
		if d.drift.under && len(d.drift.by) < most && !slices.Contains(d.drift.by, e.Process) {
			d.drift.by = append(d.drift.by, e.Process)
		}
		d.drift.under = false
		return
	case family < 0 || e.Table != d.cfg.Table || setOf(e) == d.cfg.AffinityMap().Name:
		return // entries that packets make and time takes away are not what we want or not
	}
	d.noticed++
	d.drift.under = true
	switch e.Type {
	case unix.NFT_MSG_NEWSETELEM, unix.NFT_MSG_DELSETELEM:
		d.drift.deepen(family, d.drift.note(e))
	case unix.NFT_MSG_NEWCHAIN, unix.NFT_MSG_DELCHAIN, unix.NFT_MSG_NEWRULE, unix.NFT_MSG_DELRULE:
		d.drift.deepen(family, rulesChanged)
	default:
		d.drift.deepen(family, tableChanged)
	}
}

// setOf is the set that an event's elements belong to; without elements, none.
func setOf(e *kernel.Event) (name string) {
	if e.Type != unix.NFT_MSG_NEWSETELEM && e.Type != unix.NFT_MSG_DELSETELEM {
		return ""
	}
	kernel.Attributes(e.Msg[4:], func(typ int, p []byte) {
		if typ == unix.NFTA_SET_ELEM_LIST_SET {
			name = unix.ByteSliceToString(p)
		}
	})
	return name
}

// note takes elements that came or went.
func (dr *drift) note(e *kernel.Event) depth {
	id := compile.SetNamed(setOf(e))
	switch {
	case id == compile.NumSets:
		return rulesChanged
	case compile.Declaration(id).Interval:
		return tableChanged // the kernel tells halves of elements
	}
	if dr.elements == nil {
		dr.elements = map[compile.Place]*ruleset.Element{}
	}
	set := compile.Declaration(id)
	_, _, err := nfnl.DecodeElements(e.Msg, set, e.Family, func(el ruleset.Element) {
		at := compile.Place{Family: e.Family, Set: id, Key: el.Key}
		if e.Type == unix.NFT_MSG_DELSETELEM {
			dr.elements[at] = nil
		} else {
			dr.elements[at] = &el
		}
	})
	if err != nil || set.Opaque != "" {
		return tableChanged
	}
	return elementsChanged
}

// stageDrift mends the drift. What events have not told is read, and it is
// compared with the same excerpt of what there shall be.
func (d *Dataplane) stageDrift(ctx context.Context) (*staged, func(), error) {
	current, err := d.readDrift(ctx)
	if err != nil {
		return nil, nil, err
	}
	changes := ruleset.Diff(current, d.wantedOfDrift())
	for i := range changes {
		c := &changes[i]
		family := slices.Index(ruleset.Families[:], c.Family)
		if d.drift.depth[family] < tableChanged && c.Rule == nil && c.Chain == nil && len(c.Elements) == 0 {
			d.drift.depth[family] = tableChanged // a table or a set is made anew: with all of its elements
			return d.stageDrift(ctx)
		}
	}
	return &staged{
		changes: changes, generation: d.generation, former: d.state, taken: d.taken, guessed: true,
		adopt: func() {
			for i, f := range ruleset.Families {
				if d.drift.depth[i] == tableChanged {
					d.state.SetSizesOf(f, current, changes)
				}
			}
		},
	}, func() {}, nil
}

// readDrift gives the tables that have drifted: those of which elements alone
// did with their service's sets, of which it has the elements that changed.
func (d *Dataplane) readDrift(ctx context.Context) (*ruleset.Ruleset, error) {
	out := &ruleset.Ruleset{}
	if slices.Max(d.drift.depth[:]) > elementsChanged {
		read, err := d.readDeep(ctx)
		if err != nil {
			return nil, err
		}
		out = read
	}
	for i, f := range ruleset.Families {
		if d.drift.depth[i] == elementsChanged {
			t := &ruleset.Table{Family: f, Name: d.cfg.Table, Comment: compile.Schema}
			for id := range compile.NumSets {
				t.Sets = append(t.Sets, compile.Declaration(id))
			}
			out.Tables = append(out.Tables, t)
		}
	}
	d.drift.addTo(out)
	return out, nil
}

// addTo adds the elements that are there now to tables that were not read with
// their elements.
func (dr *drift) addTo(out *ruleset.Ruleset) {
	for at, e := range dr.elements {
		if e == nil || dr.depth[slices.Index(ruleset.Families[:], at.Family)] == tableChanged {
			continue
		}
		if t := out.Table(at.Family); t != nil {
			if s := t.Set(compile.Declaration(at.Set).Name); s != nil {
				s.Elements = append(s.Elements, *e)
			}
		}
	}
	for _, t := range out.Tables {
		if dr.depth[slices.Index(ruleset.Families[:], t.Family)] == tableChanged {
			continue
		}
		for _, s := range t.Sets {
			slices.SortFunc(s.Elements, func(x, y ruleset.Element) int { return x.Key.Compare(&y.Key) })
		}
	}
}

// readDeep reads the tables of which more than elements have changed.
func (d *Dataplane) readDeep(ctx context.Context) (*ruleset.Ruleset, error) {
	whole := map[ruleset.Family]bool{}
	var families []ruleset.Family
	for i, f := range ruleset.Families {
		if d.drift.depth[i] > elementsChanged {
			families = append(families, f)
			whole[f] = d.drift.depth[i] == tableChanged
		}
	}
	out, generation, err := d.conn.ReadPart(ctx, d.cfg.Table, families, func(f ruleset.Family, set string) bool {
		return whole[f] || compile.SetNamed(set) == compile.NumSets
	})
	if err != nil {
		return nil, err
	}
	if generation != d.generation {
		return nil, kernel.ErrStale // there is more to hear
	}
	for _, t := range out.Tables {
		if err := checkOwned(t); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// wantedOfDrift is what there shall be, as far as readDrift gives what there is.
func (d *Dataplane) wantedOfDrift() *ruleset.Ruleset {
	at, services := map[compile.Place]bool{}, map[string]bool{}
	for p := range d.drift.elements {
		at[p] = true
		if addr, proto, port, ok := compile.FrontendOf(p.Set, p.Family, p.Key); ok {
			services[d.taken.owner[claim{addr, port, protocolOf(proto), p.Set.Ranged()}]] = true
		}
	}
	excerpt := d.state.Excerpt(at, services, slices.Max(d.drift.depth[:]) > elementsChanged)
	var all *ruleset.Ruleset
	out := &ruleset.Ruleset{}
	for i, f := range ruleset.Families {
		t := excerpt.Table(f)
		switch d.drift.depth[i] {
		case nothingChanged:
			continue
		case elementsChanged:
			t.Sets, t.Chains = t.Sets[:compile.NumSets], nil
		case tableChanged:
			if all == nil {
				all = d.state.Ruleset()
			}
			t = all.Table(f)
		case rulesChanged:
		}
		out.Tables = append(out.Tables, t)
	}
	return out
}
