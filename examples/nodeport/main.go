//go:build linux

// Command nodeport shows what the library does, with real connections: a
// client, a node and three backends in network namespaces of their own, and a
// service on ports of the node where nothing listens. It needs no root: it
// enters a user namespace by itself. It leaves nothing behind.
//
//	go run ./examples/nodeport
//	go run ./examples/nodeport -6
//	go run ./examples/nodeport -services examples/nodeport/services.json
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"

	"github.com/nftdp/go-nftdp/examples/internal/lab"
	"github.com/nftdp/go-nftdp/internal/nstest"
	"github.com/nftdp/go-nftdp/nftdp"
)

// options are the command line.
type options struct {
	file string
	ipv6 bool
}

func main() {
	var o options
	flag.StringVar(&o.file, "services", "",
		"JSON `file` with an array of services to use instead of the built-in one; "+
			"backends 10.180.0.1 to .3 and fd00:10:180::1 to ::3 answer on the ports that it lists")
	flag.BoolVar(&o.ipv6, "6", false, "use IPv6 for the built-in service")
	flag.Parse()
	if flag.NArg() > 0 {
		fmt.Fprintf(os.Stderr, "unexpected argument %q\n", flag.Arg(0))
		os.Exit(2)
	}
	lab.Main(func(ctx context.Context, out io.Writer) error { return demo(ctx, out, o) })
}

// node is a lab whose node has a dataplane.
type node struct {
	*lab.Lab
	addrs     nstest.Addrs
	family    string // of nft: the one to show; empty: both
	services  []nftdp.Service
	dataplane *nftdp.Dataplane
}

// demo builds the network, runs every scene and takes the network down.
func demo(ctx context.Context, w io.Writer, o options) (err error) {
	n := &node{addrs: nstest.IPv4(), family: "ip"}
	if o.ipv6 {
		n.addrs, n.family = nstest.IPv6(), "ip6"
	}
	n.services = []nftdp.Service{webService(n.addrs)}
	if o.file != "" {
		n.family = ""
		if n.services, err = readServices(o.file); err != nil {
			return err
		}
	}
	if n.Lab, err = lab.New(w, podCount, 0); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, n.Close()) }()
	if o.file != "" {
		return lab.InOrder(ctx, n.start, n.apply, n.showListeners, n.probeFrontends, n.showCounters, n.showRules)
	}
	return lab.InOrder(ctx, n.start, n.apply, n.showListeners, n.visitFrontends, n.showCounters, n.restartBackends, n.showRules)
}
