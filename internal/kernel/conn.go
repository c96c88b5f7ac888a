//go:build linux

// Package kernel talks nf_tables with one network namespace: it reads the
// tables of one name, commits batches and reads counters. It is the only owner
// of a socket.
package kernel

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// Conn is a netlink socket in a namespace, which it stays bound to, whatever
// becomes of the handle it was made from. It is not safe for concurrent use.
//
// The kernel works on a request inside the call that sends it, so every reply
// is there when the call returns. No read waits for long; a deadline guards
// against a kernel that does otherwise.
type Conn struct {
	nl    *netlink.Conn
	route *netlink.Conn // for what the namespace's addresses are
	raw   syscall.RawConn
	seq   uint32
	port  uint32
	asked map[int]bool // subsystems of netfilter that had a request
	sndb  int          // what SO_SNDBUF lets through
	buf   []byte
}

var (
	// ErrUnknown says that replies were lost (ENOBUFS), so that it is not
	// known whether a batch was applied.
	ErrUnknown = errors.New("outcome unknown, replies of the kernel were lost")
	// ErrStale says that the rules are of another generation than the batch
	// was made for, or changed while they were read. Nothing was applied.
	ErrStale = errors.New("rules changed meanwhile")
)

const (
	recvBuffer = 8 << 20 // holds some ten thousand errors of one batch
	replyLimit = 1 << 16 // a dump's message has at most 32 KiB (netlink_dump in net/netlink/af_netlink.c)
	quiet      = 10 * time.Second
)

// Dial opens a socket in the namespace of the file descriptor; a negative one
// is the calling thread's namespace. The descriptor may be closed afterwards.
func Dial(ns int) (*Conn, error) {
	nl, err := netlink.Dial(unix.NETLINK_NETFILTER, &netlink.Config{NetNS: max(ns, 0)})
	if err != nil {
		return nil, fmt.Errorf("open netlink socket: %w", err)
	}
	route, err := netlink.Dial(unix.NETLINK_ROUTE, &netlink.Config{NetNS: max(ns, 0)})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open netlink socket: %w", err), nl.Close())
	}
	c := &Conn{nl: nl, route: route, buf: make([]byte, replyLimit), asked: map[int]bool{}}
	if err := c.setup(); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return c, nil
}

func (c *Conn) setup() error {
	var err error
	if c.raw, err = c.nl.SyscallConn(); err != nil {
		return fmt.Errorf("netlink socket: %w", err)
	}
	if c.port, err = portOf(c.raw); err != nil {
		return fmt.Errorf("netlink port: %w", err)
	}
	if err := c.nl.SetReadBuffer(recvBuffer); err != nil {
		return fmt.Errorf("netlink receive buffer: %w", err)
	}
	if c.sndb, err = c.nl.WriteBuffer(); err != nil {
		return fmt.Errorf("netlink send buffer: %w", err)
	}
	// Errors name the offending attribute, and do not repeat the request.
	for _, o := range []netlink.ConnOption{netlink.ExtendedAcknowledge, netlink.CapAcknowledge} {
		if err := c.nl.SetOption(o, true); err != nil {
			return fmt.Errorf("netlink socket option: %w", err)
		}
	}
	// The kernel looks at what a dump of routes asks for only with this.
	if err := c.route.SetOption(netlink.GetStrictCheck, true); err != nil {
		return fmt.Errorf("netlink socket option: %w", err)
	}
	return nil
}

// Port is the netlink port of the socket that commits, from Dial to Close: the
// kernel knows the owner of a table by it. No two sockets of a namespace have
// the same one.
func (c *Conn) Port() uint32 { return c.port }

func portOf(raw syscall.RawConn) (port uint32, err error) {
	control := raw.Control(func(fd uintptr) {
		var sa unix.Sockaddr
		if sa, err = unix.Getsockname(int(fd)); err == nil {
			port = sa.(*unix.SockaddrNetlink).Pid
		}
	})
	return port, errors.Join(control, err)
}

// Close closes the sockets. Tables stay: a protected one becomes an orphan.
func (c *Conn) Close() error {
	if err := errors.Join(c.nl.Close(), c.route.Close()); err != nil {
		return fmt.Errorf("close netlink socket: %w", err)
	}
	return nil
}

// sendOverhead is what the kernel takes off SO_SNDBUF for itself
// (netlink_sendmsg in net/netlink/af_netlink.c).
const sendOverhead = 32

// MaxBatch grows the send buffer for a message of n bytes and returns the
// largest size that can be sent. With CAP_NET_ADMIN in the initial user
// namespace that is n, else net.core.wmem_max bounds it.
func (c *Conn) MaxBatch(n int) (int, error) {
	if n+sendOverhead > c.sndb {
		if err := c.nl.SetWriteBuffer(n + sendOverhead); err != nil { // the kernel doubles it
			return 0, fmt.Errorf("netlink send buffer: %w", err)
		}
		var err error
		if c.sndb, err = c.nl.WriteBuffer(); err != nil {
			return 0, fmt.Errorf("netlink send buffer: %w", err)
		}
	}
	return c.sndb - sendOverhead, nil
}

// send hands the kernel one datagram, which may hold many messages.
func (c *Conn) send(ctx context.Context, b []byte) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	var sent error
	err := c.raw.Write(func(fd uintptr) bool {
		sent = ignoringEINTR(func() error {
			return unix.Sendto(int(fd), b, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK})
		})
		return !errors.Is(sent, unix.EAGAIN)
	})
	if err = errors.Join(err, sent); err != nil {
		return os.NewSyscallError("sendto", err)
	}
	return nil
}

func ignoringEINTR(f func() error) error {
	for {
		if err := f(); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// message is a reply, valid until the next is read.
type message struct {
	typ, flags uint16
	seq        uint32
	data       []byte
}

// receive reads one datagram and gives its messages to each, until each says
// that there will be no more. Only the kernel is listened to.
func (c *Conn) receive(each func(message) (done bool, err error)) error {
	for {
		if err := c.nl.SetReadDeadline(time.Now().Add(quiet)); err != nil {
			return fmt.Errorf("netlink deadline: %w", err)
		}
		n, err := c.read()
		if err != nil {
			return err
		}
		done, err := parse(c.buf[:n], each)
		if done || err != nil {
			return err
		}
	}
}

func (c *Conn) read() (int, error) {
	var n int
	var got error
	err := c.raw.Read(func(fd uintptr) bool {
		for {
			var from unix.Sockaddr
			n, from, got = unix.Recvfrom(int(fd), c.buf, unix.MSG_DONTWAIT|unix.MSG_TRUNC)
			sa, ok := from.(*unix.SockaddrNetlink)
			switch {
			case errors.Is(got, unix.EINTR):
			case got == nil && (!ok || sa.Pid != 0): // another process wrote to us
			default:
				return !errors.Is(got, unix.EAGAIN)
			}
		}
	})
	switch {
	case errors.Is(got, unix.ENOBUFS):
		return 0, errors.Join(ErrUnknown, c.drain())
	case err != nil || got != nil:
		return 0, os.NewSyscallError("recvfrom", errors.Join(err, got))
	case n > len(c.buf):
		return 0, fmt.Errorf("netlink reply of %d bytes: %w", n, ErrUnknown)
	}
	return n, nil
}

// drain drops what has been received. After an overrun the kernel drops every
// reply until the socket is empty (NETLINK_S_CONGESTED in net/netlink/
// af_netlink.c), also those to the next request.
func (c *Conn) drain() error {
	var got error
	err := c.raw.Read(func(fd uintptr) bool {
		for got == nil || errors.Is(got, unix.EINTR) || errors.Is(got, unix.ENOBUFS) {
			_, _, got = unix.Recvfrom(int(fd), c.buf, unix.MSG_DONTWAIT)
		}
		return true
	})
	if err == nil && !errors.Is(got, unix.EAGAIN) {
		err = got
	}
	return os.NewSyscallError("recvfrom", err)
}

var errMalformed = errors.New("malformed netlink reply")

func parse(b []byte, each func(message) (bool, error)) (done bool, err error) {
	for len(b) >= unix.NLMSG_HDRLEN {
		size := int(binary.NativeEndian.Uint32(b))
		if size < unix.NLMSG_HDRLEN || size > len(b) {
			return true, errMalformed
		}
		done, err = each(message{
			typ: binary.NativeEndian.Uint16(b[4:]), flags: binary.NativeEndian.Uint16(b[6:]),
			seq: binary.NativeEndian.Uint32(b[8:]), data: b[unix.NLMSG_HDRLEN:size],
		})
		if done || err != nil {
			return done, err
		}
		b = b[min((size+3)&^3, len(b)):]
	}
	return false, nil
}

// Attributes gives each the attributes of b, and reports whether they are
// well-formed to the end.
func Attributes(b []byte, each func(typ int, payload []byte)) bool {
	for len(b) >= unix.NLA_HDRLEN {
		size := int(binary.NativeEndian.Uint16(b))
		if size < unix.NLA_HDRLEN || size > len(b) {
			return false
		}
		each(int(binary.NativeEndian.Uint16(b[2:])&^(unix.NLA_F_NESTED|unix.NLA_F_NET_BYTEORDER)), b[unix.NLA_HDRLEN:size])
		b = b[min((size+3)&^3, len(b)):]
	}
	return true
}

// errnoOf reads the code of an NLMSG_ERROR or NLMSG_DONE message; zero is an
// acknowledgement.
func errnoOf(m message) (unix.Errno, error) {
	if len(m.data) < 4 {
		return 0, errMalformed
	}
	return unix.Errno(-int32(binary.NativeEndian.Uint32(m.data))), nil
}
