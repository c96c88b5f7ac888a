//go:build linux

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

	"github.com/nftdp/go-nftdp/internal/nfnl"
)

// socket is a netlink socket that listens to the kernel only: another process
// with CAP_NET_ADMIN can write to it, too. It is not safe for concurrent use.
//
// The kernel works on a request inside the call that sends it, so every reply
// is there when the call returns. No read waits for long; a deadline guards
// against a kernel that does otherwise.
type socket struct {
	nl  *netlink.Conn
	raw syscall.RawConn
	seq uint32
	buf []byte
}

const (
	replyLimit = 1 << 16 // a dump's message has at most 32 KiB (netlink_dump in net/netlink/af_netlink.c)
	quiet      = 10 * time.Second
)

// Here stands for the network namespace of the calling thread.
const Here = -1

// dialSocket opens a socket of a netlink protocol in the network namespace of
// the file descriptor, or Here.
func dialSocket(protocol, ns int) (*socket, error) {
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
	raw, err := nl.SyscallConn()
	if err != nil {
		return nil, errors.Join(fmt.Errorf("netlink socket: %w", err), nl.Close())
	}
	return &socket{nl: nl, raw: raw, buf: make([]byte, replyLimit)}, nil
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

func (s *socket) close() error {
	if err := s.nl.Close(); err != nil {
		return fmt.Errorf("close netlink socket: %w", err)
	}
	return nil
}

func (s *socket) setOptions(options ...netlink.ConnOption) error {
	for _, o := range options {
		if err := s.nl.SetOption(o, true); err != nil {
			return fmt.Errorf("netlink socket option: %w", err)
		}
	}
	return nil
}

// ask sends a message, whose body begins with its protocol's own header, and
// gives each reply's payload, valid until it returns, to each.
// A request that is no dump and wants no acknowledgement has one reply. What is
// left after an error is read and dropped, so that the next request finds
// nothing.
func (s *socket) ask(ctx context.Context, typ, flags int, body []byte, each func([]byte) error) error {
	s.seq++
	seq := s.seq
	s.seq++
	b := append(nfnl.AppendMessage(nil, typ, unix.NLM_F_REQUEST|flags, seq), body...)
	binary.NativeEndian.PutUint32(b, uint32(len(b)))
	if err := s.send(ctx, b); err != nil {
		return err
	}
	var failed error
	err := s.receive(func(m message) (bool, error) {
		if m.seq != seq {
			return false, nil
		}
		if failed == nil {
			failed = ctx.Err()
		}
		if m.flags&unix.NLM_F_DUMP_INTR != 0 && failed == nil {
			failed = ErrStale
		}
		if m.typ == unix.NLMSG_ERROR || m.typ == unix.NLMSG_DONE {
			errno, err := errnoOf(m)
			switch {
			case err != nil:
				return true, err
			case errno == unix.ENOBUFS: // there was no room for a dump (netlink_dump)
				return true, ErrUnknown
			case errno != 0:
				return true, errno
			}
			return true, nil
		}
		if failed == nil {
			failed = each(m.data)
		}
		return flags == 0, nil
	})
	if err != nil {
		return err
	}
	return failed
}

// send hands the kernel one datagram, which may hold many messages.
func (s *socket) send(ctx context.Context, b []byte) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	var sent error
	err := s.raw.Write(func(fd uintptr) bool {
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
func (s *socket) receive(each func(message) (done bool, err error)) error {
	for {
		if err := s.nl.SetReadDeadline(time.Now().Add(quiet)); err != nil {
			return fmt.Errorf("netlink deadline: %w", err)
		}
		n, err := s.read()
		if err != nil {
			return err
		}
		done, err := parse(s.buf[:n], each)
		if done || err != nil {
			return err
		}
	}
}

func (s *socket) read() (int, error) {
	var n int
	var got error
	err := s.raw.Read(func(fd uintptr) bool {
		for {
			var from unix.Sockaddr
			n, from, got = unix.Recvfrom(int(fd), s.buf, unix.MSG_DONTWAIT|unix.MSG_TRUNC)
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
		return 0, errors.Join(ErrUnknown, s.drop())
	case err != nil || got != nil:
		return 0, os.NewSyscallError("recvfrom", errors.Join(err, got))
	case n > len(s.buf):
		return 0, fmt.Errorf("netlink reply of %d bytes: %w", n, ErrUnknown)
	}
	return n, nil
}

// drop drops what has been received. After an overrun the kernel drops every
// reply until the socket is empty (NETLINK_S_CONGESTED in net/netlink/
// af_netlink.c), also those to the next request.
func (s *socket) drop() error {
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
