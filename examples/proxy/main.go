//go:build linux

// Command proxy is an HTTP proxy that gets port 80 of its node without binding
// it: it listens on port 8080, which needs no privilege, and a node-wide service
// leads port 80 of every node address there. It sees its clients' own addresses.
// When it ends it takes the service away.
//
//	go build -o /tmp/proxy ./examples/proxy
//	sudo /tmp/proxy -upstream http://10.180.0.1:9000
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

// table is the proxy's own, where it does not meet other users of the library.
const table = "nftdp-proxy"

// grace is how long requests may take to end when the proxy does.
const grace = 5 * time.Second

func main() {
	upstream := flag.String("upstream", "", "`URL` of the server behind the proxy (required)")
	port := flag.Uint("port", 80, "`port` of the node to take")
	listen := flag.Uint("listen", 8080, "`port` to listen on")
	flag.Parse()
	target, err := url.Parse(*upstream)
	if err != nil || target.Host == "" || max(*port, *listen) > 65535 || flag.NArg() > 0 {
		flag.Usage()
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	err = proxy(ctx, target, uint16(*port), uint16(*listen))
	if errors.Is(err, fs.ErrPermission) {
		log.Fatalf("%v\nrun this as root, or try it in a namespace of its own: unshare -Urn %s …", err, os.Args[0])
	}
	if err != nil {
		log.Fatal(err)
	}
}

// proxy serves until the context ends.
func proxy(ctx context.Context, upstream *url.URL, port, listen uint16) error {
	listener, err := net.Listen("tcp", fmt.Sprintf(":%d", listen))
	if err != nil {
		return err
	}
	server := &http.Server{Handler: &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(upstream)
			r.SetXForwarded()
		},
	}}
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(listener) }()
	defer server.Close()

	service, err := nodeService(port, listen)
	if err != nil {
		return err
	}
	dataplane, err := nftdp.Config{Table: table}.Open(ctx)
	if err != nil {
		return err
	}
	defer dataplane.Close()
	if _, err := dataplane.Apply(ctx, []nftdp.Service{service}); err != nil {
		return err
	}
	log.Printf("port %d of the node leads to port %d, and the proxy to %v", port, listen, upstream)
	select {
	case err = <-ended:
	case <-ctx.Done():
	}
	// The context is over, but there is something left to do.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), grace)
	defer cancel()
	return errors.Join(err, server.Shutdown(ctx), dataplane.Remove(ctx))
}

// nodeService leads a port of all node addresses to where the proxy listens: at
// one node address of each family.
func nodeService(port, listen uint16) (nftdp.Service, error) {
	service := nftdp.Service{Name: "node/proxy", Frontends: []nftdp.Frontend{{Port: port}}}
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return service, err
	}
	found := map[int]bool{} // by the length of addresses
	for _, a := range addrs {
		prefix, err := netip.ParsePrefix(a.String())
		addr := prefix.Addr()
		if err == nil && addr.IsGlobalUnicast() && !found[addr.BitLen()] {
			found[addr.BitLen()] = true
			service.Backends = append(service.Backends, nftdp.Backend{Addr: netip.AddrPortFrom(addr, listen)})
		}
	}
	if len(service.Backends) == 0 {
		return service, errors.New("this node has no address but loopback ones; give it one: ip addr add 192.0.2.1/32 dev lo; ip link set lo up")
	}
	return service, nil
}
