//go:build linux

package integration

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"github.com/nftdp/go-nftdp/internal/nstest"
	"github.com/nftdp/go-nftdp/nftdp"
)

// proxyPort is where servers on the node listen that are backends by NodePort.
const proxyPort = 9090

// onNodePorts are backends that are ports of the node.
func onNodePorts(ports ...uint16) (all []nftdp.Backend) {
	for _, port := range ports {
		all = append(all, nftdp.Backend{NodePort: port})
	}
	return all
}

// TestNodePort: a server on the node gets what clients send to any address of the node,
// to one that it gets later and to virtual addresses, in every protocol, and sees the
// clients' own addresses, whatever the frontend says about masquerading. Local processes
// also come through loopback addresses.
func TestNodePort(t *testing.T) {
	t.Parallel()
	w := newCaseWorld(t, nftdp.Config{Localhost: true})
	serveAs(t, "proxy", w.Node, proxyPort, "tcp", "udp", "sctp")
	frontends := append(nodeWide(80), append(on(external, 443), nftdp.Frontend{Addr: netip.MustParseAddr("127.0.0.9"), Port: 80})...)
	w.apply(t, perProtocol(withMasquerade(nftdp.MasqueradeAlways, frontends), onNodePorts(proxyPort))...)
	inFamilies(t, func(t *testing.T, a nstest.Addrs) {
		late := a.PodGW.Next().Next()
		if err := errors.Join(w.Node.AddAddr("lo", single(late)), w.Node.WaitUp()); err != nil {
			t.Fatal(err)
		}
		to := []netip.AddrPort{netip.AddrPortFrom(late, 80), netip.AddrPortFrom(a.External, 443)}
		for _, addr := range []netip.Addr{a.Node, a.Uplink, a.PodGW} {
			to = append(to, netip.AddrPortFrom(addr, 80))
		}
		for _, p := range protocols() {
			for _, from := range []place{"C", "L1", "R1"} {
				for _, dst := range to {
					answer, err := nstest.Dial(w.namespace(from), p.name, from.addr(a), dst, askTimeout)
					if got := outcome(answer, err); got != "proxy" || answer.Client.Addr() != from.addr(a) {
						t.Errorf("%s from %s to %v: %s, which saw %v", p.name, from, dst, got, answer.Client)
					}
				}
			}
			for _, dst := range append(to, netip.AddrPortFrom(loopback(a), 80)) {
				if answer := askFor(t, "proxy", w.Node, p.name, dst); !onNode(a, answer.Client.Addr()) && answer.Client.Addr() != late {
					t.Errorf("%s from the node to %v: the server saw %v", p.name, dst, answer.Client)
				}
			}
		}
	})
	askFor(t, "proxy", w.Node, "tcp", netip.MustParseAddrPort("127.0.0.9:80"))
}

// TestNodePortOriginal: the server learns what its clients have connected to. One that
// listens on a loopback address alone gets the connections of local processes, and
// refuses the others: the kernel lets no packet from elsewhere reach a loopback address
// (ip_route_input_slow; and no reply leave from there, __mkroute_output).
func TestNodePortOriginal(t *testing.T) {
	t.Parallel()
	inFamilies(t, func(t *testing.T, a nstest.Addrs) {
		t.Parallel()
		w := newWorld(t, nftdp.Config{}, 1)
		everywhere := listenIn(t, w.Node, "tcp", netip.AddrPortFrom(netip.IPv6Unspecified(), proxyPort))
		hidden := listenIn(t, w.Node, "tcp", netip.AddrPortFrom(loopback(a), proxyPort+1))
		w.apply(t,
			nftdp.Service{Name: "web", Frontends: append(nodeWide(80), on(external, 443)...), Backends: onNodePorts(proxyPort)},
			nftdp.Service{Name: "hidden", Frontends: nodeWide(81), Backends: onNodePorts(proxyPort + 1)})
		for _, from := range []*nstest.Namespace{w.Client, w.Backends[0], w.Node} {
			for _, dst := range []netip.AddrPort{netip.AddrPortFrom(a.Node, 80), netip.AddrPortFrom(a.Uplink, 80), netip.AddrPortFrom(a.External, 443)} {
				_, server := accepted(t, everywhere, from, dst)
				wantOriginal(t, server, dst)
			}
		}
		dst := netip.AddrPortFrom(a.Node, 81)
		_, server := accepted(t, hidden, w.Node, dst)
		wantOriginal(t, server, dst)
		wantRefused(t, w.Client, "tcp", dst)
	})
}

// TestNodePortClosed: a service without backends closes the port that the server listens
// on to whoever connects to it directly, while the published ports lead there.
func TestNodePortClosed(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nftdp.Config{}, 1)
	serveAs(t, "proxy", w.Node, proxyPort, "tcp", "udp", "sctp")
	all := perProtocol(nodeWide(80), onNodePorts(proxyPort))
	w.apply(t, all...)
	inFamilies(t, func(t *testing.T, a nstest.Addrs) {
		direct := netip.AddrPortFrom(a.Node, proxyPort)
		open := connect(t, 1, w.Client, direct)
		for _, p := range protocols() {
			closed := nftdp.Service{Name: "closed/" + p.name, Protocol: p.proto, Frontends: nodeWide(proxyPort)}
			w.update(t, nftdp.Change{Set: []nftdp.Service{closed}})
			wantRefused(t, w.Client, p.name, direct)
			askFor(t, "proxy", w.Client, p.name, netip.AddrPortFrom(a.Node, 80))
			if p.name == "tcp" { // the other servers have no sockets there
				askFor(t, "proxy", w.Node, p.name, netip.AddrPortFrom(loopback(a), proxyPort))
			}
			w.update(t, nftdp.Change{Delete: []string{closed.Name}})
		}
		wantAlive(t, open)
	})
}

// TestNodePortMixed: ports of the node share connections with other backends by weight,
// can be limited, and stand in for them as backups. With a policy they are on the node.
func TestNodePortMixed(t *testing.T) {
	t.Parallel()
	inFamilies(t, func(t *testing.T, a nstest.Addrs) {
		t.Parallel()
		w := newWorld(t, nftdp.Config{}, 1)
		for i := range uint16(3) {
			serveAs(t, fmt.Sprint("proxy-", i), w.Node, proxyPort+i, "tcp")
		}
		web := nftdp.Service{Name: "web", Scheduler: nftdp.SchedulerRoundRobin, Frontends: append(nodeWide(80), on(external, 443)...)}
		web.Backends = append(backends(0), nftdp.Backend{NodePort: proxyPort, Weight: 2}, nftdp.Backend{NodePort: proxyPort + 1})
		web.Backends = append(web.Backends, nftdp.Backend{NodePort: proxyPort + 2, Backup: true})
		w.apply(t, web)
		for _, dst := range []netip.AddrPort{netip.AddrPortFrom(a.Node, 80), netip.AddrPortFrom(a.External, 443)} {
			got := count(t, 8, w.Client, "tcp", dst)
			if got["backend-1"] != 2 || got["proxy-0"] != 4 || got["proxy-1"] != 2 {
				t.Errorf("connections to %v: %v", dst, got)
			}
		}
		dst := netip.AddrPortFrom(a.Node, 80)
		withPolicy(nftdp.PolicyLocalOnly, web.Frontends)
		w.apply(t, web)
		if got := count(t, 6, w.Client, "tcp", dst); got["backend-1"] != 0 || len(got) != 2 {
			t.Errorf("local connections: %v", got)
		}
		withPolicy(nftdp.PolicyAnyBackend, web.Frontends)
		for i := range len(web.Backends) - 1 {
			web.Backends[i].State = nftdp.StateDraining
		}
		web.Backends[len(web.Backends)-1].MaxConns = 1
		w.apply(t, web)
		held := connect(t, 1, w.Client, dst)
		wantRefused(t, w.Client, "tcp", dst)
		if held[0].Answer.Server != "proxy-2" {
			t.Errorf("the backup is %s", held[0].Answer.Server)
		}
		front := w.frontend(t, "web", netip.AddrPortFrom(a.Any().Addr(), 80))
		if want := netip.AddrPortFrom(a.Any().Addr(), proxyPort+2); len(front.Backends) != 1 || front.Backends[0].Addr != want {
			t.Errorf("the kernel has the backends %+v, want %v", front.Backends, want)
		}
	})
}

// TestNodePortFlows: flows to a port of the node are listed, drained, cut and stale as
// those to other backends are: by whichever address of the node they arrive at.
func TestNodePortFlows(t *testing.T) {
	t.Parallel()
	inFamilies(t, func(t *testing.T, a nstest.Addrs) {
		t.Parallel()
		w := newWorld(t, nftdp.Config{}, 1)
		for i := range uint16(2) {
			serveAs(t, fmt.Sprint("proxy-", i), w.Node, proxyPort+i, "tcp", "udp")
		}
		web := nftdp.Service{Name: "web", Frontends: append(nodeWide(80), on(external, 80)...), Backends: onNodePorts(proxyPort)}
		dns := web
		dns.Name, dns.Protocol = "dns", nftdp.ProtocolUDP
		w.apply(t, web, dns)
		var conns []*nstest.Conn
		for _, from := range []*nstest.Namespace{w.Client, w.Backends[0], w.Node} {
			for _, dst := range []netip.Addr{a.Node, a.External} {
				conns = append(conns, connect(t, 1, from, netip.AddrPortFrom(dst, 80))...)
			}
		}
		datagrams := netip.AddrPortFrom(a.Client, 40000)
		asks := func(server string) {
			t.Helper()
			answer, err := nstest.DialFrom(w.Client, "udp", datagrams, netip.AddrPortFrom(a.Node, 80), askTimeout)
			if err != nil || answer.Server != server {
				t.Errorf("a client with its port: %v, %v; want %s", answer, err, server)
			}
		}
		asks("proxy-0")
		w.drain(t, drainTimeout).want(t, 0, nil) // nothing leads to backends that leave
		for _, which := range [][]netip.AddrPort{{netip.AddrPortFrom(a.Any().Addr(), proxyPort)}, {netip.AddrPortFrom(netip.Addr{}, proxyPort)}} {
			w.drain(t, expireSoon, which...).want(t, len(conns), context.DeadlineExceeded)
		}

		// The next proxy takes over: UDP follows at once, TCP stays until it ends.
		w.apply(t, takesOver(web), takesOver(dns))
		asks("proxy-1")
		wantAlive(t, conns)
		w.drain(t, expireSoon).want(t, len(conns), context.DeadlineExceeded)
		closeOrFail(t, conns[0])
		w.drain(t, expireSoon).want(t, len(conns)-1, context.DeadlineExceeded)
		w.cut(t, len(conns)-1)
		wantBroken(t, conns[1:])

		// Draining keeps the flows, also those of another process before.
		draining := takesOver(dns)
		draining.Backends[0].State = nftdp.StateDraining
		draining.Backends = slices.Concat(draining.Backends, onNodePorts(proxyPort))
		w.apply(t, takesOver(web), draining)
		asks("proxy-1")
		closeOrFail(t, w.dataplane)
		w.open(t, nftdp.Config{})
		w.apply(t, takesOver(web), draining)
		asks("proxy-1")
		// To another kind of backend, and back.
		dns.Backends = backends(0)
		w.apply(t, dns)
		asks("backend-1")
		dns.Backends = onNodePorts(proxyPort)
		w.apply(t, dns)
		asks("proxy-0")
	})
}

// takesOver returns the service with the next port of the node.
func takesOver(s nftdp.Service) nftdp.Service {
	s.Backends = onNodePorts(proxyPort + 1)
	return s
}

// TestNodePortWithoutAddress: the kernel drops what comes in by an interface that has no
// address to redirect to (nf_nat_redirect.c), as documented. With one it is delivered.
func TestNodePortWithoutAddress(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nftdp.Config{}, 1)
	serveAs(t, "proxy", w.Node, proxyPort, "tcp")
	w.apply(t, nftdp.Service{Name: "web", Frontends: on(external, 80), Backends: onNodePorts(proxyPort)})
	a := nstest.IPv4()
	link := nstest.PodLink(0)
	askFor(t, "proxy", w.Backends[0], "tcp", netip.AddrPortFrom(a.External, 80))
	if err := w.Node.DelAddr(link, single(a.PodGW)); err != nil {
		t.Fatal(err)
	}
	if err := w.Node.AddRoute(link, single(a.Backend(0)), netip.Addr{}, a.Uplink); err != nil {
		t.Fatal(err)
	}
	askFor(t, "proxy", w.Backends[0], "tcp", netip.AddrPortFrom(a.Node, proxyPort))
	if got := attempt(w.Backends[0], "tcp", netip.AddrPortFrom(a.External, 80), silence); got != "silence" {
		t.Errorf("by an interface without an address: %s", got)
	}
}

// TestNodePortTrace: a traced packet to a port of the node is one of its service, which
// was delivered to where the rule has redirected it.
func TestNodePortTrace(t *testing.T) {
	t.Parallel()
	inFamilies(t, func(t *testing.T, a nstest.Addrs) {
		t.Parallel()
		w := newWorld(t, nftdp.Config{}, 1)
		serveAs(t, "proxy", w.Node, proxyPort, "tcp")
		w.apply(t, nftdp.Service{Name: "web", Frontends: nodeWide(80), Backends: onNodePorts(proxyPort)})
		trace := startTrace(t, w, nftdp.TraceFilter{Service: "web"})
		askFor(t, "proxy", w.Client, "tcp", netip.AddrPortFrom(a.Node, 80))
		select {
		case got := <-trace.found:
			to := netip.AddrPortFrom(a.Uplink, proxyPort)
			if got.Service != "web" || got.Verdict != nftdp.VerdictDelivered || a.Family == "v4" && got.Backend != to {
				t.Errorf("service %q, verdict %v, backend %v, want %v:\n%v", got.Service, got.Verdict, got.Backend, to, got)
			}
			if got.Backend.Port() != proxyPort || got.Last.Destination != got.Backend {
				t.Errorf("backend %v, last %+v", got.Backend, got.Last)
			}
		case err := <-trace.errs:
			t.Fatal(err)
		case <-t.Context().Done():
			t.Fatal("nothing was traced")
		}
	})
}
