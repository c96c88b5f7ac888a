//go:build linux

// Package kernel talks nf_tables with one network namespace: it reads the
// tables of one name, commits batches, reads counters and entries, and listens
// to what anybody commits.
package kernel

import (
	"context"
	"errors"
	"fmt"
	"slices"

	mdnetlink "github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/nftdp/go-nftdp/internal/netlink"
	"github.com/nftdp/go-nftdp/internal/nfnl"
	"github.com/nftdp/go-nftdp/internal/ruleset"
)

// Here stands for the network namespace of the calling thread.
const Here = netlink.Here

// Conn talks to a namespace, to which it stays bound, whatever becomes of the
// handle it was made from. It is not safe for concurrent use.
type Conn struct {
	socket *netlink.Socket // commits, and asks for little
	dumps  *netlink.Socket // so that an abandoned dump does not keep a commit
	port   uint32
	loaded bool // nf_tables has been asked for
	sndbuf int  // what SO_SNDBUF lets through
}

const recvBuffer = 8 << 20 // holds some ten thousand errors of one batch

// Dial opens sockets in the network namespace of a file descriptor, which may
// be closed afterwards, or Here.
func Dial(ns int) (*Conn, error) {
	// Errors name the offending attribute, and do not repeat the request.
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
	if err := c.socket.Conn().SetReadBuffer(recvBuffer); err != nil {
		return fmt.Errorf("netlink receive buffer: %w", err)
	}
	if c.sndbuf, err = c.socket.Conn().WriteBuffer(); err != nil {
		return fmt.Errorf("netlink send buffer: %w", err)
	}
	return nil
}

// Port is the netlink port of the socket that commits, from Dial to Close: the
// kernel knows the owner of a table by it.
func (c *Conn) Port() uint32 { return c.port }

// Socket is the socket that commits.
func (c *Conn) Socket() *netlink.Socket { return c.socket }

// Close closes the sockets. Tables stay: a protected one becomes an orphan.
func (c *Conn) Close() error { return errors.Join(c.socket.Close(), c.dumps.Close()) }

// sendOverhead is what the kernel takes off SO_SNDBUF for itself
// (netlink_sendmsg in net/netlink/af_netlink.c).
const sendOverhead = 32

// MaxBatch grows the send buffer for a message of n bytes and returns the
// largest size that can be sent. With CAP_NET_ADMIN in the initial user
// namespace that is n, else net.core.wmem_max bounds it.
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

// Size is the size in bytes of the batch that Commit would send.
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

func (c *Conn) ask(ctx context.Context, s *netlink.Socket, typ, flags int, f ruleset.Family, attrs []byte, each func([]byte) error) error {
	var body netlink.Buffer
	body.Netfilter(uint8(f), 0)
	body = append(body, attrs...)
	ask := func() error {
		return outcome(s.Ask(ctx, unix.NFNL_SUBSYS_NFTABLES<<8|typ, flags, slices.Clip(body), each))
	}
	if c.loaded {
		return ask()
	}
	c.loaded = true
	return netlink.UntilLoaded(ctx, ask)
}

// outcome turns what a socket says into what callers of this package look for.
func outcome(err error) error {
	if errors.Is(err, netlink.ErrLost) {
		return fmt.Errorf("%w: %w", ruleset.ErrUnknown, err)
	}
	return err
}
