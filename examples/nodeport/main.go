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
	"os/signal"
	"syscall"

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
			"backends 10.180.0.1 to .3 and fd00:10:180::1 to ::3 answer on the ports that it gives them")
	flag.BoolVar(&o.ipv6, "6", false, "use IPv6 for the built-in service")
	flag.Parse()
	if flag.NArg() > 0 {
		fmt.Fprintf(os.Stderr, "unexpected argument %q\n", flag.Arg(0))
		os.Exit(2)
	}
	os.Exit(run(o))
}

// run gives the exit code: 1 for an error, and 130 after Ctrl-C, as in a shell.
func run(o options) int {
	if err := nstest.Reexec(); err != nil {
		fmt.Fprintln(os.Stderr, "the demo needs network namespaces:", err)
		return 1
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	err := demo(ctx, os.Stdout, o)
	switch {
	case ctx.Err() != nil:
		fmt.Fprintln(os.Stderr, "interrupted")
		return 130
	case err != nil:
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// demo builds the network, runs every part and takes the network down.
func demo(ctx context.Context, w io.Writer, o options) (err error) {
	addrs, family := nstest.IPv4(), "ip"
	if o.ipv6 {
		addrs, family = nstest.IPv6(), "ip6"
	}
	services := []nftdp.Service{webService(addrs)}
	if o.file != "" {
		family = ""
		if services, err = readServices(o.file); err != nil {
			return err
		}
	}
	l, err := newLab(ctx, w, addrs, services)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, l.Close()) }()
	l.family = family
	if o.file != "" {
		return inOrder(ctx, l.showNetwork, l.apply, l.showListeners, l.probeFrontends, l.showCounters, l.showRules)
	}
	return inOrder(ctx, l.showNetwork, l.apply, l.showListeners, l.visitFrontends, l.showCounters, l.restartBackends, l.showRules)
}

// inOrder runs the parts until one fails.
func inOrder(ctx context.Context, parts ...func(context.Context) error) error {
	for _, part := range parts {
		if err := part(ctx); err != nil {
			return err
		}
	}
	return nil
}
