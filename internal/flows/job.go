package flows

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/nftdp/go-nftdp/internal/compile"
	"github.com/nftdp/go-nftdp/internal/conntrack"
	"github.com/nftdp/go-nftdp/internal/ruleset"
)

// Change is something that can make flows stale.
type Change struct {
	// Replaced are services that were changed, added or removed.
	Replaced []Replacement
	// Repairs are changes of rules that were computed from what the kernel held,
	// so that they may undo what others have done.
	Repairs []ruleset.Change
	// Adopted says that a process has begun to program what a former one may have
	// left: all flows are looked at. Found are the rules that it found; nil:
	// none, or those of an older version.
	Adopted bool
	Found   *ruleset.Ruleset
	// Addresses says that the node may have got or lost addresses: they are
	// compared with those of the last time.
	Addresses bool
}

// Replacement is a service that takes the place of another one; either can be nil.
// Services are never changed.
type Replacement struct{ Old, Next *compile.Service }

// Replacements lists what an edit of some services replaces in a state.
func Replacements(state *compile.State, set []*compile.Service, gone []string) []Replacement {
	var out []Replacement
	for _, s := range set {
		if old := state.Service(s.Name); old != s {
			out = append(out, Replacement{old, s})
		}
	}
	for _, name := range gone {
		if old := state.Service(name); old != nil {
			out = append(out, Replacement{old, nil})
		}
	}
	return out
}

// Note records what is about to be committed, for FollowUp. If it is not committed
// after all, FollowUp only looks for flows in vain.
func (t *Table) Note(c Change) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.noted = append(t.noted, c)
}

// Job is the work that is left after a commit: it deletes what is remembered for
// clients and no longer holds, and then the flows that are stale.
type Job struct {
	table   *Table
	changes []Change
	done    bool // guarded by Table.mu
}

// FollowUp returns the work after a commit of what was noted, which made state the
// present one. It takes no time: Run does, and needs no lock of its caller's.
func (t *Table) FollowUp(state *compile.State) *Job {
	t.current.Store(state)
	t.mu.Lock()
	defer t.mu.Unlock()
	j := &Job{table: t, changes: t.noted, done: len(t.noted) == 0}
	t.noted = nil
	if !j.done {
		t.jobs = append(t.jobs, j)
	}
	return j
}

// Run does the work, unless somebody else does it at the same time. Affinities come
// first: otherwise a datagram in between would begin a flow to a former backend. If
// something fails, the next Run of any Job makes up for it.
//
// Jobs take turns, and one does what all that are waiting have to do. Whether a flow
// is stale is decided by the present state, not by that of the commit: so no job
// undoes what a later commit allows again. One that has nothing to do does not wait.
func (j *Job) Run(ctx context.Context) error {
	t := j.table
	r := j.reconciliation(ctx)
	if r == nil {
		return nil
	}
	select {
	case t.turn <- struct{}{}:
		defer func() { <-t.turn }()
	case <-ctx.Done():
		return fmt.Errorf("services are programmed, but not their flows reconciled: %w", ctx.Err())
	}
	t.mu.Lock()
	jobs := slices.Clone(t.jobs)
	done := j.done
	t.mu.Unlock()
	if done {
		return nil
	}
	if len(jobs) > 1 {
		r = t.reconciliation(jobs)
	}
	err := r.run(ctx)
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.failed = err != nil; t.failed {
		t.compact()
		return err
	}
	for _, j := range jobs {
		j.done = true
	}
	if r.addresses {
		t.local = r.local
	}
	t.forget()
	return nil
}

// reconciliation returns what the job has to do, or nil if that is nothing.
func (j *Job) reconciliation(ctx context.Context) *reconciliation {
	t := j.table
	t.mu.Lock()
	done := j.done
	t.mu.Unlock()
	if done {
		return nil
	}
	r := t.reconciliation([]*Job{j})
	if !r.marks.none() || r.clients || r.moves(ctx) {
		return r
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.failed && !t.purge {
		j.done = true
		t.forget()
		return nil
	}
	return r
}

// forget drops the jobs that are done.
func (t *Table) forget() {
	t.jobs = slices.DeleteFunc(t.jobs, func(j *Job) bool { return j.done })
}

// maxWaiting bounds the changes that are kept for a next Run while Run fails.
const maxWaiting = 1000

// compact replaces many changes by one that makes all flows looked at.
func (t *Table) compact() {
	n := 0
	for _, j := range t.jobs {
		for i := range j.changes {
			n += 1 + len(j.changes[i].Replaced) + len(j.changes[i].Repairs)
		}
	}
	if n > maxWaiting && len(t.jobs) > 1 {
		for _, j := range t.jobs {
			j.done = true
		}
		t.jobs = []*Job{{table: t, changes: []Change{{Adopted: true}}}}
	}
}

// reconciliation computes what jobs have to do.
func (t *Table) reconciliation(jobs []*Job) *reconciliation {
	state := t.current.Load()
	r := &reconciliation{Table: t, marks: newMarks(func(k compile.Key) uint16 { return lastPort(state, k) })}
	for _, j := range jobs {
		r.collect(j.changes)
	}
	return r
}

// run does it. A kernel without conntrack over netlink is good enough for services
// that do not need it.
func (r *reconciliation) run(ctx context.Context) error {
	err := r.compareAddresses(ctx)
	purged := r.purgeClients(ctx, r.clients)
	if err == nil {
		err = r.deleteStale(ctx)
	}
	if err == nil || errors.Is(err, ErrNotSupported) && !r.promised {
		return purged
	}
	return errors.Join(purged, fmt.Errorf("services are programmed, but not their flows reconciled: %w", err))
}

// lastPort returns the last port of a frontend.
func lastPort(state *compile.State, k compile.Key) uint16 {
	s, _ := state.Find(compile.Key{Addr: k.Addr, Port: k.Port, Proto: k.Proto})
	if s != nil {
		for i := range s.Frontends {
			if f := &s.Frontends[i]; s.Key(f) == k {
				return max(f.Port, f.End)
			}
		}
	}
	return k.Port
}

// reconciliation finds and deletes what changes have made stale.
type reconciliation struct {
	*Table
	marks    *marks
	old      []*compile.Service
	found    *ruleset.Ruleset
	adopted  bool
	clients  bool // affinities can be stale
	cuts     bool // a service asks for established connections to be cut
	promised bool // a service is concerned that needs conntrack

	addresses bool                  // the node may have got or lost some:
	local     []netip.Prefix        // it has these,
	had       func(netip.Addr) bool // and had these; nil: the same

	node   *nodeAddrs
	now    *rules
	before []*rules
}

// collect computes what the changes can have made stale.
func (r *reconciliation) collect(changes []Change) {
	for i := range changes {
		c := &changes[i]
		for _, p := range c.Replaced {
			if !c.Adopted { // otherwise all flows are looked at, by the rules that were found
				r.replaced(p)
			}
		}
		if len(c.Repairs) > 0 {
			r.marks.repaired(c.Repairs)
			r.clients = true
		}
		if c.Adopted {
			r.marks.whole[0].repaired(true)
			r.marks.whole[1].repaired(true)
			r.adopted = true // whose clients Purge has checked
			r.found = c.Found
		}
		r.addresses = r.addresses || c.Addresses || c.Adopted
	}
	if r.marks.whole[0].all || r.marks.whole[1].all {
		r.current.Load().Each(r.concerns)
	}
}

// compareAddresses marks what can be stale since the node has got or lost addresses.
func (r *reconciliation) compareAddresses(ctx context.Context) error {
	if !r.addresses {
		return nil
	}
	local, arrived, left, err := r.moved(ctx)
	if err != nil {
		return err
	}
	r.local = local
	if len(arrived)+len(left) == 0 {
		return nil
	}
	r.had = newAddrSet(append(without(local, arrived), left...)).has
	r.marks.addrs = *newAddrSet(append(arrived, left...))
	r.clients = r.clients || len(left) > 0
	r.current.Load().Each(r.concerns)
	return nil
}

// moves reports whether there are addresses to compare that have changed. If they
// cannot be read, run says so.
func (r *reconciliation) moves(ctx context.Context) bool {
	if !r.addresses {
		return false
	}
	_, arrived, left, err := r.moved(ctx)
	return err != nil || len(arrived)+len(left) > 0
}

// left reports whether the node has lost an address.
func (r *reconciliation) left(a netip.Addr) bool { return r.had != nil && r.had(a) && !r.node.has(a) }

func (r *reconciliation) replaced(p Replacement) {
	if p.Old != nil && p.Next != nil && p.Old.Equal(p.Next) && slices.Equal(p.Old.Draining, p.Next.Draining) &&
		slices.Equal(p.Old.Reserve, p.Next.Reserve) && !p.Old.Adopted {
		return
	}
	if r.marks.replaced(p.Old, p.Next) || r.takesOver(p) {
		r.clients = true
	}
	if p.Old != nil {
		r.old = append(r.old, p.Old)
	}
	for _, s := range []*compile.Service{p.Old, p.Next} {
		if s != nil {
			r.concerns(s)
		}
	}
}

// takesOver reports whether a service takes clients of a node-wide frontend by a new
// one with an address, and would send them to the other frontend's backends.
func (r *reconciliation) takesOver(p Replacement) bool {
	if p.Next == nil || p.Next.Affinity == 0 {
		return false
	}
	return slices.ContainsFunc(p.Next.Frontends, func(f compile.Frontend) bool {
		k := p.Next.Key(&f)
		isIt := func(o compile.Frontend) bool { return p.Old.Key(&o) == k }
		if f.Addr.IsUnspecified() || p.Old != nil && slices.ContainsFunc(p.Old.Frontends, isIt) {
			return false
		}
		wide, _ := r.current.Load().Find(k.NodeWide())
		return wide != nil && wide.Affinity > 0
	})
}

// concerns notes what a service asks for.
func (r *reconciliation) concerns(s *compile.Service) {
	r.cuts = r.cuts || s.CutStale
	r.promised = r.promised || s.CutStale || s.Proto == compile.UDP
}

// deleteStale lists the flows that can be stale and deletes those that are.
func (r *reconciliation) deleteStale(ctx context.Context) error {
	if r.marks.none() {
		return nil
	}
	n, err := r.kernel.Count(ctx)
	if err != nil || n == 0 {
		return explain(err)
	}
	if err := r.prepare(ctx); err != nil {
		return err
	}
	for _, filter := range r.marks.filters(n) {
		var failed error
		err := r.deleteListed(ctx, filter, func(f *conntrack.Flow) bool {
			is, err := r.stale(f)
			failed = errors.Join(failed, err)
			return is
		})
		if err = errors.Join(explain(err), failed); err != nil {
			return err
		}
	}
	return nil
}

// deleteListed deletes UDP flows while it lists them. Others are looked at once more.
func (r *reconciliation) deleteListed(ctx context.Context, filter conntrack.Filter, stale func(*conntrack.Flow) bool) error {
	if filter.Proto == compile.UDP {
		_, err := r.kernel.DeleteMatching(ctx, filter, stale)
		return err
	}
	found, err := r.kernel.List(ctx, filter, stale)
	if err == nil {
		err = r.DeleteUnused(ctx, found)
	}
	return err
}

// prepare reads the node's addresses and makes the rules of now and before.
func (r *reconciliation) prepare(ctx context.Context) error {
	local := newAddrSet(r.local)
	if !r.addresses {
		var err error
		if local, err = r.readLocal(ctx); err != nil {
			return err
		}
	}
	r.node = &nodeAddrs{addrSet: local, limits: r.cfg.NodeAddrs, loopback: r.cfg.Localhost}
	find := func(k compile.Key) (*compile.Service, bool) { return r.current.Load().Find(k) }
	r.now = rulesOf(r.cfg, find, local.has)
	had := local.has
	if r.had != nil {
		had = r.had
	}
	if len(r.old) > 0 {
		r.before = append(r.before, rulesOf(r.cfg, compile.NewDirectory(r.old).Find, had))
	}
	if r.had != nil {
		r.before = append(r.before, rulesOf(r.cfg, find, had))
	}
	if r.found != nil {
		r.before = append(r.before, rulesFound(r.found, had))
	}
	return nil
}
