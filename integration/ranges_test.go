//go:build linux

package integration

import (
	"context"
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/nftdp/go-nftdp/internal/nstest"
	"github.com/nftdp/go-nftdp/nftdp"
)

// Ports of the ranges of rangeService, from the first to the last. A service of
// its own has exactPort.
const (
	rangeFirst = 5000
	rangeInner = 5037
	rangeLast  = 5100
	exactPort  = 5060
)

// newRangeWorld is a world whose pods serve on these ports, and on the one after
// the last.
func newRangeWorld(t *testing.T, pods int) *world {
	t.Helper()
	w := newWorld(t, nftdp.Config{Internal: podNets()}, pods)
	for _, pod := range w.Backends {
		for _, port := range []uint16{rangeFirst, rangeInner, exactPort, rangeLast, rangeLast + 1} {
			serve(t, pod, port, "tcp", "udp", "sctp")
		}
	}
	return w
}

// rangeService has a range on every node address, and on an address of its own.
func rangeService(p protocol, indices ...int) nftdp.Service {
	return nftdp.Service{
		Name: p.name, Protocol: p.proto, Backends: onPort(0, backends(indices...)),
		Frontends: upToPort(rangeLast, append(nodeWide(rangeFirst), on(external, rangeFirst)...)),
	}
}

// TestRangePorts: connections to the first, the last and any other port of a range
// reach the backend on the same port. Those to a port that another service has
// reach that service, and those to the ports next to the range nobody. Backends
// see the same source addresses as with single ports.
func TestRangePorts(t *testing.T) {
	t.Parallel()
	w := newRangeWorld(t, 3)
	var services []nftdp.Service
	for _, p := range protocols() {
		exact := nftdp.Service{
			Name: "exact:" + p.name, Protocol: p.proto, Backends: onPort(exactPort, backends(1)),
			Frontends: append(nodeWide(exactPort), on(external, exactPort)...),
		}
		services = append(services, rangeService(p, 0), exact)
	}
	check := func(t *testing.T, exact string) {
		t.Helper()
		for _, p := range protocols() {
			for _, a := range nstest.Families() {
				for _, addr := range []netip.Addr{a.Node, a.PodGW, a.External} {
					for port, want := range map[uint16]string{
						rangeFirst: backendName(0), rangeInner: backendName(0), rangeLast: backendName(0), exactPort: exact,
					} {
						dst := netip.AddrPortFrom(addr, port)
						outside := askFor(t, want, w.Client, p.name, dst)
						checkSource(t, a, outside.Client.Addr(), a.Client, false)
						inside := askFor(t, want, w.Backends[2], p.name, dst)
						checkSource(t, a, inside.Client.Addr(), a.Backend(2), true)
						askFor(t, want, w.Node, p.name, dst)
						askFor(t, want, w.Backends[0], p.name, dst)
					}
				}
				for _, port := range []uint16{rangeFirst - 1, rangeLast + 1} {
					if p.name != "sctp" { // nobody rejects SCTP without a listener
						wantRefused(t, w.Client, p.name, netip.AddrPortFrom(a.Node, port))
						wantRefused(t, w.Node, p.name, netip.AddrPortFrom(a.Node, port))
					}
				}
			}
		}
	}
	w.apply(t, services...)
	check(t, backendName(1))
	for i := range services { // without the exact services the range has their ports
		if i%2 == 1 {
			w.update(t, nftdp.Change{Delete: []string{services[i].Name}})
		}
	}
	check(t, backendName(0))
}

// TestRangePool: connections to a range, over all its ports, follow the weights and
// every change of the pool.
func TestRangePool(t *testing.T) {
	t.Parallel()
	w := newRangeWorld(t, 3)
	tcp := protocols()[0]
	ports := []uint16{rangeFirst, rangeInner, exactPort, rangeLast}
	spread := func(t *testing.T, a nstest.Addrs, rounds int) map[string]int {
		t.Helper()
		got := map[string]int{}
		for range rounds {
			for _, port := range ports {
				got[ask(t, w.Client, "tcp", netip.AddrPortFrom(a.Node, port)).Server]++
			}
		}
		return got
	}
	inFamilies(t, func(t *testing.T, a nstest.Addrs) {
		web := rangeService(tcp, 0, 1)
		web.Scheduler = nftdp.SchedulerRoundRobin
		setWeight(&web, 0, 3)
		w.apply(t, web)
		if diff := cmp.Diff(map[string]int{backendName(0): 30, backendName(1): 10}, spread(t, a, 10)); diff != "" {
			t.Errorf("round robin with weights of 3 to 1 (-want +got):\n%s", diff)
		}
		for _, pool := range [][]int{{0, 1, 2}, {2}, {1, 2}, {0}, {1, 0}} {
			w.update(t, nftdp.Change{Set: []nftdp.Service{rangeService(tcp, pool...)}})
			var want []string
			for _, i := range pool {
				want = append(want, backendName(i))
			}
			wantOnly(t, spread(t, a, attempts/len(ports)), want...)
		}
		w.update(t, nftdp.Change{Set: []nftdp.Service{rangeService(tcp)}})
		for _, port := range ports {
			wantRefused(t, w.Client, "tcp", netip.AddrPortFrom(a.Node, port))
		}
	})
}

// TestRangeUDPBackendReplaced: a socket that sends to a port of a range reaches the
// new backend with its next datagram when its backend is replaced, and also follows
// when the range appears, ends, or loses the port to another service.
func TestRangeUDPBackendReplaced(t *testing.T) {
	t.Parallel()
	udp := protocols()[1]
	inFamilies(t, func(t *testing.T, a nstest.Addrs) {
		t.Parallel()
		w := newRangeWorld(t, 3)
		serve(t, w.Node, exactPort, "udp")
		exact := dialUDP(t, w.Client, netip.AddrPortFrom(a.Node, exactPort))
		exact.want(t, "node") // without any rule
		w.apply(t, rangeService(udp, 0))
		exact.want(t, backendName(0))
		var clients []*udpClient
		for _, from := range []*nstest.Namespace{w.Client, w.Backends[2]} {
			for _, addr := range []netip.Addr{a.Node, a.PodGW, a.External} {
				for _, port := range []uint16{rangeFirst, rangeInner, rangeLast} {
					clients = append(clients, dialUDP(t, from, netip.AddrPortFrom(addr, port)))
				}
			}
		}
		wantAll(t, append(clients, exact), backendName(0))
		w.update(t, nftdp.Change{Set: []nftdp.Service{rangeService(udp, 1)}})
		wantAll(t, append(clients, exact), backendName(1))

		w.update(t, nftdp.Change{Set: []nftdp.Service{{
			Name: "exact", Protocol: nftdp.ProtocolUDP, Backends: onPort(exactPort, backends(2)), Frontends: nodeWide(exactPort),
		}}})
		exact.want(t, backendName(2))
		wantAll(t, clients, backendName(1))
		w.update(t, nftdp.Change{Delete: []string{"exact"}})
		exact.want(t, backendName(1))

		both := rangeService(udp, 0, 1)
		setState(&both, 1, nftdp.StateDraining)
		w.apply(t, both)
		wantAll(t, clients, backendName(1))
		setState(&both, 1, nftdp.StateDown)
		w.apply(t, both)
		wantAll(t, append(clients, exact), backendName(0))

		shorter := rangeService(udp, 0)
		upToPort(exactPort-1, shorter.Frontends)
		w.apply(t, shorter)
		exact.want(t, "node")
		wantAll(t, clients[:2], backendName(0)) // to the first and the inner port
		w.apply(t, rangeService(udp, 0))
		exact.want(t, backendName(0))
		w.apply(t)
		exact.want(t, "node")
	})
}

// TestRangeFlows: Flows, Drain and Cut see the connections to all ports of a range
// and no others.
func TestRangeFlows(t *testing.T) {
	t.Parallel()
	inFamilies(t, func(t *testing.T, a nstest.Addrs) {
		t.Parallel()
		w := newRangeWorld(t, 3)
		web := rangeService(protocols()[0], 0, 1)
		web.Name = "web"
		other := nftdp.Service{Name: "other", Frontends: nodeWide(exactPort), Backends: onPort(exactPort, backends(0))}
		w.apply(t, web, other)
		var conns []*nstest.Conn
		for _, addr := range []netip.Addr{a.Node, a.External} {
			for _, port := range []uint16{rangeFirst, rangeInner, rangeLast} {
				conns = append(conns, connect(t, attempts/6, w.Client, netip.AddrPortFrom(addr, port))...)
			}
		}
		others := connect(t, 3, w.Client, netip.AddrPortFrom(a.Node, exactPort))
		at := perServer(conns)
		first, second := at[backendName(0)], at[backendName(1)]

		flows, err := w.dataplane.Flows(t.Context(), "web")
		if err != nil || len(flows) != len(conns) {
			t.Errorf("%d flows, %v; want %d", len(flows), err, len(conns))
		}
		for _, f := range flows {
			if f.Backend.Port() != f.Frontend.Port() || f.Frontend.Port() == exactPort {
				t.Errorf("flow %+v does not belong to the range", f)
			}
		}
		setState(&web, 0, nftdp.StateDraining)
		w.update(t, nftdp.Change{Set: []nftdp.Service{web}})
		w.drain(t, expireSoon).want(t, len(first), context.DeadlineExceeded)
		w.drain(t, expireSoon, netip.AddrPortFrom(a.Backend(1), 0)).want(t, len(second), context.DeadlineExceeded)
		wantAlive(t, slices.Concat(conns, others))
		w.cut(t, len(first))
		wantBroken(t, first)
		w.drain(t, drainTimeout).want(t, 0, nil)
		wantAlive(t, slices.Concat(second, others))
	})
}

// TestRangeRestart: a new process finds ranges with their counters as they are, and
// changes them by Update.
func TestRangeRestart(t *testing.T) {
	t.Parallel()
	w := newRangeWorld(t, 2)
	var services []nftdp.Service
	for _, p := range protocols() {
		services = append(services, rangeService(p, 0, 1))
	}
	withMasquerade(nftdp.MasqueradeAlways, services[0].Frontends)
	w.apply(t, services...)
	a := nstest.IPv6()
	dst := netip.AddrPortFrom(a.External, rangeInner)
	conns := connect(t, attempts, w.Client, dst)
	before := w.inspect(t)
	closeOrFail(t, w.dataplane)
	w.open(t, nftdp.Config{Internal: podNets()})
	if plan := w.apply(t, services...); !plan.Empty() {
		t.Errorf("plan after the restart has %d changes, want none:\n%v", plan.Len(), plan)
	}
	if diff := cmp.Diff(before, w.inspect(t), equateAddrs()); diff != "" {
		t.Errorf("services after the restart (-before +after):\n%s", diff)
	}
	frontend := netip.AddrPortFrom(a.External, rangeFirst)
	if got := w.frontend(t, "tcp", frontend).Counter.Connections; got != attempts {
		t.Errorf("counter after the restart is %d, want %d", got, attempts)
	}
	wantAlive(t, conns)

	closeOrFail(t, w.dataplane)
	w.open(t, nftdp.Config{Internal: podNets()})
	w.update(t, nftdp.Change{Set: []nftdp.Service{rangeService(protocols()[0], 1)}})
	wantOnly(t, count(t, attempts, w.Client, "tcp", dst), backendName(1))
	if got := w.frontend(t, "tcp", frontend).Counter.Connections; got != 2*attempts {
		t.Errorf("counter after an update is %d, want %d", got, 2*attempts)
	}
	for _, p := range protocols()[1:] {
		if got := count(t, attempts, w.Client, p.name, dst); len(got) != 2 {
			t.Errorf("%s, which was not updated: %v", p.name, got)
		}
	}
	wantAlive(t, conns)
}
