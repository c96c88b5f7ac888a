//go:build linux

package main

import (
	"net/netip"
	"syscall"
	"testing"
	"time"

	"github.com/nftdp/go-nftdp/internal/nstest"
)

func TestMain(m *testing.M) { nstest.MainOf(m, main) }

const timeout = 5 * time.Second // of a connection, which takes no millisecond

// The backend that does not listen gets no connections until it does.
func TestHealth(t *testing.T) {
	top := nstest.NewTestTopology(t, 2)
	serve := func(i int) {
		t.Helper()
		server, err := nstest.Serve(top.Backends[i], top.Backends[i].Name, 8080, "tcp")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = server.Close() })
	}
	serve(0)
	p := nstest.Start(t, top.Node, "-services", "../embed/services.json", "-interval", "50ms")
	p.Await(t, "checking 2 backends")
	p.Await(t, "10.180.0.2:8080 has failed")
	for range 20 {
		answer, err := nstest.Dial(top.Client, "tcp", netip.Addr{}, netip.AddrPortFrom(nstest.IPv4().Node, 80), timeout)
		if err != nil || answer.Server != "backend-1" {
			t.Errorf("%v (%v), want backend-1", answer, err)
		}
	}
	serve(1)
	p.Await(t, "10.180.0.2:8080 is healthy again")
	p.Signal(t, syscall.SIGINT)
	p.Exit(t, 0)
}
