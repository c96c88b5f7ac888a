package nftdptest_test

import (
	"os"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/nftdp/go-nftdp/internal/kernel"
	"github.com/nftdp/go-nftdp/internal/nstest"
	"github.com/nftdp/go-nftdp/internal/ruleset"
	"github.com/nftdp/go-nftdp/nftdp"
)

// TestMain lets tests without rights run in a user namespace. Only
// TestStoriesInKernel needs that.
func TestMain(m *testing.M) {
	_ = nstest.Reexec()
	os.Exit(m.Run())
}

// TestStoriesInKernel tells every story to a node in memory and to the running
// kernel: both have to plan and hold the same.
func TestStoriesInKernel(t *testing.T) {
	for _, s := range stories(t) {
		t.Run(s.name, func(t *testing.T) {
			t.Parallel() // the kernel waits most of the time
			ns, conn := namespace(t)
			want := s.tell(t,
				func(c nftdp.Config) (*nftdp.Dataplane, error) { return c.OpenIn(t.Context(), ns.Handle()) },
				func() { flush(t, conn, s.nextConf) })
			n := newNode()
			got := s.tell(t, func(c nftdp.Config) (*nftdp.Dataplane, error) { return n.Open(t.Context(), c) }, n.FlushRuleset)
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("-kernel +node:\n%s", diff)
			}
		})
	}
}

// namespace makes one, and a connection of somebody else to it.
func namespace(t *testing.T) (*nstest.Namespace, *kernel.Conn) {
	t.Helper()
	ns, err := nstest.New("node")
	switch {
	case err != nil && os.Getenv("CI") != "":
		t.Fatal("no network namespaces, and CI is set:", err)
	case err != nil:
		t.Skip("needs network namespaces:", err)
	}
	t.Cleanup(func() { _ = ns.Close() })
	conn, err := kernel.Dial(int(ns.Handle()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return ns, conn
}

// flush deletes the tables, as `nft flush ruleset` does, except protected ones.
func flush(t *testing.T, conn *kernel.Conn, c nftdp.Config) {
	t.Helper()
	if c.Protect {
		return
	}
	table := c.Table
	if table == "" {
		table = nftdp.DefaultTable
	}
	held, err := conn.Tables(t.Context(), table)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Commit(t.Context(), 0, ruleset.Diff(held, &ruleset.Ruleset{}).Now); err != nil {
		t.Fatal(err)
	}
}
