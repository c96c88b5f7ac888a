//go:build linux

package integration

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/nftables/expr"

	"github.com/nftdp/go-nftdp/internal/nstest"
	"github.com/nftdp/go-nftdp/internal/ruleset"
	"github.com/nftdp/go-nftdp/nftdp"
)

// drifts are what other programs can do to our tables: by messages of their own,
// or by stock nft, which runs a script.
func drifts() []struct {
	name   string
	script string
	do     func(*testing.T, *nstest.Namespace)
} {
	reload := "flush ruleset\ntable inet firewalld {\n" +
		"set ports { type inet_service; elements = { 22, 80, 443 } }\n" +
		"chain prerouting { type nat hook prerouting priority -90; }\n" +
		"chain input { type filter hook input priority 10; tcp dport @ports accept; }\n}\n"
	return []struct {
		name   string
		script string
		do     func(*testing.T, *nstest.Namespace)
	}{
		{name: "an element deleted", do: deleteFrontends},
		{name: "a chain flushed", do: inOurTables(func(_ *testing.T, tb nftTable) edit { return tb.flushChain("services") })},
		{name: "a rule inserted", do: inOurTables(func(t *testing.T, tb nftTable) edit {
			return tb.insertRule(t, "services", &expr.Verdict{Kind: expr.VerdictDrop})
		})},
		{name: "the tables deleted", do: inOurTables(func(_ *testing.T, tb nftTable) edit { return tb.delete() })},
		{name: "everything deleted", do: func(t *testing.T, ns *nstest.Namespace) { meddle(t, ns, flushRuleset()) }},
		{name: "nft deletes elements", script: "flush map ip nftdp backends\nflush map ip6 nftdp backends\n" +
			"flush map ip nftdp node_backends\nflush map ip6 nftdp node_backends\n"},
		{name: "nft inserts rules", script: "insert rule ip nftdp prerouting drop\ninsert rule ip6 nftdp prerouting drop\n"},
		{name: "nft makes tables dormant", script: "add table ip nftdp { flags dormant; }\nadd table ip6 nftdp { flags dormant; }\n"},
		{name: "nft flushes tables", script: "flush table ip nftdp\nflush table ip6 nftdp\n"},
		{name: "a firewall reloads", script: reload},
	}
}

// inOurTables makes an edit in the tables of both families.
func inOurTables(change func(*testing.T, nftTable) edit) func(*testing.T, *nstest.Namespace) {
	return func(t *testing.T, ns *nstest.Namespace) {
		t.Helper()
		var edits []edit
		for _, tb := range bothTables(nftdp.DefaultTable) {
			edits = append(edits, change(t, tb))
		}
		meddle(t, ns, edits...)
	}
}

// deleteFrontends deletes one frontend of each family.
func deleteFrontends(t *testing.T, ns *nstest.Namespace) {
	t.Helper()
	conn := dialKernel(t, ns)
	defer closeOrFail(t, conn)
	var changes []ruleset.Change
	for _, table := range readRules(t, conn).Tables {
		s := table.Set("node_frontends")
		changes = append(changes, ruleset.Change{
			Verb: ruleset.Delete, Family: table.Family, Table: table.Name, Set: s, Elements: s.Elements[:1],
		})
	}
	commit(t, conn, changes)
}

// TestKeepUnderLiveConnections: whatever others do, services work again as soon
// as Keep reports the repair. Established connections go on, and a UDP client
// that has sent a datagram meanwhile reaches a backend with its next one.
func TestKeepUnderLiveConnections(t *testing.T) {
	t.Parallel()
	for _, drift := range drifts() {
		t.Run(drift.name, func(t *testing.T) {
			t.Parallel()
			if drift.script != "" {
				needTool(t, "nft")
			}
			w := newWorld(t, nftdp.Config{}, 2)
			frontends := append(nodeWide(80), on(clusterIP, 80)...)
			w.apply(t,
				nftdp.Service{Name: "web", Frontends: frontends, Backends: backends(0, 1)},
				nftdp.Service{Name: "dns", Protocol: nftdp.ProtocolUDP, Frontends: frontends, Backends: backends(0)})
			var conns []*nstest.Conn
			for _, a := range nstest.Families() {
				conns = append(conns, connect(t, 4, w.Client, netip.AddrPortFrom(a.Node, 80))...)
			}
			disturb := func() {
				if drift.do != nil {
					drift.do(t, w.Node)
				} else {
					nftLoad(t, w.Node, drift.script)
				}
			}
			disturb()
			var asked []*udpClient
			for _, a := range nstest.Families() {
				c := dialUDP(t, w.Client, netip.AddrPortFrom(a.Node, 80))
				c.try(t, silence/3)
				asked = append(asked, c)
			}
			repaired, stop := keep(t, w.dataplane)
			defer stop()
			wantRepair(t, repaired)
			check := func() {
				t.Helper()
				wantAlive(t, conns)
				for _, a := range nstest.Families() {
					for _, addr := range []netip.Addr{a.Node, a.ClusterIP} {
						for range 4 {
							ask(t, w.Client, "tcp", netip.AddrPortFrom(addr, 80))
						}
						askFor(t, "backend-1", w.Client, "udp", netip.AddrPortFrom(addr, 80))
					}
				}
			}
			check()
			wantAll(t, asked, "backend-1")
			disturb() // this time while Keep runs
			wantRepair(t, repaired)
			check()
		})
	}
}

func wantRepair(t *testing.T, repaired <-chan error) {
	t.Helper()
	select {
	case err := <-repaired:
		if err != nil {
			t.Fatal(err)
		}
	case <-time.After(20 * time.Second):
		t.Fatal("not repaired in 20 seconds")
	}
}

// TestFailedConnectionsOfDrift deletes all rules under load, again and again, and
// logs how connections ended. Some fail: while a namespace has no nat chain at
// all, the kernel translates no packet, not even of established connections.
// Those after the repair must succeed.
func TestFailedConnectionsOfDrift(t *testing.T) {
	for _, services := range []int{100, 10_000} {
		t.Run(fmt.Sprint(services, " services"), func(t *testing.T) { failedConnectionsOfDrift(t, services) })
	}
}

func failedConnectionsOfDrift(t *testing.T, services int) {
	t.Helper()
	w := newWorld(t, nftdp.Config{}, 3)
	w.apply(t, append(manyServices(services),
		nftdp.Service{Name: "web", Frontends: nodeWide(80), Backends: backends(0, 1, 2)})...)
	dst := netip.AddrPortFrom(nstest.IPv4().Node, 80)
	other := dialOther(t, w.Node)
	for range 3 {
		repaired, stop := keep(t, w.dataplane)
		outcomes, end := w.connectAllTheTime(t, dst)
		ask(t, w.Client, "tcp", dst)
		begin := time.Now()
		if err := other.commit(flushRuleset()); err != nil {
			t.Fatal(err)
		}
		wantRepair(t, repaired)
		took := time.Since(begin)
		ask(t, w.Client, "tcp", dst)
		end()
		stop()
		t.Logf("repaired in %v; connections: %v", took, outcomes)
	}
}

// connectAllTheTime makes one connection after the other until end is called, and
// counts their outcomes.
func (w *world) connectAllTheTime(t *testing.T, dst netip.AddrPort) (outcomes map[string]int, end func()) {
	t.Helper()
	outcomes = map[string]int{}
	ctx, cancel := context.WithCancel(t.Context())
	var client sync.WaitGroup
	client.Go(func() {
		for ctx.Err() == nil {
			if got := attempt(w.Client, "tcp", dst, silence); slices.Contains(backendNames(3), got) {
				outcomes["answered"]++
			} else if got == "refused" {
				outcomes[got]++
			} else {
				outcomes["broken"]++
			}
		}
	})
	return outcomes, func() {
		cancel()
		client.Wait()
	}
}

// TestKeepLeavesOthers: Keep leaves the tables that a firewall has loaded in place
// of ours.
func TestKeepLeavesOthers(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nftdp.Config{}, 1)
	w.apply(t, nftdp.Service{Name: "web", Frontends: nodeWide(80), Backends: backends(0)})
	repaired, stop := keep(t, w.dataplane)
	defer stop()
	meddle(t, w.Node, flushRuleset())
	for _, tb := range foreignTables() {
		addForeign(t, w.Node, tb)
	}
	wantRepair(t, repaired)
	names := tableNames(t, w.Node)
	if len(names) != len(foreignTables())+2 {
		t.Errorf("tables: %v", names)
	}
	if _, err := w.dataplane.Apply(t.Context(), nil); err != nil && !errors.Is(err, nftdp.ErrConflict) {
		t.Error(err)
	}
}
