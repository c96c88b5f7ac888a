package nftdp

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/vishvananda/netns"

	"github.com/nftdp/go-nftdp/internal/compile"
	"github.com/nftdp/go-nftdp/internal/engine"
	"github.com/nftdp/go-nftdp/internal/ruleset"
)

// Dataplane programs services into one network namespace. It runs nothing in the
// background, and receives events only while Keep or Watch runs. All methods may be
// called concurrently. Those that change something take turns; Inspect, Ruleset, Flows
// and Affinities read beside them.
type Dataplane struct {
	cfg       atomic.Pointer[Config]
	setting   sync.Mutex // held by the SetConfig that works
	observers sync.Map   // of func(Event), by their addresses
	engine    *engine.Engine
}

// Change is a change of a few services. The empty Change changes none, and repairs
// what others have damaged.
type Change struct {
	// Set lists services to add, or to replace those with the same names.
	Set []Service `json:"set,omitempty"`
	// Delete lists names of services to delete. Unknown names are ignored; a
	// name that is in Set as well is refused.
	Delete []string `json:"delete,omitempty"`
}

// Open opens the network namespace of the calling thread for programming. It does
// not change the tables yet; those that a former process left are adopted by the
// first Apply or Update: everything that is right in them stays, with counters and
// connections.
//
// Without CAP_NET_ADMIN in the user namespace that owns the network namespace the
// error matches fs.ErrPermission; on a kernel without nf_tables, ErrNotSupported
// (after 0.6 seconds, in which another process may be loading its module); if a
// table of that name is not ours or of a newer version, ErrNotOwned. A wrong
// configuration is a *FieldError. Tables that another Dataplane protects can be
// opened, to read them.
//
// The kernel needs nf_tables, NAT, conntrack, fib, socket and numgen. If a feature is
// missing, the method that needs it names it in an error that matches
// ErrNotSupported.
func (c Config) Open(ctx context.Context) (*Dataplane, error) { return c.open(ctx, here) }

// OpenIn is Open for the network namespace of a handle, which may be closed
// afterwards. A closed handle, and a descriptor of anything but a network
// namespace, are refused. Entering another namespace than the thread's own takes
// CAP_SYS_ADMIN, as setns(2) does; without it, the error matches fs.ErrPermission.
func (c Config) OpenIn(ctx context.Context, ns netns.NsHandle) (*Dataplane, error) {
	if !ns.IsOpen() {
		return nil, errors.New("open network namespace: the handle is closed: use Open for the namespace of the calling thread")
	}
	return c.open(ctx, int(ns))
}

// here stands for the network namespace of the calling thread.
const here = -1

func (c Config) open(ctx context.Context, ns int) (*Dataplane, error) {
	if err := joinProblems(c.problems()); err != nil {
		return nil, err
	}
	kernel, err := dial(ns, c.table())
	if err != nil {
		return nil, err
	}
	return c.OpenKernel(ctx, kernel)
}

// OpenKernel is Open for a kernel other than the running one, for package
// nftdptest. No package outside of this module can implement such a kernel.
func (c Config) OpenKernel(ctx context.Context, kernel engine.Kernel) (*Dataplane, error) {
	if err := joinProblems(c.problems()); err != nil {
		return nil, errors.Join(err, kernel.Close())
	}
	e, err := engine.Open(ctx, c.lower(), kernel)
	if err != nil {
		return nil, err
	}
	d := &Dataplane{engine: e}
	d.cfg.Store(&c)
	e.Observe(d.reportOf)
	return d, nil
}

// config returns the present configuration.
func (d *Dataplane) config() Config { return *d.cfg.Load() }

// Close ends the use of the namespace and closes the sockets. Everything stays
// programmed, and continues to work without any process. Protected tables (see
// Config.Protect) can be changed by others from then on. Keep, Watch and all later
// calls return ErrClosed. Until Close, or the end of the process, the sockets keep
// the network namespace alive, even if its handle is closed and no process is in
// it.
func (d *Dataplane) Close() error { return d.engine.Close() }

// Plan computes what Apply would change now, and changes nothing. Errors are those
// of Apply except for *ApplyError.
func (d *Dataplane) Plan(ctx context.Context, services []Service) (*Plan, error) {
	edit, err := d.whole(services)
	if err != nil {
		return nil, err
	}
	return planOf(services)(d.engine.Plan(ctx, edit))
}

// Apply makes the kernel hold exactly these services, in one transaction over both
// families, and returns what it changed: nothing if the kernel holds them already.
// Objects that are the same in both states stay, so established connections,
// counters and balancing continue. Tables that an older version of this package has
// left are replaced in one transaction: connections continue, and so do the
// counters of everything that both layouts have.
//
// If the rules of the namespace have changed since the last commit of this
// Dataplane, the tables are read first, which takes longer than writing them.
// Whatever others have put into them is removed then, also clients with affinity
// that no rule can have recorded.
//
// Wrong services return the errors of Validate, and nothing is changed. A change
// that the kernel refuses is an *ApplyError; ErrOtherConfig says that the tables
// have other owners than Config.Owner allows, or another configuration; ErrConflict says that others kept
// changing the rules of the namespace meanwhile, ErrProtected that another
// Dataplane owns the tables. The kernel then holds what it held before.
//
// A transaction is one netlink message. With CAP_NET_ADMIN in the initial user
// namespace only memory bounds its size: 500,000 elements are one message. In other
// user namespaces net.core.wmem_max does. A larger transaction is split: the fixed
// objects first, then the services, each whole in one message, then the objects
// that no service uses any more. If a split Apply fails, some services are as
// before and others as wanted, the returned Plan names everything that was
// committed, and the next Apply continues. A table that is replaced as a whole
// cannot be split. Once a message is sent, the kernel applies it even if the
// context ends.
//
// After the transaction, Apply deletes stale flows: those that the rules would now
// treat otherwise than they are treated, since their backend is removed or down, their
// client may not connect any more, the policy or the source that backends see has
// changed, or since they began before the frontend existed. With its next datagram a
// client that keeps its socket goes where the rules say. TCP connections and SCTP
// associations are deleted only if nobody has answered them or if they have ended,
// unless the service has CutStale. Flows to draining backends, and to backups that are
// in reserve again, stay. So do flows that go to no frontend, those that a process on
// the node has begun, and flows to destinations that the frontend never led to, unless
// the frontend is new. The first change of a Dataplane looks at all flows, with the
// rules that it found as those of before; it does not look for those of services that
// only an older version knew. If an address came to the node or left it since the last
// Apply, flows there are stale, too, if they are not treated as node-wide frontends now
// say. An Update does not look for that, unless it is empty; Keep notices it at once. A
// datagram that passes the node while the transaction takes effect can still begin a
// flow by the former rules.
//
// That takes no time if the change can make nothing stale, or if there are no flows.
// Otherwise Apply waits while the kernel walks its table of connections, which takes
// about ten milliseconds for 262,144 buckets, thirty with 100,000 connections. No other
// method waits for it.
//
// If that fails, the Plan is returned together with the error, since the services
// are programmed, and the next Apply or Update continues. An error that matches
// ErrNotSupported then says that the kernel lacks conntrack over netlink.
func (d *Dataplane) Apply(ctx context.Context, services []Service) (*Plan, error) {
	return d.change("Apply", func() (*Plan, error) {
		edit, err := d.whole(services)
		if err != nil {
			return nil, err
		}
		return planOf(services)(d.engine.Commit(ctx, edit))
	})
}

// Update changes a few services and leaves all others as they are. Its cost follows
// the size of the change, with two exceptions: if a service is added, the kernel
// validates the verdicts of all frontends (5 ms with 50,000 services), and a full
// map is replaced by a larger one, which costs as much as a full load.
//
// Update does not depend on what others change in the namespace, and does not look for
// changes of our tables or of the node's addresses: Apply, the empty Update and Keep do.
// Only if the kernel refuses
// the Update, everything is read, and repaired together with it. Errors are those of
// Apply, and ErrOutdated if this Dataplane has not applied anything yet and the
// tables are of an older version.
func (d *Dataplane) Update(ctx context.Context, c Change) (*Plan, error) {
	return d.change("Update", func() (*Plan, error) { return d.update(ctx, c) })
}

func (d *Dataplane) update(ctx context.Context, c Change) (*Plan, error) {
	set, problems := d.lower(&c)
	if len(problems) > 0 {
		conflicts, err := d.engine.Conflicts(ctx, &engine.Edit{Set: claimed(c.Set), Delete: c.Delete})
		if err != nil {
			return nil, err
		}
		return nil, joinProblems(append(problems, conflictErrors(c.Set, conflicts)...))
	}
	return planOf(c.Set)(d.engine.Commit(ctx, &engine.Edit{Set: set, Delete: c.Delete}))
}

// lowerAll is the function of that name, but services share what is the same with those
// that were last committed.
func (d *Dataplane) lowerAll(services []Service) []*compile.Service {
	out := make([]*compile.Service, len(services))
	for i := range services {
		s := &services[i]
		known, ok := s.after(d.engine.Known(s.Name)).valid()
		if !ok {
			known, _ = s.first().lower()
		}
		out[i] = known
	}
	return out
}

// lower returns the compiler's form of the services of a change, or the problems that it
// has by itself.
func (d *Dataplane) lower(c *Change) ([]*compile.Service, []*FieldError) {
	cfg := d.config()
	if len(c.Set) == 1 {
		s := &c.Set[0]
		if lowered, ok := s.after(d.engine.Known(s.Name)).valid(); ok {
			return []*compile.Service{lowered}, append(cfg.ownerProblems(c.Set), c.problems(cfg)...)
		}
	}
	if problems := append(cfg.problemsOf(c.Set), c.problems(cfg)...); len(problems) > 0 {
		return nil, problems
	}
	return d.lowerAll(c.Set), nil
}

// problems returns the problems of the names in Delete.
func (c *Change) problems(cfg Config) (problems []*FieldError) {
	if len(c.Delete) == 0 {
		return nil
	}
	set := make(map[string]bool, len(c.Set))
	for i := range c.Set {
		set[c.Set[i].Name] = true
	}
	for _, name := range c.Delete {
		if !cfg.owns(name) {
			problems = append(problems, &FieldError{Service: name, Field: "name", Reason: cfg.notOwned(name)})
		}
		if set[name] {
			problems = append(problems, &FieldError{Service: name, Field: "name", Reason: "is in both Set and Delete: choose one"})
		}
	}
	return problems
}

// planOf returns a function that turns changes for services into a Plan.
func planOf(services []Service) func([]ruleset.Change, error) (*Plan, error) {
	return func(changes []ruleset.Change, err error) (*Plan, error) {
		if err != nil {
			err = publicError(err, services)
		}
		if err != nil && len(changes) == 0 {
			return nil, err
		}
		return &Plan{changes}, err
	}
}

// publicError turns the engine's types of errors into public ones.
func publicError(err error, services []Service) error {
	if conflicts, ok := errors.AsType[engine.ConflictError](err); ok {
		return joinProblems(conflictErrors(services, conflicts))
	}
	if big, ok := errors.AsType[*ruleset.TooBigError](err); ok && big.Service != "" {
		return &serviceError{err, &FieldError{Service: big.Service, Reason: fmt.Sprintf(
			"needs a batch of %d bytes, but the socket takes %d: raise net.core.wmem_max", big.Size, big.Limit)}}
	}
	refused, ok := errors.AsType[*engine.RefusedError](err)
	if !ok {
		return err
	}
	out := (*ApplyError)(refused)
	if text := err.Error(); text != out.Error() {
		return &refusal{text, out, err}
	}
	return out
}

// serviceError is an error that one service is to blame for.
type serviceError struct {
	error
	problem *FieldError
}

func (e *serviceError) Unwrap() []error { return []error{e.problem, e.error} }

// refusal is an error that wraps an ApplyError and says more.
type refusal struct {
	text    string
	refused *ApplyError
	all     error
}

func (e *refusal) Error() string { return e.text }

func (e *refusal) Unwrap() []error { return []error{e.refused, e.all} }

// Inspect reads from the kernel what it holds of the services with these names, or of
// all services if there are none, with counters, sorted by name. A name that the kernel
// does not hold is not among them, and neither is a service without frontends, since
// nothing of it is in the kernel. Tables of an older version are not read (ErrOutdated).
//
// While the Dataplane knows that the kernel holds what it has set, which it does while
// Keep runs, and until somebody else changes rules of the namespace, it asks for the
// elements of these services alone: one service takes as long among many as among few,
// and all of them about 2 µs for each of their elements. Services that change meanwhile
// are listed as they were at the beginning, without what is gone. Otherwise, and with an
// Owner, Inspect reads all that the tables hold, of all owners, which takes half a second
// for 10,000 services with 10 backends each. Other methods do not wait for Inspect,
// unless it reads everything while rules change all the time.
func (d *Dataplane) Inspect(ctx context.Context, services ...string) ([]ServiceStatus, error) {
	r, err := d.engine.Held(ctx, services)
	if err != nil {
		return nil, err
	}
	out := (&Ruleset{rules: r}).status()
	if len(services) > 0 {
		out = slices.DeleteFunc(out, func(s ServiceStatus) bool { return !slices.Contains(services, s.Name) })
	}
	return out, nil
}

// Ruleset reads our tables from the kernel, with counters, also those of an older
// version. If there are none, the Ruleset is empty. Other methods wait only if rules
// change all the time.
func (d *Dataplane) Ruleset(ctx context.Context) (*Ruleset, error) {
	r, err := d.engine.Ruleset(ctx, false)
	if err != nil {
		return nil, err
	}
	return &Ruleset{rules: r}, nil
}

// Remove deletes both tables, and with them every service. With Config.Owner it
// deletes the owner's services, and the tables if they hold no other. Established connections
// to services break, as the kernel stops translating them; to keep them, Apply an
// empty list instead. Without tables Remove does nothing. If others own them, it
// fails with ErrProtected or ErrNotOwned. The Dataplane can be used again
// afterwards.
func (d *Dataplane) Remove(ctx context.Context) error {
	_, err := d.change("Remove", func() (*Plan, error) { return nil, publicError(d.engine.Remove(ctx), nil) })
	return err
}
