//go:build linux

package integration

import (
	"errors"
	"net/netip"
	"syscall"
	"testing"

	"github.com/nftdp/go-nftdp/internal/nstest"
	"github.com/nftdp/go-nftdp/nftdp"
)

// localhostConfig publishes node-wide frontends on loopback addresses.
func localhostConfig() nftdp.Config { return nftdp.Config{Internal: podNets(), Localhost: true} }

// newLocalhostWorld has the sysctls that Requirements lists.
func newLocalhostWorld(t *testing.T) *caseWorld {
	t.Helper()
	w := newCaseWorld(t, localhostConfig())
	w.meetRequirements(t)
	return w
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
// node itself, in its pods and elsewhere, which see an address of the node.
func TestLocalhost(t *testing.T) {
	t.Parallel()
	w := newLocalhostWorld(t)
	serve(t, w.Node, backendPort, "tcp", "udp", "sctp")
	w.apply(t, localhostServices()...)
	for _, a := range nstest.Families() {
		for _, addr := range loopbacks(a) {
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

// TestLocalhostWithoutRequirements: without route_localnet no IPv4 packet leaves the
// node with a loopback address (ip_route_me_harder fails): a SYN is lost, and a
// datagram cannot be sent. Backends on the node, and IPv6, work nevertheless.
func TestLocalhostWithoutRequirements(t *testing.T) {
	t.Parallel()
	w := newCaseWorld(t, localhostConfig())
	serve(t, w.Node, backendPort, "tcp", "udp", "sctp")
	w.apply(t, localhostServices()...)
	for _, a := range nstest.Families() {
		for _, addr := range loopbacks(a) {
			for port, at := range localhostBackends {
				fails := a.Client.Is4() && at != "N"
				for _, p := range protocols() {
					dst := netip.AddrPortFrom(addr, port)
					if !fails {
						askFor(t, w.namespace(at).Name, w.Node, p.name, dst)
						continue
					}
					_, err := nstest.Dial(w.Node, p.name, netip.Addr{}, dst, silence)
					if ok := p.name == "tcp" && nstest.IsTimeout(err) || errors.Is(err, syscall.EINVAL); !ok {
						t.Errorf("%s to %v: %v, want silence or EINVAL", p.name, dst, err)
					}
				}
			}
		}
	}
}

// TestLocalhostGuard: packets of neighbours to loopback addresses are neither
// answered nor even received, be it by a frontend or by a process that listens on
// 127.0.0.1. With the sysctl, but without the guarding chain, IPv4 packets are
// received.
func TestLocalhostGuard(t *testing.T) {
	t.Parallel()
	needTool(t, "nft")
	w := newLocalhostWorld(t)
	serve(t, w.Node, 81, "tcp", "udp")
	w.apply(t, localhostServices()...)
	inFamilies(t, func(t *testing.T, a nstest.Addrs) {
		n := newNeighbour(t, w.world, a)
		src := netip.AddrPortFrom(a.Client, 40000)
		if !n.knock(t, "tcp", src, netip.AddrPortFrom(a.Node, 30643), askTimeout) {
			t.Fatal("the frontend does not answer at all")
		}
		received := receivedSegments(t, w.Node)
		for _, addr := range loopbacks(a) {
			for _, port := range []uint16{81, 30641, 30643} {
				for _, p := range []string{"tcp", "udp"} {
					if n.knock(t, p, src, netip.AddrPortFrom(addr, port), silence) {
						t.Errorf("%s from outside to %v:%d is answered", p, addr, port)
					}
				}
			}
		}
		// Answers to these packets would go to the node itself.
		for _, addr := range loopbacks(a) {
			for _, port := range []uint16{81, 30641, 30643} {
				for _, p := range []string{"tcp", "udp"} {
					n.knock(t, p, netip.AddrPortFrom(addr, 40000), netip.AddrPortFrom(a.Node, port), 0)
				}
			}
		}
		if !n.knock(t, "tcp", netip.AddrPortFrom(a.Client, 40001), netip.AddrPortFrom(a.Node, 30643), askTimeout) {
			t.Error("the frontend no longer answers")
		}
		if got := receivedSegments(t, w.Node); got != received {
			t.Errorf("the node received %d packets, want none", got-received)
		}
	})
	tool(t, w.Node, "nft", "flush chain ip nftdp loopback-guard")
	a := nstest.IPv4()
	n := newNeighbour(t, w.world, a)
	for i, addr := range loopbacks(a) {
		for j, port := range []uint16{81, 30641} {
			src := netip.AddrPortFrom(a.Client, uint16(41000+10*i+j))
			if !n.knock(t, "tcp", src, netip.AddrPortFrom(addr, port), askTimeout) {
				t.Errorf("a packet to %v:%d is not answered without the guard: the test shows nothing", addr, port)
			}
		}
	}
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
		setup:  func(t *testing.T, w *caseWorld) { w.meetRequirements(t) },
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
		for _, addr := range loopbacks(a) {
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
