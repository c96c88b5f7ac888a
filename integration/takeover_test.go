//go:build linux

package integration

import (
	"errors"
	"flag"
	"net/netip"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/nftdp/go-nftdp/internal/nstest"
	"github.com/nftdp/go-nftdp/nftdp"
)

// takeovers is how often TestTakeover hands a port over, in each family:
//
//	go test ./integration -run TestTakeover -takeovers 50
var takeovers = flag.Int("takeovers", 3, "how often TestTakeover hands a port over")

// TestTakeover: under load, a new process takes over from an old one: Apply leads
// connections to the new one, Drain waits until the old one has none left, Cut
// deletes what there may be, and the old one stops. No connection is refused. Both
// reset their connections when they have answered, and the clients have few ports,
// so that conntrack soon sees new connections with the addresses of ended ones.
func TestTakeover(t *testing.T) {
	inFamilies(t, func(t *testing.T, a nstest.Addrs) {
		w := newWorld(t, nftdp.Config{}, 1)
		if err := w.Client.Sysctl("net/ipv4/ip_local_port_range", "40000 40099"); err != nil {
			t.Fatal(err)
		}
		ports := []uint16{9000, 9001}
		web := func(i int) nftdp.Service {
			return nftdp.Service{
				Name: "web", Frontends: append(nodeWide(30080), on(clusterIP, 80)...),
				Backends: onPort(ports[i%2], backends(0)),
			}
		}
		serving := resetAtOnce(t, w.Backends[0], ports[0])
		w.apply(t, web(0))
		load := newCallers(w.Client, netip.AddrPortFrom(a.Node, 30080), netip.AddrPortFrom(a.ClusterIP, 80))
		for i := range *takeovers {
			next := resetAtOnce(t, w.Backends[0], ports[(i+1)%2])
			load.wait(t, 200)
			w.apply(t, web(i+1))
			w.drain(t, drainTimeout).want(t, 0, nil)
			if _, err := w.dataplane.Cut(t.Context(), "web"); err != nil {
				t.Fatal(err)
			}
			serving.stop(t)
			serving = next
			load.wait(t, 200)
			if refused := load.refused.Load(); refused > 0 {
				t.Fatalf("takeover %d: %d connections were refused", i, refused)
			}
		}
		load.stop()
		serving.stop(t)
		t.Logf("%d connections in %d takeovers", load.served.Load(), *takeovers)
	})
}

// resetAtOnce is a server that resets each connection once it has answered.
func resetAtOnce(t *testing.T, ns *nstest.Namespace, port uint16) *resetting {
	t.Helper()
	r := newResetting(t, ns, port)
	close(r.now)
	return r
}

func (r *resetting) stop(t *testing.T) {
	t.Helper()
	closeOrFail(t, r.listener)
}

// callers are clients that connect all the time.
type callers struct {
	served, refused atomic.Int64
	ended           chan struct{}
	clients         sync.WaitGroup
}

func newCallers(from *nstest.Namespace, dst ...netip.AddrPort) *callers {
	c := &callers{ended: make(chan struct{})}
	for i := range 8 {
		c.clients.Go(func() {
			for {
				select {
				case <-c.ended:
					return
				default:
				}
				_, err := nstest.DialTCP(from, netip.Addr{}, dst[i%len(dst)], askTimeout)
				switch {
				case errors.Is(err, syscall.ECONNREFUSED):
					c.refused.Add(1)
				case err == nil, errors.Is(err, syscall.ECONNRESET):
					c.served.Add(1)
				}
			}
		})
	}
	return c
}

// wait waits until n more connections were made.
func (c *callers) wait(t *testing.T, n int64) {
	t.Helper()
	poll := time.NewTicker(time.Millisecond)
	defer poll.Stop()
	until, deadline := c.served.Load()+n, time.Now().Add(askTimeout)
	for ; c.served.Load() < until && c.refused.Load() == 0; <-poll.C {
		if time.Now().After(deadline) {
			t.Fatal("the clients get no answers")
		}
	}
}

func (c *callers) stop() {
	close(c.ended)
	c.clients.Wait()
}
