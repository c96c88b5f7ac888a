package engine

import (
	"context"
	"errors"

	"github.com/nftdp/go-nftdp/internal/compile"
	"github.com/nftdp/go-nftdp/internal/ruleset"
)

// SetConfig makes the rules follow another configuration, with the services as they
// are, and returns what it changed. If this Engine has not committed anything yet, its
// first commit does that.
func (e *Engine) SetConfig(ctx context.Context, cfg compile.Config) ([]ruleset.Change, error) {
	if err := e.lock(ctx); err != nil {
		return nil, err
	}
	if e.state == nil {
		e.cfg = cfg
		e.unlock()
		return nil, nil
	}
	changes, rest, err := e.commit(ctx, &Edit{Config: &cfg})
	e.unlock()
	return changes, errors.Join(err, e.followUp(ctx, rest))
}

// configOf returns the configuration after an edit.
func (e *Engine) configOf(ed *Edit) compile.Config {
	if ed.Config != nil {
		return *ed.Config
	}
	return e.cfg
}

// stageConfig stages another configuration against the known state, by which the
// services have the same elements.
func (e *Engine) stageConfig(ed *Edit) *staged {
	former, next := e.cfg, e.state.Configured(*ed.Config)
	st := &staged{
		Transaction: ruleset.Diff(e.state.Fixed(), next.Fixed()), generation: e.held, state: e.state,
		assumed: true, known: true, next: next, note: next.Note,
	}
	if st.clients = e.drift.clients || !st.Empty(); !st.Empty() {
		st.former = &former
	}
	st.adopt = func() { e.state, e.cfg, e.drift = next, *ed.Config, drift{} }
	return st
}
