package engine

import (
	"cmp"
	"context"
	"slices"

	"github.com/nftdp/go-nftdp/internal/compile"
	"github.com/nftdp/go-nftdp/internal/ruleset"
)

// stageRead reads what the kernel holds and compares it with the whole wanted
// state. If this Engine has not committed anything, an edit of some services
// starts from the services that the kernel holds.
func (e *Engine) stageRead(ctx context.Context, ed *Edit) (*staged, error) {
	if e.shared() {
		return e.stageSharedRead(ctx, ed)
	}
	var p *prospect
	var failed error
	current, generation, err := e.readAt(ctx, func(found *ruleset.Ruleset) { p, failed = e.prospect(ed, found) })
	if err = cmp.Or(err, failed); err != nil {
		return nil, err
	}
	st := &staged{
		Transaction: ruleset.Diff(current, p.wanted), generation: generation, state: p.state, set: ed.Set, gone: p.gone,
		next: p.next, clients: true, adopts: e.state == nil,
	}
	if st.adopts && checkCurrent(current) == nil {
		st.found = current
	}
	if ed.Config != nil {
		former := e.cfg
		st.former, st.repairs = &former, ruleset.Diff(current, compile.New(e.cfg, p.next.Services()).Ruleset()).Changes()
	}
	p.next.SetSizes(current, st.Changes())
	st.note = p.next.Note
	st.adopt = func() { e.state, e.cfg, e.drift = p.next, e.configOf(ed), drift{} }
	return st, nil
}

// prospect is what an edit makes of the tables that were found.
type prospect struct {
	state, next *compile.State // before and after it
	gone        []string       // names of services
	wanted      *ruleset.Ruleset
}

// prospect needs no addresses of backends: it runs while these are read.
func (e *Engine) prospect(ed *Edit, found *ruleset.Ruleset) (*prospect, error) {
	err := e.checkChangeable(found)
	if err == nil && !ed.TakeOver {
		err = e.checkConfig(found)
	}
	if err != nil {
		return nil, err
	}
	p, held := &prospect{state: e.state}, compile.HeldByName(found)
	if p.state == nil {
		if p.state, err = e.takeOver(found, held, ed.Whole); err != nil {
			return nil, err
		}
	}
	if err := conflicts(p.state, p.state, ed); err != nil {
		return nil, err
	}
	p.gone = ed.gone(p.state)
	services := ed.Set
	if !ed.Whole {
		services = p.state.Replaced(ed.Set, p.gone)
	}
	wanted := arranged(services, func(s *compile.Service) *compile.Service {
		known, found := p.state.Service(s.Name), held[s.Name]
		if known == nil || found != nil && s.Arranged(found).Equal(found) {
			return found // equal services stay, in whatever arrangement
		}
		return known // others may have damaged what was found
	})
	if p.next = p.state; !ed.empty() || !slices.Equal(services, wanted) {
		p.next = compile.New(e.configOf(ed), wanted)
	}
	p.wanted = p.next.Ruleset()
	return p, nil
}

// takeOver returns the state of the services that the kernel holds. It becomes
// the engine's only when an edit of it is committed: until then others may change
// the services. If an edit replaces all of them, none is needed. Tables of an older
// version can be replaced as a whole only.
func (e *Engine) takeOver(current *ruleset.Ruleset, held map[string]*compile.Service, whole bool) (*compile.State, error) {
	if err := checkCurrent(current); err != nil {
		if whole {
			err = nil
		}
		return compile.New(e.cfg, nil), err
	}
	if whole {
		return compile.New(e.cfg, nil), nil
	}
	services := make([]*compile.Service, 0, len(held))
	for _, s := range held {
		services = append(services, s)
	}
	return compile.New(e.cfg, services), nil
}
