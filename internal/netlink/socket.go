//go:build linux

package netlink

import (
	"cmp"
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

// Socket is a netlink socket that takes nothing but the kernel's word: another
// process with CAP_NET_ADMIN can write to it, too. It is not safe for
// concurrent use.
//
// The kernel works on a request inside the call that sends it, so every reply
// is there when the call returns. No read waits for long; a deadline guards
// against a kernel that does otherwise.
type Socket struct {
	nl      *netlink.Conn
	raw     syscall.RawConn
	seq     uint32
	buf     []byte
	pending uint32 // the sequence number of a dump that was abandoned; 0: none
}

// Message is a reply, valid until the next one is read.
type Message = Messages

const (
	replyLimit = 1 << 16 // a dump's message has at most 32 KiB (netlink_dump in net/netlink/af_netlink.c)
	quiet      = 10 * time.Second
)

// Here stands for the network namespace of the calling thread.
const Here = -1

var (
	// ErrLost says that replies were lost (ENOBUFS), so that the outcome of a
	// request is unknown.
	ErrLost = errors.New("replies of the kernel were lost")
	// ErrInterrupted says that what was dumped changed meanwhile
	// (NLM_F_DUMP_INTR).
	ErrInterrupted = errors.New("changed while it was read")
	// ErrMalformed says that a reply is not what it should be.
	ErrMalformed = errors.New("malformed netlink reply")
)

// Dial opens a socket of a netlink protocol in the network namespace of a file
// descriptor, which may be closed afterwards, or Here.
func Dial(protocol, ns int, options ...netlink.ConnOption) (*Socket, error) {
	config := &netlink.Config{}
	if ns != Here {
		own, err := namespace(ns)
		if err != nil {
			return nil, err
		}
		defer own.Close()
		config.NetNS = int(own.Fd())
	}
	nl, err := netlink.Dial(protocol, config)
	if err != nil {
		return nil, fmt.Errorf("open netlink socket: %w", err)
	}
	s := &Socket{nl: nl, buf: make([]byte, replyLimit)}
	s.raw, err = nl.SyscallConn()
	for _, o := range options {
		err = errors.Join(err, nl.SetOption(o, true))
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("netlink socket: %w", err), nl.Close())
	}
	return s, nil
}

// namespace duplicates a descriptor of a network namespace, since for package
// netlink the descriptor 0 is no namespace.
func namespace(fd int) (*os.File, error) {
	own, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		return nil, fmt.Errorf("open network namespace: file descriptor %d: %w", fd, err)
	}
	file := os.NewFile(uintptr(own), "network namespace")
	if kind, err := unix.IoctlRetInt(own, unix.NS_GET_NSTYPE); err != nil || kind != unix.CLONE_NEWNET {
		return nil, errors.Join(fmt.Errorf("open network namespace: file descriptor %d is none", fd), file.Close())
	}
	return file, nil
}

// Close closes the socket.
func (s *Socket) Close() error {
	if err := s.nl.Close(); err != nil {
		return fmt.Errorf("close netlink socket: %w", err)
	}
	return nil
}

// Conn is the connection below, to set buffers and join groups.
func (s *Socket) Conn() *netlink.Conn { return s.nl }

// Raw is the descriptor below.
func (s *Socket) Raw() syscall.RawConn { return s.raw }

// Port is the socket's netlink port. No two sockets of a namespace and protocol
// have the same one.
func (s *Socket) Port() (port uint32, err error) {
	control := s.raw.Control(func(fd uintptr) {
		var sa unix.Sockaddr
		if sa, err = unix.Getsockname(int(fd)); err == nil {
			port = sa.(*unix.SockaddrNetlink).Pid
		}
	})
	if err = errors.Join(control, err); err != nil {
		return 0, fmt.Errorf("netlink port: %w", err)
	}
	return port, nil
}

// Namespace opens the namespace that the socket is in. The kernel hands it to
// whoever has CAP_NET_ADMIN there (SIOCGSKNS in net/socket.c).
func (s *Socket) Namespace() (*os.File, error) {
	var ns int
	var got error
	err := s.raw.Control(func(fd uintptr) { ns, got = unix.IoctlRetInt(int(fd), unix.SIOCGSKNS) })
	if err = errors.Join(err, got); err != nil {
		return nil, fmt.Errorf("network namespace of netlink socket: %w", os.NewSyscallError("ioctl", err))
	}
	return os.NewFile(uintptr(ns), "network namespace"), nil
}

// NextSeq returns the first of n sequence numbers that are not in use.
func (s *Socket) NextSeq(n uint32) (first uint32) {
	first = s.seq + 1
	s.seq += n
	return first
}

// Ask sends a message, whose body begins with its protocol's own header, and
// calls each for the payload of every reply, valid until it returns. A request
// that is no dump and wants no acknowledgement has one reply. Where the kernel
// says that what it dumps changed meanwhile, the error is ErrInterrupted, but
// each has been called for all of it.
//
// A dump is abandoned when the context ends or each fails: what is left of it
// is dropped before the next request.
func (s *Socket) Ask(ctx context.Context, typ, flags int, body []byte, each func([]byte) error) error {
	if err := s.finish(ctx); err != nil {
		return err
	}
	seq := s.NextSeq(1)
	var b Buffer
	at := b.Message(uint16(typ), uint16(unix.NLM_F_REQUEST|flags), seq)
	b = append(b, body...)
	b.EndMessage(at)
	if err := s.Send(ctx, b); err != nil {
		return err
	}
	var failed, interrupted error
	for done := false; !done; {
		datagram, err := s.next()
		if err == nil {
			done, err = walkMessages(datagram, func(m *Message) (done bool, err error) {
				if m.Seq != seq {
					return false, nil
				}
				if m.Flags&unix.NLM_F_DUMP_INTR != 0 { // NLMSG_DONE may be the only one that says so
					interrupted = ErrInterrupted
				}
				if m.Type == unix.NLMSG_ERROR || m.Type == unix.NLMSG_DONE {
					return true, m.failure()
				}
				if failed == nil {
					failed = each(m.Data)
				}
				return flags == 0, nil
			})
		}
		if failed == nil {
			failed = ctx.Err()
		}
		switch {
		case err != nil:
			return cmp.Or(failed, err)
		case failed != nil && !done && flags&unix.NLM_F_DUMP == unix.NLM_F_DUMP:
			s.pending = seq
			return failed
		}
	}
	return cmp.Or(failed, interrupted)
}

// finish reads and drops what is left of an abandoned dump.
func (s *Socket) finish(ctx context.Context) error {
	seq := s.pending
	if seq == 0 {
		return nil
	}
	err := s.Receive(func(m *Message) (done bool, err error) {
		if m.Seq == seq && (m.Type == unix.NLMSG_ERROR || m.Type == unix.NLMSG_DONE) {
			return true, nil
		}
		return false, ctx.Err()
	})
	if err == nil || errors.Is(err, ErrLost) {
		s.pending = 0
	}
	return err
}

// Errno is the code of an NLMSG_ERROR or NLMSG_DONE message; zero is an
// acknowledgement.
func (m *Messages) Errno() (unix.Errno, error) {
	if len(m.Data) < 4 {
		return 0, ErrMalformed
	}
	return unix.Errno(-int32(binary.NativeEndian.Uint32(m.Data))), nil
}

// failure is the error in an NLMSG_ERROR or NLMSG_DONE message; nil is an
// acknowledgement.
func (m *Messages) failure() error {
	errno, err := m.Errno()
	switch {
	case err != nil:
		return err
	case errno == unix.ENOBUFS: // there was no room for a dump (netlink_dump)
		return ErrLost
	case errno != 0:
		return errno
	}
	return nil
}

// Send hands the kernel one datagram, which may hold many messages.
func (s *Socket) Send(ctx context.Context, b []byte) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	var sent error
	err := s.raw.Write(func(fd uintptr) bool {
		for {
			sent = unix.Sendto(int(fd), b, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK})
			if !errors.Is(sent, unix.EINTR) {
				return !errors.Is(sent, unix.EAGAIN)
			}
		}
	})
	if err = errors.Join(err, sent); err != nil {
		return os.NewSyscallError("sendto", err)
	}
	return nil
}

// Receive reads datagrams and calls each for their messages, until it says that
// there will be no more.
func (s *Socket) Receive(each func(*Message) (done bool, err error)) error {
	for {
		datagram, err := s.next()
		if err != nil {
			return err
		}
		if done, err := walkMessages(datagram, each); done || err != nil {
			return err
		}
	}
}

func walkMessages(b []byte, each func(*Message) (done bool, err error)) (bool, error) {
	m := ReadMessages(b)
	for m.Next() {
		if done, err := each(&m); done || err != nil {
			return done, err
		}
	}
	if m.Err() != nil {
		return true, fmt.Errorf("%w: %w", ErrMalformed, m.Err())
	}
	return false, nil
}

// next reads a datagram of the kernel.
func (s *Socket) next() ([]byte, error) {
	if err := s.nl.SetReadDeadline(time.Now().Add(quiet)); err != nil {
		return nil, fmt.Errorf("netlink deadline: %w", err)
	}
	var n int
	var got error
	err := s.raw.Read(func(fd uintptr) bool {
		for {
			var ours bool
			n, ours, got = s.receive(fd)
			switch {
			case errors.Is(got, unix.EINTR):
			case got == nil && !ours:
			default:
				return !errors.Is(got, unix.EAGAIN)
			}
		}
	})
	switch {
	case errors.Is(got, unix.ENOBUFS):
		return nil, errors.Join(ErrLost, s.drop())
	case err != nil || got != nil:
		return nil, os.NewSyscallError("recvfrom", errors.Join(err, got))
	case n > len(s.buf):
		return nil, fmt.Errorf("netlink reply of %d bytes: %w", n, ErrLost)
	}
	return s.buf[:n], nil
}

// receive reads one datagram; ours says that it is the kernel's.
func (s *Socket) receive(fd uintptr) (n int, ours bool, err error) {
	n, from, err := unix.Recvfrom(int(fd), s.buf, unix.MSG_DONTWAIT|unix.MSG_TRUNC)
	sa, ok := from.(*unix.SockaddrNetlink)
	return n, ok && sa.Pid == 0, err
}

// drop drops what has been received. After an overrun the kernel drops every
// reply until the socket is empty (NETLINK_S_CONGESTED in net/netlink/
// af_netlink.c), also those to the next request.
func (s *Socket) drop() error {
	var got error
	err := s.raw.Read(func(fd uintptr) bool {
		for got == nil || errors.Is(got, unix.EINTR) || errors.Is(got, unix.ENOBUFS) {
			_, _, got = unix.Recvfrom(int(fd), s.buf, unix.MSG_DONTWAIT)
		}
		return true
	})
	if err == nil && !errors.Is(got, unix.EAGAIN) {
		err = got
	}
	return os.NewSyscallError("recvfrom", err)
}

// Drain reads all datagrams that are there and calls each for their messages,
// until it fails. It does not wait, and so does not keep others from waiting.
// ErrLost: some were lost, and the rest is dropped.
func (s *Socket) Drain(each func(*Message) error) error {
	var failed error
	err := s.raw.Control(func(fd uintptr) {
		for {
			n, ours, err := s.receive(fd)
			switch {
			case errors.Is(err, unix.EINTR):
			case errors.Is(err, unix.EAGAIN):
				return
			case errors.Is(err, unix.ENOBUFS), n > len(s.buf):
				failed = ErrLost
			case err != nil:
				failed = os.NewSyscallError("recvfrom", err)
				return
			case failed == nil && ours:
				_, failed = walkMessages(s.buf[:n], func(m *Message) (bool, error) { return false, each(m) })
			}
		}
	})
	if err != nil {
		return fmt.Errorf("netlink socket: %w", err)
	}
	return failed
}
