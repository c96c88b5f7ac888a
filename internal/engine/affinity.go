package engine

import (
	"context"
	"fmt"

	"github.com/nftdp/go-nftdp/internal/compile"
	"github.com/nftdp/go-nftdp/internal/ruleset"
)

// affinities gives package flows access to the maps of clients with affinity.
type affinities struct{ *Engine }

func (e affinities) Entries(ctx context.Context, f ruleset.Family, of *ruleset.Set) (entries []ruleset.Entry, err error) {
	err = e.again(ctx, func() error {
		entries, err = e.kernel.Entries(ctx, e.cfg.Table, f, of)
		return err
	})
	return entries, err
}

// staleClients returns how the maps differ from what rules make in a state, as
// changes.
func (e *Engine) staleClients(ctx context.Context, state *compile.State) ([]ruleset.Change, error) {
	found, err := e.flows.Stale(ctx, state, affinities{e})
	return changesOf(found), explainPermission(err)
}

// purgeClients deletes what others have put into the maps, and returns the changes.
func (e *Engine) purgeClients(ctx context.Context) ([]ruleset.Change, error) {
	done, err := e.flows.Purge(ctx, e.state, affinities{e})
	if err != nil {
		err = fmt.Errorf("services are programmed, but the maps of clients with affinity are not checked: %w", explainPermission(err))
	}
	return changesOf(done), err
}

func changesOf(entries []ruleset.EntryChange) (out []ruleset.Change) {
	for _, c := range entries {
		out = append(out, ruleset.Change{Verb: c.Verb, Family: c.Family, Table: c.Table, Set: c.Set, Entries: c.Entries})
	}
	return out
}

// Commit adds or deletes entries, whatever others do to the rules meanwhile, and
// returns how many are as wanted.
func (e affinities) Commit(ctx context.Context, c *ruleset.EntryChange) (n int, err error) {
	if len(c.Entries) == 0 {
		return 0, nil
	}
	err = e.again(ctx, func() error {
		return e.bound(len(c.Entries), true, func(generation uint32) (next uint32, err error) {
			n, next, err = e.kernel.CommitEntries(ctx, generation, c)
			return next, err
		})
	})
	return n, err
}

// lockingAffinities are affinities for those who do not hold the lock.
type lockingAffinities struct{ *Engine }

func (e lockingAffinities) Entries(ctx context.Context, f ruleset.Family, of *ruleset.Set) ([]ruleset.Entry, error) {
	return e.aside.entries(ctx, f, of)
}

func (e lockingAffinities) Commit(ctx context.Context, c *ruleset.EntryChange) (int, error) {
	if err := e.lock(ctx); err != nil {
		return 0, err
	}
	defer e.unlock()
	return affinities(e).Commit(ctx, c)
}
