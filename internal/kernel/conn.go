//go:build linux

// Package kernel talks nf_tables with one network namespace: it reads the
// tables of one name, commits batches and reads counters. It is the only owner
// of a socket.
package kernel

import (
	"errors"
	"fmt"
	"syscall"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// Conn is what talks to a namespace, to which it stays bound, whatever becomes
// of the handle it was made from. It is not safe for concurrent use.
type Conn struct {
	*socket
	route *socket // for what the namespace's addresses are
	port  uint32
	asked map[int]bool // subsystems of netfilter that had a request
	sndb  int          // what SO_SNDBUF lets through
}

var (
	// ErrUnknown says that replies were lost (ENOBUFS), so that it is not
	// known whether a batch was applied.
	ErrUnknown = errors.New("outcome unknown, replies of the kernel were lost")
	// ErrStale says that the rules are of another generation than the batch
	// was made for, or changed while they were read. Nothing was applied.
	ErrStale = errors.New("rules changed meanwhile")
)

const recvBuffer = 8 << 20 // holds some ten thousand errors of one batch

// Dial opens sockets in the namespace of the file descriptor; a negative one
// is the calling thread's namespace. The descriptor may be closed afterwards.
func Dial(ns int) (*Conn, error) {
	nf, err := dialSocket(unix.NETLINK_NETFILTER, ns)
	if err != nil {
		return nil, err
	}
	route, err := dialSocket(unix.NETLINK_ROUTE, ns)
	if err != nil {
		return nil, errors.Join(err, nf.close())
	}
	c := &Conn{socket: nf, route: route, asked: map[int]bool{}}
	if err := c.setup(); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return c, nil
}

func (c *Conn) setup() error {
	var err error
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
	if err := c.setOptions(netlink.ExtendedAcknowledge, netlink.CapAcknowledge); err != nil {
		return err
	}
	// The kernel looks at what a dump of routes asks for only with this.
	return c.route.setOptions(netlink.GetStrictCheck)
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
	return errors.Join(c.close(), c.route.close())
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
