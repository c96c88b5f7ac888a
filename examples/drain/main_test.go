//go:build linux

package main

import (
	"net/netip"
	"syscall"
	"testing"
	"time"

	"github.com/nftdp/go-nftdp/internal/nstest"
	"github.com/nftdp/go-nftdp/nftdp"
)

func TestMain(m *testing.M) { nstest.MainOf(m, main) }

const timeout = 5 * time.Second // of an exchange, which takes no millisecond

// Connections to a backend go on while it drains, new ones go to the other
// backend, and the program ends in one of three ways: the connections have
// ended, the deadline is over, or it is interrupted.
func TestDrain(t *testing.T) {
	for _, test := range []struct {
		name     string
		deadline string
		stay     int // connections that do not end
		awaited  string
		signal   syscall.Signal
		code     int
		cut      bool
	}{
		{name: "all end", deadline: "1m", awaited: "0 connections are left"},
		{name: "cut", deadline: "3s", stay: 2, awaited: "2 connections are cut", cut: true},
		{name: "interrupted", deadline: "1m", stay: 2, awaited: "2 connections are left", signal: syscall.SIGINT, code: 130},
	} {
		t.Run(test.name, func(t *testing.T) {
			top := nstest.NewTestTopology(t, 2, "tcp")
			serveFirst(t, top)
			conns := connect(t, top, "backend-1")
			drain := nstest.Start(t, top.Node, "-services", "../embed/services.json",
				"-service", "shop/web:http", "-backend", "10.180.0.1:8080", "-deadline", test.deadline)
			drain.Await(t, "is draining")
			connect(t, top, "backend-2")
			echo(t, conns, true)
			for _, c := range conns[test.stay:] {
				if err := c.Close(); err != nil {
					t.Fatal(err)
				}
			}
			drain.Await(t, test.awaited)
			if test.signal != 0 {
				drain.Signal(t, test.signal)
			}
			drain.Exit(t, test.code)
			echo(t, conns[:test.stay], !test.cut)
		})
	}
}

// serveFirst programs the service with its first backend only.
func serveFirst(t *testing.T, top *nstest.Topology) {
	t.Helper()
	service, err := readService("../embed/services.json", "shop/web:http")
	if err != nil {
		t.Fatal(err)
	}
	service.Backends = service.Backends[:1]
	dataplane, err := nftdp.Config{}.OpenIn(t.Context(), top.Node.Handle())
	if err != nil {
		t.Fatal(err)
	}
	defer dataplane.Close()
	if _, err := dataplane.Apply(t.Context(), []nftdp.Service{service}); err != nil {
		t.Fatal(err)
	}
}

// connect opens connections, all of which reach one backend.
func connect(t *testing.T, top *nstest.Topology, backend string) []*nstest.Conn {
	t.Helper()
	var conns []*nstest.Conn
	for range 8 {
		c, err := nstest.DialTCP(top.Client, netip.Addr{}, netip.AddrPortFrom(nstest.IPv4().Node, 80), timeout)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close() }) // The test may have closed it.
		if c.Answer.Server != backend {
			t.Errorf("a connection goes to %s, want %s", c.Answer.Server, backend)
		}
		conns = append(conns, c)
	}
	return conns
}

// echo checks whether connections work.
func echo(t *testing.T, conns []*nstest.Conn, want bool) {
	t.Helper()
	for i, c := range conns {
		if err := c.Echo("still here?", timeout); (err == nil) != want {
			t.Errorf("connection %d: %v", i, err)
		}
	}
}
