//go:build linux

package integration

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nftdp/go-nftdp/internal/nstest"
	"github.com/nftdp/go-nftdp/nftdp"
)

// fixedPort is the port of clients that keep it from one attempt at an address and
// port to the next.
func fixedPort(dst netip.AddrPort) uint16 { return 41000 + dst.Port()/1000 }

// attemptFrom makes one connection from fixedPort and returns its outcome in a word.
func attemptFrom(ns *nstest.Namespace, protocol string, src netip.Addr, dst netip.AddrPort, timeout time.Duration) string {
	answer, err := nstest.DialFrom(ns, protocol, netip.AddrPortFrom(src, fixedPort(dst)), dst, timeout)
	switch {
	case err == nil:
		return answer.Server
	case nstest.IsTimeout(err):
		return "silence"
	case errors.Is(err, syscall.ECONNREFUSED):
		return "refused"
	}
	return err.Error()
}

// wantFrom fails unless a connection from fixedPort has that outcome.
func wantFrom(t *testing.T, want string, ns *nstest.Namespace, protocol string, src netip.Addr, dst netip.AddrPort) {
	t.Helper()
	timeout := askTimeout
	if want == "silence" {
		timeout = silence
	}
	if got := attemptFrom(ns, protocol, src, dst, timeout); got != want {
		t.Errorf("%s from %v port %d to %v: %s, want %s", protocol, src, fixedPort(dst), dst, got, want)
	}
}

// TestUDPFollowsSource: a client that keeps its socket is seen by its backend as
// the service says now, and the flow stays if nothing changes.
func TestUDPFollowsSource(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nftdp.Config{}, 1)
	inFamilies(t, func(t *testing.T, a nstest.Addrs) {
		with := func(m nftdp.Masquerade, snat ...netip.Addr) nftdp.Service {
			s := udpService(0)
			s.SNAT = snat
			for i := range s.Frontends {
				s.Frontends[i].Masquerade = m
			}
			return s
		}
		var clients []*udpClient
		for _, dst := range []netip.AddrPort{
			netip.AddrPortFrom(a.Node, 30053), netip.AddrPortFrom(a.PodGW, 30053), netip.AddrPortFrom(a.ClusterIP, 53),
		} {
			clients = append(clients, dialUDP(t, w.Client, dst))
		}
		for i, c := range []struct {
			service nftdp.Service
			source  netip.Addr
		}{
			{with(nftdp.MasqueradeAuto), a.PodGW},
			{with(nftdp.MasqueradeNever), a.Client},
			{with(nftdp.MasqueradeAlways), a.PodGW},
			{with(nftdp.MasqueradeAuto, a.Node), a.Node},
			{with(nftdp.MasqueradeNever), a.Client},
			{with(nftdp.MasqueradeExternal), a.PodGW},
		} {
			w.apply(t, c.service)
			for range 2 {
				wantAll(t, clients, "backend-1")
				for dst, f := range w.flows(t, "dns") {
					if dst.Addr().Is4() == a.Client.Is4() && f.Source.Addr() != c.source {
						t.Errorf("step %d: %v sees %v, want %v", i, dst, f.Source, c.source)
					}
				}
			}
		}
	})
}

// TestUDPFollowsClients: the running flow of a client that is denied later, or is
// no longer allowed, ends, also to a backend that is draining. Other clients keep
// theirs.
func TestUDPFollowsClients(t *testing.T) {
	t.Parallel()
	for name, restrict := range map[string]func(*nftdp.Frontend){
		"deny":  func(f *nftdp.Frontend) { f.Deny = inFamilyOf(f.Addr, clientNets()) },
		"allow": func(f *nftdp.Frontend) { f.Allow = inFamilyOf(f.Addr, podNets()) },
	} {
		for _, draining := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, draining %t", name, draining), func(t *testing.T) {
				t.Parallel()
				w := newWorld(t, nftdp.Config{}, 3)
				w.apply(t, udpService(0))
				inFamilies(t, func(t *testing.T, a nstest.Addrs) {
					w.apply(t, udpService(0))
					outside := dialUDP(t, w.Client, netip.AddrPortFrom(a.ClusterIP, 53))
					pod := dialUDP(t, w.Backends[2], netip.AddrPortFrom(a.Node, 30053))
					wantAll(t, []*udpClient{outside, pod}, "backend-1")
					s := udpService(0, 1)
					if draining {
						setState(&s, 0, nftdp.StateDraining)
						w.apply(t, s)
						wantAll(t, []*udpClient{outside, pod}, "backend-1")
					}
					for i := range s.Frontends {
						restrict(&s.Frontends[i])
					}
					w.apply(t, s)
					if got := outside.try(t, silence); got != "silence" {
						t.Errorf("a client that may not connect: %s", got)
					}
					pod.want(t, "backend-1")
				})
			})
		}
	}
}

// inFamilyOf returns those prefixes that a frontend of an address can list.
func inFamilyOf(addr netip.Addr, prefixes []netip.Prefix) (out []netip.Prefix) {
	for _, p := range prefixes {
		if !addr.IsValid() || addr.Is4() == p.Addr().Is4() {
			out = append(out, p)
		}
	}
	return out
}

// TestBeforeService: a client that tries from one port until its service exists
// reaches it then, whatever the attempts before have met.
func TestBeforeService(t *testing.T) {
	t.Parallel()
	eachWay(t, func(t *testing.T, w *world, a nstest.Addrs, set func(...nftdp.Service)) {
		set()
		vip, node := netip.AddrPortFrom(a.ClusterIP, 80), netip.AddrPortFrom(a.Node, 30080)
		pod := w.Backends[2]
		all := perProtocol(append(nodeWide(30080), on(clusterIP, 80)...), backends(0))
		for _, p := range protocols() {
			wantFrom(t, "silence", pod, p.name, a.Backend(2), vip)
		}
		wantFrom(t, "refused", pod, "tcp", a.Backend(2), node)
		set(all...)
		for _, p := range protocols() {
			wantFrom(t, "backend-1", pod, p.name, a.Backend(2), vip)
			wantFrom(t, "backend-1", pod, p.name, a.Backend(2), node)
		}
	})
}

// TestDeadEnd: a client that tries from one port while its backend does not answer
// reaches the backend that takes its place.
func TestDeadEnd(t *testing.T) {
	t.Parallel()
	eachWay(t, func(t *testing.T, w *world, a nstest.Addrs, set func(...nftdp.Service)) {
		const dead = 9 // a port where nothing answers SCTP
		at := netip.AddrPortFrom(a.ClusterIP, 80)
		sctp := nftdp.Service{Name: "sctp", Protocol: nftdp.ProtocolSCTP, Frontends: on(clusterIP, 80), Backends: onPort(dead, backends(0))}
		tcp := nftdp.Service{Name: "tcp", Frontends: on(clusterIP, 80), Backends: onPort(dead, backends(0))}
		silenced(t, w.Backends[0], dead)
		set(sctp, tcp)
		for range 3 {
			wantFrom(t, "silence", w.Client, "sctp", a.Client, at)
			wantFrom(t, "silence", w.Client, "tcp", a.Client, at)
		}
		sctp.Backends, tcp.Backends = backends(1), backends(1)
		set(sctp, tcp)
		wantFrom(t, "backend-2", w.Client, "sctp", a.Client, at)
		wantFrom(t, "backend-2", w.Client, "tcp", a.Client, at)
	})
}

// silenced makes a namespace drop packets to a port.
func silenced(t *testing.T, ns *nstest.Namespace, port uint16) {
	t.Helper()
	nftLoad(t, ns, fmt.Sprintf("table inet silent {\n chain in {\n  type filter hook prerouting priority raw\n  meta l4proto { tcp, sctp } th dport %d drop\n }\n}\n", port))
}

// TestRulesGone: a client that tried from one port while our rules were gone
// reaches the service once they are repaired.
func TestRulesGone(t *testing.T) {
	t.Parallel()
	for _, by := range []string{"Apply", "Keep"} {
		t.Run(by, func(t *testing.T) {
			inFamilies(t, func(t *testing.T, a nstest.Addrs) {
				t.Parallel()
				w := newWorld(t, nftdp.Config{}, 1)
				// Another nat chain keeps conntrack going.
				nftLoad(t, w.Node, "table ip other {\n chain c {\n  type nat hook prerouting priority 0\n }\n}\ntable ip6 other {\n chain c {\n  type nat hook prerouting priority 0\n }\n}\n")
				services := perProtocol(on(clusterIP, 80), backends(0))
				w.apply(t, services...)
				for _, f := range []string{"ip", "ip6"} {
					nft(t, w.Node, true, "delete", "table", f, "nftdp")
				}
				vip := netip.AddrPortFrom(a.ClusterIP, 80)
				for _, p := range protocols() {
					wantFrom(t, "silence", w.Client, p.name, a.Client, vip)
				}
				if by == "Keep" {
					w.repairOnce(t)
				} else {
					w.apply(t, services...)
				}
				for _, p := range protocols() {
					wantFrom(t, "backend-1", w.Client, p.name, a.Client, vip)
				}
			})
		})
	}
}

// repairOnce runs Keep until it has repaired something.
func (w *world) repairOnce(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), askTimeout)
	defer cancel()
	repaired := false
	_ = w.dataplane.Keep(ctx, func(d *nftdp.Drift, err error) {
		if err != nil {
			t.Error(err)
		}
		repaired = repaired || d != nil
		cancel()
	})
	if !repaired {
		t.Error("Keep has repaired nothing")
	}
}

// resetting listens on a port of a namespace and resets each connection once it
// has answered, when it is asked to.
type resetting struct {
	listener net.Listener
	now      chan struct{}
}

func newResetting(t *testing.T, ns *nstest.Namespace, port uint16) *resetting {
	t.Helper()
	r := &resetting{now: make(chan struct{})}
	err := ns.Do(func() (err error) {
		r.listener, err = net.Listen("tcp", fmt.Sprintf(":%d", port))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		for {
			c, err := r.listener.Accept()
			if err != nil {
				return
			}
			go func() {
				_, _ = fmt.Fprintf(c, "resetting %v\n", c.RemoteAddr())
				<-r.now
				_ = c.(*net.TCPConn).SetLinger(0)
				_ = c.Close()
			}()
		}
	}()
	t.Cleanup(func() { _ = r.listener.Close() })
	return r
}

// TestResetConnections: a connection that a backend has reset, before or after it
// was replaced, does not lead the next one from the same port to that backend.
func TestResetConnections(t *testing.T) {
	t.Parallel()
	for _, when := range []string{"before", "after, Drain", "after, Cut"} {
		t.Run(when, func(t *testing.T) {
			t.Parallel()
			inFamilies(t, func(t *testing.T, a nstest.Addrs) {
				t.Parallel()
				w := newWorld(t, nftdp.Config{}, 1)
				old := newResetting(t, w.Backends[0], 9000)
				web := nftdp.Service{Name: "web", Frontends: append(nodeWide(30080), on(clusterIP, 80)...), Backends: onPort(9000, backends(0))}
				w.apply(t, web)
				at := []netip.AddrPort{netip.AddrPortFrom(a.Node, 30080), netip.AddrPortFrom(a.ClusterIP, 80)}
				var conns []*nstest.Conn
				for _, dst := range at {
					c, err := nstest.DialTCPFrom(w.Client, netip.AddrPortFrom(a.Client, fixedPort(dst)), dst, askTimeout)
					if err != nil {
						t.Fatal(err)
					}
					conns = append(conns, c)
				}
				reset := func() {
					close(old.now)
					for _, c := range conns {
						if err := c.Echo("hello", askTimeout); err == nil || nstest.IsTimeout(err) {
							t.Errorf("the connection is not reset: %v", err)
						}
						_ = c.Close()
					}
				}
				if when == "before" {
					reset()
				}
				web.Backends = backends(0)
				w.apply(t, web)
				switch when {
				case "after, Drain":
					reset()
					w.drain(t, drainTimeout).want(t, 0, nil)
				case "after, Cut":
					reset()
					w.cut(t, len(conns))
				}
				closeOrFail(t, old.listener)
				for _, dst := range at {
					wantFrom(t, "backend-1", w.Client, "tcp", a.Client, dst)
				}
			})
		})
	}
}

// TestEstablishedStays: established connections to a backend that is removed go on,
// also half closed ones, unless the service asks for them to be cut. Those to other
// backends and of other services stay in any case.
func TestEstablishedStays(t *testing.T) {
	t.Parallel()
	for _, how := range []string{"removed", "down", "denied", "deleted", "draining"} {
		for _, cut := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, cut %t", how, cut), func(t *testing.T) {
				t.Parallel()
				inFamilies(t, func(t *testing.T, a nstest.Addrs) {
					t.Parallel()
					w := newWorld(t, nftdp.Config{}, 3)
					web := nftdp.Service{Name: "web", CutStale: cut, Frontends: append(nodeWide(30080), on(clusterIP, 80)...), Backends: backends(0, 1)}
					other := nftdp.Service{Name: "other", CutStale: true, Frontends: nodeWide(30081), Backends: backends(0)}
					w.apply(t, web, other)
					conns := perServer(slices.Concat(
						connect(t, attempts, w.Client, netip.AddrPortFrom(a.Node, 30080)),
						connect(t, attempts, w.Backends[2], netip.AddrPortFrom(a.ClusterIP, 80))))
					others := connect(t, 3, w.Client, netip.AddrPortFrom(a.Node, 30081))
					services := []nftdp.Service{web, other}
					all := slices.Concat(conns["backend-1"], conns["backend-2"])
					var stale, stay []*nstest.Conn
					switch how {
					case "removed":
						services[0].Backends, stale, stay = backends(1), conns["backend-1"], conns["backend-2"]
					case "down", "draining":
						services[0].Backends = backends(0, 1)
						setState(&services[0], 0, map[string]nftdp.State{"down": nftdp.StateDown, "draining": nftdp.StateDraining}[how])
						stale, stay = conns["backend-1"], conns["backend-2"]
						if how == "draining" {
							stale, stay = nil, all
						}
					case "denied":
						services[0].Frontends = slices.Clone(web.Frontends)
						for i := range services[0].Frontends {
							f := &services[0].Frontends[i]
							f.Deny = inFamilyOf(f.Addr, []netip.Prefix{nstest.IPv4().Any(), nstest.IPv6().Any()})
						}
						stale = all
					case "deleted":
						services, stale = services[1:], all
					}
					w.apply(t, services...)
					wantAlive(t, slices.Concat(others, stay))
					switch {
					case !cut:
						wantAlive(t, stale)
					case how == "removed" || how == "down":
						wantBroken(t, stale)
					case how != "draining": // nothing answers the clients any more
						w.wantNoFlow(t, netip.AddrPortFrom(a.Node, 30080), netip.AddrPortFrom(a.ClusterIP, 80))
					}
				})
			})
		}
	}
}

// wantNoFlow fails if conntrack has a TCP connection to any of these.
func (w *world) wantNoFlow(t *testing.T, dst ...netip.AddrPort) {
	t.Helper()
	for f := range flowTable(t, w.Node, syscall.IPPROTO_TCP) {
		if slices.Contains(dst, f.dst) {
			t.Errorf("%+v is still there", f)
		}
	}
}

// TestConversationOfBackend: a container that talks to a peer outside, through the
// port that is published for it, is replaced. The peer's next datagram reaches the
// new one, but only then: while it runs or drains, the conversation goes on.
func TestConversationOfBackend(t *testing.T) {
	t.Parallel()
	for _, restart := range []bool{false, true} {
		t.Run(fmt.Sprintf("restart %t", restart), func(t *testing.T) {
			t.Parallel()
			inFamilies(t, func(t *testing.T, a nstest.Addrs) {
				t.Parallel()
				testConversation(t, a, restart)
			})
		})
	}
}

func testConversation(t *testing.T, a nstest.Addrs, restart bool) {
	t.Helper()
	const port = 5060
	w := newWorld(t, nftdp.Config{}, 2)
	nftLoad(t, w.Node, fmt.Sprintf("table %s engine {\n chain c {\n  type nat hook postrouting priority 100\n  %s saddr %v oifname \"uplink\" masquerade\n }\n}\n",
		nftFamily(a), nftFamily(a), a.PodNet))
	sip := func(i ...int) nftdp.Service {
		return nftdp.Service{Name: "sip", Protocol: nftdp.ProtocolUDP, Frontends: nodeWide(port), Backends: onPort(port, backends(i...))}
	}
	listen := func(ns *nstest.Namespace, at netip.Addr) *net.UDPConn {
		c, err := nstest.ListenUDP(ns, netip.AddrPortFrom(at, port))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close() })
		return c
	}
	peer, first, second := listen(w.Client, a.Client), listen(w.Backends[0], a.Backend(0)), listen(w.Backends[1], a.Backend(1))
	w.apply(t, sip(0))
	send(t, first, netip.AddrPortFrom(a.Client, port), "register")
	from := receive(t, peer, "register")
	if from.Addr() != a.Uplink || from.Port() != port {
		t.Fatalf("the peer sees %v", from)
	}
	call := func(to *net.UDPConn, word string) {
		t.Helper()
		send(t, peer, from, word)
		receive(t, to, word)
	}
	call(first, "one")
	draining := sip(0, 1)
	setState(&draining, 0, nftdp.StateDraining)
	for i, s := range []nftdp.Service{sip(0, 1), draining, sip(0)} {
		w.apply(t, s)
		call(first, fmt.Sprintf("step %d", i))
	}
	if restart {
		closeOrFail(t, w.dataplane)
		w.open(t, nftdp.Config{})
	}
	w.apply(t, sip(1))
	call(second, "two")
}

func send(t *testing.T, c *net.UDPConn, to netip.AddrPort, word string) {
	t.Helper()
	if _, err := c.WriteToUDPAddrPort([]byte(word), to); err != nil {
		t.Fatal(err)
	}
}

func receive(t *testing.T, c *net.UDPConn, word string) netip.AddrPort {
	t.Helper()
	if err := c.SetReadDeadline(time.Now().Add(askTimeout)); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 100)
	n, from, err := c.ReadFromUDPAddrPort(b)
	if err != nil || string(b[:n]) != word {
		t.Fatalf("received %q from %v, error %v, want %q", b[:n], from, err, word)
	}
	return netip.AddrPortFrom(from.Addr().Unmap(), from.Port())
}

// TestOwnConversation: a flow that a process on the node has begun goes on when
// its port is published: the tunnel of a WireGuard that talks to its peer is not
// cut by a service.
func TestOwnConversation(t *testing.T) {
	t.Parallel()
	inFamilies(t, func(t *testing.T, a nstest.Addrs) {
		t.Parallel()
		w := newWorld(t, nftdp.Config{}, 2)
		own, err := nstest.ListenUDP(w.Node, netip.AddrPortFrom(a.Uplink, 51820))
		if err != nil {
			t.Fatal(err)
		}
		defer closeOrFail(t, own)
		peer, err := nstest.ListenUDP(w.Client, netip.AddrPortFrom(a.Client, 51820))
		if err != nil {
			t.Fatal(err)
		}
		defer closeOrFail(t, peer)
		w.apply(t)
		send(t, own, netip.AddrPortFrom(a.Client, 51820), "handshake")
		from := receive(t, peer, "handshake")
		tunnel := nftdp.Service{Name: "tunnel", Protocol: nftdp.ProtocolUDP, Frontends: nodeWide(51820)}
		for i, s := range [][]int{{0}, {1}, {}, {0}} {
			tunnel.Backends = backends(s...)
			w.apply(t, tunnel)
			word := fmt.Sprintf("data %d", i)
			send(t, peer, from, word)
			receive(t, own, word)
		}
		w.apply(t)
		send(t, peer, from, "end")
		receive(t, own, "end")
	})
}

// TestNarrowedConfig: flows on addresses that a new process leaves out of NodeAddrs
// end, also if the service is deleted at once. Others go on.
func TestNarrowedConfig(t *testing.T) {
	t.Parallel()
	for _, deleted := range []bool{false, true} {
		t.Run(fmt.Sprintf("deleted %t", deleted), func(t *testing.T) {
			t.Parallel()
			inFamilies(t, func(t *testing.T, a nstest.Addrs) {
				t.Parallel()
				w := newWorld(t, nftdp.Config{}, 1)
				w.apply(t, udpService(0))
				inside := dialUDP(t, w.Client, netip.AddrPortFrom(a.Node, 30053))
				outside := dialUDP(t, w.Client, netip.AddrPortFrom(a.PodGW, 30053))
				wantAll(t, []*udpClient{inside, outside}, "backend-1")
				closeOrFail(t, w.dataplane)
				w.open(t, nftdp.Config{NodeAddrs: nodePrefixes()})
				if deleted {
					w.apply(t)
					inside.want(t, "refused")
				} else {
					w.apply(t, udpService(0))
					inside.want(t, "backend-1")
				}
				outside.want(t, "refused")
			})
		})
	}
}

// TestCutUntranslated: what Flows lists without a backend, Cut deletes: connections
// to a server on the node that began before its port was a frontend.
func TestCutUntranslated(t *testing.T) {
	t.Parallel()
	inFamilies(t, func(t *testing.T, a nstest.Addrs) {
		t.Parallel()
		w := newWorld(t, nftdp.Config{}, 1)
		serve(t, w.Node, 30080, "tcp")
		w.apply(t)
		own := connect(t, 3, w.Client, netip.AddrPortFrom(a.Node, 30080))
		w.apply(t, nftdp.Service{Name: "web", Frontends: nodeWide(30080), Backends: backends(0)})
		wantAlive(t, own)
		conns := connect(t, 3, w.Client, netip.AddrPortFrom(a.Node, 30080))
		if f := w.flows(t, "web")[netip.AddrPortFrom(a.Node, 30080)]; !f.Client.IsValid() {
			t.Error("no flow is listed")
		}
		w.cut(t, len(own))
		w.untilCut(t)
		wantAlive(t, conns)
		if strings.Contains(own[0].Answer.Server, "backend") {
			t.Errorf("the first connections went to %s", own[0].Answer.Server)
		}
	})
}
