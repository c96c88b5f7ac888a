package engine

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"syscall"
	"time"

	"github.com/nftdp/go-nftdp/internal/compile"
	"github.com/nftdp/go-nftdp/internal/flows"
	"github.com/nftdp/go-nftdp/internal/ruleset"
)

// RefusedError is a change that the kernel refused.
type RefusedError struct {
	Service string // the service concerned; empty: none
	Change  string // the refused change as an nft command
	Err     error  // a syscall.Errno
}

// Error names the service, the command and the kernel's reason.
func (e *RefusedError) Error() string {
	if e.Service == "" {
		return fmt.Sprintf("kernel refused %q: %v", e.Change, e.Err)
	}
	return fmt.Sprintf("service %q: kernel refused %q: %v", e.Service, e.Change, e.Err)
}

// Unwrap returns the errno.
func (e *RefusedError) Unwrap() error { return e.Err }

// Plan computes what Commit would change now.
func (e *Engine) Plan(ctx context.Context, ed *Edit) ([]ruleset.Change, error) {
	if err := e.lock(ctx); err != nil {
		return nil, err
	}
	defer e.unlock()
	_, changes, err := e.plan(ctx, ed)
	return changes, err
}

// plan returns also what it was computed against.
func (e *Engine) plan(ctx context.Context, ed *Edit) (st *staged, changes []ruleset.Change, err error) {
	err = e.retry(ctx, func() (err error) {
		if st, err = e.stage(ctx, ed); err != nil {
			return err
		}
		var stale []ruleset.Change
		if st.clients {
			if stale, err = e.staleClients(ctx, st.next); err != nil {
				return err
			}
		}
		changes = append(st.Changes(), stale...)
		e.adoptPlan(ed, st)
		e.drift.clients = e.drift.clients || len(stale) > 0
		return nil
	})
	return st, changes, err
}

// Commit makes the kernel hold what an edit wants. It returns what was committed,
// in that order, also together with an error.
func (e *Engine) Commit(ctx context.Context, ed *Edit) ([]ruleset.Change, error) {
	if err := e.lock(ctx); err != nil {
		return nil, err
	}
	changes, rest, err := e.commit(ctx, ed)
	e.unlock()
	return changes, errors.Join(err, e.followUp(ctx, rest))
}

// commit returns also what is left to do afterwards, without the lock: nil if
// nothing was committed.
func (e *Engine) commit(ctx context.Context, ed *Edit) ([]ruleset.Change, *flows.Job, error) {
	s, until, clients := sending{Engine: e}, ctx, false
	err := e.retry(ctx, func() error {
		st, err := e.stage(until, ed)
		if err != nil {
			return err
		}
		change := st.flows()
		change.Addresses = !ed.partial()
		e.flows.Note(change)
		clients = clients || st.clients
		err = s.send(until, st)
		if s.adopted { // only repairs are left
			ed, until = &Edit{sweep: e.shared()}, context.WithoutCancel(ctx)
		}
		return err
	})
	if errors.Is(err, ErrConflict) && s.refusal != nil {
		err = fmt.Errorf("%w: %w", err, s.refusal)
	}
	if !s.adopted {
		return s.done, nil, err
	}
	if err != nil {
		err = fmt.Errorf("services are programmed, but some objects that they no longer use are not deleted: %w", err)
	}
	err = errors.Join(err, explainPermission(e.meetOthers(ctx)))
	if clients {
		purged, failed := e.purgeClients(ctx)
		s.done, err = append(s.done, purged...), errors.Join(err, failed)
	}
	return s.done, e.flows.FollowUp(e.state), err
}

// followUp does what is left after a commit. Other methods do not wait for it.
func (e *Engine) followUp(ctx context.Context, rest *flows.Job) error {
	if rest == nil {
		return nil
	}
	began := time.Now()
	n, err := rest.Run(ctx)
	if n > 0 && e.observe != nil {
		e.observe(Event{Reconciled, n, time.Since(began)})
	}
	return e.orClosed(explainPermission(err))
}

// orClosed returns ErrClosed for an error of sockets that Close has closed.
func (e *Engine) orClosed(err error) error {
	if err == nil {
		return nil
	}
	e.turn <- struct{}{}
	defer e.unlock()
	if e.kernel == nil {
		return ErrClosed
	}
	return err
}

// sending tracks the commits of one edit, over all attempts.
type sending struct {
	*Engine
	done      []ruleset.Change // everything that was committed
	adopted   bool             // the edit's state has become the engine's
	overtaken int              // attempts that failed since others changed rules first
	refusal   error            // the last one that others seemed to cause
	swept     int              // attempts to delete what no service needs
}

// send commits a staged edit. The state is adopted as soon as the kernel holds
// it: the deletions behind it make no difference to any packet.
func (s *sending) send(ctx context.Context, st *staged) (err error) {
	s.held = st.generation
	if err = s.batches(ctx, st, st.Ahead); err == nil {
		err = s.batches(ctx, st, st.Now)
	}
	if err == nil {
		st.adopt()
		s.adopted = true
		err = s.batches(context.WithoutCancel(ctx), st, st.Behind)
	}
	if err == nil {
		err = s.unused(context.WithoutCancel(ctx), st)
	}
	refused, isRefused := errors.AsType[*ruleset.RefusedError](err)
	switch {
	case err == nil:
		s.lost = false
		return nil
	case errors.Is(err, ruleset.ErrStale):
		s.overtaken++
	case isRefused && (st.assumed || s.adopted) && !errors.Is(refused, syscall.ENOMEM):
		s.refusal = s.refused(err, st)
		err = ruleset.ErrStale // the kernel does not hold what was assumed: read it
	}
	s.loseTrack()
	return s.refused(err, st)
}

// batches commits changes as one batch, or as several if one is too big.
func (s *sending) batches(ctx context.Context, st *staged, changes []ruleset.Change) error {
	if len(changes) == 0 {
		return nil
	}
	batches := [][]ruleset.Change{changes}
	err := s.batch(ctx, st, changes)
	big, isBig := errors.AsType[*ruleset.TooBigError](err)
	if isBig {
		splitter := Splitter{Owner: st.owner, Size: s.kernel.Size, Big: big}
		began := time.Now()
		if batches, err = st.split(&splitter, changes); err == nil {
			s.note(Split, len(batches), began)
		}
	}
	for _, batch := range batches {
		if isBig && err == nil {
			err = s.batch(ctx, st, batch)
		}
		if err != nil {
			return err
		}
		s.done = append(s.done, batch...)
		st.note(batch)
	}
	return err
}

// maxOvertaken bounds how often an edit is staged again, from a new reading,
// because others changed rules first. After that it is committed at any
// generation: if others had changed what it is about, the kernel would refuse it.
const maxOvertaken = 4

// batch commits changes bound to the generation at which the rules are known, so
// that they are known afterwards, too. If others have changed rules since, an
// edit that does not depend on them is committed all the same.
func (s *sending) batch(ctx context.Context, st *staged, changes []ruleset.Change) error {
	n := 0
	for i := range changes {
		n += changes[i].Len()
	}
	anyGeneration := st.assumed || st.commutes || s.overtaken >= maxOvertaken && !st.read
	return s.bound(n, anyGeneration, func(generation uint32) (uint32, error) {
		st.assumed = st.assumed || generation == 0
		return s.kernel.Commit(ctx, generation, slices.Concat(changes, st.ensured(generation)))
	})
}

// wholeTables stands for the unknown number of objects of tables that are deleted.
const wholeTables = 1 << 20

// bound runs a commit of n objects bound to the generation at which our tables
// are known. If others have changed any rules since, it fails with ErrStale or,
// with anyGeneration, it is run again bound to none.
func (e *Engine) bound(n int, anyGeneration bool, commit func(generation uint32) (uint32, error)) error {
	return e.withoutEvents(n, func() error {
		bound, began := e.held != 0, time.Now()
		next, err := commit(e.held)
		if bound && anyGeneration && errors.Is(err, ruleset.ErrStale) {
			bound = false
			_, err = commit(0)
		}
		switch {
		case err != nil:
		case bound:
			e.held = next
		case !e.watched(): // otherwise the monitor receives what others committed in between
			e.held = 0
		}
		switch {
		case err != nil:
		case n == wholeTables:
			e.note(Committed, 0, began)
		default:
			e.note(Committed, n, began)
		}
		return err
	})
}

// carryCounters adds the counters of elements that are replaced to those that
// replace them.
func (e *Engine) carryCounters(ctx context.Context, changes []ruleset.Change) error {
	type heirs struct {
		family ruleset.Family
		of     string
	}
	gone := map[heirs][]*ruleset.Change{}
	for i := range changes {
		c := &changes[i]
		if len(c.Elements) == 0 || !c.Set.Counter {
			continue
		}
		at := heirs{c.Family, c.Set.Heirs()}
		if c.Verb == ruleset.Delete {
			gone[at] = append(gone[at], c)
			continue
		}
		for _, old := range gone[at] {
			from := c.Set.Carried(old.Elements, c.Elements)
			if err := e.kernel.ReadCounters(ctx, old, from, nil); err != nil {
				return err
			}
			ruleset.CarryCounters(c.Set, from, c.Elements)
		}
	}
	return nil
}

// refused adds to the kernel's refusal of a change the service concerned, and
// what the kernel lacks.
func (e *Engine) refused(err error, st *staged) error {
	r, ok := errors.AsType[*ruleset.RefusedError](err)
	if !ok {
		return err
	}
	out := &RefusedError{Change: r.Command(), Err: explainPermission(r.Errno)}
	c := r.Change
	if c == nil {
		return out
	}
	if r.Element >= 0 {
		element := &c.Elements[r.Element]
		out.Service = element.Comment
		if k, ok := compile.KeyOf(c, element); ok && out.Service == "" {
			out.Service = st.owner(k)
		}
	}
	if c.Chain != nil && c.Verb == ruleset.Add && (errors.Is(r, syscall.ENOENT) || errors.Is(r, syscall.EOPNOTSUPP)) {
		// The batch has the tables, chains and sets that a rule needs. So the
		// kernel lacks the expression or the type of the chain.
		out.Err = fmt.Errorf("%w: %w", ErrNotSupported, r.Errno)
	}
	if c.Flags != 0 && (errors.Is(r, syscall.EOPNOTSUPP) || errors.Is(r, syscall.EINVAL)) {
		// Before Linux 5.12 the errno is EINVAL. Nothing else can be wrong with
		// a table that we add or adopt.
		out.Err = fmt.Errorf("tables that outlive their owner (Config.Protect, Linux 6.9): %w: %w", ErrNotSupported, r.Errno)
	}
	return out
}
