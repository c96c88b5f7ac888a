//go:build linux

// Command reverseproxy is an HTTP proxy that gets port 80 of its node without binding
// it, and can be replaced without a lost request. It listens on a free port, which needs
// no privilege, and a node-wide service leads port 80 of every node address there. It
// sees its clients' own addresses, and closes its own port to direct connections.
//
// A second one takes port 80 over. Tell the first one by SIGTERM: it goes on until no
// connection leads to it any more, says how many are left, and ends.
//
//	go build -o /tmp/reverseproxy ./examples/reverseproxy
//	sudo /tmp/reverseproxy -upstream http://10.180.0.1:9000
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"log"
	"net"
	"net/http"
	"net/http/httputil"
	"net/netip"
	"net/url"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/nftdp/go-nftdp/nftdp"
)

// table is the proxies' own, where they do not meet other users of the library.
const table = "nftdp-proxy"

// name is the service's. Each process also has one that closes its port.
const name = "node/proxy"

func main() {
	upstream := flag.String("upstream", "", "`URL` of the server behind the proxy (required)")
	port := flag.Uint("port", 80, "`port` of the node to take")
	deadline := flag.Duration("deadline", 30*time.Second, "how long connections may take to end")
	flag.Parse()
	target, err := url.Parse(*upstream)
	if err != nil || target.Host == "" || *port == 0 || *port > 65535 || flag.NArg() > 0 {
		flag.Usage()
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	err = proxy(ctx, target, uint16(*port), *deadline)
	if errors.Is(err, fs.ErrPermission) {
		log.Fatalf("%v\nrun this as root, or try it in a namespace of its own: unshare -Urn %s …", err, os.Args[0])
	}
	if err != nil {
		log.Fatal(err)
	}
}

// proxy serves until the context ends, and then as long as connections last.
func proxy(ctx context.Context, upstream *url.URL, port uint16, deadline time.Duration) error {
	listener, err := net.Listen("tcp", ":0")
	if err != nil {
		return err
	}
	own := listener.Addr().(*net.TCPAddr).AddrPort().Port()
	server := &http.Server{Handler: closing(ctx, &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(upstream)
			r.SetXForwarded()
			r.Out.Header.Set("X-Forwarded-Port", fmt.Sprint(port)) // that of the client
		},
	})}
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(listener) }()
	defer server.Close()

	dataplane, err := nftdp.Config{Table: table}.Open(ctx)
	if err != nil {
		return err
	}
	defer dataplane.Close()
	if _, err := dataplane.Update(ctx, nftdp.Change{Set: []nftdp.Service{
		{Name: name, Frontends: []nftdp.Frontend{{Port: port}}, Backends: []nftdp.Backend{{NodePort: own}}},
		{Name: closed(own), Frontends: []nftdp.Frontend{{Port: own}}},
	}}); err != nil {
		return err
	}
	log.Printf("port %d of the node leads to port %d, and the proxy to %v", port, own, upstream)
	select {
	case err = <-ended:
	case <-ctx.Done():
	}
	// The context is over, but there is something left to do.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), deadline)
	defer cancel()
	return errors.Join(err, leave(ctx, dataplane, own), server.Shutdown(ctx))
}

// closed is the name of the service that closes a port to direct connections.
func closed(port uint16) string { return fmt.Sprintf("%s/closed:%d", name, port) }

// closing answers so that each connection ends with its next request, once the context
// is over.
func closing(ctx context.Context, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if ctx.Err() != nil {
			w.Header().Set("Connection", "close")
		}
		next.ServeHTTP(w, r)
	})
}

// leave waits until no connection leads to this process, if another one has taken over.
// Otherwise it takes the service away, and Shutdown waits for the requests.
func leave(ctx context.Context, dataplane *nftdp.Dataplane, own uint16) error {
	change := nftdp.Change{Delete: []string{closed(own)}}
	services, err := dataplane.Inspect(ctx)
	if err != nil {
		return err
	}
	for _, s := range services {
		if s.Name == name && s.Frontends[0].Backends[0].Addr.Port() == own {
			change.Delete = append(change.Delete, name)
		}
	}
	if len(change.Delete) == 1 {
		err = wait(ctx, dataplane, own)
	}
	_, failed := dataplane.Update(context.WithoutCancel(ctx), change)
	return errors.Join(err, failed)
}

// wait prints how many connections are left, until there are none.
func wait(ctx context.Context, dataplane *nftdp.Dataplane, own uint16) error {
	for left, err := range dataplane.Draining(ctx, name, netip.AddrPortFrom(netip.Addr{}, own)) {
		if errors.Is(err, context.DeadlineExceeded) {
			log.Printf("%d connections are cut", left)
			return nil
		}
		if err != nil {
			return err
		}
		log.Printf("another process has taken over, %d connections are left", left)
	}
	return nil
}
