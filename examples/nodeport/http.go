//go:build linux

package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
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

// get makes one fresh HTTP connection from a namespace and gives the server's
// answer. It does not use http.Client, whose connecting goroutine may still be
// in the namespace after a timeout.
func get(ctx context.Context, from *nstest.Namespace, addr netip.AddrPort, timeout time.Duration) (a nstest.Answer, err error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+addr.String()+"/", nil)
	if err != nil {
		return a, err
	}
	r.Close = true
	var c net.Conn
	err = from.Do(func() (err error) {
		c, err = new(net.Dialer).DialContext(ctx, "tcp", addr.String())
		return err
	})
	if err != nil {
		return a, err
	}
	defer context.AfterFunc(ctx, func() { _ = c.Close() })()
	a, err = exchange(c, r)
	return a, errors.Join(err, ctx.Err(), c.Close())
}

// exchange sends a request and reads the answer to its end.
func exchange(c net.Conn, r *http.Request) (nstest.Answer, error) {
	if err := r.Write(c); err != nil {
		return nstest.Answer{}, err
	}
	response, err := http.ReadResponse(bufio.NewReader(c), r)
	if err != nil {
		return nstest.Answer{}, err
	}
	body, err := io.ReadAll(response.Body)
	if err = errors.Join(err, response.Body.Close()); err != nil {
		return nstest.Answer{}, err
	}
	server, client, _ := strings.Cut(strings.TrimSpace(string(body)), " ")
	seen, err := netip.ParseAddrPort(client)
	return nstest.Answer{Server: server, Client: seen}, err
}
