//go:build linux

package nftdp

import (
	"context"
	"os"
	"testing"

	"github.com/google/go-cmp/cmp"

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
	r, _, err := n.conn.Read(t.Context(), table)
	if err != nil {
		t.Fatal(err)
	}
	return &Ruleset{r}
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
	if _, err := n.conn.Commit(t.Context(), n.generation(t), changes); err != nil {
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
