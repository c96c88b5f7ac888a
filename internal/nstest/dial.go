//go:build linux

package nstest

import (
	"bufio"
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"syscall"
	"time"
)

// Dial makes one connection from a namespace to a Server and returns its answer:
// a TCP connection with a line echoed, a UDP datagram with its reply, or an
// SCTP INIT with its INIT ACK. The source address is chosen by the kernel if
// src is unset. The timeout is for the whole exchange. Errors unwrap to the
// errno; IsTimeout recognizes that nothing came back.
func Dial(ns *Namespace, protocol string, src netip.Addr, dst netip.AddrPort, timeout time.Duration) (Answer, error) {
	return DialFrom(ns, protocol, netip.AddrPortFrom(src, 0), dst, timeout)
}

// DialFrom is Dial from a port; 0 lets the kernel choose it.
func DialFrom(ns *Namespace, protocol string, src, dst netip.AddrPort, timeout time.Duration) (Answer, error) {
	switch protocol {
	case "tcp":
		return askTCP(ns, src, dst, timeout)
	case "udp":
		return askUDP(ns, src, dst, timeout)
	case "sctp":
		return askSCTP(ns, src, dst, timeout)
	}
	return Answer{}, fmt.Errorf("unknown protocol %q", protocol)
}

// IsTimeout reports whether an error of this package means silence: the time
// expired without an answer or a refusal.
func IsTimeout(err error) bool {
	var timeout net.Error
	return errors.As(err, &timeout) && timeout.Timeout()
}

// Conn is an established TCP connection to a Server.
type Conn struct {
	Answer Answer
	conn   net.Conn
	lines  *bufio.Reader
}

// DialTCP connects and reads the server's answer. The timeout is for both.
func DialTCP(ns *Namespace, src netip.Addr, dst netip.AddrPort, timeout time.Duration) (*Conn, error) {
	return DialTCPFrom(ns, netip.AddrPortFrom(src, 0), dst, timeout)
}

// DialTCPFrom is DialTCP from a port; 0 lets the kernel choose it.
func DialTCPFrom(ns *Namespace, src, dst netip.AddrPort, timeout time.Duration) (*Conn, error) {
	conn, err := open(ns, "tcp", src, dst, timeout)
	if err != nil {
		return nil, err
	}
	c := &Conn{conn: conn, lines: bufio.NewReader(conn)}
	if c.Answer, err = c.readAnswer(); err != nil {
		_ = conn.Close()
		return nil, fmt.Errorf("connection to %v: %w", dst, err)
	}
	return c, nil
}

// Echo sends a line over the connection and waits for it to come back.
func (c *Conn) Echo(line string, timeout time.Duration) error {
	if err := c.conn.SetDeadline(time.Now().Add(timeout)); err != nil {
		return err
	}
	if _, err := fmt.Fprintf(c.conn, "%s\n", line); err != nil {
		return err
	}
	got, err := c.lines.ReadString('\n')
	if err != nil {
		return err
	}
	if got != line+"\n" {
		return fmt.Errorf("echo of %q is %q", line, got)
	}
	return nil
}

// KeepAlive has the kernel send a probe whenever nothing has come for a time, of whole
// seconds.
func (c *Conn) KeepAlive(idle time.Duration) error {
	return c.conn.(*net.TCPConn).SetKeepAliveConfig(net.KeepAliveConfig{Enable: true, Idle: idle, Interval: idle, Count: 100})
}

// LocalAddr is the client's own address.
func (c *Conn) LocalAddr() netip.AddrPort {
	return unmap(c.conn.LocalAddr().(*net.TCPAddr).AddrPort())
}

// Close ends the connection.
func (c *Conn) Close() error { return c.conn.Close() }

// Reset ends the connection at once, so that its port is free for another one:
// the client's side does not stay in TIME_WAIT for a minute.
func (c *Conn) Reset() error {
	err := c.conn.(*net.TCPConn).SetLinger(0)
	return errors.Join(err, c.conn.Close())
}

func (c *Conn) readAnswer() (Answer, error) {
	line, err := c.lines.ReadString('\n')
	if err != nil {
		return Answer{}, err
	}
	return parseAnswer(line[:len(line)-1])
}

func askTCP(ns *Namespace, src, dst netip.AddrPort, timeout time.Duration) (Answer, error) {
	c, err := DialTCPFrom(ns, src, dst, timeout)
	if err != nil {
		return Answer{}, err
	}
	defer c.Close()
	return c.Answer, c.Echo(payload(), timeout)
}

// payload returns a text that was not sent before.
func payload() string { return fmt.Sprintf("payload-%d", rand.Uint64()) }

func askUDP(ns *Namespace, src, dst netip.AddrPort, timeout time.Duration) (Answer, error) {
	return DialUDP(ns, src, dst, timeout, timeout)
}

// DialUDP is DialFrom for UDP by a client that sends its datagram again, from the
// same socket, whenever it has waited for an answer for some time.
func DialUDP(ns *Namespace, src, dst netip.AddrPort, wait, timeout time.Duration) (Answer, error) {
	c, err := open(ns, "udp", src, dst, timeout)
	if err != nil {
		return Answer{}, err
	}
	defer c.Close()
	end := time.Now().Add(timeout)
	sent, b := payload(), make([]byte, 2048)
	var n int
	for again := true; again; {
		if _, err := c.Write([]byte(sent)); err != nil {
			return Answer{}, err
		}
		if err := c.SetReadDeadline(time.Now().Add(min(wait, time.Until(end)))); err != nil {
			return Answer{}, err
		}
		n, err = c.Read(b)
		again = IsTimeout(err) && time.Now().Before(end)
	}
	if err != nil {
		return Answer{}, err
	}
	words, ok := bytes.CutSuffix(b[:n], []byte(" "+sent))
	if !ok {
		return Answer{}, fmt.Errorf("answer %q to %q", b[:n], sent)
	}
	return parseAnswer(string(words))
}

func askSCTP(ns *Namespace, src, dst netip.AddrPort, timeout time.Duration) (Answer, error) {
	c, err := open(ns, fmt.Sprintf("ip:%d", protoSCTP), src, dst, timeout)
	if err != nil {
		return Answer{}, err
	}
	defer c.Close()
	// Raw sockets have no ports of their own: a random one keeps clients
	// apart.
	out := sctpPacket{srcPort: cmp.Or(src.Port(), uint16(1024+rand.N(64000))), dstPort: dst.Port(), chunk: chunkInit}
	if _, err := c.Write(out.marshal()); err != nil {
		return Answer{}, err
	}
	b := make([]byte, 2048)
	for {
		// ReadFrom, unlike Read, removes the IPv4 header.
		n, _, err := c.(net.PacketConn).ReadFrom(b)
		if err != nil {
			return Answer{}, err
		}
		in, err := parseSCTP(b[:n])
		if err == nil && in.chunk == chunkInitAck && in.tag == initTag &&
			in.srcPort == dst.Port() && in.dstPort == out.srcPort {
			return parseAnswer(in.cookie)
		}
	}
}

// Open connects a socket in a namespace, for one of the networks of net.Dial,
// and sets its deadline.
func Open(ns *Namespace, network string, src netip.Addr, dst netip.AddrPort, timeout time.Duration) (net.Conn, error) {
	return open(ns, network, netip.AddrPortFrom(src, 0), dst, timeout)
}

// open waits for a port that is in use. It may be for a moment after its socket
// was closed: a process that is being started, whichever it is, has a copy of all
// sockets until its execve(2) closes them.
func open(ns *Namespace, network string, src, dst netip.AddrPort, timeout time.Duration) (net.Conn, error) {
	dialer, target := dialerFor(network, src, dst)
	dialer.Deadline = time.Now().Add(timeout)
	var c net.Conn
	dial := func() (err error) { c, err = dialer.Dial(network, target); return err }
	err := ns.Do(dial)
	for errors.Is(err, syscall.EADDRINUSE) && time.Now().Before(dialer.Deadline) {
		time.Sleep(time.Millisecond)
		err = ns.Do(dial)
	}
	if err != nil {
		return nil, err
	}
	return c, c.SetDeadline(dialer.Deadline)
}

// ListenUDP opens a UDP socket in a namespace.
func ListenUDP(ns *Namespace, addr netip.AddrPort) (*net.UDPConn, error) {
	var c *net.UDPConn
	err := ns.Do(func() (err error) { c, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(addr)); return err })
	if err != nil {
		return nil, fmt.Errorf("%s: %w", ns.Name, err)
	}
	return c, nil
}

func dialerFor(network string, src, dst netip.AddrPort) (*net.Dialer, string) {
	d, target := &net.Dialer{KeepAlive: -1}, dst.String() // no packets but those of the test
	local := net.IP(src.Addr().AsSlice())
	switch network {
	case "tcp":
		d.LocalAddr = &net.TCPAddr{IP: local, Port: int(src.Port())}
	case "udp":
		d.LocalAddr = &net.UDPAddr{IP: local, Port: int(src.Port())}
	default:
		d.LocalAddr, target = &net.IPAddr{IP: local}, dst.Addr().String()
	}
	if !src.Addr().IsValid() {
		d.LocalAddr = nil
	}
	return d, target
}
