//go:build linux

package nftdp

import (
	"context"
	"errors"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/nftdp/go-nftdp/internal/engine"
	"github.com/nftdp/go-nftdp/internal/host"
	"github.com/nftdp/go-nftdp/internal/kernel"
	"github.com/nftdp/go-nftdp/internal/nstest"
	"github.com/nftdp/go-nftdp/internal/ruleset"
)

// TestMain lets tests without privileges run in a user namespace. If that is
// forbidden, tests that need a network namespace say so; the others do not need
// one.
func TestMain(m *testing.M) {
	_ = nstest.Reexec()
	os.Exit(m.Run())
}

// node is an empty network namespace.
type node struct {
	*nstest.Namespace
	conn *kernel.Conn // of the test itself, as another process would have it
}

func newNode(t *testing.T) *node {
	t.Helper()
	ns, err := nstest.New("node")
	switch {
	case err != nil && os.Getenv("CI") != "":
		t.Fatal("no network namespaces, and CI is set:", err)
	case err != nil:
		t.Skip("needs network namespaces:", err)
	}
	t.Cleanup(func() { closeOf(t, ns) })
	conn, err := kernel.Dial(int(ns.Handle()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closeOf(t, conn) })
	return &node{ns, conn}
}

func closeOf(t *testing.T, c interface{ Close() error }) {
	t.Helper()
	if err := c.Close(); err != nil {
		t.Error(err)
	}
}

func (n *node) open(t *testing.T, c Config) *Dataplane {
	t.Helper()
	d, err := c.OpenIn(t.Context(), n.Handle())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closeOf(t, d) })
	return d
}

// read reads the tables of a name, whoever owns them.
func (n *node) read(t *testing.T, table string) *Ruleset {
	t.Helper()
	r, err := n.conn.Read(t.Context(), table, ruleset.Families[:], everySet)
	for errors.Is(err, ruleset.ErrStale) { // others have changed rules meanwhile
		r, err = n.conn.Read(t.Context(), table, ruleset.Families[:], everySet)
	}
	if err != nil {
		t.Fatal(err)
	}
	return &Ruleset{rules: r}
}

func everySet(ruleset.Family, string) bool { return true }

// spied opens the namespace with a spy between the Dataplane and the kernel.
func (n *node) spied(t *testing.T, c Config) (*Dataplane, *spy) {
	t.Helper()
	h, err := host.Open(int(n.Handle()), c.table(), engine.DecodableSet)
	if err != nil {
		t.Fatal(err)
	}
	s := &spy{Host: h}
	d, err := c.OpenKernel(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closeOf(t, d) })
	return d, s
}

// spy records what a Dataplane reads, and can pretend a small socket.
type spy struct {
	*host.Host
	limit   int // the most bytes in a batch; 0: as many as the socket can send
	around  func(commit func())
	fails   error                          // the error of every commit
	before  func(changes []ruleset.Change) // called before each commit
	behind  error                          // the error of commits that delete late
	wakers  atomic.Int32
	busy    sync.Mutex
	read    reading
	batches int // number of commits
}

// reading says how much of the tables a Dataplane has read.
type reading int

const (
	readNothing reading = iota
	readRules           // everything but the elements of services
	readAll
)

func (s *spy) Read(ctx context.Context, table string, families []ruleset.Family, elements func(ruleset.Family, string) bool) (*ruleset.Ruleset, error) {
	r, err := s.Host.Read(ctx, table, families, elements)
	s.busy.Lock()
	defer s.busy.Unlock()
	s.read = max(s.read, readRules)
	for _, f := range families {
		if err == nil && (r.Table(f) == nil || r.Table(f).Set("frontends") == nil) {
			s.read = readAll // there are no elements of services to read
		}
	}
	return r, err
}

func (s *spy) ReadElements(ctx context.Context, t *ruleset.Table, set *ruleset.Set, keys []ruleset.Tuple) error {
	s.busy.Lock()
	s.read = readAll
	s.busy.Unlock()
	return s.Host.ReadElements(ctx, t, set, keys)
}

func (s *spy) Commit(ctx context.Context, generation uint32, changes []ruleset.Change) (uint32, error) {
	if size, err := s.Size(changes); err != nil || s.limit > 0 && size > s.limit {
		return 0, &ruleset.TooBigError{Size: size, Limit: s.limit, Errno: syscall.EMSGSIZE}
	}
	if s.before != nil {
		s.before(changes)
	}
	if err := s.failure(changes); err != nil {
		return 0, err
	}
	var next uint32
	var err error
	commit := func() { next, err = s.Host.Commit(ctx, generation, changes) }
	s.busy.Lock()
	around := s.around
	s.busy.Unlock()
	if around != nil {
		around(commit)
	} else {
		commit()
	}
	if err == nil {
		s.busy.Lock()
		s.batches++
		s.busy.Unlock()
	}
	return next, err
}

// Waker counts the wakers.
func (s *spy) Waker(addresses bool) (engine.Waker, error) {
	w, err := s.Host.Waker(addresses)
	if err == nil {
		s.wakers.Add(1)
	}
	return spiedWaker{w, s}, err
}

type spiedWaker struct {
	engine.Waker
	spy *spy
}

func (w spiedWaker) Close() error {
	w.spy.wakers.Add(-1)
	return w.Waker.Close()
}

// watched waits until a Dataplane has a number of watchers.
func (s *spy) watched(t *testing.T, d *Dataplane, by int) {
	t.Helper()
	eventually(t, func() bool { return int(s.wakers.Load()) == by })
	if _, err := d.Ruleset(t.Context()); err != nil { // waits until they have finished their start
		t.Fatal(err)
	}
	s.reset()
}

// failBehind makes all commits fail that delete what packets on their way may
// still look up, or lets them succeed again.
func (s *spy) failBehind(err error) {
	s.busy.Lock()
	s.behind = err
	s.busy.Unlock()
}

func (s *spy) failure(changes []ruleset.Change) error {
	s.busy.Lock()
	defer s.busy.Unlock()
	if deletesLate(changes) && s.behind != nil {
		return s.behind
	}
	return s.fails
}

// setAround sets what surrounds every commit from now on.
func (s *spy) setAround(around func(commit func())) {
	s.busy.Lock()
	s.around = around
	s.busy.Unlock()
}

// hold blocks the next commit, and with it all methods of the Dataplane, until
// it is released.
func (s *spy) hold() (held <-chan struct{}, release func()) {
	at, released := make(chan struct{}), make(chan struct{})
	s.setAround(func(commit func()) {
		s.setAround(nil)
		close(at)
		<-released
		commit()
	})
	return at, sync.OnceFunc(func() { close(released) })
}

// reset returns what was read since the last time.
func (s *spy) reset() reading {
	s.busy.Lock()
	defer s.busy.Unlock()
	read := s.read
	s.read = readNothing
	return read
}

func (n *node) generation(t *testing.T) uint32 {
	t.Helper()
	g, err := n.conn.Generation(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return g
}

// change changes rules as another process would.
func (n *node) change(t *testing.T, changes ...ruleset.Change) {
	t.Helper()
	if _, err := n.conn.Commit(t.Context(), 0, changes); err != nil {
		t.Fatal(err)
	}
}

// load replaces a ruleset by another one, including counters.
func (n *node) load(t *testing.T, from, to *Ruleset) {
	t.Helper()
	n.change(t, from.PlanTo(to).changes...)
}

// nothing returns a ruleset without tables.
func nothing() *Ruleset { return &Ruleset{rules: &ruleset.Ruleset{}} }

// disturb adds a table and deletes it again, as another process would.
func (n *node) disturb(t *testing.T) {
	t.Helper()
	foreign := ruleset.Change{Verb: ruleset.Add, Family: ruleset.IPv6, Table: "disturbing"}
	n.change(t, foreign)
	foreign.Verb = ruleset.Delete
	n.change(t, foreign)
}

// tamper adds a chain to our table and deletes it again, as another process
// would.
func (n *node) tamper(t *testing.T) {
	t.Helper()
	c := ruleset.Change{Verb: ruleset.Add, Family: ruleset.IPv6, Table: DefaultTable, Chain: &ruleset.Chain{Name: "tampering"}}
	n.change(t, c)
	c.Verb = ruleset.Delete
	n.change(t, c)
}

func apply(t *testing.T, d *Dataplane, services []Service) *Plan {
	t.Helper()
	plan, err := d.Apply(t.Context(), services)
	if err != nil {
		t.Fatal(err)
	}
	return plan
}

func updateWith(t *testing.T, d *Dataplane, c Change) *Plan {
	t.Helper()
	plan, err := d.Update(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	return plan
}

// wantServices checks that the kernel holds exactly these services.
func (n *node) wantServices(t *testing.T, c Config, services []Service) {
	t.Helper()
	got := n.read(t, c.table())
	if plan := got.PlanTo(mustCompile(t, c, services)); !plan.Empty() {
		t.Errorf("the kernel holds another ruleset, changes are left:\n%v", plan)
	}
}

// wantText checks that the kernel holds a ruleset, including counters and
// sizes.
func (n *node) wantText(t *testing.T, table, want string) {
	t.Helper()
	if diff := cmp.Diff(want, n.read(t, table).String()); diff != "" {
		t.Errorf("table %s changed (-want +got):\n%s", table, diff)
	}
}

// checked is a context that calls check whenever its error is checked, and
// returns the error of check, if any. The context is checked before every
// message to the kernel.
type checked struct {
	context.Context
	checks int
	check  func(n int) error
}

func (c *checked) Err() error {
	c.checks++
	if err := c.check(c.checks); err != nil {
		return err
	}
	return c.Context.Err()
}

// checkedAt returns a context whose n-th check calls a function.
func checkedAt(ctx context.Context, n int, do func()) *checked {
	return &checked{Context: ctx, check: func(at int) error {
		if at == n {
			do()
		}
		return nil
	}}
}

// web returns a service with a frontend of each kind and some backends.
func web(name string, number, backends int) Service {
	s := Service{Name: name, Frontends: []Frontend{
		{Addr: numbered("10.96.0.0", number), Port: 80},
		{Addr: numbered("fd00:96::", number), Port: 80},
		{Port: uint16(30000 + number)},
	}}
	for i := range backends {
		s.Backends = append(s.Backends, numberedBackend("10.180.0.0", 100*number+i), numberedBackend("fd00:180::", 100*number+i))
	}
	return s
}
