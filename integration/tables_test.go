//go:build linux

package integration

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/nftdp/go-nftdp/internal/nstest"
	"github.com/nftdp/go-nftdp/nftdp"
)

// TestTwoTables: Dataplanes with different tables work side by side in one
// namespace. Neither sees nor changes the other's services, and when one is
// removed, the other's services and connections go on.
func TestTwoTables(t *testing.T) {
	t.Parallel()
	red := newWorld(t, nftdp.Config{Table: "red"}, 2)
	blue := &world{Topology: red.Topology}
	blue.open(t, nftdp.Config{Table: "blue", Internal: podNets()})
	red.apply(t, nftdp.Service{Name: "web", Frontends: nodeWide(80), Backends: backends(0)})
	reds := dumpTables(t, red.Node, "red")
	blue.apply(t, nftdp.Service{Name: "web", Frontends: append(nodeWide(81), on(clusterIP, 81)...), Backends: backends(1)})
	if diff := cmp.Diff(reds, dumpTables(t, red.Node, "red")); diff != "" {
		t.Errorf("table red after blue's apply (-before +after):\n%s", diff)
	}
	for _, w := range []*world{red, blue} {
		if services := w.inspect(t); len(services) != 1 || services[0].Name != "web" {
			t.Errorf("inspect: %+v, want one service", services)
		}
	}
	a := nstest.IPv4()
	conns := connect(t, 3, red.Client, netip.AddrPortFrom(a.Node, 81))
	for _, a := range nstest.Families() {
		askFor(t, "backend-1", red.Client, "tcp", netip.AddrPortFrom(a.Node, 80))
		askFor(t, "backend-2", red.Client, "tcp", netip.AddrPortFrom(a.Node, 81))
		// The table that has translated a connection also masquerades it.
		answer := askFor(t, "backend-2", red.Backends[0], "tcp", netip.AddrPortFrom(a.ClusterIP, 81))
		checkSource(t, a, answer.Client.Addr(), a.Backend(0), true)
	}

	if err := red.dataplane.Remove(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got, want := tableNames(t, red.Node), []string{"ip blue", "ip6 blue"}; !slices.Equal(got, want) {
		t.Errorf("tables after red's Remove: %v, want %v", got, want)
	}
	wantRefused(t, red.Client, "tcp", netip.AddrPortFrom(a.Node, 80))
	askFor(t, "backend-2", red.Client, "tcp", netip.AddrPortFrom(a.Node, 81))
	wantAlive(t, conns)
}
