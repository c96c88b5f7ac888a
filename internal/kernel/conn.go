//go:build linux

// Package kernel reads and programs nf_tables of one network namespace: it reads
// the tables of one name, commits batches, reads counters and entries, and monitors
// all commits.
package kernel

import (
	"context"
	"errors"
	"fmt"

	mdnetlink "github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/nftdp/go-nftdp/internal/netlink"
	"github.com/nftdp/go-nftdp/internal/nfnl"
	"github.com/nftdp/go-nftdp/internal/ruleset"
)

// Here stands for the network namespace of the calling thread.
const Here = netlink.Here

// Conn is bound to a namespace, even if the handle that it was opened from is
// closed. It is not safe for concurrent use.
type Conn struct {
	socket *netlink.Socket // for commits and short requests
	dumps  *netlink.Socket // for dumps, so that an abandoned one does not delay a commit, and large readings
	port   uint32
	sndbuf int // the value of SO_SNDBUF
}

const recvBuffer = 8 << 20 // room for some ten thousand errors of one batch

// Dial opens sockets in the network namespace of a file descriptor, which may
// be closed afterwards, or Here.
func Dial(ns int) (*Conn, error) {
	// The options make errors name the offending attribute, and not repeat the
	// request.
	socket, err := netlink.Dial(unix.NETLINK_NETFILTER, ns, mdnetlink.ExtendedAcknowledge, mdnetlink.CapAcknowledge)
	if err != nil {
		return nil, err
	}
	dumps, err := netlink.Dial(unix.NETLINK_NETFILTER, ns)
	if err != nil {
		return nil, errors.Join(err, socket.Close())
	}
	c := &Conn{socket: socket, dumps: dumps}
	if err := c.setup(); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return c, nil
}

func (c *Conn) setup() (err error) {
	if c.port, err = c.socket.Port(); err != nil {
		return err
	}
	for _, s := range [...]*netlink.Socket{c.socket, c.dumps} {
		if err := s.Conn().SetReadBuffer(recvBuffer); err != nil {
			return fmt.Errorf("netlink receive buffer: %w", err)
		}
	}
	if c.sndbuf, err = c.socket.Conn().WriteBuffer(); err != nil {
		return fmt.Errorf("netlink send buffer: %w", err)
	}
	return nil
}

// Port returns the netlink port of the socket that commits. It identifies the
// owner of a table, and never changes.
func (c *Conn) Port() uint32 { return c.port }

// Socket returns the socket that commits.
func (c *Conn) Socket() *netlink.Socket { return c.socket }

// Close closes the sockets. Tables stay: a protected one becomes an orphan.
func (c *Conn) Close() error { return errors.Join(c.socket.Close(), c.dumps.Close()) }

// sendOverhead is the part of SO_SNDBUF that the kernel reserves
// (netlink_sendmsg in net/netlink/af_netlink.c).
const sendOverhead = 32

// MaxBatch enlarges the send buffer for a message of n bytes, if necessary, and
// returns the largest size that can be sent. Without CAP_NET_ADMIN in the initial
// user namespace, net.core.wmem_max bounds it.
func (c *Conn) MaxBatch(n int) (int, error) {
	if n+sendOverhead > c.sndbuf {
		if err := c.socket.Conn().SetWriteBuffer(n + sendOverhead); err != nil { // the kernel doubles it
			return 0, fmt.Errorf("netlink send buffer: %w", err)
		}
		var err error
		if c.sndbuf, err = c.socket.Conn().WriteBuffer(); err != nil {
			return 0, fmt.Errorf("netlink send buffer: %w", err)
		}
	}
	return c.sndbuf - sendOverhead, nil
}

// Size returns the size in bytes of the batch that Commit would send.
func (*Conn) Size(changes []ruleset.Change) (int, error) {
	b := nfnl.NewBatch(0, 0)
	for i := range changes {
		if err := b.Add(&changes[i]); err != nil {
			return 0, err
		}
	}
	return len(b.Finish()), nil
}

// dump reads all objects of a kind.
func (c *Conn) dump(ctx context.Context, typ int, f ruleset.Family, attrs []byte, each func([]byte) error) error {
	return c.ask(ctx, c.dumps, typ, unix.NLM_F_DUMP, f, attrs, each)
}

func (*Conn) ask(ctx context.Context, s *netlink.Socket, typ, flags int, f ruleset.Family, attrs []byte, each func([]byte) error) error {
	return outcome(s.AskNetfilter(ctx, unix.NFNL_SUBSYS_NFTABLES<<8|typ, flags, uint8(f), attrs, each))
}

// outcome turns an error of a socket into one of package ruleset.
func outcome(err error) error {
	if errors.Is(err, netlink.ErrLost) {
		return fmt.Errorf("%w: %w", ruleset.ErrUnknown, err)
	}
	return err
}
