//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"text/tabwriter"

	"github.com/nftdp/go-nftdp/internal/nstest"
	"github.com/nftdp/go-nftdp/nftdp"
)

// lab is the network with a dataplane in its node and servers in its backends.
type lab struct {
	*nstest.Topology
	out       io.Writer
	addrs     nstest.Addrs
	family    string // of nft: the one to show; empty: both
	services  []nftdp.Service
	dataplane *nftdp.Dataplane
	names     map[netip.Addr]string // of the backends
	pods      []*pod                // HTTP servers
	others    []*nstest.Server      // UDP and SCTP servers
}

func newLab(ctx context.Context, w io.Writer, addrs nstest.Addrs, services []nftdp.Service) (*lab, error) {
	l := &lab{out: w, addrs: addrs, services: services, names: map[netip.Addr]string{}}
	var err error
	if l.Topology, err = nstest.NewTopology(podCount); err != nil {
		return nil, err
	}
	if l.dataplane, err = (nftdp.Config{}).OpenIn(ctx, l.Node.Handle()); err == nil {
		err = l.serve()
	}
	if err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}

// Close ends the servers and gives up the namespaces, and with them all rules.
func (l *lab) Close() error {
	var errs []error
	for _, p := range l.pods {
		errs = append(errs, p.stop())
	}
	for _, s := range l.others {
		errs = append(errs, s.Close())
	}
	if l.dataplane != nil {
		errs = append(errs, l.dataplane.Close())
	}
	return errors.Join(append(errs, l.Topology.Close())...)
}

// serve starts a server on every port that some service gives to one of the
// lab's backends.
func (l *lab) serve() error {
	where := map[netip.Addr]*nstest.Namespace{}
	for i, ns := range l.Backends {
		for _, a := range []nstest.Addrs{nstest.IPv4(), nstest.IPv6()} {
			where[a.Backend(i)] = ns
			l.names[a.Backend(i)] = ns.Name
		}
	}
	started := map[listener]bool{}
	for _, s := range l.services {
		for _, b := range s.Backends {
			want := listener{where[b.Addr.Addr().Unmap()], s.Protocol, b.Addr.Port()}
			if want.ns == nil || started[want] {
				continue
			}
			started[want] = true
			if err := l.start(want); err != nil {
				return err
			}
		}
	}
	return nil
}

// listener is a server to start.
type listener struct {
	ns       *nstest.Namespace
	protocol nftdp.Protocol
	port     uint16
}

// start starts an HTTP server for TCP, and one that answers datagrams else.
func (l *lab) start(want listener) error {
	if want.protocol == nftdp.ProtocolTCP {
		p := &pod{ns: want.ns, port: want.port}
		l.pods = append(l.pods, p)
		return p.start()
	}
	s, err := nstest.Serve(want.ns, want.ns.Name, want.port, want.protocol.String())
	if err == nil {
		l.others = append(l.others, s)
	}
	return err
}

// table prints aligned columns.
func (l *lab) table(rows func(w io.Writer)) error {
	w := tabwriter.NewWriter(l.out, 0, 0, 2, ' ', 0)
	rows(w)
	return w.Flush()
}

// heading begins a part of the output.
func (l *lab) heading(format string, args ...any) {
	fmt.Fprintf(l.out, "\n# "+format+"\n", args...)
}
