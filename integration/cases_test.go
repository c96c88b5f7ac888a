//go:build linux

package integration

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/nftdp/go-nftdp/internal/nstest"
	"github.com/nftdp/go-nftdp/nftdp"
)

// packetCase is what must happen to certain packets. What packets alone do not
// tell is in tests of its own, which bring their own worlds.
type packetCase struct {
	number   int
	name     string
	config   nftdp.Config
	services []nftdp.Service
	setup    func(*testing.T, *caseWorld) // before the services are there
	packets  []packet                     // in both families
	check    func(*testing.T, *caseWorld) // after the packets
	tests    map[string]func(*testing.T)
}

// packet is the first one of a connection.
type packet struct {
	from     place
	protocol string // empty is "tcp"
	to       func(nstest.Addrs) netip.Addr
	port     uint16
	want     string // the server, "L1 or R1", or what attempt says: "refused"
	source   place  // whose address the server sees; empty is not looked at
}

// cases are the packet cases, by their numbers.
func cases() []packetCase {
	pods := nftdp.Config{Internal: podNets()}
	vip := []nftdp.Service{{Name: "vip", Frontends: on(clusterIP, 80), Backends: to("L1")}}
	vipBoth := []nftdp.Service{{Name: "vip", Frontends: on(clusterIP, 80), Backends: to("L1", "R1")}}
	nodePort := []nftdp.Service{{Name: "node", Frontends: nodeWide(30644), Backends: to("L1", "R1")}}
	allowed := []nftdp.Service{{
		Name:      "allowed",
		Frontends: slices.Concat(withAllow(nearClient(), on(external, 80)), on(clusterIP, 80), nodeWide(30644)),
		Backends:  to("L1"),
	}}
	return []packetCase{
		{
			number: 1, name: "a pod to a VIP", config: pods, services: vipBoth,
			packets: []packet{{from: "L2", to: clusterIP, port: 80, want: "L1 or R1", source: "L2"}},
		},
		{
			number: 2, name: "backends on another port", config: pods,
			services: []nftdp.Service{{Name: "vip", Frontends: on(clusterIP, 443), Backends: onPort(8443, to("L1", "R1"))}},
			setup: func(t *testing.T, w *caseWorld) {
				w.serveAs(t, "L1:8443", "L1", 8443)
				w.serveAs(t, "R1:8443", "R1", 8443)
			},
			packets: []packet{{from: "L2", to: clusterIP, port: 443, want: "L1:8443 or R1:8443", source: "L2"}},
		},
		{number: 3, name: "each protocol its own backends", tests: map[string]func(*testing.T){
			"other ports": caseSamePortOtherProtocol,
		}},
		{
			number: 4, name: "another protocol of a VIP",
			config: nftdp.Config{Internal: podNets(), ServiceCIDRs: serviceNets()}, services: vip,
			packets: []packet{
				{from: "L2", protocol: "udp", to: clusterIP, port: 80, want: "refused"},
				{from: "C", protocol: "udp", to: clusterIP, port: 80, want: "refused"},
				{from: "L2", to: clusterIP, port: 80, want: "L1"},
			},
			tests: map[string]func(*testing.T){"answers": caseServiceCIDRs},
		},
		{
			number: 5, name: "an address that no service has",
			config: nftdp.Config{Internal: podNets(), ServiceCIDRs: serviceNets()}, services: vip,
			packets: []packet{
				{from: "L2", to: unassigned, port: 80, want: "refused"},
				{from: "C", to: unassigned, port: 80, want: "refused"},
				{from: "N", to: unassigned, port: 80, want: "refused"},
			},
			tests: map[string]func(*testing.T){"not forwarded": caseServiceCIDRsAreNotForwarded},
		},
		{
			number: 6, name: "a backend to itself", config: pods, services: vip,
			packets: []packet{{from: "L1", to: clusterIP, port: 80, want: "L1", source: "N"}},
		},
		{
			number: 7, name: "a local process to a VIP", config: pods, services: vip,
			packets: []packet{{from: "N", to: clusterIP, port: 80, want: "L1", source: "N"}},
		},
		{
			number: 8, name: "a client outside to a VIP", config: pods, services: vipBoth,
			packets: []packet{{from: "C", to: clusterIP, port: 80, want: "L1 or R1", source: "N"}},
		},
		{
			number: 9, name: "a client outside to a NodePort", config: pods, services: nodePort,
			packets: []packet{{from: "C", to: nodeAddr, port: 30644, want: "L1 or R1", source: "N"}},
		},
		{
			number: 10, name: "a node address that is not chosen", services: nodePort,
			config: nftdp.Config{NodeAddrs: nodePrefixes()},
			packets: []packet{
				{from: "C", to: podGW, port: 30644, want: "refused"},
				{from: "C", to: nodeAddr, port: 30644, want: "L1 or R1"},
			},
			tests: map[string]func(*testing.T){"every choice": caseNodeAddrs},
		},
		{
			number: 11, name: "a local process to a NodePort", config: pods, services: nodePort,
			packets: []packet{{from: "N", to: nodeAddr, port: 30644, want: "L1 or R1", source: "N"}},
		},
		{
			number: 12, name: "loopback addresses, off", config: pods, services: nodePort,
			packets: []packet{{from: "N", to: loopback, port: 30644, want: "refused"}},
			tests:   map[string]func(*testing.T){"with listeners": caseLoopbackIsNotTaken},
		},
		{
			number: 12, name: "loopback addresses, on", config: localhostConfig(), services: nodePort,
			setup:   func(t *testing.T, w *caseWorld) { w.meetRequirements(t) },
			packets: []packet{{from: "N", to: loopback, port: 30644, want: "L1 or R1", source: "N"}},
			tests:   map[string]func(*testing.T){"every backend": caseLocalhost},
		},
		{
			number: 13, name: "NodeIP and port 80, where nothing listens", config: pods,
			services: []nftdp.Service{{Name: "web", Frontends: nodeWide(80), Backends: to("L1", "R1")}},
			packets:  []packet{{from: "C", to: nodeAddr, port: 80, want: "L1 or R1"}},
			check:    func(t *testing.T, w *caseWorld) { wantNoListener(t, w.Node) },
		},
		{number: 14, name: "NodeIP and port 80, where a process listens", tests: map[string]func(*testing.T){
			"the frontend wins": caseListenerIsOverridden,
		}},
		{
			number: 15, name: "the more specific frontend wins", config: pods,
			services: []nftdp.Service{
				{Name: "a", Frontends: on(nodeAddr, 80), Backends: to("L1")},
				{Name: "b", Frontends: nodeWide(80), Backends: to("R1")},
			},
			packets: []packet{
				{from: "C", to: nodeAddr, port: 80, want: "L1"},
				{from: "C", to: podGW, port: 80, want: "R1"},
			},
			tests: map[string]func(*testing.T){"any order": casePrecedence},
		},
		{
			number: 16, name: "clients inside and outside of a range", config: pods, services: allowed,
			packets: []packet{
				{from: "C", to: external, port: 80, want: "L1", source: "N"},
				{from: "C2", to: external, port: 80, want: "silence"},
			},
			tests: map[string]func(*testing.T){"denied": caseDenied},
		},
		{
			number: 17, name: "other frontends of a service with a range", config: pods, services: allowed,
			packets: []packet{
				{from: "C2", to: clusterIP, port: 80, want: "L1"},
				{from: "C2", to: nodeAddr, port: 30644, want: "L1"},
				{from: "C2", to: external, port: 80, want: "silence"},
			},
		},
		{
			// The node's address towards the client is in the range.
			number: 18, name: "pods and the node outside of a range", config: pods,
			services: append(allowed, nftdp.Service{
				Name: "pods", Frontends: withAllow(podNets(), on(external, 81)), Backends: to("L1"),
			}),
			packets: []packet{
				{from: "L1", to: external, port: 80, want: "silence"},
				{from: "N", to: external, port: 80, want: "L1", source: "N"},
				{from: "L1", to: external, port: 81, want: "L1", source: "N"},
				{from: "N", to: external, port: 81, want: "silence"},
			},
		},
		{
			number: 19, name: "PolicyLocalOnly", config: pods,
			services: []nftdp.Service{{
				Name: "node", Frontends: withPolicy(nftdp.PolicyLocalOnly, nodeWide(30644)), Backends: isLocal(to("L1", "R1")),
			}},
			packets: slices.Repeat([]packet{{from: "C", to: nodeAddr, port: 30644, want: "L1", source: "C"}}, attempts),
		},
		{
			number: 20, name: "PolicyLocalOnly without a local backend", config: pods,
			services: []nftdp.Service{{
				Name: "node", Frontends: withPolicy(nftdp.PolicyLocalOnly, nodeWide(30644)), Backends: isLocal(to("R1", "R2")),
			}},
			packets: []packet{{from: "C", to: nodeAddr, port: 30644, want: "silence"}},
			tests:   map[string]func(*testing.T){"while it changes": caseLocalBackendGoes},
		},
		{
			number: 21, name: "internal clients without a local backend", config: pods,
			services: []nftdp.Service{{
				Name: "external", Frontends: withPolicy(nftdp.PolicyExternalLocalOnly, on(external, 80)), Backends: isLocal(to("R1", "R2")),
			}},
			packets: []packet{
				{from: "C", to: external, port: 80, want: "silence"},
				{from: "L2", to: external, port: 80, want: "R1 or R2", source: "L2"},
				{from: "N", to: external, port: 80, want: "R1 or R2", source: "N"},
			},
		},
		{
			number: 22, name: "a VIP with PolicyLocalOnly and no local backend", config: pods,
			services: []nftdp.Service{
				{Name: "drop", Frontends: withPolicy(nftdp.PolicyLocalOnly, on(clusterIP, 80)), Backends: isLocal(to("R1"))},
				{
					Name: "reject", Backends: isLocal(to("R1")),
					Frontends: rejecting(withPolicy(nftdp.PolicyLocalOnly, on(clusterIP, 81))),
				},
			},
			packets: []packet{
				{from: "L2", to: clusterIP, port: 80, want: "silence"},
				{from: "L2", to: clusterIP, port: 81, want: "refused"},
			},
		},
		{number: 23, name: "no backends", tests: map[string]func(*testing.T){
			"reject": caseReject, "drop": caseDrop,
		}},
		{number: 24, name: "affinity", tests: map[string]func(*testing.T){
			"everywhere": caseAffinity,
		}},
		{number: 25, name: "affinity to a backend that goes", tests: map[string]func(*testing.T){
			"another one": caseAffinityBackendGoes,
		}},
		{number: 26, name: "a draining backend", tests: map[string]func(*testing.T){
			"states": caseStates, "drain": caseDrain, "udp": caseUDPDraining,
		}},
		{number: 27, name: "a UDP socket whose backend is replaced", tests: map[string]func(*testing.T){
			"next datagram": caseUDPBackendReplaced,
		}},
		{number: 28, name: "a UDP socket before there is a backend", tests: map[string]func(*testing.T){
			"backend appears": caseBackendAppears, "service appears": caseUDPBeforeService,
		}},
		{number: 29, name: "weights of 3 to 1", tests: map[string]func(*testing.T){
			"4000 connections": caseWeights,
		}},
		{
			number: 30, name: "one port on two node addresses", config: pods,
			services: []nftdp.Service{
				{Name: "a", Frontends: on(nodeAddr, 80), Backends: to("L1")},
				{Name: "b", Frontends: on(podGW, 80), Backends: to("R1")},
			},
			packets: []packet{
				{from: "C", to: nodeAddr, port: 80, want: "L1"},
				{from: "C", to: podGW, port: 80, want: "R1"},
				{from: "C", to: uplink, port: 80, want: "refused"},
			},
			tests: map[string]func(*testing.T){"many": caseSamePortOnOtherAddress},
		},
		{number: 31, name: "a deleted service", tests: map[string]func(*testing.T){
			"established": caseChangeUnderLiveConnections, "new": caseDeletedServiceIsGone,
		}},
		{
			number: 32, name: "a range of ports", config: pods,
			services: []nftdp.Service{{
				Name: "range", Frontends: upToPort(5100, nodeWide(5000)), Backends: onPort(0, to("L1", "R1")),
			}},
			setup: func(t *testing.T, w *caseWorld) {
				w.serveAs(t, "L1:5037", "L1", 5037)
				w.serveAs(t, "R1:5037", "R1", 5037)
			},
			packets: []packet{
				{from: "C", to: nodeAddr, port: 5037, want: "L1:5037 or R1:5037", source: "N"},
				{from: "C", to: nodeAddr, port: 5101, want: "refused"},
			},
			tests: map[string]func(*testing.T){"ports": caseRangePorts},
		},
		{number: 33, name: "fragments and ICMP errors", tests: map[string]func(*testing.T){
			"errors": caseICMPErrorsAreTranslated, "fragments": caseFragments,
		}},
		{number: 34, name: "backends of the other family only", tests: map[string]func(*testing.T){
			"refused": caseFamilyWithoutBackends,
		}},
	}
}

// TestCases runs the packet cases. One of them is run by
//
//	go test ./integration -run 'Cases/case_06'
func TestCases(t *testing.T) {
	t.Parallel()
	for _, c := range cases() {
		t.Run(fmt.Sprintf("case %02d: %s", c.number, c.name), func(t *testing.T) {
			t.Parallel()
			if c.services != nil {
				c.send(t)
			}
			for name, test := range c.tests {
				t.Run(name, test)
			}
		})
	}
}

// send makes the connections of a case in a world of its own.
func (c *packetCase) send(t *testing.T) {
	t.Helper()
	w := newCaseWorld(t, c.config)
	if c.setup != nil {
		c.setup(t, w)
	}
	w.apply(t, c.services...)
	for _, a := range nstest.Families() {
		for _, p := range c.packets {
			w.send(t, a, p)
		}
	}
	if c.check != nil {
		c.check(t, w)
	}
}

// place is somebody in the topology of the packet cases: the client C and its
// second address C2, the node N, its pods L1 and L2, and the pods R1 and R2
// behind another router, which reach each other without N.
type place string

// caseWorld is that topology. All pods serve on backendPort.
type caseWorld struct{ *world }

func newCaseWorld(t *testing.T, config nftdp.Config) *caseWorld {
	t.Helper()
	w := &caseWorld{newWorld(t, config, 2)}
	if err := w.AddRemotes(2); err != nil {
		t.Fatal(err)
	}
	for _, a := range nstest.Families() {
		if err := w.Client.AddAddr(nstest.ClientLink, netip.PrefixFrom(a.Client2, a.Client2.BitLen())); err != nil {
			t.Fatal(err)
		}
	}
	for _, pod := range w.Remotes {
		serve(t, pod, backendPort, "tcp", "udp", "sctp")
	}
	return w
}

// namespace is where a place is.
func (w *caseWorld) namespace(p place) *nstest.Namespace {
	return map[place]*nstest.Namespace{
		"C": w.Client, "C2": w.Client, "N": w.Node,
		"L1": w.Backends[0], "L2": w.Backends[1], "R1": w.Remotes[0], "R2": w.Remotes[1],
	}[p]
}

// addr is the address of a place; the node has others besides.
func (p place) addr(a nstest.Addrs) netip.Addr {
	return map[place]netip.Addr{
		"C": a.Client, "C2": a.Client2, "N": a.Node,
		"L1": a.Backend(0), "L2": a.Backend(1), "R1": a.Remote(0), "R2": a.Remote(1),
	}[p]
}

// to are active backends at these places, in both families.
func to(places ...place) []nftdp.Backend {
	var all []nftdp.Backend
	for _, p := range places {
		for _, a := range nstest.Families() {
			all = append(all, nftdp.Backend{Addr: netip.AddrPortFrom(p.addr(a), backendPort)})
		}
	}
	return all
}

// onPort are the same backends on another port.
func onPort(port uint16, backends []nftdp.Backend) []nftdp.Backend {
	for i, b := range backends {
		backends[i].Addr = netip.AddrPortFrom(b.Addr.Addr(), port)
	}
	return backends
}

// isLocal marks the backends that are the node's own pods.
func isLocal(backends []nftdp.Backend) []nftdp.Backend {
	for i, b := range backends {
		for _, a := range nstest.Families() {
			if a.PodNet.Contains(b.Addr.Addr()) {
				backends[i].Local = !a.RemoteNet.Contains(b.Addr.Addr())
			}
		}
	}
	return backends
}

// serveAs starts a server for all protocols, with a name of its own, which has
// no spaces.
func (w *caseWorld) serveAs(t *testing.T, name string, at place, port uint16) {
	t.Helper()
	server, err := nstest.Serve(w.namespace(at), name, port, "tcp", "udp", "sctp")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closeOrFail(t, server) })
}

// send makes a connection, or as many as show that all the servers that are
// wanted are chosen from, and checks what came of it.
func (w *caseWorld) send(t *testing.T, a nstest.Addrs, p packet) {
	t.Helper()
	want := strings.Split(p.want, " or ")
	for i, server := range want {
		if ns := w.namespace(place(server)); ns != nil {
			want[i] = ns.Name
		}
	}
	n := 1
	if len(want) > 1 {
		n = attempts
	}
	got := map[string]int{}
	for range n {
		result := w.sendOne(t, a, p)
		if got[result]++; !slices.Contains(want, result) {
			break // The others may take until the timeout, too.
		}
	}
	if all := slices.Sorted(maps.Keys(got)); !slices.Equal(all, slices.Sorted(slices.Values(want))) {
		t.Errorf("%s from %s to %v: %v, want %s", p.transport(), p.from, p.dst(a), got, p.want)
	}
}

// sendOne says in a word what came of a connection.
func (w *caseWorld) sendOne(t *testing.T, a nstest.Addrs, p packet) string {
	t.Helper()
	var src netip.Addr
	if p.from == "C" || p.from == "C2" {
		src = p.from.addr(a)
	}
	timeout := askTimeout
	if p.want == "silence" {
		timeout = silence
	}
	answer, err := nstest.Dial(w.namespace(p.from), p.transport(), src, p.dst(a), timeout)
	if err == nil && p.source != "" {
		checkSource(t, a, answer.Client.Addr(), p.source.addr(a), p.source != "N")
	}
	return outcome(answer, err)
}

func (p packet) transport() string {
	if p.protocol == "" {
		return "tcp"
	}
	return p.protocol
}

func (p packet) dst(a nstest.Addrs) netip.AddrPort { return netip.AddrPortFrom(p.to(a), p.port) }

// loopback is an address of the local host.
func loopback(a nstest.Addrs) netip.Addr {
	if a.Client.Is4() {
		return netip.AddrFrom4([4]byte{127, 0, 0, 1})
	}
	return netip.IPv6Loopback()
}
