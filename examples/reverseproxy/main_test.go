//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nftdp/go-nftdp/internal/nstest"
	"github.com/nftdp/go-nftdp/nftdp"
)

func TestMain(m *testing.M) { nstest.MainOf(m, main) }

const timeout = 20 * time.Second // of a connection; a request takes a millisecond

// A client outside gets an answer from port 80 of the node, whichever address it uses,
// where nothing listens, and the upstream server learns who it is. The proxy's own port
// is closed. Interrupted, it takes its services away.
func TestProxy(t *testing.T) {
	top := nstest.NewTestTopology(t, 1)
	serve(t, top.Backends[0])
	proxy := startProxy(t, top)
	sockets, err := top.Node.Listening("tcp")
	if err != nil || len(sockets) != 1 || sockets[0].Port() == 80 {
		t.Fatalf("sockets %v, %v", sockets, err)
	}
	for _, a := range nstest.Families() {
		for _, node := range []netip.Addr{a.Node, a.Uplink, a.PodGW} {
			to := netip.AddrPortFrom(node, 80)
			if got, err := get(newClient(top.Client, true), to); err != nil || got != a.Client.String()+" 80" {
				t.Errorf("%v: %q, %v", to, got, err)
			}
		}
		if _, err := get(newClient(top.Client, true), netip.AddrPortFrom(a.Node, sockets[0].Port())); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("directly: %v", err)
		}
	}
	proxy.Signal(t, syscall.SIGINT)
	proxy.Exit(t, 0)
	if _, err := get(newClient(top.Client, true), netip.AddrPortFrom(nstest.IPv4().Node, 80)); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("after its end: %v", err)
	}
	dataplane, err := nftdp.Config{Table: table}.OpenIn(t.Context(), top.Node.Handle())
	if err != nil {
		t.Fatal(err)
	}
	defer dataplane.Close()
	if services, err := dataplane.Inspect(t.Context()); err != nil || len(services) > 0 {
		t.Errorf("after its end: %+v, %v", services, err)
	}
}

// takeovers is how often TestTakeover replaces the proxy.
const takeovers = 50

// Under load, one process after the other takes over from the one before, which ends
// when it has served all that it had. No request fails, neither one with a connection of
// its own nor one that shares a connection with others: both kinds are POST requests,
// which clients do not repeat by themselves.
func TestTakeover(t *testing.T) {
	top := nstest.NewTestTopology(t, 1)
	serve(t, top.Backends[0])
	serving := startProxy(t, top)
	load := newLoad(t, top)
	for i := range takeovers {
		next := startProxy(t, top)
		serving.Signal(t, syscall.SIGTERM)
		if said := serving.Exit(t, 0); !strings.Contains(said, "0 connections are left") {
			t.Fatalf("takeover %d: %s", i, said)
		}
		serving = next
		load.Await(t, 20)
	}
	t.Logf("%d requests in %d takeovers", load.Stop(t), takeovers)
}

func startProxy(t *testing.T, top *nstest.Topology) *nstest.Program {
	t.Helper()
	proxy := nstest.Start(t, top.Node, "-upstream", "http://10.180.0.1:9000")
	proxy.Await(t, "port 80 of the node leads to port")
	return proxy
}

// newLoad starts clients that send requests all the time.
func newLoad(t *testing.T, top *nstest.Topology) *nstest.Load {
	t.Helper()
	var clients []func() error
	for i := range 12 {
		a, client := nstest.Families()[i%2], newClient(top.Client, i < 8)
		t.Cleanup(client.CloseIdleConnections)
		clients = append(clients, func() error {
			got, err := get(client, netip.AddrPortFrom(a.Node, 80))
			if err != nil || got != a.Client.String()+" 80" {
				return fmt.Errorf("answer %q, %w", got, err)
			}
			return nil
		})
	}
	return nstest.StartLoad(t, clients...)
}

// serve answers with the address and port that a proxy names.
func serve(t *testing.T, ns *nstest.Namespace) {
	t.Helper()
	var listener net.Listener
	if err := ns.Do(func() (err error) { listener, err = net.Listen("tcp", ":9000"); return err }); err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, r.Header.Get("X-Forwarded-For"), " ", r.Header.Get("X-Forwarded-Port"))
	})}
	go func() { _ = server.Serve(listener) }() // It ends with an error when it is closed.
	t.Cleanup(func() { _ = server.Close() })
}

// newClient makes a connection for each request, or one for all.
func newClient(ns *nstest.Namespace, each bool) *http.Client {
	return &http.Client{Transport: &http.Transport{
		DisableKeepAlives: each,
		DialContext: func(_ context.Context, _, to string) (net.Conn, error) {
			return nstest.Open(ns, "tcp", netip.Addr{}, netip.MustParseAddrPort(to), timeout)
		},
	}}
}

// get returns the body of an answer.
func get(client *http.Client, to netip.AddrPort) (string, error) {
	response, err := client.Post("http://"+to.String(), "text/plain", strings.NewReader("?"))
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	return string(body), err
}
