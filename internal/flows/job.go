package flows

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"

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
	// Config is the configuration of before, if it is another one now.
	Config *compile.Config
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

// Known returns the service of that name in the state of the last FollowUp, or nil.
func (t *Table) Known(name string) *compile.Service {
	if state := t.current.Load(); state != nil {
		return state.Service(name)
	}
	return nil
}

// Run does the work, unless somebody else does it at the same time. Affinities come
// first: otherwise a datagram in between would begin a flow to a former backend. If
// something fails, the next Run of any Job makes up for it.
//
// Jobs take turns, and one does what all that are waiting have to do. Whether a flow
// is stale is decided by the present state, not by that of the commit: so no job
// undoes what a later commit allows again. One that has nothing to do does not wait.
//
// It returns how many flows it has deleted, also with an error.
func (j *Job) Run(ctx context.Context) (deleted int, err error) {
	t := j.table
	r := j.reconciliation(ctx)
	if r == nil {
		return 0, nil
	}
	select {
	case t.turn <- struct{}{}:
		defer func() { <-t.turn }()
	case <-ctx.Done():
		return 0, fmt.Errorf("services are programmed, but not their flows reconciled: %w", ctx.Err())
	}
	t.mu.Lock()
	jobs := slices.Clone(t.jobs)
	done := j.done
	t.mu.Unlock()
	if done {
		return 0, nil
	}
	if len(jobs) > 1 {
		r = t.reconciliation(jobs)
	}
	err = r.run(ctx)
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.failed = err != nil; t.failed {
		t.compact()
		return r.deleted, err
	}
	for _, j := range jobs {
		j.done = true
	}
	if r.addresses {
		t.local = r.local
	}
	t.forget()
	return r.deleted, nil
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
			if f := s.Frontends[i]; s.Key(f) == k {
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
	configs  []compile.Config // of before
	found    *ruleset.Ruleset
	adopted  bool
	clients  bool // affinities can be stale
	cuts     bool // a service asks for established connections to be cut
	promised bool // a service is concerned that needs conntrack
	deleted  int  // flows
	judging  sync.Mutex

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
		if c.Config != nil { // any client of any frontend may be treated otherwise
			r.marks.whole[0].all, r.marks.whole[1].all = true, true
			r.clients = true
			r.configs = append(r.configs, *c.Config)
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

// own reports whether an address is one that the node has or had.
func (r *reconciliation) own(a netip.Addr) bool { return r.node.has(a) || r.left(a) }

func (r *reconciliation) replaced(p Replacement) {
	if p.Old != nil && p.Next != nil && p.Old.Equal(p.Next) && slices.Equal(p.Old.Draining, p.Next.Draining) &&
		slices.Equal(p.Old.Reserve, p.Next.Reserve) && !p.Old.Adopted {
		return
	}
	if r.marks.replaced(p.Old, p.Next) {
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
	// The kernel walks through its whole table for each filter, so two walk at a time.
	filters := r.marks.filters(n)
	errs := make([]error, len(filters))
	free := make(chan struct{}, 2)
	var all sync.WaitGroup
	for i, filter := range filters {
		all.Go(func() {
			free <- struct{}{}
			defer func() { <-free }()
			errs[i] = r.deleteListed(ctx, filter)
		})
	}
	all.Wait()
	return errors.Join(errs...)
}

// deleteListed deletes UDP flows while it lists them. Others are looked at once more.
func (r *reconciliation) deleteListed(ctx context.Context, filter conntrack.Filter) (err error) {
	var n int
	var failed error
	stale := func(f *conntrack.Flow) bool { // several walks ask it
		r.judging.Lock()
		defer r.judging.Unlock()
		is, err := r.stale(f)
		failed = errors.Join(failed, err)
		return is
	}
	if filter.Proto == compile.UDP {
		n, err = r.kernel.DeleteMatching(ctx, filter, func(f *conntrack.Flow) conntrack.Fate {
			switch {
			case !stale(f):
				return conntrack.Keep
			case r.alike(f):
				return conntrack.DeleteAlike
			}
			return conntrack.Delete
		})
	} else {
		var found []conntrack.Flow
		if found, err = r.kernel.List(ctx, filter, stale); err == nil {
			n, err = r.DeleteUnused(ctx, found)
		}
	}
	r.judging.Lock()
	defer r.judging.Unlock()
	r.deleted += n
	return errors.Join(explain(err), failed)
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
	cfg := r.current.Load().Config()
	r.node = &nodeAddrs{addrSet: local, cfg: cfg}
	find := func(k compile.Key) (*compile.Service, bool) { return r.current.Load().Find(k) }
	r.now = rulesOf(cfg, find, local.has)
	had := local.has
	if r.had != nil {
		had = r.had
	}
	old := sync.OnceValue(func() *compile.Directory { return compile.NewDirectory(r.old) }) // takes time for large services
	for i, cfg := range append([]compile.Config{cfg}, r.configs...) {
		if len(r.old) > 0 {
			r.before = append(r.before, rulesOf(cfg, func(k compile.Key) (*compile.Service, bool) { return old().Find(k) }, had))
		}
		if i > 0 || r.had != nil {
			r.before = append(r.before, rulesOf(cfg, find, had))
		}
	}
	if r.found != nil {
		r.before = append(r.before, rulesFound(r.found, had))
	}
	return nil
}
