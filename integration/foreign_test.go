//go:build linux

package integration

import (
	"errors"
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/nftdp/go-nftdp/internal/nstest"
	"github.com/nftdp/go-nftdp/nftdp"
)

// foreignTables are tables of every family that shares our hooks, with names
// similar to ours.
func foreignTables() []nftTable {
	return []nftTable{
		{unix.NFPROTO_IPV4, "firewall"},
		{unix.NFPROTO_IPV6, "firewall"},
		{unix.NFPROTO_INET, "firewall"},
		{unix.NFPROTO_IPV4, "nftdp2"},
		{unix.NFPROTO_IPV6, "Nftdp"},
		{unix.NFPROTO_INET, "nftdp"},
	}
}

// TestForeignTablesAreLeft: whatever we do, the kernel's dump of others' tables
// stays the same to the byte.
func TestForeignTablesAreLeft(t *testing.T) {
	t.Parallel()
	top := newTopology(t, 1)
	serve(t, top.Backends[0], backendPort, "tcp")
	var before [][]string
	for _, tb := range foreignTables() {
		addForeign(t, top.Node, tb)
		dump := dumpTable(t, top.Node, tb)
		// A table, two chains, two rules, three sets with elements. The kernel may
		// end a list with an empty message.
		if len(dump) < 1+2+2+3*2 {
			t.Fatalf("dump of %s has %d lines:\n%q", tb.name, len(dump), dump)
		}
		before = append(before, dump)
	}
	unchanged := func(after string) {
		t.Helper()
		for i, tb := range foreignTables() {
			if diff := cmp.Diff(before[i], dumpTable(t, top.Node, tb)); diff != "" {
				t.Errorf("table %s of family %d after %s (-before +after):\n%s", tb.name, tb.family, after, diff)
			}
		}
	}
	theirs := tableNames(t, top.Node)

	w := &world{Topology: top}
	w.open(t, nftdp.Config{})
	unchanged("open")
	w.apply(t, restartServices()...)
	unchanged("apply")
	web := restartServices()[0]
	web.Backends = backends(0)
	w.update(t, nftdp.Change{Set: []nftdp.Service{web}, Delete: []string{"dns"}})
	unchanged("update")
	askFor(t, "backend-1", w.Client, "tcp", netip.AddrPortFrom(nstest.IPv4().Node, 30644))
	unchanged("traffic")
	if err := w.dataplane.Remove(t.Context()); err != nil {
		t.Fatal(err)
	}
	unchanged("remove")
	if got := tableNames(t, top.Node); !slices.Equal(got, theirs) {
		t.Errorf("tables after Remove: %v, want %v", got, theirs)
	}
}

// TestNotOwned: tables of our name that we did not make are refused and stay as
// they are, and no other table is added.
func TestNotOwned(t *testing.T) {
	t.Parallel()
	empty := func(t *testing.T, ns *nstest.Namespace, tb nftTable) {
		t.Helper()
		meddle(t, ns, tb.add())
	}
	for _, c := range []struct {
		name   string
		table  string // our configured name
		family byte
		add    func(*testing.T, *nstest.Namespace, nftTable)
	}{
		{"ip", "", unix.NFPROTO_IPV4, addForeign},
		{"ip6", "", unix.NFPROTO_IPV6, addForeign},
		{"empty-ip", "", unix.NFPROTO_IPV4, empty},
		{"empty-ip6", "", unix.NFPROTO_IPV6, empty},
		{"configured", "filter", unix.NFPROTO_IPV4, addForeign},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			ns := newNamespace(t)
			config := nftdp.Config{Table: c.table}
			theirs := nftTable{c.family, c.table}
			if c.table == "" {
				theirs.name = nftdp.DefaultTable
			}
			c.add(t, ns, theirs)
			before, tables := dumpTable(t, ns, theirs), tableNames(t, ns)
			for operation, err := range everyOperation(t, ns, config) {
				if !errors.Is(err, nftdp.ErrNotOwned) {
					t.Errorf("%s: %v, want %v", operation, err, nftdp.ErrNotOwned)
				}
			}
			if diff := cmp.Diff(before, dumpTable(t, ns, theirs)); diff != "" {
				t.Errorf("the table changed (-before +after):\n%s", diff)
			}
			if got := tableNames(t, ns); !slices.Equal(got, tables) {
				t.Errorf("tables are %v, want %v", got, tables)
			}
		})
	}
}

// everyOperation returns the error of each operation of a Dataplane, or that of
// opening it if this fails.
func everyOperation(t *testing.T, ns *nstest.Namespace, config nftdp.Config) map[string]error {
	t.Helper()
	d, err := config.OpenIn(t.Context(), ns.Handle())
	if err != nil {
		return map[string]error{"open": err}
	}
	defer closeOrFail(t, d)
	_, planErr := d.Plan(t.Context(), restartServices())
	_, applyErr := d.Apply(t.Context(), restartServices())
	_, updateErr := d.Update(t.Context(), nftdp.Change{Set: restartServices()})
	return map[string]error{
		"plan": planErr, "apply": applyErr, "update": updateErr, "remove": d.Remove(t.Context()),
	}
}
