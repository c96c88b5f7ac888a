//go:build linux

package nstest

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
)

// Server answers on one port of a namespace, in both families. On every TCP
// connection it sends its name and the source address that it sees, and then
// echoes what it receives. It answers UDP datagrams and SCTP INITs with the
// same words, followed for UDP by the datagram's payload.
type Server struct {
	name    string
	port    uint16
	closers []io.Closer
	done    sync.WaitGroup
	mu      sync.Mutex
	conns   map[net.Conn]struct{} // nil once closed
}

// Serve starts a server for the given protocols: "tcp", "udp", "sctp". On
// addresses that the namespace gets later it accepts only TCP connections.
func Serve(ns *Namespace, name string, port uint16, protocols ...string) (*Server, error) {
	s := &Server{name: name, port: port, conns: map[net.Conn]struct{}{}}
	for _, protocol := range protocols {
		if err := s.serve(ns, protocol); err != nil {
			return nil, errors.Join(fmt.Errorf("serve %s in %s: %w", protocol, ns.Name, err), s.Close())
		}
	}
	return s, nil
}

// Close ends the server and its connections.
func (s *Server) Close() error {
	var errs []error
	for _, c := range s.closers {
		errs = append(errs, c.Close())
	}
	s.mu.Lock()
	conns := s.conns
	s.conns = nil
	s.mu.Unlock()
	for c := range conns {
		_ = c.Close() // The client may have ended it meanwhile.
	}
	s.done.Wait()
	return errors.Join(errs...)
}

func (s *Server) serve(ns *Namespace, protocol string) error {
	addrs := []netip.Addr{netip.IPv4Unspecified(), netip.IPv6Unspecified()}
	if protocol != "tcp" {
		// A socket without an address would answer from the address that the
		// kernel prefers, and not from the one that was addressed.
		var err error
		if addrs, err = ns.addrs(); err != nil {
			return err
		}
	}
	for _, addr := range addrs {
		if err := ns.Do(func() error { return s.listen(protocol, addr) }); err != nil {
			return err
		}
	}
	return nil
}

func (s *Server) listen(protocol string, addr netip.Addr) error {
	family := "4"
	if addr.Is6() {
		family = "6"
	}
	lc := net.ListenConfig{KeepAlive: -1}
	lc.SetMultipathTCP(false)
	ctx, target := context.Background(), netip.AddrPortFrom(addr, s.port).String()
	switch protocol {
	case "tcp":
		l, err := lc.Listen(ctx, "tcp"+family, target)
		return s.start(l, err, func() { s.acceptTCP(l) })
	case "udp":
		c, err := lc.ListenPacket(ctx, "udp"+family, target)
		return s.start(c, err, func() { s.answerPackets(c, s.answerUDP) })
	case "sctp":
		c, err := lc.ListenPacket(ctx, fmt.Sprintf("ip%s:%d", family, protoSCTP), addr.String())
		return s.start(c, err, func() { s.answerPackets(c, s.answerSCTP) })
	}
	return fmt.Errorf("unknown protocol %q", protocol)
}

// start runs a server's loop until the socket is closed. The goroutine runs
// outside of the namespace, but the socket stays inside.
func (s *Server) start(c io.Closer, err error, loop func()) error {
	if err != nil {
		return err
	}
	s.closers = append(s.closers, c)
	s.done.Go(loop)
	return nil
}

func (s *Server) acceptTCP(l net.Listener) {
	for {
		c, err := l.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		} else if err != nil {
			continue // The client was gone before it was accepted.
		}
		if !s.keep(c) {
			return
		}
		s.done.Go(func() { s.echoTCP(c) })
	}
}

// keep stores a connection, so that Close can end it.
func (s *Server) keep(c net.Conn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.conns == nil {
		_ = c.Close()
		return false
	}
	s.conns[c] = struct{}{}
	return true
}

// echoTCP ends when either side closes the connection; errors then do not
// matter.
func (s *Server) echoTCP(c net.Conn) {
	defer func() {
		_ = c.Close()
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.conns, c)
	}()
	if _, err := fmt.Fprintf(c, "%s\n", s.answer(c.RemoteAddr())); err != nil {
		return
	}
	lines := bufio.NewScanner(c)
	for lines.Scan() {
		if _, err := fmt.Fprintf(c, "%s\n", lines.Bytes()); err != nil {
			return
		}
	}
}

// answerPackets answers what a socket gets, unless the answer is nil.
func (s *Server) answerPackets(c net.PacketConn, answer func(packet []byte, from net.Addr) []byte) {
	b := make([]byte, 1<<16)
	for {
		n, from, err := c.ReadFrom(b)
		if errors.Is(err, net.ErrClosed) {
			return
		} else if err != nil {
			continue // An ICMP error for an earlier answer.
		}
		if out := answer(b[:n], from); out != nil {
			_, _ = c.WriteTo(out, from)
		}
	}
}

func (s *Server) answerUDP(packet []byte, from net.Addr) []byte {
	return fmt.Appendf(nil, "%s %s", s.answer(from), packet)
}

// answerSCTP answers an INIT. The socket receives all packets of the protocol,
// including answers for a client in this namespace.
func (s *Server) answerSCTP(packet []byte, from net.Addr) []byte {
	in, err := parseSCTP(packet)
	if err != nil || in.chunk != chunkInit || in.dstPort != s.port {
		return nil
	}
	client, _ := netip.ParseAddr(from.String())
	answer := Answer{Server: s.name, Client: unmap(netip.AddrPortFrom(client, in.srcPort))}
	return sctpPacket{
		srcPort: s.port, dstPort: in.srcPort, tag: initTag,
		chunk: chunkInitAck, cookie: answer.String(),
	}.marshal()
}

func (s *Server) answer(from net.Addr) Answer {
	a, _ := netip.ParseAddrPort(from.String())
	return Answer{Server: s.name, Client: unmap(a)}
}
