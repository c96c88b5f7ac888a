package engine

import (
	"context"
	"errors"
	"fmt"
	"net/netip"

	"github.com/nftdp/go-nftdp/internal/around"
	"github.com/nftdp/go-nftdp/internal/compile"
	"github.com/nftdp/go-nftdp/internal/ruleset"
)

// Examining is implemented by a Kernel that can read what else decides about packets.
// Examine may be called concurrently with all other methods.
type Examining interface {
	Examine(ctx context.Context, q *around.Question) (*around.Node, error)
}

// Examine reads the node, without holding the lock, and returns the services that it
// was examined for.
func (e *Engine) Examine(ctx context.Context) (*around.Node, []*compile.Service, error) {
	if err := e.lock(ctx); err != nil {
		return nil, nil, err
	}
	state, drift, err := e.stateAndDrift(ctx)
	var services []*compile.Service
	if err == nil {
		services = state.Services()
	}
	kernel, ok := e.kernel.(Examining)
	e.unlock()
	switch {
	case err != nil:
		return nil, nil, err
	case !ok:
		return nil, nil, fmt.Errorf("examine the node: %w", ErrNotSupported)
	}
	n, err := kernel.Examine(ctx, &around.Question{Table: e.cfg.Table, Addrs: backendsOf(services), Flags: e.cfg.Flags})
	if err == nil {
		n.Drift = drift
	}
	return n, services, e.orClosed(explainPermission(err))
}

// stateAndDrift returns what current does, and how elements of services differ from what
// is wanted. If that is not known, since this Engine has not set them, what belongs to no
// frontend differs. Other differences, such as in the set Addresses, may be those of
// another configuration.
func (e *Engine) stateAndDrift(ctx context.Context) (state *compile.State, drift []ruleset.Change, err error) {
	st, changes, err := e.plan(ctx, &Edit{})
	switch {
	case errors.Is(err, ErrOtherConfig), errors.Is(err, ErrOutdated), errors.Is(err, ErrProtected):
		// What is wanted is not known, or nobody but the owner can change the tables.
		state, err = e.current(ctx)
		return state, nil, err
	case err != nil:
		return nil, nil, err
	}
	for i := range changes {
		if c := &changes[i]; len(c.Elements) > 0 {
			if id := compile.SetNamed(c.Set.Name); id < compile.NumSets && id != compile.Addresses {
				drift = append(drift, *c)
			}
		}
	}
	if e.shared() { // where an empty edit is only about what this Engine has set
		state, err = e.current(ctx)
		return state, drift, err
	}
	return st.state, drift, nil // it has read what current would read again
}

// backendsOf lists the addresses of all backends, each once.
func backendsOf(services []*compile.Service) (out []netip.Addr) {
	seen := map[netip.Addr]bool{}
	for _, s := range services {
		for _, b := range s.Backends() {
			if !seen[b.Addr()] {
				seen[b.Addr()] = true
				out = append(out, b.Addr())
			}
		}
	}
	return out
}
