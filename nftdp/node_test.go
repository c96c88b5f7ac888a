//go:build linux

package nftdp

import (
	"context"
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

// TestMain lets tests without rights run in a user namespace. Where that is
// forbidden, the tests that need a network namespace say so; the others need
// none.
func TestMain(m *testing.M) {
	_ = nstest.Reexec()
	os.Exit(m.Run())
}

// node is a network namespace with nothing in it.
type node struct {
	*nstest.Namespace
	conn *kernel.Conn // of an onlooker
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

// read reads the tables of a name, whosever they are.
func (n *node) read(t *testing.T, table string) *Ruleset {
	t.Helper()
	r, err := n.conn.Read(t.Context(), table, ruleset.Families[:], everySet)
	if err != nil {
		t.Fatal(err)
	}
	return &Ruleset{r}
}

func everySet(ruleset.Family, string) bool { return true }

// spied opens the namespace with a spy on the way to the kernel.
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

// spy notes what a Dataplane reads, and can pretend a small socket.
type spy struct {
	*host.Host
	limit   int // of bytes in a batch; 0: that of the socket
	around  func(commit func())
	fails   error                          // with which every commit fails
	before  func(changes []ruleset.Change) // each commit
	behind  error                          // with which commits of what goes behind fail
	wakers  atomic.Int32
	busy    sync.Mutex
	read    reading
	batches int // committed
}

// reading is how much of the tables a Dataplane has read.
type reading int

const (
	readNothing reading = iota
	readRules           // all but the elements of services
	readAll
)

func (s *spy) Read(ctx context.Context, table string, families []ruleset.Family, elements func(ruleset.Family, string) bool) (*ruleset.Ruleset, error) {
	s.busy.Lock()
	s.read = max(s.read, readRules)
	if elements(families[0], "frontends") || elements(families[len(families)-1], "frontends") {
		s.read = readAll
	}
	s.busy.Unlock()
	return s.Host.Read(ctx, table, families, elements)
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

func (s *spy) Monitor() engine.Monitor { return spiedMonitor{s.Host.Monitor(), s} }

// spiedMonitor counts those who wait for it.
type spiedMonitor struct {
	engine.Monitor
	*spy
}

func (m spiedMonitor) Waker() (engine.Waker, error) {
	w, err := m.Monitor.Waker()
	if err == nil {
		m.wakers.Add(1)
	}
	return spiedWaker{w, m.spy}, err
}

type spiedWaker struct {
	engine.Waker
	spy *spy
}

func (w spiedWaker) Close() error {
	w.spy.wakers.Add(-1)
	return w.Waker.Close()
}

// watched waits until so many watch a Dataplane.
func (s *spy) watched(t *testing.T, d *Dataplane, by int) {
	t.Helper()
	eventually(t, func() bool { return int(s.wakers.Load()) == by })
	if _, err := d.Ruleset(t.Context()); err != nil { // takes its turn behind them
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

// setAround says what happens around every commit from now on.
func (s *spy) setAround(around func(commit func())) {
	s.busy.Lock()
	s.around = around
	s.busy.Unlock()
}

// hold keeps the next commit, and with it the turn of the method that commits,
// until it is released.
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

// change lets somebody else change rules.
func (n *node) change(t *testing.T, changes ...ruleset.Change) {
	t.Helper()
	if _, err := n.conn.Commit(t.Context(), 0, changes); err != nil {
		t.Fatal(err)
	}
}

// load makes the namespace hold a ruleset, counters included, in the place of
// another one.
func (n *node) load(t *testing.T, from, to *Ruleset) {
	t.Helper()
	n.change(t, from.PlanTo(to).changes...)
}

// nothing is a ruleset without tables.
func nothing() *Ruleset { return &Ruleset{&ruleset.Ruleset{}} }

// disturb lets somebody else add a table and delete it again.
func (n *node) disturb(t *testing.T) {
	t.Helper()
	foreign := ruleset.Change{Verb: ruleset.Add, Family: ruleset.IPv6, Table: "disturbing"}
	n.change(t, foreign)
	foreign.Verb = ruleset.Delete
	n.change(t, foreign)
}

// tamper lets somebody else add a chain to our table and delete it again.
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

// wantServices: the kernel holds these services and nothing else.
func (n *node) wantServices(t *testing.T, c Config, services []Service) {
	t.Helper()
	got := n.read(t, c.table())
	if plan := got.PlanTo(mustCompile(t, c, services)); !plan.Empty() {
		t.Errorf("the kernel holds something else; to be done:\n%v", plan)
	}
}

// wantText: the kernel holds a ruleset, counters and sizes included.
func (n *node) wantText(t *testing.T, table, want string) {
	t.Helper()
	if diff := cmp.Diff(want, n.read(t, table).String()); diff != "" {
		t.Errorf("table %s changed (-want +got):\n%s", table, diff)
	}
}

// looking is a context that does something at each look, as long as look
// returns no error. Whatever is sent to the kernel is preceded by one.
type looking struct {
	context.Context
	looks int
	look  func(n int) error
}

func (l *looking) Err() error {
	l.looks++
	if err := l.look(l.looks); err != nil {
		return err
	}
	return l.Context.Err()
}

// looks is a context that does something at its n-th look.
func looksAt(ctx context.Context, n int, do func()) *looking {
	return &looking{Context: ctx, look: func(at int) error {
		if at == n {
			do()
		}
		return nil
	}}
}

// web is a service with a frontend of each kind and some backends.
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
