//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"time"

	"github.com/nftdp/go-nftdp/internal/nstest"
)

// connectTimeout is for a whole connection of the built-in service, none of
// which may fail.
const connectTimeout = 5 * time.Second

// pod is an HTTP server in a backend's namespace. It answers with its name and
// the client's address as it sees it.
type pod struct {
	ns     *nstest.Namespace
	port   uint16
	server *http.Server
}

func (p *pod) start() error {
	var l net.Listener
	err := p.ns.Do(func() (err error) {
		l, err = net.Listen("tcp", fmt.Sprintf(":%d", p.port))
		return err
	})
	if err != nil {
		return fmt.Errorf("%s: %w", p.ns.Name, err)
	}
	p.server = &http.Server{ReadHeaderTimeout: connectTimeout, Handler: http.HandlerFunc(p.answer)}
	// Serve returns when stop closes the server; there is nothing to report.
	go func() { _ = p.server.Serve(l) }()
	return nil
}

// stop closes the listening socket and all connections.
func (p *pod) stop() error {
	if p.server == nil {
		return nil
	}
	return p.server.Close()
}

func (p *pod) answer(w http.ResponseWriter, r *http.Request) {
	fmt.Fprintln(w, p.ns.Name, r.RemoteAddr)
}

// httpFrom makes a client whose every request is a fresh connection from a
// namespace.
func httpFrom(ns *nstest.Namespace, timeout time.Duration) *http.Client {
	dial := func(ctx context.Context, network, addr string) (c net.Conn, err error) {
		var d net.Dialer
		err = ns.Do(func() (err error) { c, err = d.DialContext(ctx, network, addr); return err })
		return c, err
	}
	return &http.Client{
		Timeout:   timeout,
		Transport: &http.Transport{DisableKeepAlives: true, DialContext: dial},
	}
}

// get makes one connection and gives the server's answer.
func get(ctx context.Context, c *http.Client, addr netip.AddrPort) (nstest.Answer, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+addr.String()+"/", nil)
	if err != nil {
		return nstest.Answer{}, err
	}
	response, err := c.Do(r)
	if err != nil {
		return nstest.Answer{}, err
	}
	var server, client string
	_, err = fmt.Fscan(response.Body, &server, &client)
	if err = errors.Join(err, response.Body.Close()); err != nil {
		return nstest.Answer{}, err
	}
	seen, err := netip.ParseAddrPort(client)
	return nstest.Answer{Server: server, Client: seen}, err
}
