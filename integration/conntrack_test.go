//go:build linux

package integration

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nftdp/go-nftdp/internal/nstest"
	"github.com/nftdp/go-nftdp/nftdp"
)

// udpClient is a client that keeps one socket.
type udpClient struct {
	net.Conn
	dst  netip.AddrPort
	sent int // datagrams
}

func dialUDP(t *testing.T, from *nstest.Namespace, dst netip.AddrPort) *udpClient {
	t.Helper()
	c, err := nstest.Open(from, "udp", netip.Addr{}, dst, askTimeout)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return &udpClient{Conn: c, dst: dst}
}

// local is the client's address.
func (c *udpClient) local() netip.AddrPort { return c.LocalAddr().(*net.UDPAddr).AddrPort() }

// try sends one datagram and returns its outcome in a word, as attempt does.
func (c *udpClient) try(t *testing.T, timeout time.Duration) string {
	t.Helper()
	if err := c.SetDeadline(time.Now().Add(timeout)); err != nil {
		t.Fatal(err)
	}
	c.sent++
	payload := fmt.Sprintf("datagram-%d", c.sent)
	answer, err := exchange(c, payload)
	for err == nil && !strings.HasSuffix(answer, " "+payload) {
		// This is the answer to an earlier one, which came after its timeout.
		b := make([]byte, 2048)
		var n int
		n, err = c.Read(b)
		answer = string(b[:n])
	}
	server, _, _ := strings.Cut(answer, " ")
	switch {
	case err == nil:
		return server
	case errors.Is(err, syscall.ECONNREFUSED):
		return "refused"
	case nstest.IsTimeout(err):
		return "silence"
	}
	return err.Error()
}

// want fails unless the next datagram is answered by that server.
func (c *udpClient) want(t *testing.T, server string) {
	t.Helper()
	if got := c.try(t, askTimeout); got != server {
		t.Errorf("datagram from %v to %v: %s, want %s", c.local(), c.dst, got, server)
	}
}

// udpService has frontends of every kind, on ports other than the backends'.
func udpService(indices ...int) nftdp.Service {
	return nftdp.Service{
		Name: "dns", Protocol: nftdp.ProtocolUDP, Backends: backends(indices...),
		Frontends: append(append(nodeWide(30053), on(clusterIP, 53)...), on(nodeAddr, 53)...),
	}
}

// udpClients are sockets to each frontend of udpService, from outside and from a
// pod.
func udpClients(t *testing.T, w *world, a nstest.Addrs) []*udpClient {
	t.Helper()
	pod := w.Backends[len(w.Backends)-1]
	var all []*udpClient
	for _, from := range []*nstest.Namespace{w.Client, pod} {
		for _, dst := range []netip.AddrPort{
			netip.AddrPortFrom(a.Node, 30053), netip.AddrPortFrom(a.PodGW, 30053), netip.AddrPortFrom(a.Uplink, 30053),
			netip.AddrPortFrom(a.ClusterIP, 53), netip.AddrPortFrom(a.Node, 53),
		} {
			all = append(all, dialUDP(t, from, dst))
		}
	}
	return all
}

func wantAll(t *testing.T, clients []*udpClient, server string) {
	t.Helper()
	for _, c := range clients {
		c.want(t, server)
	}
}

// eachWay runs a subtest in each family, with a function that programs exactly
// the given services, by Apply or by Update.
func eachWay(t *testing.T, test func(t *testing.T, w *world, a nstest.Addrs, set func(...nftdp.Service))) {
	t.Helper()
	for _, by := range []string{"apply", "update"} {
		t.Run(by, func(t *testing.T) {
			inFamilies(t, func(t *testing.T, a nstest.Addrs) {
				t.Parallel()
				w := newWorld(t, nftdp.Config{}, 3)
				var held []string
				test(t, w, a, func(services ...nftdp.Service) {
					if by == "apply" {
						w.apply(t, services...)
						return
					}
					change := nftdp.Change{Set: services}
					named := map[string]bool{}
					for _, s := range services {
						named[s.Name] = true
					}
					for _, name := range held {
						if !named[name] {
							change.Delete = append(change.Delete, name)
						}
					}
					held = nil
					for name := range named {
						held = append(held, name)
					}
					w.update(t, change)
				})
			})
		})
	}
}

// TestUDPBackendReplaced: a client that keeps its socket reaches the new backend
// with its next datagram, or is refused if there is none.
func TestUDPBackendReplaced(t *testing.T) {
	t.Parallel()
	eachWay(t, func(t *testing.T, w *world, a nstest.Addrs, set func(...nftdp.Service)) {
		set(udpService(0))
		clients := udpClients(t, w, a)
		wantAll(t, clients, "backend-1")
		set(udpService(1))
		wantAll(t, clients, "backend-2")

		down := udpService(0, 1)
		setState(&down, 1, nftdp.StateDown)
		set(down)
		wantAll(t, clients, "backend-1")

		set(udpService())
		wantAll(t, clients, "refused")
		set(udpService(1)) // the frontend had no backend before
		wantAll(t, clients, "backend-2")
	})
}

// TestUDPBeforeService: a client whose datagrams went nowhere, or to a server on
// the node, reaches the service with its first datagram after the service has
// appeared. Once it is deleted, datagrams go where they went before.
func TestUDPBeforeService(t *testing.T) {
	t.Parallel()
	eachWay(t, func(t *testing.T, w *world, a nstest.Addrs, set func(...nftdp.Service)) {
		serve(t, w.Node, 30053, "udp")
		node := dialUDP(t, w.Client, netip.AddrPortFrom(a.Node, 30053))
		vip := dialUDP(t, w.Backends[2], netip.AddrPortFrom(a.ClusterIP, 53))
		before := func() {
			t.Helper()
			node.want(t, "node")
			if got := vip.try(t, silence); got != "silence" {
				t.Errorf("datagram to a virtual address without a service: %s, want silence", got)
			}
		}
		before()
		set(udpService(0))
		wantAll(t, []*udpClient{node, vip}, "backend-1")
		set()
		before()
		set(udpService())
		wantAll(t, []*udpClient{node, vip}, "refused")
		set(udpService(1))
		wantAll(t, []*udpClient{node, vip}, "backend-2")
	})
}

// TestUDPPrecedence: when a frontend with an address is added beside a node-wide
// one, or removed, the clients of that address follow at once. Those of other
// addresses stay.
func TestUDPPrecedence(t *testing.T) {
	t.Parallel()
	eachWay(t, func(t *testing.T, w *world, a nstest.Addrs, set func(...nftdp.Service)) {
		wide := nftdp.Service{Name: "wide", Protocol: nftdp.ProtocolUDP, Frontends: nodeWide(53), Backends: backends(0)}
		narrow := nftdp.Service{Name: "narrow", Protocol: nftdp.ProtocolUDP, Frontends: on(nodeAddr, 53), Backends: backends(1)}
		node := dialUDP(t, w.Client, netip.AddrPortFrom(a.Node, 53))
		other := dialUDP(t, w.Client, netip.AddrPortFrom(a.PodGW, 53))
		for range 2 {
			set(wide)
			wantAll(t, []*udpClient{node, other}, "backend-1")
			set(wide, narrow)
			node.want(t, "backend-2")
			other.want(t, "backend-1")
		}
		wide.Backends = backends(2)
		set(wide, narrow)
		node.want(t, "backend-2")
		other.want(t, "backend-3")
	})
}

// TestUDPDraining: a draining backend keeps its UDP flows and gets no new one.
// Once it is down or removed, its clients go elsewhere, even if another process
// has made it draining.
func TestUDPDraining(t *testing.T) {
	t.Parallel()
	for _, end := range []string{"down", "removed", "removed after restart", "service updated after restart"} {
		t.Run(end, func(t *testing.T) {
			t.Parallel()
			inFamilies(t, func(t *testing.T, a nstest.Addrs) {
				t.Parallel()
				w := newWorld(t, nftdp.Config{}, 3)
				w.apply(t, udpService(0))
				clients := udpClients(t, w, a)
				wantAll(t, clients, "backend-1")

				dns := udpService(0, 1)
				setState(&dns, 0, nftdp.StateDraining)
				w.apply(t, dns)
				wantAll(t, clients, "backend-1")
				wantAll(t, udpClients(t, w, a), "backend-2")

				if strings.Contains(end, "restart") {
					closeOrFail(t, w.dataplane)
					w.open(t, nftdp.Config{})
					w.apply(t, dns)
					wantAll(t, clients, "backend-1")
					closeOrFail(t, w.dataplane)
					w.open(t, nftdp.Config{})
				}
				switch end {
				case "down":
					setState(&dns, 0, nftdp.StateDown)
					w.apply(t, dns)
				case "service updated after restart":
					w.update(t, nftdp.Change{Set: []nftdp.Service{udpService(1)}})
				default:
					w.apply(t, udpService(1))
				}
				wantAll(t, clients, "backend-2")
			})
		})
	}
}

// TestUDPBackup: a backup that is no longer needed keeps its UDP flows, and loses
// them when it is removed.
func TestUDPBackup(t *testing.T) {
	t.Parallel()
	inFamilies(t, func(t *testing.T, a nstest.Addrs) {
		t.Parallel()
		w := newWorld(t, nftdp.Config{}, 3)
		dns := udpService(0, 1)
		setBackup(&dns, 1, true)
		setState(&dns, 0, nftdp.StateDown)
		w.apply(t, dns)
		clients := udpClients(t, w, a)
		wantAll(t, clients, "backend-2")
		setState(&dns, 0, nftdp.StateActive)
		w.apply(t, dns)
		wantAll(t, clients, "backend-2")
		wantAll(t, udpClients(t, w, a), "backend-1")
		w.apply(t, udpService(0))
		wantAll(t, clients, "backend-1")
	})
}

// TestCrashBeforeReconciliation: if a process ends after its transaction and
// before it has deleted stale flows, the next process deletes them.
func TestCrashBeforeReconciliation(t *testing.T) {
	t.Parallel()
	inFamilies(t, func(t *testing.T, a nstest.Addrs) {
		t.Parallel()
		w := newWorld(t, nftdp.Config{}, 3)
		w.apply(t, udpService(1))
		var stale []trackedFlow
		for i, dst := range []netip.AddrPort{netip.AddrPortFrom(a.Node, 30053), netip.AddrPortFrom(a.ClusterIP, 53)} {
			client := netip.AddrPortFrom(a.Client, uint16(1234+i))
			stale = append(stale, trackedFlow{
				syscall.IPPROTO_UDP, client, dst, netip.AddrPortFrom(a.Backend(0), backendPort), client,
			})
		}
		addFlows(t, w.Node, stale)
		closeOrFail(t, w.dataplane)
		w.open(t, nftdp.Config{})
		if plan := w.apply(t, udpService(1)); !plan.Empty() {
			t.Errorf("the plan is not empty:\n%v", plan)
		}
		table := flowTable(t, w.Node, syscall.IPPROTO_UDP)
		for _, f := range stale {
			if table[f] {
				t.Errorf("%+v is still there", f)
			}
		}
	})
}

// TestUDPOtherProcess: when two processes program the same table, flows follow
// the one that came last.
func TestUDPOtherProcess(t *testing.T) {
	t.Parallel()
	inFamilies(t, func(t *testing.T, a nstest.Addrs) {
		t.Parallel()
		w := newWorld(t, nftdp.Config{}, 3)
		other := openDataplane(t, w.Node, nftdp.Config{})
		clients := udpClients(t, w, a)
		for range 2 {
			w.apply(t, udpService(0))
			wantAll(t, clients, "backend-1")
			if _, err := other.Apply(t.Context(), []nftdp.Service{udpService(1)}); err != nil {
				t.Fatal(err)
			}
			wantAll(t, clients, "backend-2")
		}
	})
}

// TestUDPMapReplaced: flows follow a change even if the kernel's maps are too
// small for it, so that they are replaced with everything in them.
func TestUDPMapReplaced(t *testing.T) {
	t.Parallel()
	eachWay(t, func(t *testing.T, w *world, a nstest.Addrs, set func(...nftdp.Service)) {
		big := nftdp.Service{Name: "big", Frontends: append(nodeWide(90), on(clusterIP, 90)...), Scheduler: nftdp.SchedulerMaglev, Backends: backends(0, 1)}
		set(udpService(0))
		clients := udpClients(t, w, a)
		wantAll(t, clients, "backend-1")
		for i, size := range []uint16{4093, 16381} {
			big.MaglevSize = size
			set(udpService((i+1)%2), big)
			wantAll(t, clients, []string{"backend-2", "backend-1"}[i])
		}
	})
}

// endingContext is canceled from its n-th call of Err on.
type endingContext struct {
	context.Context
	n int
}

func (c *endingContext) Err() error {
	if c.n--; c.n < 0 {
		return context.Canceled
	}
	return nil
}

// TestInterrupted: wherever an Apply is interrupted, before or after it has
// returned a Plan of what it committed, the next one moves all clients.
func TestInterrupted(t *testing.T) {
	t.Parallel()
	inFamilies(t, func(t *testing.T, a nstest.Addrs) {
		t.Parallel()
		w := newWorld(t, nftdp.Config{}, 3)
		w.apply(t, udpService(1))
		clients := udpClients(t, w, a)
		committed := 0
		for n := 0; ; n++ {
			wantAll(t, clients, fmt.Sprintf("backend-%d", (n+1)%2+1))
			services := []nftdp.Service{udpService(n % 2)}
			plan, err := w.dataplane.Apply(&endingContext{t.Context(), n}, services)
			if err == nil {
				break
			}
			if !errors.Is(err, context.Canceled) {
				t.Fatalf("apply: %v", err)
			}
			if plan != nil {
				committed++
			}
			w.apply(t, services...)
		}
		if committed < 5 {
			t.Errorf("%d times an Apply was interrupted after its transaction, want 5 or more", committed)
		}
	})
}
