package nftdp

import (
	"context"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"syscall"
)

// OriginalDst returns the address and port that the client of an accepted TCP or SCTP
// connection has connected to, before any translation of this network namespace: a
// frontend, where conn.LocalAddr is the backend. It is true for every kind of
// translation, also if the source was rewritten, and whoever has programmed it. A
// connection that was not translated has its own local address. A *tls.Conn, or
// whatever else has a method NetConn, stands for the connection below it.
//
// The kernel asks the conntrack of the namespace that the socket is in. So the address
// is not to be had if another namespace has translated the connection, as a node does
// for its pods: then it is the local address if conntrack is in use in the socket's own
// namespace, and else an error that matches fs.ErrNotExist. Ask the node there:
// Dataplane.OriginalFlow. The error also matches fs.ErrNotExist once conntrack has
// forgotten the connection, as Cut makes it do; so ask as soon as it is accepted.
// The error matches ErrNotSupported for other protocols (the socket of a UDP server
// belongs to no one flow), where conntrack was never in use, and on other systems than
// Linux. A connection without a socket of its own, such as one of net.Pipe, is an error
// that matches none of these.
func OriginalDst(conn net.Conn) (netip.AddrPort, error) {
	below := conn
	for {
		wrapped, ok := below.(interface{ NetConn() net.Conn })
		if !ok {
			break
		}
		below = wrapped.NetConn()
	}
	var dst netip.AddrPort
	socket, ok := below.(syscall.Conn)
	err := fmt.Errorf("%T has no socket", below)
	if ok {
		dst, err = originalDst(socket)
	}
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("original destination of the connection from %v: %w", conn.RemoteAddr(), err)
	}
	return dst, nil
}

// OriginalFlow returns the flow that a backend sees as one from source to itself, with
// the client and the destination as they were before translation. It is OriginalDst for
// a connection that this namespace has translated and another one, such as a pod's, has
// accepted: source is what is the remote address there, and backend the local one. It
// works for every protocol, and for flows that others have translated, with one request
// to the kernel however many flows there are. If there is no such flow, or not any
// more, the error matches fs.ErrNotExist. Conntrack zones other than 0 are not searched.
func (d *Dataplane) OriginalFlow(ctx context.Context, p Protocol, source, backend netip.AddrPort) (Flow, error) {
	source, backend = unmapped(source), unmapped(backend)
	if !p.word().known() || !source.IsValid() || !backend.IsValid() || source.Addr().Is4() != backend.Addr().Is4() {
		return Flow{}, fmt.Errorf("flow from %v to %v, protocol %v: two addresses of one family and a known protocol are needed", source, backend, p)
	}
	f, ok, err := d.engine.FlowTo(ctx, p.protoNumber(), source, backend)
	if err == nil && !ok {
		err = fmt.Errorf("%v flow from %v to %v: %w", p, source, backend, fs.ErrNotExist)
	}
	if err != nil {
		return Flow{}, err
	}
	return flowOf(&f), nil
}
