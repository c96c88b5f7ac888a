//go:build linux

package integration

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/nftdp/go-nftdp/internal/nstest"
	"github.com/nftdp/go-nftdp/nftdp"
)

// drainTimeout is for a Drain that returns before it.
const drainTimeout = 20 * time.Second

// expireSoon is for a Drain that waits in vain. It counts a few times within it.
const expireSoon = time.Second

// drained is the result of a Drain.
type drained struct {
	left int
	err  error
}

func (w *world) drain(t *testing.T, timeout time.Duration, backends ...netip.AddrPort) drained {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), timeout)
	defer cancel()
	left, err := w.dataplane.Drain(ctx, "web", backends...)
	return drained{left, err}
}

func (d drained) want(t *testing.T, left int, err error) {
	t.Helper()
	if d.left != left || !errors.Is(d.err, err) {
		t.Errorf("drain: %d left, %v; want %d, %v", d.left, d.err, left, err)
	}
}

// perServer groups connections by server.
func perServer(conns []*nstest.Conn) map[string][]*nstest.Conn {
	out := map[string][]*nstest.Conn{}
	for _, c := range conns {
		out[c.Answer.Server] = append(out[c.Answer.Server], c)
	}
	return out
}

// TestDrain: Drain counts the connections that are left to draining backends, or
// to those it is given, over all frontends, and returns when they are closed or
// the context ends.
func TestDrain(t *testing.T) {
	t.Parallel()
	inFamilies(t, func(t *testing.T, a nstest.Addrs) {
		t.Parallel()
		w := newWorld(t, nftdp.Config{}, 3)
		web := nftdp.Service{Name: "web", Frontends: append(nodeWide(30080), on(external, 80)...), Backends: backends(0, 1)}
		other := nftdp.Service{Name: "other", Frontends: nodeWide(30081), Backends: backends(0)}
		w.apply(t, web, other)
		conns := perServer(slices.Concat(
			connect(t, attempts, w.Client, netip.AddrPortFrom(a.Node, 30080)),
			connect(t, attempts, w.Backends[2], netip.AddrPortFrom(a.External, 80))))
		others := connect(t, 3, w.Client, netip.AddrPortFrom(a.Node, 30081))
		first, second := conns["backend-1"], conns["backend-2"]
		to := func(i int) netip.AddrPort { return netip.AddrPortFrom(a.Backend(i), backendPort) }

		w.drain(t, drainTimeout).want(t, 0, nil)
		w.drain(t, expireSoon, to(0)).want(t, len(first), context.DeadlineExceeded)
		w.drain(t, expireSoon, to(0), to(1)).want(t, len(first)+len(second), context.DeadlineExceeded)
		setState(&web, 0, nftdp.StateDraining)
		w.update(t, nftdp.Change{Set: []nftdp.Service{web}})
		w.drain(t, expireSoon).want(t, len(first), context.DeadlineExceeded)
		wantAlive(t, slices.Concat(first, second, others))

		result := make(chan drained)
		go func() { result <- w.drain(t, drainTimeout) }()
		for _, c := range first[3:] {
			closeOrFail(t, c)
		}
		w.drain(t, expireSoon).want(t, 3, context.DeadlineExceeded)
		for _, c := range first[:3] {
			closeOrFail(t, c)
		}
		(<-result).want(t, 0, nil)
		wantAlive(t, slices.Concat(second, others))
	})
}

// TestDraining: Draining yields each count, among them one that is neither that of the
// beginning nor 0, can be left at any number, and ends with an error that comes with
// the last count.
func TestDraining(t *testing.T) {
	t.Parallel()
	inFamilies(t, func(t *testing.T, a nstest.Addrs) {
		t.Parallel()
		w := newWorld(t, nftdp.Config{}, 2)
		w.apply(t, nftdp.Service{Name: "web", Frontends: nodeWide(30080), Backends: backends(0)})
		conns := connect(t, 5, w.Client, netip.AddrPortFrom(a.Node, 30080))
		w.apply(t, nftdp.Service{Name: "web", Frontends: nodeWide(30080), Backends: backends(1)})
		var counts []int
		for left, err := range w.dataplane.Draining(t.Context(), "web") {
			if err != nil {
				t.Fatal(err)
			}
			if len(counts) == 0 || counts[len(counts)-1] != left {
				counts = append(counts, left)
			}
			if left <= 2 {
				break
			}
			closeOrFail(t, conns[left-1])
		}
		if want := []int{5, 4, 3, 2}; !slices.Equal(counts, want) {
			t.Errorf("counts %v, want %v", counts, want)
		}
		wantAlive(t, conns[:2])
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		var last drained
		for last.left, last.err = range w.dataplane.Draining(ctx, "web") {
			cancel()
		}
		last.want(t, 2, context.Canceled)
		for left, err := range w.dataplane.Draining(t.Context(), "none") {
			if unknown := (*nftdp.FieldError)(nil); !errors.As(err, &unknown) || left != 0 {
				t.Errorf("unknown service: %d, %v", left, err)
			}
		}
	})
}

// TestCut: Cut breaks the connections of a service to a backend at once, and no
// others. The next connection goes to a backend that is left.
func TestCut(t *testing.T) {
	t.Parallel()
	inFamilies(t, func(t *testing.T, a nstest.Addrs) {
		t.Parallel()
		w := newWorld(t, nftdp.Config{}, 3)
		web := nftdp.Service{Name: "web", Frontends: nodeWide(30080), Backends: backends(0, 1, 2)}
		other := nftdp.Service{Name: "other", Frontends: nodeWide(30081), Backends: backends(0)}
		w.apply(t, web, other)
		dst := netip.AddrPortFrom(a.Node, 30080)
		conns := perServer(connect(t, attempts, w.Client, dst))
		others := connect(t, 3, w.Client, netip.AddrPortFrom(a.Node, 30081))

		setState(&web, 0, nftdp.StateDraining)
		setState(&web, 1, nftdp.StateDown)
		w.apply(t, web, other)
		w.cut(t, len(conns["backend-2"]), netip.AddrPortFrom(a.Backend(1), backendPort))
		wantBroken(t, conns["backend-2"])
		wantAlive(t, slices.Concat(conns["backend-1"], conns["backend-3"], others))

		w.apply(t, nftdp.Service{Name: "web", Frontends: nodeWide(30080), Backends: backends(2)}, other)
		wantAlive(t, conns["backend-1"])
		w.cut(t, len(conns["backend-1"]))
		w.untilCut(t)
		wantBroken(t, conns["backend-1"])
		wantAlive(t, slices.Concat(conns["backend-3"], others))
		askFor(t, "backend-3", w.Client, "tcp", dst)
	})
}

func (w *world) cut(t *testing.T, want int, backends ...netip.AddrPort) {
	t.Helper()
	got, err := w.dataplane.Cut(t.Context(), "web", backends...)
	if err != nil || got != want {
		t.Errorf("cut %v: %d flows, %v; want %d", backends, got, err, want)
	}
}

// untilCut cuts the flows of web until there are none: after a first Cut an
// acknowledgement that a client has delayed still begins a flow with the node.
func (w *world) untilCut(t *testing.T) {
	t.Helper()
	for deadline := time.Now().Add(askTimeout); ; {
		n, err := w.dataplane.Cut(t.Context(), "web")
		if err == nil && n == 0 {
			return
		}
		if err != nil || time.Now().After(deadline) {
			t.Errorf("cut again: %d flows, %v; want none", n, err)
			return
		}
	}
}

// wantBroken fails unless all connections end with an error other than a timeout.
func wantBroken(t *testing.T, conns []*nstest.Conn) {
	t.Helper()
	if len(conns) == 0 {
		t.Error("no connection to break")
	}
	for i, c := range conns {
		if err := c.Echo("anybody there?", askTimeout); err == nil || nstest.IsTimeout(err) {
			t.Errorf("connection %d to %s: %v, want it broken", i, c.Answer.Server, err)
		}
	}
}

// TestFlows: Flows lists the flows of a service with their addresses on both
// sides, and as ended after they have been closed.
func TestFlows(t *testing.T) {
	t.Parallel()
	inFamilies(t, func(t *testing.T, a nstest.Addrs) {
		t.Parallel()
		w := newWorld(t, nftdp.Config{Internal: podNets()}, 2)
		node, vip := netip.AddrPortFrom(a.Node, 30080), netip.AddrPortFrom(a.ClusterIP, 80)
		w.apply(t,
			nftdp.Service{Name: "web", Frontends: append(nodeWide(30080), on(clusterIP, 80)...), Backends: backends(0)},
			nftdp.Service{Name: "udp", Protocol: nftdp.ProtocolUDP, Frontends: nodeWide(30080), Backends: backends(0)})
		outside := connect(t, 1, w.Client, node)[0]
		inside := connect(t, 1, w.Backends[1], vip)[0]
		ask(t, w.Client, "udp", node)

		backend := netip.AddrPortFrom(a.Backend(0), backendPort)
		want := map[netip.AddrPort]nftdp.Flow{
			node: {Frontend: node, Backend: backend, Source: outside.Answer.Client},
			vip:  {Frontend: vip, Backend: backend, Source: inside.Answer.Client, Client: inside.Answer.Client},
		}
		got := w.flows(t, "web")
		for dst, f := range got {
			if dst == node && f.Client.Addr() == a.Client { // its port is not known: masquerading may change it
				f.Client = netip.AddrPort{}
				got[dst] = f
			}
		}
		if diff := cmp.Diff(want, got, equateAddrs()); diff != "" {
			t.Errorf("flows (-want +got):\n%s", diff)
		}

		// A new process knows the service from the kernel.
		closeOrFail(t, w.dataplane)
		w.open(t, nftdp.Config{Internal: podNets()})
		if got := w.flows(t, "udp")[node]; got.Protocol != nftdp.ProtocolUDP || got.Backend != backend {
			t.Errorf("flow of the UDP service is %+v", got)
		}
		closeOrFail(t, outside)
		for !w.flows(t, "web")[node].Ended { // which it does with its last segment
			if t.Context().Err() != nil {
				t.Fatal("the closed connection did not end")
			}
		}
		var unknown *nftdp.FieldError
		if _, err := w.dataplane.Flows(t.Context(), "none"); !errors.As(err, &unknown) || unknown.Service != "none" {
			t.Errorf("flows of an unknown service: %v", err)
		}
	})
}

func (w *world) flows(t *testing.T, service string) map[netip.AddrPort]nftdp.Flow {
	t.Helper()
	flows, err := w.dataplane.Flows(t.Context(), service)
	if err != nil {
		t.Fatal(err)
	}
	out := map[netip.AddrPort]nftdp.Flow{}
	for _, f := range flows {
		out[f.Frontend] = f
	}
	return out
}
