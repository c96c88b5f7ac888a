//go:build linux

// Command proxy shows how a proxy gets port 80 of its node without binding it:
// it listens on port 8080, which needs no privilege, and a service leads the
// node's port 80 there. It sees its clients' own addresses. The network is
// made of namespaces that are gone afterwards.
//
//	go run ./examples/proxy
package main

import (
	"context"
	"errors"
	"fmt"
	"log"
	"net"
	"net/http"
	"net/http/httputil"
	"net/netip"
	"os"

	"github.com/nftdp/go-nftdp/internal/nstest"
	"github.com/nftdp/go-nftdp/nftdp"
)

func main() {
	err := nstest.Reexec()
	if err == nil {
		err = run(context.Background())
	}
	if err != nil {
		log.Fatal(err)
	}
}

func run(ctx context.Context) (err error) {
	t, err := nstest.NewTopology(1)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, t.Close()) }()
	node, upstream := nstest.IPv4().Node, nstest.IPv4().Backend(0)

	proxy := &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.Out.URL.Scheme, r.Out.URL.Host = "http", netip.AddrPortFrom(upstream, 9000).String()
			r.SetXForwarded()
		},
		Transport: transport(t.Node),
	}
	hello := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "upstream: request for %s from %s\n", r.Header.Get("X-Forwarded-Host"), r.Header.Get("X-Forwarded-For"))
	})
	if err := errors.Join(serve(t.Node, ":8080", proxy), serve(t.Backends[0], ":9000", hello)); err != nil {
		return err
	}

	dataplane, err := nftdp.Config{}.OpenIn(ctx, t.Node.Handle())
	if err != nil {
		return err
	}
	defer dataplane.Close()
	_, err = dataplane.Apply(ctx, []nftdp.Service{{
		Name:      "node/proxy",
		Frontends: []nftdp.Frontend{{Addr: node, Port: 80}},
		Backends:  []nftdp.Backend{{Addr: netip.AddrPortFrom(node, 8080)}},
	}})
	if err != nil {
		return err
	}
	return show(t.Client, "http://"+node.String()+"/")
}

// show prints the answer that a client in the namespace gets.
func show(ns *nstest.Namespace, url string) error {
	fmt.Printf("%s: GET %s\n", ns.Name, url)
	response, err := (&http.Client{Transport: transport(ns)}).Get(url)
	if err != nil {
		return err
	}
	return errors.Join(response.Write(os.Stdout), response.Body.Close())
}

// serve serves HTTP in a namespace until the program ends.
func serve(ns *nstest.Namespace, addr string, h http.Handler) error {
	return ns.Do(func() error {
		l, err := net.Listen("tcp", addr)
		if err == nil {
			go func() { log.Print(http.Serve(l, h)) }()
		}
		return err
	})
}

// transport connects from inside a namespace.
func transport(ns *nstest.Namespace) *http.Transport {
	return &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, network, addr string) (c net.Conn, err error) {
			err = ns.Do(func() (err error) { c, err = new(net.Dialer).DialContext(ctx, network, addr); return err })
			return c, err
		},
	}
}
