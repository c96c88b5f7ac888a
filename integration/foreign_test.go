//go:build linux

package integration

import (
	"errors"
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/nftables"

	"github.com/nftdp/go-nftdp/internal/nstest"
	"github.com/nftdp/go-nftdp/nftdp"
)

type foreignTable struct {
	family nftables.TableFamily
	name   string
}

// foreignTables have every family that shares our hooks, and names near ours.
func foreignTables() []foreignTable {
	return []foreignTable{
		{nftables.TableFamilyIPv4, "firewall"},
		{nftables.TableFamilyIPv6, "firewall"},
		{nftables.TableFamilyINet, "firewall"},
		{nftables.TableFamilyIPv4, "nftdp2"},
		{nftables.TableFamilyIPv6, "Nftdp"},
		{nftables.TableFamilyINet, "nftdp"},
	}
}

// TestForeignTablesAreLeft: whatever we do, the tables of others stay as they
// are, to the byte of what the kernel tells about them.
func TestForeignTablesAreLeft(t *testing.T) {
	t.Parallel()
	top, err := nstest.NewTopology(1)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closeOrFail(t, top) })
	serve(t, top.Backends[0], backendPort, "tcp")
	var before [][]string
	for _, f := range foreignTables() {
		addForeign(t, top.Node, f.family, f.name)
		dump := dumpTable(t, top.Node, f.family, f.name)
		// A table, two chains, two rules, three sets with elements; where a
		// list ends the kernel may add an empty message.
		if len(dump) < 1+2+2+3*2 {
			t.Fatalf("dump of %s has %d lines:\n%q", f.name, len(dump), dump)
		}
		before = append(before, dump)
	}
	unchanged := func(after string) {
		t.Helper()
		for i, f := range foreignTables() {
			if diff := cmp.Diff(before[i], dumpTable(t, top.Node, f.family, f.name)); diff != "" {
				t.Errorf("table %s of family %d after %s (-before +after):\n%s", f.name, f.family, after, diff)
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

// TestNotOwned: tables of our name that we did not make are refused and left
// as they are, and nothing is made beside them.
func TestNotOwned(t *testing.T) {
	t.Parallel()
	empty := func(t *testing.T, ns *nstest.Namespace, family nftables.TableFamily, name string) {
		t.Helper()
		conn := connectNftables(t, ns)
		conn.AddTable(&nftables.Table{Family: family, Name: name})
		if err := conn.Flush(); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		name   string
		table  string // our configured name
		family nftables.TableFamily
		add    func(*testing.T, *nstest.Namespace, nftables.TableFamily, string)
	}{
		{"ip", "", nftables.TableFamilyIPv4, addForeign},
		{"ip6", "", nftables.TableFamilyIPv6, addForeign},
		{"empty-ip", "", nftables.TableFamilyIPv4, empty},
		{"empty-ip6", "", nftables.TableFamilyIPv6, empty},
		{"configured", "filter", nftables.TableFamilyIPv4, addForeign},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			ns, err := nstest.New("node")
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { closeOrFail(t, ns) })
			config := nftdp.Config{Table: c.table}
			name := c.table
			if name == "" {
				name = nftdp.DefaultTable
			}
			c.add(t, ns, c.family, name)
			before, tables := dumpTable(t, ns, c.family, name), tableNames(t, ns)
			for operation, err := range everyOperation(t, ns, config) {
				if !errors.Is(err, nftdp.ErrNotOwned) {
					t.Errorf("%s: %v, want %v", operation, err, nftdp.ErrNotOwned)
				}
			}
			if diff := cmp.Diff(before, dumpTable(t, ns, c.family, name)); diff != "" {
				t.Errorf("the table changed (-before +after):\n%s", diff)
			}
			if got := tableNames(t, ns); !slices.Equal(got, tables) {
				t.Errorf("tables are %v, want %v", got, tables)
			}
		})
	}
}

// everyOperation gives the error of everything that a Dataplane can do, or of
// opening it if that fails already.
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
