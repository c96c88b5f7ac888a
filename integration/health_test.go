//go:build linux

package integration

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/nftdp/go-nftdp/internal/nstest"
	"github.com/nftdp/go-nftdp/nftdp"
	"github.com/nftdp/go-nftdp/nftdp/health"
)

// TestHealth: backends that refuse or hang go out of service, though the checks'
// process is in another namespace than the node, and come back when they work again.
func TestHealth(t *testing.T) {
	t.Parallel()
	w := &world{Topology: newTopology(t, 3)}
	w.open(t, nftdp.Config{})
	for _, pod := range []int{0, 2} {
		serve(t, w.Backends[pod], backendPort, "tcp")
	}
	dialer, err := health.OpenNamespace(w.Node.Handle())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closeOrFail(t, dialer) })
	checker := health.New(w.dataplane, health.Options{
		Check: func(*nftdp.Service) *health.Check {
			return &health.Check{Interval: 50 * time.Millisecond, Timeout: 500 * time.Millisecond}
		},
		Dial: dialer.Dial,
	})
	if _, err := checker.Apply(t.Context(), []nftdp.Service{{Name: "web", Frontends: nodeWide(80), Backends: backends(0, 1, 2)}}); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- checker.Run(ctx) }()
	used := func(pods ...int) {
		t.Helper()
		awaitHealthy(t, checker, backends(pods...))
		for _, a := range nstest.Families() {
			for name := range count(t, 30, w.Client, "tcp", netip.AddrPortFrom(a.Node, 80)) {
				if !slices.ContainsFunc(pods, func(i int) bool { return w.Backends[i].Name == name }) {
					t.Errorf("%s: %s answers, want one of %v", a.Family, name, pods)
				}
			}
		}
	}
	used(0, 2) // Nobody listens in the third one.
	serve(t, w.Backends[1], backendPort, "tcp")
	used(0, 1, 2)
	hang(t, w.Backends[2])
	used(0, 1)
	stop()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("Run: %v", err)
	}
	if got := checker.Stats(); got.Backends != 6 || got.Healthy != 4 || got.Running != 0 || got.Checks == 0 {
		t.Errorf("%+v", got)
	}
}

// hang makes a backend drop whatever it receives: frames to an address that its link
// has no more.
func hang(t *testing.T, pod *nstest.Namespace) {
	t.Helper()
	link, err := pod.Links().LinkByName("eth0")
	if err == nil {
		err = pod.Links().LinkSetARPOff(link)
	}
	if err == nil {
		err = pod.Links().LinkSetHardwareAddr(link, []byte{2, 0, 0, 0, 0, 1})
	}
	if err != nil {
		t.Fatal(err)
	}
}

// awaitHealthy waits until exactly these backends are healthy.
func awaitHealthy(t *testing.T, c *health.Checker, want []nftdp.Backend) {
	t.Helper()
	poll := time.NewTicker(time.Millisecond)
	defer poll.Stop()
	for end := time.After(askTimeout); ; {
		healthy := 0
		wrong := slices.ContainsFunc(c.Status(), func(s health.Status) bool {
			active := s.State == nftdp.StateActive
			if active {
				healthy++
			}
			return active && !slices.ContainsFunc(want, func(b nftdp.Backend) bool { return b.Addr == s.Backend })
		})
		if !wrong && healthy == len(want) {
			return
		}
		select {
		case <-poll.C:
		case <-end:
			t.Fatalf("healthy are not %v, but: %+v", want, c.Status())
		}
	}
}

// TestHealthNamespaceClosed: whoever dials by a Namespace that was closed, by whomever
// and how often, gets net.ErrClosed.
func TestHealthNamespaceClosed(t *testing.T) {
	t.Parallel()
	dialer, err := health.OpenNamespace(newTopology(t, 0).Node.Handle())
	if err != nil {
		t.Fatal(err)
	}
	closeOrFail(t, dialer)
	closeOrFail(t, dialer)
	if _, err := dialer.Dial(t.Context(), "tcp", "127.0.0.1:80"); !errors.Is(err, net.ErrClosed) {
		t.Errorf("error is %v", err)
	}
}
