//go:build linux

package integration

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"

	"github.com/nftdp/go-nftdp/internal/nstest"
	"github.com/nftdp/go-nftdp/nftdp"
)

// Frontends of portHashServices on clusterIP.
const (
	plainPort    = 80
	weightedPort = 81
	limitedPort  = 82
	policyPort   = 83
)

// TestSourcePortHash: the connections of one client spread over all backends that
// it may reach, and each of its ports meets the same one again: when conntrack has
// forgotten the connection, which then goes on unless it is masqueraded, when another
// process has taken over, and on another node. That holds together with weights,
// limits, policies and ranges of ports.
func TestSourcePortHash(t *testing.T) {
	t.Parallel()
	inFamilies(t, func(t *testing.T, a nstest.Addrs) {
		t.Parallel()
		w, other := newRangeWorld(t, 3), newRangeWorld(t, 3)
		services := portHashServices()
		w.apply(t, services...)
		for i := range services {
			slices.Reverse(services[i].Backends)
		}
		other.apply(t, services...)
		before := map[wayIn]map[uint16]string{}
		for _, in := range waysIn(a) {
			before[in] = w.byPort(t, in)
			wantOnly(t, tallyPorts(before[in]), in.servers()...)
		}
		w.wantByPort(t, "again", before)
		other.wantByPort(t, "on another node", before)

		// A masqueraded connection would get another source port.
		conns := slices.DeleteFunc(connect(t, 10, w.Backends[2], netip.AddrPortFrom(a.ClusterIP, plainPort)),
			func(c *nstest.Conn) bool { return c.Answer.Server == backendName(2) })
		w.forgetFlows(t)
		wantAlive(t, conns)
		closeOrFail(t, w.dataplane)
		w.open(t, nftdp.Config{Internal: podNets()})
		if plan := w.apply(t, services...); !plan.Empty() {
			t.Errorf("another process changes something:\n%v", plan)
		}
		wantAlive(t, conns)
		w.wantByPort(t, "under another process", before)
	})
}

// TestSourcePortHashPool: when a backend comes or goes, connections stay where
// they are, and new ones spread over those that are there. When the pool is what
// it was, so is everything.
func TestSourcePortHashPool(t *testing.T) {
	t.Parallel()
	inFamilies(t, func(t *testing.T, a nstest.Addrs) {
		t.Parallel()
		w := newRangeWorld(t, 3)
		service := func(indices ...int) nftdp.Service {
			return nftdp.Service{
				Name: "web", Scheduler: nftdp.SchedulerSourcePortHash, Frontends: on(clusterIP, plainPort), Backends: backends(indices...),
			}
		}
		in := wayIn{"tcp", a.Client, netip.AddrPortFrom(a.ClusterIP, plainPort), 3}
		w.apply(t, service(0, 1, 2))
		before := w.byPort(t, in)
		conns := connect(t, attempts, w.Client, in.dst)
		wantOnly(t, answerers(conns), backendNames(3)...)
		for _, indices := range [][]int{{1, 2}, {2}, {0}, {0, 1}} {
			w.update(t, nftdp.Change{Set: []nftdp.Service{service(indices...)}})
			wantAlive(t, conns)
			var want []string
			for _, i := range indices {
				want = append(want, backendName(i))
			}
			wantOnly(t, tallyPorts(w.byPort(t, in)), want...)
		}
		w.update(t, nftdp.Change{Set: []nftdp.Service{service(2, 0, 1)}})
		wantAlive(t, conns)
		w.wantByPort(t, "with the same backends", map[wayIn]map[uint16]string{in: before})
	})
}

// portHashServices have three backends each, two of them on the node.
func portHashServices() []nftdp.Service {
	var all []nftdp.Service
	for _, p := range protocols() {
		add := func(name string, s nftdp.Service) {
			s.Name, s.Protocol, s.Scheduler = name+":"+p.name, p.proto, nftdp.SchedulerSourcePortHash
			all = append(all, s)
		}
		weighted := nftdp.Service{Frontends: on(clusterIP, weightedPort), Backends: backends(0, 1, 2)}
		setWeight(&weighted, 1, 3)
		policies := nftdp.Service{
			Backends:  append(localBackends(0, 1), backends(2)...),
			Frontends: withPolicy(nftdp.PolicyExternalLocalOnly, on(clusterIP, policyPort)),
		}
		add("plain", nftdp.Service{Frontends: append(nodeWide(plainPort), on(clusterIP, plainPort)...), Backends: backends(0, 1, 2)})
		add("weighted", weighted)
		add("limited", nftdp.Service{Frontends: on(clusterIP, limitedPort), Backends: limited(1000, backends(0, 1, 2))})
		add("policies", policies)
		add("range", rangeService(p, 0, 1, 2))
	}
	return all
}

// wayIn is how a client connects.
type wayIn struct {
	protocol string
	src      netip.Addr
	dst      netip.AddrPort
	reaches  int // so many backends, the first ones
}

func (in wayIn) servers() []string { return backendNames(in.reaches) }

// waysIn lead to each frontend of portHashServices, from outside, from a pod and
// from the node. Clients outside reach the backends on the node alone where the
// policy says so.
func waysIn(a nstest.Addrs) (all []wayIn) {
	for _, p := range protocols() {
		for _, src := range []netip.Addr{a.Client, a.Backend(2), a.Uplink} {
			for _, dst := range []netip.AddrPort{
				netip.AddrPortFrom(a.Node, plainPort), netip.AddrPortFrom(a.ClusterIP, plainPort),
				netip.AddrPortFrom(a.ClusterIP, weightedPort), netip.AddrPortFrom(a.ClusterIP, limitedPort),
				netip.AddrPortFrom(a.ClusterIP, policyPort),
				netip.AddrPortFrom(a.Node, rangeInner), netip.AddrPortFrom(a.External, rangeLast),
			} {
				in := wayIn{p.name, src, dst, 3}
				if src == a.Client && dst.Port() == policyPort {
					in.reaches = 2
				}
				all = append(all, in)
			}
		}
	}
	return all
}

// forgetFlows empties the node's conntrack table.
func (w *world) forgetFlows(t *testing.T) {
	t.Helper()
	if err := w.Node.Links().ConntrackTableFlush(netlink.ConntrackTable); err != nil {
		t.Fatal(err)
	}
}

// byPort makes connections from twenty ports and says where each of them landed.
func (w *world) byPort(t *testing.T, in wayIn) map[uint16]string {
	t.Helper()
	out := map[uint16]string{}
	for port := uint16(20000); port < 20020; port++ {
		answer, err := w.connectFrom(in, port)
		if err != nil {
			t.Fatalf("%s from %v, port %d, to %v: %v", in.protocol, in.src, port, in.dst, err)
		}
		out[port] = answer.Server
	}
	return out
}

// connectFrom leaves the port free for the next connection.
func (w *world) connectFrom(in wayIn, port uint16) (nstest.Answer, error) {
	from, src := w.namespaceOf(in.src), netip.AddrPortFrom(in.src, port)
	if in.protocol != "tcp" {
		return nstest.DialFrom(from, in.protocol, src, in.dst, askTimeout)
	}
	c, err := nstest.DialTCPFrom(from, src, in.dst, askTimeout)
	if err != nil {
		return nstest.Answer{}, err
	}
	return c.Answer, c.Reset()
}

// namespaceOf has the address, which is one of those in waysIn.
func (w *world) namespaceOf(addr netip.Addr) *nstest.Namespace {
	for _, a := range nstest.Families() {
		switch addr {
		case a.Client:
			return w.Client
		case a.Uplink:
			return w.Node
		}
	}
	return w.Backends[2]
}

// wantByPort fails unless every port meets the backend that it has met before.
func (w *world) wantByPort(t *testing.T, when string, before map[wayIn]map[uint16]string) {
	t.Helper()
	w.forgetFlows(t)
	for in, want := range before {
		if diff := cmp.Diff(want, w.byPort(t, in)); diff != "" {
			t.Errorf("%s from %v to %v, %s (-before +after):\n%s", in.protocol, in.src, in.dst, when, diff)
		}
	}
}

func tallyPorts(byPort map[uint16]string) map[string]int {
	out := map[string]int{}
	for _, server := range byPort {
		out[server]++
	}
	return out
}
