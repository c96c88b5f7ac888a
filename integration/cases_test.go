//go:build linux

package integration

import (
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/nftdp/go-nftdp/internal/nstest"
	"github.com/nftdp/go-nftdp/nftdp"
)

// packetCase says what must happen to certain packets.
type packetCase struct {
	name     string
	config   nftdp.Config
	services []nftdp.Service
	setup    func(*testing.T, *caseWorld) // before the services are there
	packets  []packet                     // in both families
}

// packet is the first packet of a connection.
type packet struct {
	from     place
	protocol string // empty is "tcp"
	to       func(nstest.Addrs) netip.Addr
	port     uint16
	want     string // the place that answers, "L1 or R1", or a word of attempt's: "refused"
	source   place  // the place whose address the server sees; empty: any
}

// packetCases are the cases that no other test has among its own.
func packetCases() []packetCase {
	pods := nftdp.Config{Internal: podNets()}
	allowed := nftdp.Service{
		Name:      "allowed",
		Frontends: slices.Concat(withAllow(nearClient(), on(external, 80)), on(clusterIP, 80), nodeWide(30644)),
		Backends:  to("L1"),
	}
	return []packetCase{
		{
			name:     "a protocol that a VIP does not serve on a port that it serves",
			config:   nftdp.Config{Internal: podNets(), ServiceCIDRs: serviceNets()},
			services: []nftdp.Service{{Name: "vip", Frontends: on(clusterIP, 80), Backends: to("L1")}},
			packets: []packet{
				{from: "L2", protocol: "udp", to: clusterIP, port: 80, want: "refused"},
				{from: "C", protocol: "udp", to: clusterIP, port: 80, want: "refused"},
				{from: "L2", to: clusterIP, port: 80, want: "L1"},
			},
		},
		{
			name:     "an unused port of a VIP, and addresses that no service has, with Unallocated drop",
			config:   nftdp.Config{Internal: podNets(), ServiceCIDRs: serviceNets(), Unallocated: nftdp.ActionDrop},
			services: []nftdp.Service{{Name: "vip", Frontends: on(clusterIP, 80), Backends: to("L1")}},
			packets: []packet{
				{from: "L2", to: clusterIP, port: 80, want: "L1"},
				{from: "L2", to: clusterIP, port: 81, want: "refused"},
				{from: "C", protocol: "udp", to: clusterIP, port: 80, want: "refused"},
				{from: "L2", to: unassigned, port: 80, want: "silence"},
				{from: "C", protocol: "udp", to: unassigned, port: 80, want: "silence"},
				{from: "N", to: unassigned, port: 80, want: "silence"},
			},
		},
		{
			// R1 comes in by another interface. The one of L2 is named in full.
			name:   "clients that come in by an internal interface",
			config: nftdp.Config{InternalInterfaces: []string{nstest.PodLink(1), "upl*"}},
			services: []nftdp.Service{{
				Name: "web", Backends: isLocal(to("L1", "R2")),
				Frontends: slices.Concat(on(clusterIP, 80), withPolicy(nftdp.PolicyExternalLocalOnly, nodeWide(30644))),
			}},
			packets: []packet{
				{from: "L2", to: clusterIP, port: 80, want: "L1 or R2", source: "L2"},
				{from: "C", to: clusterIP, port: 80, want: "L1 or R2", source: "C"},
				{from: "R1", to: clusterIP, port: 80, want: "L1 or R2", source: "N"},
				{from: "N", to: clusterIP, port: 80, want: "L1 or R2", source: "N"},
				{from: "L1", to: clusterIP, port: 80, want: "L1 or R2", source: "N"},
				{from: "C2", to: nodeAddr, port: 30644, want: "L1 or R2", source: "C2"},
				{from: "R1", to: nodeAddr, port: 30644, want: "L1", source: "R1"},
			},
		},
		{
			name: "Allow limits its own frontend and no other of the service", config: pods, services: []nftdp.Service{allowed},
			packets: []packet{
				{from: "C", to: external, port: 80, want: "L1", source: "N"},
				{from: "C2", to: external, port: 80, want: "silence"},
				{from: "C2", to: clusterIP, port: 80, want: "L1"},
				{from: "C2", to: nodeAddr, port: 30644, want: "L1"},
			},
		},
		{
			// The node's address towards the client is allowed.
			name: "Allow applies to pods and the node", config: pods,
			services: []nftdp.Service{allowed, {
				Name: "pods", Frontends: withAllow(podNets(), on(external, 81)), Backends: to("L1"),
			}},
			packets: []packet{
				{from: "L1", to: external, port: 80, want: "silence"},
				{from: "N", to: external, port: 80, want: "L1", source: "N"},
				{from: "L1", to: external, port: 81, want: "L1", source: "N"},
				{from: "N", to: external, port: 81, want: "silence"},
			},
		},
		{
			name: "PolicyLocalOnly on a VIP without a local backend", config: pods,
			services: []nftdp.Service{
				{Name: "drop", Frontends: withPolicy(nftdp.PolicyLocalOnly, on(clusterIP, 80)), Backends: isLocal(to("R1"))},
				{
					Name: "reject", Backends: isLocal(to("R1")),
					Frontends: withNoBackend(nftdp.ActionReject, withPolicy(nftdp.PolicyLocalOnly, on(clusterIP, 81))),
				},
			},
			packets: []packet{
				{from: "L2", to: clusterIP, port: 80, want: "silence"},
				{from: "L2", to: clusterIP, port: 81, want: "refused"},
			},
		},
		{
			// An active backend elsewhere is of no use to them.
			name: "a backup takes the connections that a policy allows to no active backend", config: pods,
			services: []nftdp.Service{{
				Name:     "backup",
				Backends: append(isBackup(isLocal(to("L1"))), to("R1")...),
				Frontends: slices.Concat(on(clusterIP, 80), withPolicy(nftdp.PolicyLocalOnly, on(clusterIP, 81)),
					withPolicy(nftdp.PolicyExternalLocalOnly, nodeWide(30644))),
			}},
			packets: []packet{
				{from: "L2", to: clusterIP, port: 80, want: "R1"},
				{from: "L2", to: clusterIP, port: 81, want: "L1"},
				{from: "C", to: nodeAddr, port: 30644, want: "L1", source: "C"},
				{from: "L2", to: nodeAddr, port: 30644, want: "R1"},
			},
		},
		{
			name: "a backend for the connections that a policy restricts to this node", config: pods,
			services: []nftdp.Service{{
				Name:     "near",
				Backends: append(isLocalOnly(isLocal(to("L1", "L2")), "L2"), to("R1")...),
				Frontends: slices.Concat(on(clusterIP, 80), withPolicy(nftdp.PolicyLocalOnly, on(clusterIP, 81)),
					withPolicy(nftdp.PolicyExternalLocalOnly, nodeWide(30644))),
			}, {
				Name: "last resort", Frontends: on(clusterIP, 82), Backends: isLocalOnly(isLocal(to("L2")), "L2"),
			}},
			packets: []packet{
				{from: "L2", to: clusterIP, port: 80, want: "L1 or R1"},
				{from: "C", to: clusterIP, port: 80, want: "L1 or R1"},
				{from: "C", to: clusterIP, port: 81, want: "L1 or L2"},
				{from: "C", to: nodeAddr, port: 30644, want: "L1 or L2", source: "C"},
				{from: "L1", to: nodeAddr, port: 30644, want: "L1 or R1"},
				{from: "N", to: nodeAddr, port: 30644, want: "L1 or R1", source: "N"},
				{from: "C", to: clusterIP, port: 82, want: "L2"},
			},
		},
		{
			// Packets of its own processes pass postrouting, those of others do not.
			name: "a backend on an address of the node", config: pods,
			setup: func(t *testing.T, w *caseWorld) { t.Helper(); serve(t, w.Node, backendPort, "tcp", "udp") },
			services: []nftdp.Service{{
				Name: "node", Frontends: slices.Concat(on(clusterIP, 80), nodeWide(30644)), Backends: to("N"),
				SNAT: []netip.Addr{nstest.IPv4().PodGW, nstest.IPv6().PodGW},
			}},
			packets: []packet{
				{from: "C", to: nodeAddr, port: 30644, want: "N", source: "C"},
				{from: "L1", to: clusterIP, port: 80, want: "N", source: "L1"},
				{from: "N", to: clusterIP, port: 80, want: "N", source: "SNAT"},
				{from: "N", to: nodeAddr, port: 30644, want: "N", source: "N"},
			},
		},
	}
}

// TestPacketCases runs the packet cases. One of them is run by
//
//	go test ./integration -run 'PacketCases/Allow_applies'
func TestPacketCases(t *testing.T) {
	t.Parallel()
	for _, c := range packetCases() {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			c.send(t)
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
}

// place is a place in the topology of the packet cases: the client C and its
// second address C2, the node N, its pods L1 and L2, and the pods R1 and R2
// behind another router, which reach each other without passing N.
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
		if err := w.Client.AddAddr(nstest.ClientLink, single(a.Client2)); err != nil {
			t.Fatal(err)
		}
	}
	for _, pod := range w.Remotes {
		serve(t, pod, backendPort, "tcp", "udp", "sctp")
	}
	return w
}

// namespace is the network namespace of a place.
func (w *caseWorld) namespace(p place) *nstest.Namespace {
	return map[place]*nstest.Namespace{
		"C": w.Client, "C2": w.Client, "N": w.Node,
		"L1": w.Backends[0], "L2": w.Backends[1], "R1": w.Remotes[0], "R2": w.Remotes[1],
	}[p]
}

// addr is the address of a place; the node has other addresses, too.
func (p place) addr(a nstest.Addrs) netip.Addr {
	return map[place]netip.Addr{
		"C": a.Client, "C2": a.Client2, "N": a.Node, "SNAT": a.PodGW,
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

// isLocal sets Local for the backends that are the node's own pods.
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

// isLocalOnly sets LocalOnly for the backends at a place.
func isLocalOnly(backends []nftdp.Backend, at place) []nftdp.Backend {
	for i, b := range backends {
		for _, a := range nstest.Families() {
			backends[i].LocalOnly = backends[i].LocalOnly || b.Addr.Addr() == at.addr(a)
		}
	}
	return backends
}

// isBackup sets Backup for the backends.
func isBackup(backends []nftdp.Backend) []nftdp.Backend {
	for i := range backends {
		backends[i].Backup = true
	}
	return backends
}

// send makes one connection and checks its outcome. If several servers are
// wanted, it makes enough connections to show that each of them is chosen.
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
			break // Each of the others might take until the timeout, too.
		}
	}
	if all := slices.Sorted(maps.Keys(got)); !slices.Equal(all, slices.Sorted(slices.Values(want))) {
		t.Errorf("%s from %s to %v: %v, want %s", p.transport(), p.from, p.dst(a), got, p.want)
	}
}

// sendOne makes a connection and returns its outcome in a word.
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
