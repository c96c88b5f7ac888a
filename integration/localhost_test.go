//go:build linux

package integration

import (
	"net/netip"
	"testing"
	"time"

	"github.com/nftdp/go-nftdp/internal/nstest"
	"github.com/nftdp/go-nftdp/nftdp"
)

// localhostConfig publishes node-wide frontends on loopback addresses.
func localhostConfig() nftdp.Config { return nftdp.Config{Internal: podNets(), Localhost: true} }

func newLocalhostWorld(t *testing.T) *caseWorld {
	t.Helper()
	return newCaseWorld(t, localhostConfig())
}

func (w *world) meetRequirements(t *testing.T) {
	t.Helper()
	if _, err := w.dataplane.MeetRequirements(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// loopbacks are loopback addresses of a family.
func loopbacks(a nstest.Addrs) []netip.Addr {
	if a.Client.Is6() {
		return []netip.Addr{netip.IPv6Loopback()}
	}
	return []netip.Addr{loopback(a), netip.MustParseAddr("127.5.6.7")}
}

// localhostBackends are node-wide ports with the places of their backends.
var localhostBackends = map[uint16]place{30641: "N", 30642: "L1", 30643: "R1"}

// localhostServices have a service for each port and protocol.
func localhostServices() []nftdp.Service {
	var all []nftdp.Service
	for port, at := range localhostBackends {
		for _, p := range protocols() {
			all = append(all, nftdp.Service{
				Name: string(at) + "/" + p.name, Protocol: p.proto, Frontends: nodeWide(port), Backends: to(at),
			})
		}
	}
	return all
}

// TestLocalhost: with Config.Localhost loopback addresses lead to backends on the
// node itself, in its pods and elsewhere, which see an address of the node. That
// needs no parameter of the kernel.
func TestLocalhost(t *testing.T) {
	t.Parallel()
	w := newLocalhostWorld(t)
	serve(t, w.Node, backendPort, "tcp", "udp", "sctp")
	w.apply(t, localhostServices()...)
	for _, a := range nstest.Families() {
		for _, addr := range []netip.Addr{loopback(a)} {
			for port, at := range localhostBackends {
				for _, p := range protocols() {
					answer := askFor(t, w.namespace(at).Name, w.Node, p.name, netip.AddrPortFrom(addr, port))
					checkSource(t, a, answer.Client.Addr(), netip.Addr{}, false)
				}
			}
			wantRefused(t, w.Node, "tcp", netip.AddrPortFrom(addr, closedPort))
		}
	}
}

// TestLocalhostStages: what a class asks about its clients, and what follows a
// refused stage, sees loopback clients as they are.
func TestLocalhostStages(t *testing.T) {
	t.Parallel()
	w := newLocalhostWorld(t)
	limited := to("L1")
	for i := range limited {
		limited[i].MaxConns = 1
	}
	sticky := nftdp.Service{Name: "sticky", Frontends: nodeWide(30651), Backends: to("L1", "L2", "R1"), Affinity: nftdp.Duration(time.Minute)}
	near := nftdp.Service{Name: "near", Frontends: withPolicy(nftdp.PolicyExternalLocalOnly, nodeWide(30652)), Backends: to("R1"), Affinity: sticky.Affinity}
	w.apply(t, sticky, near,
		nftdp.Service{Name: "limited", Frontends: nodeWide(30653), Backends: limited},
		nftdp.Service{Name: "hashed", Frontends: nodeWide(30654), Backends: to("L1", "L2", "R1"), Scheduler: nftdp.SchedulerSourceHash},
		nftdp.Service{Name: "ranged", Frontends: upToPort(backendPort+1, nodeWide(backendPort)), Backends: onPort(0, to("L1"))},
	)
	for _, a := range nstest.Families() {
		for _, addr := range []netip.Addr{loopback(a)} {
			at := func(port uint16) netip.AddrPort { return netip.AddrPortFrom(addr, port) }
			for _, port := range []uint16{30651, 30654} {
				if servers := count(t, 10, w.Node, "tcp", at(port)); len(servers) != 1 {
					t.Errorf("connections to %v went to %v, want one backend", at(port), servers)
				}
			}
			askFor(t, "remote-1", w.Node, "tcp", at(30652))
			askFor(t, "backend-1", w.Node, "tcp", at(backendPort))
		}
		at := netip.AddrPortFrom(loopback(a), 30653)
		connect(t, 1, w.Node, at)
		wantRefused(t, w.Node, "tcp", at)
	}
	known, err := w.dataplane.Affinities(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range known {
		if !k.Client.IsLoopback() {
			t.Errorf("client %v is remembered, want loopback addresses only", k.Client)
		}
	}
	if want := 2 * 2; len(known) != want { // services, addresses
		t.Errorf("%d clients are remembered, want %d: %+v", len(known), want, known)
	}
}

// TestLocalhostLeavesLoopbackClosed: packets of neighbours to loopback addresses,
// and from such addresses, are neither answered nor even received, be it by a
// frontend or by a process that listens on 127.0.0.1: while a Dataplane publishes on
// loopback addresses and has met the requirements, after somebody has flushed its
// rules, under a process that does not publish there, and after Remove.
func TestLocalhostLeavesLoopbackClosed(t *testing.T) {
	t.Parallel()
	needTool(t, "nft")
	w := newLocalhostWorld(t)
	serve(t, w.Node, 81, "tcp", "udp")
	w.apply(t, localhostServices()...)
	w.meetRequirements(t)
	inFamilies(t, func(t *testing.T, a nstest.Addrs) {
		n := newNeighbour(t, w.world, a)
		if !n.knock(t, "tcp", netip.AddrPortFrom(a.Client, 40000), netip.AddrPortFrom(a.Node, 30643), askTimeout) {
			t.Fatal("the frontend does not answer at all")
		}
	})
	w.wantLoopbackClosed(t, "published")
	tool(t, w.Node, "nft", "flush ruleset")
	w.wantLoopbackClosed(t, "flushed")
	closeOrFail(t, w.dataplane)
	w.open(t, nftdp.Config{Internal: podNets()})
	w.apply(t, localhostServices()...)
	w.wantLoopbackClosed(t, "not published")
	if err := w.dataplane.Remove(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.wantLoopbackClosed(t, "removed")
	// The test can see what it looks for.
	if err := w.Node.Sysctl("net/ipv4/conf/all/route_localnet", "1"); err != nil {
		t.Fatal(err)
	}
	a := nstest.IPv4()
	if n := newNeighbour(t, w.world, a); !n.knock(t, "tcp", netip.AddrPortFrom(a.Client, 42000), netip.AddrPortFrom(loopback(a), 81), askTimeout) {
		t.Error("a packet to a loopback address is not answered with route_localnet: the test shows nothing")
	}
}

func (w *world) wantLoopbackClosed(t *testing.T, when string) {
	t.Helper()
	inFamilies(t, func(t *testing.T, a nstest.Addrs) {
		n := newNeighbour(t, w, a)
		received := receivedSegments(t, w.Node)
		src := netip.AddrPortFrom(a.Client, 40001)
		for _, addr := range loopbacks(a) {
			for _, port := range []uint16{81, 30641, 30643} {
				for _, p := range []string{"tcp", "udp"} {
					n.knock(t, p, src, netip.AddrPortFrom(addr, port), 0)
					n.knock(t, p, netip.AddrPortFrom(addr, 40000), netip.AddrPortFrom(a.Node, port), 0)
				}
			}
		}
		if n.answered(t, src, silence) {
			t.Errorf("%s: a packet from outside to a loopback address is answered", when)
		}
		if got := receivedSegments(t, w.Node); got != received {
			t.Errorf("%s: the node received %d packets, want none", when, got-received)
		}
	})
}

// TestLocalhostLeavesOthers: a connection from one loopback address to another that
// we do not translate keeps its source, even if others translate it.
func TestLocalhostLeavesOthers(t *testing.T) {
	t.Parallel()
	needTool(t, "nft")
	w := newLocalhostWorld(t)
	serve(t, w.Node, 81, "tcp", "udp")
	w.apply(t, localhostServices()...)
	nftLoad(t, w.Node, `
		table inet theirs {
			chain output {
				type nat hook output priority -101;
				meta l4proto { tcp, udp } th dport 82 redirect to :81
			}
		}`)
	inFamilies(t, func(t *testing.T, a nstest.Addrs) {
		for _, port := range []uint16{81, 82} {
			for _, p := range []string{"tcp", "udp"} {
				answer := askFor(t, "node", w.Node, p, netip.AddrPortFrom(loopback(a), port))
				if saw := answer.Client.Addr(); saw != loopback(a) {
					t.Errorf("%s to port %d: the listener saw %v, want %v", p, port, saw, loopback(a))
				}
			}
		}
	})
}

// TestLocalhostPolicies: policies treat a loopback address as one of the node's, and
// prefixes of clients must contain it like any other.
func TestLocalhostPolicies(t *testing.T) {
	t.Parallel()
	local := to("L1", "R1")
	for i := range local[:2] {
		local[i].Local = true
	}
	loopbackNets := []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128")}
	frontend := func(port uint16, set func(*nftdp.Frontend)) nftdp.Frontend {
		f := nftdp.Frontend{Port: port}
		set(&f)
		return f
	}
	packetTo := func(port uint16, want string) packet {
		return packet{from: "N", to: loopback, port: port, want: want, source: "N"}
	}
	(&packetCase{
		config: localhostConfig(),
		services: []nftdp.Service{{Name: "web", Backends: local, Frontends: []nftdp.Frontend{
			frontend(30001, func(f *nftdp.Frontend) { f.Policy = nftdp.PolicyLocalOnly }),
			frontend(30002, func(f *nftdp.Frontend) { f.Policy = nftdp.PolicyExternalLocalOnly }),
			frontend(30003, func(f *nftdp.Frontend) { f.Allow = loopbackNets }),
			frontend(30004, func(f *nftdp.Frontend) { f.Allow = nodePrefixes() }),
			frontend(30005, func(f *nftdp.Frontend) { f.Deny = loopbackNets }),
			frontend(30006, func(f *nftdp.Frontend) { f.Masquerade = nftdp.MasqueradeNever }),
		}}, {Name: "remote", Backends: to("R1"), Frontends: []nftdp.Frontend{
			frontend(30007, func(f *nftdp.Frontend) { f.Policy = nftdp.PolicyLocalOnly }),
		}}, {Name: "none", Frontends: nodeWide(30008)}},
		packets: []packet{
			packetTo(30001, "L1"), packetTo(30002, "L1 or R1"), packetTo(30003, "L1 or R1"),
			packetTo(30004, "silence"), packetTo(30005, "silence"), packetTo(30006, "L1 or R1"),
			packetTo(30007, "silence"), packetTo(30008, "refused"),
		},
	}).send(t)
}

// TestLocalhostFlows: a UDP socket that sends to a loopback address follows changes
// of the service like any other.
func TestLocalhostFlows(t *testing.T) {
	t.Parallel()
	w := newLocalhostWorld(t)
	dns := nftdp.Service{Name: "dns", Protocol: nftdp.ProtocolUDP, Frontends: nodeWide(30053)}
	for _, a := range nstest.Families() {
		var clients []*udpClient
		for _, addr := range []netip.Addr{loopback(a)} {
			clients = append(clients, dialUDP(t, w.Node, netip.AddrPortFrom(addr, 30053)))
		}
		wantAll(t, clients, "refused")
		dns.Backends = to("L1")
		w.apply(t, dns)
		wantAll(t, clients, "backend-1")
		dns.Backends = to("R1")
		w.apply(t, dns)
		wantAll(t, clients, "remote-1")
		w.apply(t)
		wantAll(t, clients, "refused")
	}
}
