//go:build linux

// Package lab has what the demonstrations share, and nothing of the library: a
// network with servers in it, clients that connect, and tables that show what
// becomes of their connections.
package lab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"text/tabwriter"
	"unicode/utf8"

	"github.com/nftdp/go-nftdp/internal/nstest"
)

// Main runs a demonstration, in a user namespace if need be, and exits: with 0,
// with 1 after an error, or with 130 after Ctrl-C, as a shell does.
func Main(demo func(ctx context.Context, out io.Writer) error) {
	if err := nstest.Reexec(); err != nil {
		fmt.Fprintln(os.Stderr, "the demo needs network namespaces:", err)
		os.Exit(1)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	err := demo(ctx, os.Stdout)
	switch {
	case ctx.Err() != nil:
		fmt.Fprintln(os.Stderr, "interrupted")
		os.Exit(130)
	case err != nil:
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// InOrder runs scenes until one fails or the context ends.
func InOrder(ctx context.Context, scenes ...func(context.Context) error) error {
	for _, scene := range scenes {
		if err := errors.Join(scene(ctx), ctx.Err()); err != nil {
			return err
		}
	}
	return nil
}

// Lab is a network with servers in its backends, and where to print to.
type Lab struct {
	*nstest.Topology
	Out     io.Writer
	servers map[server]*nstest.Server
	closers []func() error
}

// server is where a server listens.
type server struct {
	pod      *nstest.Namespace
	protocol string
	port     uint16
}

// New builds a network with some backends on the node, and some on another one.
func New(out io.Writer, backends, remotes int) (*Lab, error) {
	t, err := nstest.NewTopology(backends)
	if err != nil {
		return nil, err
	}
	if remotes > 0 {
		err = t.AddRemotes(remotes)
	}
	if err != nil {
		return nil, errors.Join(err, t.Close())
	}
	return &Lab{Topology: t, Out: out, servers: map[server]*nstest.Server{}}, nil
}

// AtEnd has something closed at the end, before what it was built upon.
func (l *Lab) AtEnd(closer func() error) { l.closers = append(l.closers, closer) }

// Close closes everything, in reverse order, and gives up the namespaces, with
// all rules in them.
func (l *Lab) Close() error {
	var errs []error
	for _, s := range l.servers {
		errs = append(errs, s.Close())
	}
	for _, c := range slices.Backward(l.closers) {
		errs = append(errs, c())
	}
	return errors.Join(append(errs, l.Topology.Close())...)
}

// pod is the backend that has an address, or nil.
func (l *Lab) pod(addr netip.Addr) *nstest.Namespace {
	for _, a := range nstest.Families() {
		for i, ns := range l.Backends {
			if a.Backend(i) == addr.Unmap() {
				return ns
			}
		}
		for i, ns := range l.Remotes {
			if a.Remote(i) == addr.Unmap() {
				return ns
			}
		}
	}
	return nil
}

// Name is a backend's name and port, or its address if it is not in the lab.
func (l *Lab) Name(a netip.AddrPort) string {
	if pod := l.pod(a.Addr()); pod != nil {
		return fmt.Sprintf("%s:%d", pod.Name, a.Port())
	}
	return a.String()
}

// Serve starts a server with the backend's name on a port of a backend, unless
// there is one, or the address is not in the lab.
func (l *Lab) Serve(protocol string, at netip.AddrPort) error {
	if pod := l.pod(at.Addr()); pod != nil {
		return l.ServeAs(pod.Name, protocol, at)
	}
	return nil
}

// ServeAs is Serve with another name.
func (l *Lab) ServeAs(name, protocol string, at netip.AddrPort) error {
	key := server{l.pod(at.Addr()), protocol, at.Port()}
	if l.servers[key] != nil {
		return nil
	}
	s, err := nstest.Serve(key.pod, name, key.port, protocol)
	if err == nil {
		l.servers[key] = s
	}
	return err
}

// Stop ends a server and its connections.
func (l *Lab) Stop(protocol string, at netip.AddrPort) error {
	key := server{l.pod(at.Addr()), protocol, at.Port()}
	s := l.servers[key]
	delete(l.servers, key)
	return s.Close()
}

// Draw draws the network: what leads to its branches.
func (l *Lab) Draw(trunk string, branches ...string) {
	trunk += " ──"
	for i, branch := range branches {
		fork := "┬"
		if i > 0 {
			trunk, fork = strings.Repeat(" ", utf8.RuneCountInString(trunk)), "├"
		}
		if i == len(branches)-1 {
			fork = "└"
		}
		fmt.Fprintf(l.Out, "%s%s── %s\n", trunk, fork, branch)
	}
}

// Heading begins a part of the output.
func (l *Lab) Heading(format string, args ...any) { l.Printf("\n# "+format+"\n", args...) }

// Printf prints.
func (l *Lab) Printf(format string, args ...any) { fmt.Fprintf(l.Out, format, args...) }

// Table prints aligned columns, up to an error.
func (l *Lab) Table(rows func(w io.Writer) error) error {
	w := tabwriter.NewWriter(l.Out, 0, 0, 2, ' ', 0)
	err := rows(w)
	return errors.Join(err, w.Flush())
}
