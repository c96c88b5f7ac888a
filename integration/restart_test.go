//go:build linux

package integration

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/nftdp/go-nftdp/internal/nstest"
	"github.com/nftdp/go-nftdp/nftdp"
)

// TestRestart: rules work while no process runs. A new process finds them, and
// commits nothing for the same services. Counters keep their values, and
// established connections go on.
func TestRestart(t *testing.T) {
	t.Parallel()
	for name, act := range map[string]func(*testing.T, *world, []nftdp.Service) *nftdp.Plan{
		"plan": func(t *testing.T, w *world, services []nftdp.Service) *nftdp.Plan {
			plan, err := w.dataplane.Plan(t.Context(), services)
			if err != nil {
				t.Fatalf("plan: %v", err)
			}
			return plan
		},
		"apply": func(t *testing.T, w *world, services []nftdp.Service) *nftdp.Plan {
			return w.apply(t, services...)
		},
		"update": func(t *testing.T, w *world, services []nftdp.Service) *nftdp.Plan {
			return w.update(t, nftdp.Change{Set: services[:1]})
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			testRestart(t, act)
		})
	}
}

func testRestart(t *testing.T, act func(*testing.T, *world, []nftdp.Service) *nftdp.Plan) {
	t.Helper()
	config := nftdp.Config{Internal: podNets(), NodeAddrs: nodePrefixes()}
	w := newWorld(t, config, 3)
	services := restartServices()
	w.apply(t, services...)
	a := nstest.IPv4()
	dst := netip.AddrPortFrom(a.Node, 30644)
	conns := connect(t, attempts, w.Client, dst)
	before := w.inspect(t)

	closeOrFail(t, w.dataplane)
	wantAlive(t, conns)
	ask(t, w.Client, "udp", netip.AddrPortFrom(nstest.IPv6().ClusterIP, 80))

	w.open(t, config)
	if plan := act(t, w, services); !plan.Empty() || plan.Len() != 0 {
		t.Errorf("plan after the restart has %d changes, want none:\n%v", plan.Len(), plan)
	}
	wantAlive(t, conns)
	after := w.inspect(t)
	if diff := cmp.Diff(before, after, ignoreCounters(), equateAddrs()); diff != "" {
		t.Errorf("services after the restart (-before +after):\n%s", diff)
	}
	if got := w.frontend(t, "web", netip.AddrPortFrom(a.Any().Addr(), 30644)).Counter.Connections; got != attempts {
		t.Errorf("counter after the restart is %d, want %d", got, attempts)
	}
	connect(t, 5, w.Client, dst)
	if got := w.frontend(t, "web", netip.AddrPortFrom(a.Any().Addr(), 30644)).Counter.Connections; got != attempts+5 {
		t.Errorf("counter after more connections is %d, want %d", got, attempts+5)
	}
}

// TestUpdateAfterRestart: the first Update of a new process changes one service and
// leaves the others, of which the process knows only from the kernel.
func TestUpdateAfterRestart(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nftdp.Config{}, 3)
	w.apply(t, restartServices()...)
	closeOrFail(t, w.dataplane)
	w.open(t, nftdp.Config{})

	web := restartServices()[0]
	web.Backends = backends(2)
	w.update(t, nftdp.Change{Set: []nftdp.Service{web}, Delete: []string{"empty"}})
	a := nstest.IPv4()
	wantOnly(t, count(t, attempts, w.Client, "tcp", netip.AddrPortFrom(a.Node, 30644)), "backend-3")
	askFor(t, "backend-2", w.Client, "udp", netip.AddrPortFrom(a.ClusterIP, 80))
	for _, s := range w.inspect(t) {
		if s.Name == "empty" {
			t.Errorf("the deleted service is still there: %+v", s)
		}
	}
}

// restartServices have backends, one backend, and none.
func restartServices() []nftdp.Service {
	return []nftdp.Service{
		{Name: "web", Frontends: append(nodeWide(30644), on(external, 80)...), Backends: backends(0, 1, 2)},
		{Name: "dns", Protocol: nftdp.ProtocolUDP, Frontends: on(clusterIP, 80), Backends: backends(1)},
		{Name: "empty", Protocol: nftdp.ProtocolSCTP, Frontends: append(nodeWide(80), nftdp.Frontend{
			Addr: nstest.IPv4().External, Port: 81, NoBackend: nftdp.ActionDrop,
		})},
	}
}

// nodePrefixes hold the node's main address of each family, and none of its
// others.
func nodePrefixes() []netip.Prefix {
	var all []netip.Prefix
	for _, a := range nstest.Families() {
		all = append(all, netip.PrefixFrom(a.Node, a.Node.BitLen()-8).Masked())
	}
	return all
}

func (w *world) inspect(t *testing.T) []nftdp.ServiceStatus {
	t.Helper()
	services, err := w.dataplane.Inspect(t.Context())
	if err != nil {
		t.Fatalf("inspect: %v", err)
	}
	return services
}

func ignoreCounters() cmp.Option { return cmpopts.IgnoreTypes(nftdp.Counter{}) }

func equateAddrs() cmp.Option {
	return cmp.Options{cmpopts.EquateComparable(netip.Addr{}, netip.AddrPort{})}
}
