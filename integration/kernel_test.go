//go:build linux

package integration

import (
	"context"
	"testing"

	"github.com/nftdp/go-nftdp/internal/conntrack"
	"github.com/nftdp/go-nftdp/internal/kernel"
	"github.com/nftdp/go-nftdp/internal/nstest"
	"github.com/nftdp/go-nftdp/internal/ruleset"
	"github.com/nftdp/go-nftdp/nftdp"
)

// What the tests do through our own netlink code is in this file.

// dialKernel opens a connection that the caller closes.
func dialKernel(tb testing.TB, ns *nstest.Namespace) *kernel.Conn {
	tb.Helper()
	conn, err := kernel.Dial(int(ns.Handle()))
	if err != nil {
		tb.Fatal(err)
	}
	return conn
}

// generation is the present one of the namespace's rules.
func generation(tb testing.TB, conn *kernel.Conn) uint32 {
	tb.Helper()
	n, err := conn.Generation(tb.Context())
	if err != nil {
		tb.Fatal(err)
	}
	return n
}

// commit changes rules past the library's state.
func commit(tb testing.TB, conn *kernel.Conn, changes []ruleset.Change) {
	tb.Helper()
	if _, err := conn.Commit(tb.Context(), 0, changes); err != nil {
		tb.Fatal(err)
	}
}

// readRules reads our tables.
func readRules(tb testing.TB, conn *kernel.Conn) *ruleset.Ruleset {
	tb.Helper()
	all := func(ruleset.Family, string) bool { return true }
	rules, err := conn.Read(tb.Context(), nftdp.DefaultTable, ruleset.Families[:], all)
	if err != nil {
		tb.Fatal(err)
	}
	return rules
}

// listFlows lists the flows of conntrack that pass the filter.
func listFlows(ctx context.Context, ns *nstest.Namespace, f conntrack.Filter) ([]conntrack.Flow, error) {
	conn, err := conntrack.Dial(int(ns.Handle()))
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	return conn.List(ctx, f, func(*conntrack.Flow) bool { return true })
}

// deleteFlow reports whether the flow was still there.
func deleteFlow(t *testing.T, ns *nstest.Namespace, f *conntrack.Flow) bool {
	t.Helper()
	conn, err := conntrack.Dial(int(ns.Handle()))
	if err != nil {
		t.Fatal(err)
	}
	defer closeOrFail(t, conn)
	n, err := conn.Delete(t.Context(), []conntrack.Flow{*f})
	if err != nil {
		t.Fatalf("delete %v: %v", f, err)
	}
	return n == 1
}
