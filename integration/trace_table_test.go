//go:build linux

package integration

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nftdp/go-nftdp/internal/nstest"
	"github.com/nftdp/go-nftdp/nftdp"
)

// TestTraceTwo: traces at the same time have tables of their own, and see the
// packets of their own filters only.
func TestTraceTwo(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nftdp.Config{}, 1)
	w.apply(t, forwardedServices()...)
	theirs := tableNames(t, w.Node)
	tcp, udp := startTrace(t, w, nftdp.TraceFilter{Service: "tcp"}), startTrace(t, w, nftdp.TraceFilter{Service: "udp"})
	if n := len(traceTables(t, w.Node)); n != 2 {
		t.Errorf("%d tables of traces", n)
	}
	a := nstest.IPv6()
	dst := netip.AddrPortFrom(a.ClusterIP, 80)
	both := func() {
		ask(t, w.Client, "tcp", dst)
		ask(t, w.Client, "udp", dst)
	}
	both()
	for tr, protocol := range map[*traced]string{tcp: "tcp", udp: "udp"} {
		tr.want(t, protocol, func(found *nftdp.Trace) bool {
			if found.Packet.Protocol != protocol {
				t.Errorf("the trace of %s has %v", protocol, found)
			}
			return true
		})
	}
	tcp.stop()
	both()
	udp.want(t, "udp", toDst(dst))
	udp.stop()
	if got := tableNames(t, w.Node); !slices.Equal(got, theirs) {
		t.Errorf("tables after the traces: %v, want %v", got, theirs)
	}
}

// TestTraceRate: no more packets are followed than the filter allows.
func TestTraceRate(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nftdp.Config{}, 1)
	w.apply(t, forwardedServices()...)
	tr := startTrace(t, w, nftdp.TraceFilter{Protocol: "udp", Rate: 1})
	dst := netip.AddrPortFrom(nstest.IPv4().ClusterIP, 80)
	begun := time.Now()
	for range 100 {
		ask(t, w.Client, "udp", dst)
	}
	tr.want(t, dst.String(), toDst(dst))
	tr.stop()
	if most := 2 + int(time.Since(begun)/time.Second); len(tr.found) > 2*most { // of the client, and of the backend
		t.Errorf("%d packets in %v", len(tr.found), time.Since(begun))
	}
}

// TestTraceMissed: what does not fit into the socket is missed, which is said, and
// the trace goes on.
func TestTraceMissed(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nftdp.Config{}, 1)
	w.apply(t, forwardedServices()...)
	dst := netip.AddrPortFrom(nstest.IPv4().ClusterIP, 80)
	ctx, cancel := context.WithCancel(t.Context())
	missed, again := false, false
	first := true
	startDatagrams(t, w, dst)
	defer cancel()
	for _, err := range w.dataplane.Trace(ctx, nftdp.TraceFilter{Rate: 1000000}) {
		switch {
		case ctx.Err() != nil:
		case errors.Is(err, nftdp.ErrMissed):
			missed = true
		case err != nil:
			t.Error(err)
		case first:
			first = false
			overflow(t, w, dst)
		case missed:
			again = true
			cancel()
		}
	}
	if !missed || !again {
		t.Errorf("missed %t, went on %t", missed, again)
	}
}

// startDatagrams sends datagrams until the end of the test.
func startDatagrams(t *testing.T, w *world, dst netip.AddrPort) {
	t.Helper()
	nstest.StartLoad(t, func() error { _ = attempt(w.Client, "udp", dst, silence); return nil })
}

// overflow sends more packets than a socket has room for messages about them.
func overflow(t *testing.T, w *world, dst netip.AddrPort) {
	t.Helper()
	c, err := nstest.Open(w.Client, "udp", netip.Addr{}, dst, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	defer closeOrFail(t, c)
	for range 4000 { // each with some ten messages, of nearly a kilobyte in the kernel
		if _, err := c.Write([]byte("x")); err != nil {
			t.Fatal(err)
		}
	}
}

// TestTraceEnds: a trace leaves nothing behind, however it ends.
func TestTraceEnds(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nftdp.Config{}, 1)
	w.apply(t, forwardedServices()...)
	theirs := tableNames(t, w.Node)
	left := func(after string) {
		t.Helper()
		if got := tableNames(t, w.Node); !slices.Equal(got, theirs) {
			t.Errorf("tables after %s: %v, want %v", after, got, theirs)
		}
	}
	dst := netip.AddrPortFrom(nstest.IPv4().ClusterIP, 80)
	ctx, cancel := context.WithCancel(t.Context())
	startDatagrams(t, w, dst)
	defer cancel()
	for _, err := range w.dataplane.Trace(t.Context(), nftdp.TraceFilter{}) {
		if err != nil {
			t.Error(err)
		}
		break
	}
	left("break")
	cancel()
	for _, err := range w.dataplane.Trace(ctx, nftdp.TraceFilter{}) {
		if !errors.Is(err, context.Canceled) {
			t.Errorf("with a context that has ended: %v", err)
		}
	}
	left("an ended context")
	for _, err := range w.dataplane.Trace(t.Context(), nftdp.TraceFilter{Service: "unknown"}) {
		if _, ok := errors.AsType[*nftdp.FieldError](err); !ok {
			t.Errorf("unknown service: %v", err)
		}
	}
	left("an unknown service")
	tr := startTrace(t, w, nftdp.TraceFilter{})
	closeOrFail(t, w.dataplane)
	select {
	case err := <-tr.errs:
		if !errors.Is(err, nftdp.ErrClosed) {
			t.Errorf("after Close: %v", err)
		}
	case <-time.After(askTimeout):
		t.Error("Close does not end the trace")
	}
	tr.stop()
	left("Close")
}

// TestTraceKilled: the kernel deletes the table of a process that is killed.
func TestTraceKilled(t *testing.T) {
	t.Parallel()
	node := newNamespace(t)
	c := startChild(t, node, "trace")
	for len(traceTables(t, node)) == 0 {
		if c.line(t) != "tracing" {
			t.Fatal("the process traces nothing")
		}
	}
	c.kill(t)
	want := 0
	if nstest.LinuxBefore(5, 12) {
		want = 1
	}
	if got := traceTables(t, node); len(got) != want {
		t.Errorf("tables after the process was killed: %v, want %d", got, want)
	}
}

// traceForever is a process that traces until it is killed. It says so again and
// again.
func traceForever() error {
	ctx := context.Background()
	d, err := nftdp.Config{}.Open(ctx)
	if err != nil {
		return err
	}
	go func() {
		for range time.Tick(time.Millisecond) {
			fmt.Println("tracing")
		}
	}()
	for _, err := range d.Trace(ctx, nftdp.TraceFilter{}) {
		if err != nil {
			return err
		}
	}
	return nil
}

// TestTraceListed: stock nft can list the table of a trace, and everything else
// meanwhile, and another program cannot delete it.
func TestTraceListed(t *testing.T) {
	t.Parallel()
	needTool(t, "nft")
	w := newWorld(t, nftdp.Config{}, 1)
	w.apply(t, forwardedServices()...)
	startTrace(t, w, nftdp.TraceFilter{Service: "tcp", Source: nstest.IPv4().ClientNet, Interface: "uplink", SourcePort: 9, Replies: true})
	out, err := runTool(t, w.Node, "", "nft", "list", "ruleset")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"limit rate 50/second burst 50 packets meta nftrace set 1",
		`iifname "uplink" ip saddr 203.0.113.0/24 ip daddr 10.96.0.10 tcp sport 9 tcp dport 80 goto arriving`,
		"fib daddr type local goto arriving",
		"ct direction reply meta nfproto ipv4 meta l4proto tcp ct original ip saddr 203.0.113.0/24 ct original ip daddr 10.96.0.10",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in\n%s", want, out)
		}
	}
}
