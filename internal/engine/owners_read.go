package engine

import (
	"context"
	"errors"

	"github.com/nftdp/go-nftdp/internal/compile"
	"github.com/nftdp/go-nftdp/internal/ruleset"
)

// readShared reads shared tables. Changes that others make meanwhile count only if
// they touch services for which mine returns true, or the fixed parts. Otherwise
// exact is false: what belongs to others is then as it was at some moment, and a
// set that was changed while the kernel listed it may lack elements of others.
func (e *Engine) readShared(ctx context.Context, mine func(string) bool) (r *ruleset.Ruleset, generation uint32, exact bool, err error) {
	return e.readUnless(ctx, func(ev *ruleset.Event) bool { return e.touching(ev, mine) != nil }, nil)
}

// touching returns the part of an event about our tables that touches services for
// which mine returns true, the fixed parts of the tables, or what belongs to
// nobody. It returns nil if there is none.
func (e *Engine) touching(ev *ruleset.Event, mine func(string) bool) *ruleset.Event {
	switch ev.Kind {
	case ruleset.KindElement:
		return e.touchingElements(ev, mine)
	case ruleset.KindChain, ruleset.KindRule:
		if !compile.Common(ev.Name) && (e.state == nil || !e.state.Uses(ev.Family, ev.Name)) {
			return nil
		}
	case ruleset.KindSet:
		if compile.Shared(ev.Name) && (e.state == nil || !e.state.Uses(ev.Family, ev.Name)) {
			return nil
		}
	default:
	}
	return ev
}

func (e *Engine) touchingElements(ev *ruleset.Event, mine func(string) bool) *ruleset.Event {
	id := compile.SetNamed(ev.Set)
	switch {
	case id == compile.NumSets && compile.Shared(ev.Set):
		if e.state == nil || !e.state.Uses(ev.Family, ev.Set) {
			return nil
		}
		return ev
	case id == compile.NumSets || ev.Opaque:
		return ev
	}
	part := *ev
	part.Elements = nil
	for i := range ev.Elements {
		el := &ev.Elements[i]
		name := el.Comment
		ours := e.state != nil && e.state.Has(compile.Place{Family: ev.Family, Set: id, Key: el.Key})
		if ours || id.Frontends() && (mine(name) || compile.OwnerOf(name) == "") {
			part.Elements = append(part.Elements, *el)
		}
	}
	if len(part.Elements) == 0 {
		return nil
	}
	return &part
}

// currentShared returns the state of our owner's services that the
// kernel holds.
func (e *Engine) currentShared(ctx context.Context) (*compile.State, error) {
	ours := func(name string) bool { return compile.OwnerOf(name) == e.cfg.Owner }
	r, _, _, err := e.readShared(ctx, ours)
	if err == nil {
		err = e.checkConfig(r)
	}
	if err != nil {
		return nil, err
	}
	state := e.before(compile.HeldByName(r), ours)
	state.Beside(r, ours)
	return state, nil
}

// meetOthers reads the frontends of other services, if they are not known exactly,
// before flows are judged by them.
func (e *Engine) meetOthers(ctx context.Context) error {
	if !e.shared() || e.exact() || !e.flows.Pending() {
		return nil
	}
	r, err := e.kernel.Read(ctx, e.cfg.Table, ruleset.Families[:], func(_ ruleset.Family, set string) bool {
		return compile.SetNamed(set).Frontends()
	})
	if err == nil {
		e.state.Meet(r, func(name string) bool { return e.state.Service(name) != nil })
	}
	if errors.Is(err, ruleset.ErrStale) {
		return nil // what was known before has to do
	}
	return err
}
