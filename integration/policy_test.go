//go:build linux

package integration

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/nftdp/go-nftdp/internal/nstest"
	"github.com/nftdp/go-nftdp/nftdp"
)

// Ports of policyServices.
const (
	anyPort           = 80
	localPort         = 81
	externalLocalPort = 82
)

// TestPolicies: every client reaches the backends that the frontend's policy allows
// it, and they see the right source address, with every protocol, family and
// scheduler. Of each protocol one service has a backend on the node and one
// elsewhere, and another service only the latter.
func TestPolicies(t *testing.T) {
	t.Parallel()
	for name, config := range map[string]nftdp.Config{
		"nobody is internal": {}, "pods are internal": {Internal: podNets()},
		"what comes in by their interfaces is": {InternalInterfaces: []string{"pod*"}},
	} {
		for _, scheduler := range schedulers() {
			t.Run(fmt.Sprintf("%s/%s", scheduler, name), func(t *testing.T) {
				t.Parallel()
				w := newCaseWorld(t, config)
				w.apply(t, policyServices(scheduler)...)
				for _, p := range policyPackets(name != "nobody is internal") {
					if (scheduler == nftdp.SchedulerSourceHash || scheduler == nftdp.SchedulerMaglev) && strings.Contains(p.want, " or ") {
						continue // a client always reaches the same backend
					}
					for _, protocol := range protocols() {
						for _, a := range nstest.Families() {
							w.send(t, a, p.of(protocol.name))
						}
					}
				}
			})
		}
	}
}

// of returns the packet with a protocol, and with the outcome for it.
func (p packet) of(protocol string) packet {
	p.protocol = protocol
	if p.from == "N" && p.want == "refused" && protocol != "tcp" {
		p.want = "not permitted"
	}
	return p
}

// policyServices have a frontend with each policy on clusterIP, on the node's
// addresses, and, with remote backends only, on external.
func policyServices(scheduler nftdp.Scheduler) []nftdp.Service {
	policies := func(frontends func(port uint16) []nftdp.Frontend) []nftdp.Frontend {
		return slices.Concat(
			frontends(anyPort),
			withPolicy(nftdp.PolicyLocalOnly, frontends(localPort)),
			withPolicy(nftdp.PolicyExternalLocalOnly, frontends(externalLocalPort)))
	}
	at := func(addr func(nstest.Addrs) netip.Addr) func(uint16) []nftdp.Frontend {
		return func(port uint16) []nftdp.Frontend { return on(addr, port) }
	}
	var all []nftdp.Service
	for _, p := range protocols() {
		all = append(all,
			nftdp.Service{
				Name: "both:" + p.name, Protocol: p.proto, Scheduler: scheduler, MaglevSize: maglevSize(scheduler),
				Frontends: append(policies(at(clusterIP)), policies(nodeWide)...), Backends: isLocal(to("L1", "R1")),
			},
			nftdp.Service{
				Name: "remote:" + p.name, Protocol: p.proto, Scheduler: scheduler, MaglevSize: maglevSize(scheduler),
				Frontends: withNoBackend(nftdp.ActionReject, policies(at(external))), Backends: isLocal(to("R1")),
			})
	}
	return all
}

// maglevSize is small, since tables of the usual size take long to compute.
func maglevSize(b nftdp.Scheduler) uint16 {
	if b == nftdp.SchedulerMaglev {
		return 31
	}
	return 0
}

// policyPackets are packets to policyServices with their outcomes, with and without
// the pods in Config.Internal.
func policyPackets(internal bool) []packet {
	podSource, podBoth, podRemote := place("N"), "L1", "refused"
	if internal {
		podSource, podBoth, podRemote = "L2", "L1 or R1", "R1"
	}
	all := []packet{
		{from: "C", to: external, port: anyPort, want: "R1", source: "N"},
		{from: "C", to: external, port: localPort, want: "refused"},
		{from: "C", to: external, port: externalLocalPort, want: "refused"},
		{from: "L2", to: external, port: localPort, want: "refused"},
		{from: "L2", to: external, port: externalLocalPort, want: podRemote, source: "L2"},
		{from: "N", to: external, port: localPort, want: "refused"},
		{from: "N", to: external, port: externalLocalPort, want: "R1", source: "N"},
	}
	for _, addr := range []func(nstest.Addrs) netip.Addr{clusterIP, nodeAddr} {
		all = append(all,
			packet{from: "C", to: addr, port: anyPort, want: "L1 or R1", source: "N"},
			packet{from: "L2", to: addr, port: anyPort, want: "L1 or R1", source: podSource},
			packet{from: "L2", to: addr, port: externalLocalPort, want: podBoth, source: "L2"},
			packet{from: "N", to: addr, port: externalLocalPort, want: "L1 or R1", source: "N"},
			packet{from: "L1", to: addr, port: localPort, want: "L1", source: "N"})
		all = append(all, slices.Repeat([]packet{
			{from: "C", to: addr, port: localPort, want: "L1", source: "C"},
			{from: "C2", to: addr, port: externalLocalPort, want: "L1", source: "C2"},
			{from: "L2", to: addr, port: localPort, want: "L1", source: "L2"},
			{from: "N", to: addr, port: localPort, want: "L1", source: "N"},
		}, 8)...) // so many that a remote backend would be chosen if it could
	}
	return all
}

// TestLocalBackendGoes: while a service has no usable local backend, its frontends
// treat clients as NoBackend says if the policy allows them no other backend, and
// nothing changes for other clients. Established connections go on.
func TestLocalBackendGoes(t *testing.T) {
	t.Parallel()
	for name, take := range map[string]func(*nftdp.Service){
		"down":     func(s *nftdp.Service) { setState(s, 0, nftdp.StateDown) },
		"draining": func(s *nftdp.Service) { setState(s, 0, nftdp.StateDraining) },
		"removed":  func(s *nftdp.Service) { s.Backends = isLocal(to("R1")) },
		"moved":    func(s *nftdp.Service) { s.Backends = to("L1", "R1") },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newCaseWorld(t, nftdp.Config{Internal: podNets()})
			w.apply(t, localServices()...)
			var conns []*nstest.Conn
			for _, a := range nstest.Families() {
				conns = append(conns, connect(t, 3, w.Client, netip.AddrPortFrom(a.Node, localPort))...)
				conns = append(conns, connect(t, 3, w.Client, netip.AddrPortFrom(a.External, externalLocalPort))...)
			}
			for range 2 {
				w.wantLocal(t, "L1", "L1")
				w.change(t, take)
				w.wantLocal(t, "silence", "refused")
				wantAlive(t, conns)
				w.change(t, func(*nftdp.Service) {})
			}
			w.wantLocal(t, "L1", "L1")
		})
	}
}

// localServices have a local and a remote backend, and frontends with both
// policies.
func localServices() []nftdp.Service {
	frontends := slices.Concat(on(clusterIP, anyPort),
		withPolicy(nftdp.PolicyLocalOnly, nodeWide(localPort)),
		withPolicy(nftdp.PolicyExternalLocalOnly, on(external, externalLocalPort)),
		withNoBackend(nftdp.ActionReject, withPolicy(nftdp.PolicyLocalOnly, on(clusterIP, localPort))),
		withNoBackend(nftdp.ActionReject, withPolicy(nftdp.PolicyExternalLocalOnly, nodeWide(externalLocalPort))))
	return perProtocol(frontends, isLocal(to("L1", "R1")))[:2]
}

// change updates localServices with a change.
func (w *caseWorld) change(t *testing.T, change func(*nftdp.Service)) {
	t.Helper()
	services := localServices()
	for i := range services {
		change(&services[i])
	}
	w.update(t, nftdp.Change{Set: services})
}

// wantLocal sends packets to localServices: to frontends with ActionDefault, whose
// outcome is usual, to those with ActionReject, and to those that have a backend
// for the client in any case.
func (w *caseWorld) wantLocal(t *testing.T, usual, rejected string) {
	t.Helper()
	for _, p := range []packet{
		{from: "C", to: nodeAddr, port: localPort, want: usual, source: "C"},
		{from: "C", to: external, port: externalLocalPort, want: usual, source: "C"},
		{from: "L2", to: clusterIP, port: localPort, want: rejected, source: "L2"},
		{from: "C", to: nodeAddr, port: externalLocalPort, want: rejected, source: "C"},
	} {
		for _, protocol := range []string{"tcp", "udp"} {
			for _, a := range nstest.Families() {
				w.send(t, a, p.of(protocol))
			}
		}
	}
	for _, a := range nstest.Families() {
		for _, p := range []packet{
			{from: "C", to: clusterIP, port: anyPort},
			{from: "L2", to: external, port: externalLocalPort},
			{from: "N", to: nodeAddr, port: externalLocalPort},
		} {
			if got := w.sendOne(t, a, p); got != w.Backends[0].Name && got != w.Remotes[0].Name {
				t.Errorf("%s from %s to %v: %s, want any backend", p.transport(), p.from, p.dst(a), got)
			}
		}
	}
}

// TestUDPFollowsLocalBackend: an outside client that keeps its socket gets no answer
// while there is no local backend, and reaches the next local backend once there
// is one. A pod's socket moves to the remote backend meanwhile.
func TestUDPFollowsLocalBackend(t *testing.T) {
	t.Parallel()
	w := newCaseWorld(t, nftdp.Config{Internal: podNets()})
	w.apply(t, localServices()...)
	inFamilies(t, func(t *testing.T, a nstest.Addrs) {
		outside := []*udpClient{
			dialUDP(t, w.Client, netip.AddrPortFrom(a.Node, localPort)),
			dialUDP(t, w.Client, netip.AddrPortFrom(a.External, externalLocalPort)),
		}
		w.change(t, func(s *nftdp.Service) { s.Backends = isLocal(to("L1")) })
		pod := dialUDP(t, w.Backends[1], netip.AddrPortFrom(a.External, externalLocalPort))
		wantAll(t, append(outside, pod), w.Backends[0].Name)
		for _, c := range outside {
			w.change(t, func(s *nftdp.Service) { setState(s, 0, nftdp.StateDown) })
			if got := c.try(t, silence); got != "silence" {
				t.Errorf("datagram to %v without a local backend: %s", c.dst, got)
			}
			pod.want(t, w.Remotes[0].Name)
			w.change(t, func(s *nftdp.Service) { s.Backends = isLocal(to("L2", "R1")) })
			c.want(t, w.Backends[1].Name)
			pod.want(t, w.Remotes[0].Name)
			w.change(t, func(s *nftdp.Service) { s.Backends = isLocal(to("L1")) })
			c.want(t, w.Backends[0].Name)
		}
	})
}

// TestUDPFlowsUnderPolicy: when a policy comes to exclude a backend, flows to it
// follow the policy with their next datagram.
func TestUDPFlowsUnderPolicy(t *testing.T) {
	t.Parallel()
	w := newCaseWorld(t, nftdp.Config{Internal: podNets()})
	inFamilies(t, func(t *testing.T, a nstest.Addrs) {
		for _, policy := range []nftdp.Policy{nftdp.PolicyLocalOnly, nftdp.PolicyExternalLocalOnly} {
			t.Run(policy.String(), func(t *testing.T) {
				frontends := append(nodeWide(30053), on(external, 53)...)
				dns := nftdp.Service{Name: "dns", Protocol: nftdp.ProtocolUDP, Frontends: frontends, Backends: isLocal(to("R1"))}
				w.apply(t, dns)
				dial := func() []*udpClient {
					return []*udpClient{
						dialUDP(t, w.Client, netip.AddrPortFrom(a.Node, 30053)),
						dialUDP(t, w.Client, netip.AddrPortFrom(a.External, 53)),
					}
				}
				clients := dial()
				wantAll(t, clients, w.Remotes[0].Name)
				dns.Frontends, dns.Backends = withPolicy(policy, slices.Clone(frontends)), isLocal(to("L1", "R1"))
				w.apply(t, dns)
				wantAll(t, append(clients, dial()...), w.Backends[0].Name)
				dns.Backends = isLocal(to("L1", "R2"))
				w.apply(t, dns)
				wantAll(t, clients, w.Backends[0].Name)
			})
		}
	})
}
