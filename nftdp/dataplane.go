//go:build linux

package nftdp

import (
	"context"
	"errors"
	"fmt"
	"io/fs"

	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/nftdp/go-nftdp/internal/compile"
	"github.com/nftdp/go-nftdp/internal/kernel"
	"github.com/nftdp/go-nftdp/internal/ruleset"
)

// Dataplane programs services into one network namespace. It starts nothing in
// the background. All methods may be called concurrently; they take turns.
type Dataplane struct {
	cfg  compile.Config
	conn *kernel.Conn
	ears *kernel.Listener
	turn chan struct{} // held by the method that works

	// state is what the kernel is to hold, nil before that is known. While
	// synced is set, the kernel held just that at the generation, but for the
	// drift.
	state      *compile.State
	taken      claims // by the services of state
	synced     bool
	generation uint32
	drift      drift
	busy       bool    // others change rules, of any table: a commit may be overtaken
	touched    touched // whose flows are still to be reconciled
	mindful    bool    // clients of former backends are still to be forgotten

	noticed  int // how often there was reason to look after our tables
	rung     int // noticed, when the bells were last rung
	watchers map[*watcher]bool
}

// Change is a change of a few services.
type Change struct {
	Set    []Service // added, or in place of those with the same names
	Delete []string  // names; unknown ones are ignored, names in Set refused
}

// Open opens the network namespace of the calling thread for programming. The
// tables are not touched yet; those that a former process left are adopted by
// the first Plan, Apply or Update: what is right in them stays, with counters
// and connections.
//
// It fails with an error that matches fs.ErrPermission without CAP_NET_ADMIN
// in the user namespace that owns the network namespace, with ErrNotSupported
// on a kernel without nf_tables (after 0.6 seconds, in which somebody else may
// be loading its module), with ErrNotOwned if a table of that name is not ours,
// and with *FieldError for a wrong configuration. Tables that another Dataplane
// protects can be opened, to read them.
func (c Config) Open(ctx context.Context) (*Dataplane, error) {
	return c.open(ctx, kernel.Here)
}

// OpenIn is Open for the network namespace of a handle, which may be closed
// afterwards. A closed handle, and a descriptor of anything else than a network
// namespace, are refused. CAP_SYS_ADMIN is needed to enter the namespace, also
// if it is the thread's own; without, the error matches fs.ErrPermission.
func (c Config) OpenIn(ctx context.Context, ns netns.NsHandle) (*Dataplane, error) {
	if !ns.IsOpen() {
		return nil, errors.New("open network namespace: the handle is closed: use Open for the namespace of the calling thread")
	}
	return c.open(ctx, int(ns))
}

func (c Config) open(ctx context.Context, ns int) (*Dataplane, error) {
	if err := joinProblems(c.problems()); err != nil {
		return nil, err
	}
	conn, err := kernel.Dial(ns)
	switch {
	case errors.Is(err, fs.ErrPermission):
		return nil, fmt.Errorf("%w: CAP_SYS_ADMIN is needed to enter another network namespace (setns(2))", err)
	case err != nil:
		return nil, explain(err)
	}
	ears, err := kernel.Listen(ns)
	if err != nil {
		return nil, errors.Join(explain(err), conn.Close())
	}
	d := &Dataplane{
		cfg: c.lower(), conn: conn, ears: ears, turn: make(chan struct{}, 1),
		touched: touched{}, watchers: map[*watcher]bool{},
	}
	if err := d.probe(ctx); err != nil {
		return nil, errors.Join(explain(err), conn.Close(), ears.Close())
	}
	return d, nil
}

// probe finds out whether the kernel listens to us and the tables are ours.
func (d *Dataplane) probe(ctx context.Context) error {
	_, _, err := d.tables(ctx)
	return err
}

// explain adds to an error of the kernel what to do about it.
func explain(err error) error {
	if errors.Is(err, unix.EPROTONOSUPPORT) || errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EOPNOTSUPP) {
		return fmt.Errorf("nf_tables (CONFIG_NF_TABLES): %w: %w", ErrNotSupported, err)
	}
	return explainPermission(err)
}

// explainPermission does so for a capability that is not there, or no longer.
func explainPermission(err error) error {
	if errors.Is(err, fs.ErrPermission) && !errors.Is(err, ErrProtected) {
		return fmt.Errorf("%w: CAP_NET_ADMIN is needed in the user namespace that owns the network namespace", err)
	}
	return err
}

// lock waits for the method that is at work.
func (d *Dataplane) lock(ctx context.Context) error {
	select {
	case d.turn <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	if d.conn == nil {
		d.unlock()
		return ErrClosed
	}
	return nil
}

func (d *Dataplane) unlock() {
	if d.noticed != d.rung {
		d.rung = d.noticed
		for w := range d.watchers {
			w.bell.Ring()
		}
	}
	<-d.turn
}

// Plan computes what Apply would change now, and changes nothing.
func (d *Dataplane) Plan(ctx context.Context, services []Service) (*Plan, error) {
	return d.run(ctx, &edit{whole: true, set: services}, (*Dataplane).stage)
}

// Apply makes the kernel hold exactly these services, in one transaction over
// both families, and returns what it changed: nothing if they are there
// already. What is the same in both states is not touched, so established
// connections, counters and balancing go on. Should the transaction not fit
// into the socket's buffer (see Limits in the package documentation), it is
// split, each service in one piece.
//
// Wrong services give the errors of Validate, and nothing is changed. A change
// that the kernel refuses gives *ApplyError; ErrConflict says that others kept
// changing the rules of the namespace meanwhile, ErrProtected that another
// Dataplane owns the tables. The kernel then holds what it held before, or, if
// split, some services anew.
//
// After the transaction the UDP flows that it left without a way are deleted
// (see Flows in the package documentation). If that fails, the Plan is
// returned beside the error, as the services are programmed, and the next
// Apply or Update deletes the flows. An error that matches ErrNotSupported
// then says that the kernel lacks conntrack over netlink.
func (d *Dataplane) Apply(ctx context.Context, services []Service) (*Plan, error) {
	return d.run(ctx, &edit{whole: true, set: services}, (*Dataplane).commit)
}

// Update changes a few services and leaves all others as they are. What it
// costs follows the size of the change, not the number of services, except
// where others have changed our tables, or so much else that the kernel could
// not tell all of it, or where a map is full: then everything is read once.
// Errors are those of Apply, and ErrOutdated if this Dataplane has not applied
// anything yet and the tables are of an older version.
func (d *Dataplane) Update(ctx context.Context, c Change) (*Plan, error) {
	return d.run(ctx, &edit{set: c.Set, remove: c.Delete}, (*Dataplane).commit)
}

func (d *Dataplane) run(ctx context.Context, e *edit, do func(*Dataplane, context.Context, *edit) (*Plan, error)) (*Plan, error) {
	if err := d.lock(ctx); err != nil {
		return nil, err
	}
	defer d.unlock()
	return do(d, ctx, e)
}

// Inspect reads from the kernel which services it holds, with counters. They
// are sorted by name. What an older version left is not read (ErrOutdated).
func (d *Dataplane) Inspect(ctx context.Context) ([]ServiceStatus, error) {
	r, err := d.Ruleset(ctx)
	if err == nil {
		err = checkCurrent(r.rules)
	}
	if err != nil {
		return nil, err
	}
	return r.status(), nil
}

// Ruleset reads our tables from the kernel, with counters. Without tables it
// is empty.
func (d *Dataplane) Ruleset(ctx context.Context) (*Ruleset, error) {
	if err := d.lock(ctx); err != nil {
		return nil, err
	}
	defer d.unlock()
	var r *ruleset.Ruleset
	err := d.retry(ctx, func() (err error) { r, _, err = d.read(ctx); return err })
	if err != nil {
		return nil, err
	}
	return &Ruleset{r}, nil
}

// Remove deletes both tables, and with them every service. Established
// connections to services break, as the kernel stops translating them. The
// Dataplane can be used again afterwards.
func (d *Dataplane) Remove(ctx context.Context) error {
	if err := d.lock(ctx); err != nil {
		return err
	}
	defer d.unlock()
	return d.retry(ctx, func() error {
		tables, generation, err := d.tables(ctx)
		if err == nil {
			err = d.checkChangeable(tables)
		}
		if err != nil {
			return err
		}
		d.state, d.synced = nil, false
		err = d.unheard(func() error {
			_, err := d.conn.Commit(ctx, generation, ruleset.Diff(tables, &ruleset.Ruleset{}))
			return err
		})
		return refused(err, claims{})
	})
}

// tables reads which of our tables there are, without what is in them.
func (d *Dataplane) tables(ctx context.Context) (*ruleset.Ruleset, uint32, error) {
	generation, err := d.conn.Generation(ctx)
	if err != nil {
		return nil, 0, err
	}
	out := &ruleset.Ruleset{}
	for _, f := range ruleset.Families {
		t, err := d.conn.ReadTable(ctx, d.cfg.Table, f)
		if err != nil {
			return nil, 0, err
		}
		if t == nil {
			continue
		}
		if err := checkOwned(t); err != nil {
			return nil, 0, err
		}
		out.Tables = append(out.Tables, t)
	}
	return out, generation, nil
}

// Close ends the use of the namespace. Everything stays programmed; what was
// protected (see Config.Protect) can be changed by others again.
func (d *Dataplane) Close() error {
	d.turn <- struct{}{}
	defer d.unlock()
	if d.conn == nil {
		return nil
	}
	err := errors.Join(d.conn.Close(), d.ears.Close())
	d.conn, d.ears, d.state, d.taken = nil, nil, nil, claims{}
	d.noticed++ // for those who watch
	return err
}
