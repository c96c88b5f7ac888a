// Package engine keeps the rules of one network namespace in the wanted state. It
// tracks what the kernel holds, stages changes of services against that, commits
// them, adopts what a former process has left, and repairs what others damage.
//
// It is the only package with state and a lock. It does no I/O itself: the kernel
// is an interface.
package engine

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"syscall"

	"github.com/nftdp/go-nftdp/internal/compile"
	"github.com/nftdp/go-nftdp/internal/flows"
	"github.com/nftdp/go-nftdp/internal/ruleset"
)

// Kernel has the operations on one network namespace that an Engine needs. It is
// used by one goroutine at a time.
type Kernel interface {
	Reader
	// Aside returns another Reader, which another goroutine may use meanwhile.
	Aside() Reader
	// Commit applies changes as one batch if the rules are still at that
	// generation, and returns the next one. Generation 0 stands for any; then
	// the returned generation is meaningless. Errors are ruleset.ErrStale,
	// ruleset.ErrUnknown, *ruleset.RefusedError and *ruleset.TooBigError.
	Commit(ctx context.Context, generation uint32, changes []ruleset.Change) (uint32, error)
	// Size returns the size in bytes of the batch that Commit would send.
	Size(changes []ruleset.Change) (int, error)
	// CommitEntries adds or deletes entries, bound to a generation as Commit
	// is. It returns how many the kernel now has as wanted, or has deleted,
	// and the generation after that, also with an error.
	CommitEntries(ctx context.Context, generation uint32, c *ruleset.EntryChange) (done int, next uint32, err error)
	// Port returns the netlink port that commits: the owner of protected
	// tables.
	Port() uint32
	// Monitor returns the monitor of the namespace's transactions.
	Monitor() Monitor
	// AddressMonitor returns the monitor of the namespace's addresses.
	AddressMonitor() AddressMonitor
	// Waker returns a Waker for the events of the Monitor and, with addresses,
	// also for those of the AddressMonitor. Its Wait keeps neither from receiving.
	Waker(addresses bool) (Waker, error)
	// Flows returns the namespace's conntrack.
	Flows() flows.Kernel
	Sysctls

	Close() error
}

// Reader reads the rules of one network namespace. It is used by one goroutine at a
// time.
type Reader interface {
	// Generation returns the generation of the namespace's rules. It grows by
	// one with every transaction, whoever commits it, and is never zero.
	Generation(ctx context.Context) (uint32, error)
	// Tables reads the tables of that name without their contents.
	Tables(ctx context.Context, table string) (*ruleset.Ruleset, error)
	// Read reads the tables of that name in some families, with counters, and
	// with the elements of those sets for which elements returns true. Changes
	// that others make meanwhile may be included or not: the caller compares
	// generations, or monitors events.
	Read(ctx context.Context, table string, families []ruleset.Family,
		elements func(f ruleset.Family, set string) bool) (*ruleset.Ruleset, error)
	// ReadElements reads the elements of a set of a table that Read has left
	// out. The keys are those that the set probably has, each once, which can
	// make it faster.
	ReadElements(ctx context.Context, t *ruleset.Table, s *ruleset.Set, keys []ruleset.Tuple) error
	// ReadCounters reads the counters of elements of a set, and calls each for those
	// that the kernel has, if it is not nil. The others keep their counters.
	ReadCounters(ctx context.Context, c *ruleset.Change, elements []ruleset.Element, each func(*ruleset.Element)) error
	// Entries reads the entries of a dynamic set.
	Entries(ctx context.Context, table string, f ruleset.Family, s *ruleset.Set) ([]ruleset.Entry, error)
}

// Sysctls reads and writes kernel parameters of the namespace.
type Sysctls interface {
	Sysctl(ctx context.Context, name string) (string, error)
	SetSysctl(ctx context.Context, name, value string) error
}

// Monitor receives the events of all transactions, in the order of their
// generations. Before Join it receives nothing, and slows nobody down.
type Monitor interface {
	// Join begins to receive events, Leave ends it.
	Join() error
	Leave() error
	// Known tells the monitor that everything up to a generation is known from
	// elsewhere.
	Known(generation uint32)
	// CatchUp calls each for the events of the transactions after the last
	// known one, except those that this Kernel has committed, and returns the
	// last complete generation, which is to or a later one. It waits for events
	// that the kernel is still sending. ruleset.ErrMissed: events were missed.
	CatchUp(ctx context.Context, to uint32, each func(*ruleset.Event)) (uint32, error)
	// Discard drops all received events.
	Discard() error
}

// AddressMonitor notices that the namespace's addresses may have changed. Before Join
// it receives nothing.
type AddressMonitor interface {
	// Join begins to receive events, Leave ends it.
	Join() error
	Leave() error
	// Changed returns the families whose addresses may have changed since the
	// last call.
	Changed() ([]ruleset.Family, error)
}

// Waker wakes one goroutine when events have been received.
type Waker interface {
	// Wait waits until events have been received, or until Wake has been called
	// since the last Reset.
	Wait() error
	Wake()
	Reset() error
	Close() error
}

// Errors that callers branch on. Package nftdp documents them.
var (
	ErrNotSupported = flows.ErrNotSupported
	ErrNotOwned     = errors.New("table belongs to another program")
	ErrProtected    = errors.New("table is protected by another Dataplane")
	ErrOutdated     = errors.New("table was made by an older version")
	ErrOtherConfig  = errors.New("table was made with another configuration")
	ErrConflict     = errors.New("rules kept changing")
	ErrClosed       = errors.New("dataplane is closed")
	ErrMissed       = ruleset.ErrMissed
)

// Engine programs services into one network namespace. Its methods may be
// called concurrently; they take turns.
type Engine struct {
	cfg       compile.Config
	kernel    Kernel // nil after Close
	monitor   Monitor
	addresses AddressMonitor
	flows     *flows.Table
	turn      chan struct{} // held by the method that works
	aside     *aside
	around    Surroundings // nil if nothing is known of them

	// state is the wanted state, nil before it is known. If held is not zero,
	// the kernel held exactly that at this generation, except for the drift. If
	// held is zero, others may have changed our tables since. If lost is set,
	// the outcome of a commit of ours is unknown, too.
	state *compile.State
	held  uint32
	lost  bool
	drift drift

	// Of shared tables: moved is set once others have changed what does not
	// concern us since the tables were read, and left counts objects that nobody
	// may need any more.
	moved bool
	left  int

	alerts   int // counts the reasons to check our tables
	alerted  int // the value of alerts when the watchers were last woken
	watchers map[*watcher]bool

	observe func(Event) // nil: nobody does
	events  []Event     // that unlock reports
}

// Open returns an Engine. It takes over the kernel, which Close closes.
func Open(ctx context.Context, cfg compile.Config, kernel Kernel) (*Engine, error) {
	e := &Engine{
		cfg: cfg, kernel: kernel, monitor: kernel.Monitor(), addresses: kernel.AddressMonitor(), turn: make(chan struct{}, 1), watchers: map[*watcher]bool{},
	}
	e.around, _ = kernel.(Surroundings)
	e.aside = &aside{reader: kernel.Aside(), table: cfg.Table, turn: make(chan struct{}, 1)}
	e.flows = flows.New(kernel.Flows(), lockingAffinities{e})
	if _, err := e.tables(ctx); err != nil {
		return nil, errors.Join(Explain(err), kernel.Close())
	}
	return e, nil
}

// Explain names the kernel option or the capability that an error of the kernel
// points to.
func Explain(err error) error {
	if errors.Is(err, syscall.EPROTONOSUPPORT) || errors.Is(err, syscall.EINVAL) || errors.Is(err, syscall.EOPNOTSUPP) {
		return fmt.Errorf("nf_tables (CONFIG_NF_TABLES): %w: %w", ErrNotSupported, err)
	}
	return explainPermission(err)
}

// explainPermission names a missing capability.
func explainPermission(err error) error {
	_, explained := errors.AsType[*permissionError](err)
	if errors.Is(err, fs.ErrPermission) && !errors.Is(err, ErrProtected) && !explained {
		return &permissionError{err}
	}
	return err
}

// permissionError says which capability is missing.
type permissionError struct{ error }

func (e *permissionError) Error() string {
	return fmt.Sprintf("%v: CAP_NET_ADMIN is needed in the user namespace that owns the network namespace", e.error)
}

func (e *permissionError) Unwrap() error { return e.error }

// lock waits until no other method is running.
func (e *Engine) lock(ctx context.Context) error {
	select {
	case e.turn <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	if e.kernel == nil {
		e.unlock()
		return ErrClosed
	}
	return nil
}

func (e *Engine) unlock() {
	if e.alerts != e.alerted {
		e.alerted = e.alerts
		for w := range e.watchers {
			w.waker.Wake()
		}
	}
	events := e.events
	e.events = nil
	<-e.turn
	for _, ev := range events {
		e.observe(ev)
	}
}

// Close ends the use of the namespace. Everything stays programmed.
func (e *Engine) Close() error {
	e.turn <- struct{}{}
	defer e.unlock()
	if e.kernel == nil {
		return nil
	}
	e.aside.close()
	err := e.kernel.Close()
	e.kernel, e.state = nil, nil
	e.alerts++ // so that the watchers end
	return err
}

// Sysctls runs a function that reads or writes kernel parameters.
func (e *Engine) Sysctls(ctx context.Context, do func(Sysctls) error) error {
	if err := e.lock(ctx); err != nil {
		return err
	}
	defer e.unlock()
	return do(e.kernel)
}

// Remove deletes our tables. The Engine can be used again afterwards.
func (e *Engine) Remove(ctx context.Context) error {
	if err := e.lock(ctx); err != nil {
		return err
	}
	if e.shared() {
		rest, err := e.removeShared(ctx)
		e.state = nil
		e.loseTrack()
		e.unlock()
		return errors.Join(err, e.followUp(ctx, rest))
	}
	defer e.unlock()
	return e.retry(ctx, func() error {
		tables, err := e.tables(ctx)
		if err == nil {
			err = errors.Join(e.checkChangeable(tables), e.checkConfig(tables))
		}
		if err != nil {
			return err
		}
		e.state = nil
		e.loseTrack()
		err = e.bound(wholeTables, true, func(generation uint32) (uint32, error) {
			return e.kernel.Commit(ctx, generation, ruleset.Diff(tables, &ruleset.Ruleset{}).Now)
		})
		if refused, ok := errors.AsType[*ruleset.RefusedError](err); ok && errors.Is(refused, syscall.ENOENT) {
			return ruleset.ErrStale // another process deleted a table
		}
		return e.refused(err, nil)
	})
}

// tables reads which of our tables exist, without their contents.
func (e *Engine) tables(ctx context.Context) (*ruleset.Ruleset, error) {
	r, err := e.kernel.Tables(ctx, e.cfg.Table)
	if err != nil {
		return nil, err
	}
	return r, checkOwned(r)
}

// checkOwned refuses tables that neither this version nor an older one made.
func checkOwned(r *ruleset.Ruleset) error {
	for _, t := range r.Tables {
		switch {
		case !compile.Owned(t):
			return fmt.Errorf("table %s %s: %w: choose another Config.Table, or delete it", t.Family, t.Name, ErrNotOwned)
		case !compile.Current(t) && !compile.Outdated(t):
			return fmt.Errorf("table %s %s: %w: its comment is %q, this version writes %q: use the version that made it, or delete it",
				t.Family, t.Name, ErrNotOwned, t.Comment, compile.Schema)
		}
	}
	return nil
}

// checkCurrent refuses tables of an older version, whose services cannot be read.
func checkCurrent(r *ruleset.Ruleset) error {
	for _, t := range r.Tables {
		if compile.Outdated(t) {
			return fmt.Errorf("table %s %s: %w: its comment is %q, this version writes %q: Apply all services once, which replaces it",
				t.Family, t.Name, ErrOutdated, t.Comment, compile.Schema)
		}
	}
	return nil
}

// checkChangeable refuses tables that another socket owns: the kernel would
// answer every change of them with EPERM.
func (e *Engine) checkChangeable(r *ruleset.Ruleset) error {
	for _, t := range r.Tables {
		if t.Port != 0 && t.Port != e.kernel.Port() {
			return fmt.Errorf("table %s %s: %w (netlink port %d): close its Dataplane, or end it: %w",
				t.Family, t.Name, ErrProtected, t.Port, syscall.EPERM)
		}
	}
	return nil
}
