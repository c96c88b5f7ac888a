//go:build linux

package integration

import (
	"fmt"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/nftdp/go-nftdp/internal/nstest"
	"github.com/nftdp/go-nftdp/nftdp"
)

// TestIptables: rules of iptables, in its filter and nat tables, and ours work
// side by side, and neither side changes the other's.
func TestIptables(t *testing.T) {
	t.Parallel()
	for _, variant := range iptablesVariants(t) {
		t.Run(variant, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, nftdp.Config{}, 2)
			serve(t, w.Backends[0], 9090, "tcp")
			theirs := iptables{w.Node, variant}
			askDirect := func(want string) {
				t.Helper()
				for _, a := range nstest.Families() {
					if got := attempt(w.Client, "tcp", netip.AddrPortFrom(a.Backend(0), 9090), askTimeout); got != want {
						t.Errorf("to port 9090 of backend-1: %s, want %s", got, want)
					}
				}
			}
			everyone := func() {
				t.Helper()
				askDirect("refused") // by their FORWARD
				for _, a := range nstest.Families() {
					askFor(t, "backend-2", w.Client, "tcp", netip.AddrPortFrom(a.Node, 81)) // by their PREROUTING
					for _, from := range []*nstest.Namespace{w.Client, w.Node, w.Backends[1]} {
						askFor(t, "backend-1", from, "tcp", netip.AddrPortFrom(a.Node, 80))
						askFor(t, "backend-1", from, "tcp", netip.AddrPortFrom(a.ClusterIP, 80))
					}
				}
			}
			askDirect("backend-1")
			theirs.add(t)
			listing := theirs.list(t)
			unchanged := func(after string) {
				t.Helper()
				if diff := cmp.Diff(listing, theirs.list(t)); diff != "" {
					t.Errorf("rules of iptables after %s (-before +after):\n%s", after, diff)
				}
			}
			web := nftdp.Service{Name: "web", Frontends: append(nodeWide(80), on(clusterIP, 80)...), Backends: backends(0)}
			w.apply(t, web)
			unchanged("apply")
			everyone()

			ours := dumpTables(t, w.Node, nftdp.DefaultTable)
			theirs.flush(t)
			theirs.add(t)
			if diff := cmp.Diff(ours, dumpTables(t, w.Node, nftdp.DefaultTable)); diff != "" {
				t.Errorf("our tables after iptables (-before +after):\n%s", diff)
			}
			if plan := w.apply(t, web); !plan.Empty() {
				t.Errorf("the plan after iptables is not empty:\n%v", plan)
			}
			everyone()

			if err := w.dataplane.Remove(t.Context()); err != nil {
				t.Fatal(err)
			}
			unchanged("remove")
			askDirect("refused")
		})
	}
}

// iptablesVariants are "nft" and, if the kernel has its tables, "legacy".
func iptablesVariants(t *testing.T) []string {
	t.Helper()
	for _, family := range []string{"iptables", "ip6tables"} {
		needTool(t, family+"-nft")
	}
	ns := newNamespace(t)
	for _, family := range []string{"iptables", "ip6tables"} {
		if _, err := runTool(t, ns, "", "env", xtablesLock(t), family+"-legacy", "-t", "nat", "-S"); err != nil {
			t.Logf("without legacy tables: %v", err)
			return []string{"nft"}
		}
	}
	return []string{"nft", "legacy"}
}

// iptables runs one variant of iptables and ip6tables.
type iptables struct {
	ns      *nstest.Namespace
	variant string
}

// add rejects packets that are forwarded to TCP port 9090, and leads port 81 of
// the node to backend-2.
func (i iptables) add(t *testing.T) {
	t.Helper()
	for _, a := range nstest.Families() {
		i.run(t, a, "-A FORWARD -p tcp --dport 9090 -j REJECT --reject-with tcp-reset")
		i.run(t, a, fmt.Sprintf("-t nat -A PREROUTING -p tcp -d %v --dport 81 -j DNAT --to-destination %v",
			a.Node, netip.AddrPortFrom(a.Backend(1), backendPort)))
	}
}

func (i iptables) flush(t *testing.T) {
	t.Helper()
	for _, a := range nstest.Families() {
		i.run(t, a, "-F")
		i.run(t, a, "-t nat -F")
	}
}

// list returns all rules, without counters.
func (i iptables) list(t *testing.T) []string {
	t.Helper()
	var all []string
	for _, a := range nstest.Families() {
		all = append(all, i.run(t, a, "-S"), i.run(t, a, "-t nat -S"))
	}
	return all
}

func (i iptables) run(t *testing.T, a nstest.Addrs, args string) string {
	t.Helper()
	name := "iptables-" + i.variant
	if a.Client.Is6() {
		name = "ip6tables-" + i.variant
	}
	return tool(t, i.ns, "env", append([]string{xtablesLock(t), name}, strings.Fields(args)...)...)
}

// xtablesLock sets the file that iptables-legacy locks, which by default is in
// /run, where only root may write.
func xtablesLock(t *testing.T) string {
	t.Helper()
	return "XTABLES_LOCKFILE=" + filepath.Join(t.TempDir(), "lock")
}
