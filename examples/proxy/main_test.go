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

const timeout = 5 * time.Second // of a request, which takes a millisecond

// A client outside gets an answer from port 80 of the node, where nothing
// listens, and the upstream server learns who it is. Interrupted, the proxy takes
// its service away.
func TestProxy(t *testing.T) {
	top := nstest.NewTestTopology(t, 1)
	serve(t, top.Backends[0])
	proxy := nstest.Start(t, top.Node, "-upstream", "http://10.180.0.1:9000")
	proxy.Await(t, "port 80 of the node leads to port 8080")
	for _, a := range nstest.Families() {
		for _, node := range []netip.Addr{a.Node, a.Uplink} {
			to := netip.AddrPortFrom(node, 80)
			if got, err := get(t, top.Client, to); err != nil || got != a.Client.String() {
				t.Errorf("%v: %q, %v", to, got, err)
			}
		}
	}
	sockets, err := top.Node.Listening("tcp")
	for _, s := range sockets {
		if s.Port() != 8080 {
			t.Errorf("listens at %v", s)
		}
	}
	if err != nil || len(sockets) == 0 {
		t.Errorf("sockets %v, %v", sockets, err)
	}
	proxy.Signal(t, syscall.SIGINT)
	proxy.Exit(t, 0)
	if _, err := get(t, top.Client, netip.AddrPortFrom(nstest.IPv4().Node, 80)); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("after its end: %v", err)
	}
	dataplane, err := nftdp.Config{Table: table}.OpenIn(t.Context(), top.Node.Handle())
	if err != nil {
		t.Fatal(err)
	}
	defer dataplane.Close()
	if rules, err := dataplane.Ruleset(t.Context()); err != nil || rules.String() != "" {
		t.Errorf("after its end: %v, rules:\n%v", err, rules)
	}
}

// Without an address to lead to the program says what to do.
func TestNoAddress(t *testing.T) {
	ns, err := nstest.New("empty")
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	said := nstest.Start(t, ns, "-upstream", "http://10.180.0.1:9000").Exit(t, 1)
	if !strings.Contains(said, "ip addr add") {
		t.Error(said)
	}
}

// serve answers with the address of the client that a proxy names.
func serve(t *testing.T, ns *nstest.Namespace) {
	t.Helper()
	var listener net.Listener
	if err := ns.Do(func() (err error) { listener, err = net.Listen("tcp", ":9000"); return err }); err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, r.Header.Get("X-Forwarded-For"))
	})}
	go func() { _ = server.Serve(listener) }() // It ends with an error when it is closed.
	t.Cleanup(func() { _ = server.Close() })
}

// get returns the body of an answer.
func get(t *testing.T, ns *nstest.Namespace, to netip.AddrPort) (string, error) {
	t.Helper()
	client := http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(context.Context, string, string) (net.Conn, error) {
			return nstest.Open(ns, "tcp", netip.Addr{}, to, timeout)
		},
	}}
	response, err := client.Get("http://" + to.String())
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	return string(body), err
}
