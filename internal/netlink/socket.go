//go:build linux

package netlink

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"os"
	"runtime"
	"syscall"
	"time"
	"unsafe"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// Socket is a netlink socket that accepts messages from the kernel only: another
// process with CAP_NET_ADMIN can write to it, too. It is not safe for concurrent
// use.
//
// The kernel handles a request inside the call that sends it, so every reply has
// arrived when the call returns. No read waits for long; a deadline guards against
// a kernel that behaves otherwise.
type Socket struct {
	nl      *netlink.Conn
	raw     syscall.RawConn
	seq     uint32
	buf     []byte
	request Buffer                  // the last one
	body    Buffer                  // of the last one to netfilter
	from    unix.RawSockaddrNetlink // the sender of a reply
	pending uint32                  // the sequence number of an abandoned dump; 0: none
	asked   bool                    // AskNetfilter has been called
}

// Message is a reply, valid until the next one is read.
type Message = Messages

const (
	dumpLimit  = 1 << 15 // a dump's message has at most 32 KiB (netlink_dump in net/netlink/af_netlink.c)
	replyLimit = 2 * dumpLimit
	quiet      = 10 * time.Second
)

// Here stands for the network namespace of the calling thread.
const Here = -1

var (
	// ErrLost says that replies were lost (ENOBUFS), so that the outcome of a
	// request is unknown.
	ErrLost = errors.New("replies of the kernel were lost")
	// ErrInterrupted says that the dumped objects changed meanwhile
	// (NLM_F_DUMP_INTR).
	ErrInterrupted = errors.New("changed while it was read")
	// ErrMalformed says that a reply could not be decoded.
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
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		if !ofThread(own) {
			config.NetNS = int(own.Fd())
		}
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

// namespace duplicates a descriptor of a network namespace, since mdlayher/netlink
// takes the descriptor 0 for none.
func namespace(fd int) (*os.File, error) {
	own, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		return nil, fmt.Errorf("open network namespace: file descriptor %d: %w", fd, err)
	}
	file := os.NewFile(uintptr(own), "network namespace")
	if kind, err := unix.IoctlRetInt(own, unix.NS_GET_NSTYPE); err != nil || kind != unix.CLONE_NEWNET {
		return nil, errors.Join(fmt.Errorf("open network namespace: file descriptor %d is not a network namespace", fd), file.Close())
	}
	return file, nil
}

// ofThread reports whether a network namespace is that of the calling thread.
// Entering even that takes CAP_SYS_ADMIN.
func ofThread(ns *os.File) bool {
	var this, that unix.Stat_t
	err := errors.Join(unix.Stat("/proc/thread-self/ns/net", &this), unix.Fstat(int(ns.Fd()), &that))
	return err == nil && this.Dev == that.Dev && this.Ino == that.Ino
}

// Close closes the socket.
func (s *Socket) Close() error {
	if err := s.nl.Close(); err != nil {
		return fmt.Errorf("close netlink socket: %w", err)
	}
	return nil
}

// Conn returns the underlying connection, to set buffers and join groups.
func (s *Socket) Conn() *netlink.Conn { return s.nl }

// Port returns the socket's netlink port, which no other socket of the same
// namespace and protocol has.
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

// Namespace opens the namespace that the socket is in. The kernel allows that to
// processes with CAP_NET_ADMIN there (SIOCGSKNS in net/socket.c).
func (s *Socket) Namespace() (*os.File, error) {
	var ns int
	var got error
	err := s.raw.Control(func(fd uintptr) { ns, got = unix.IoctlRetInt(int(fd), unix.SIOCGSKNS) })
	if err = errors.Join(err, got); err != nil {
		return nil, fmt.Errorf("network namespace of netlink socket: %w", os.NewSyscallError("ioctl", err))
	}
	return os.NewFile(uintptr(ns), "network namespace"), nil
}

// NextSeq returns the first of n unused sequence numbers.
func (s *Socket) NextSeq(n uint32) (first uint32) {
	first = s.seq + 1
	s.seq += n
	return first
}

// Ask sends a message, whose body begins with the header of its protocol, and
// calls each for the payload of every reply, which is valid until each returns. A
// request without flags, neither a dump nor acknowledged, has one reply. If the
// dumped objects changed meanwhile, the error is ErrInterrupted, but each has been
// called for all replies.
//
// A dump is abandoned when the context ends or each fails: the rest of it is
// dropped before the next request.
func (s *Socket) Ask(ctx context.Context, typ, flags int, body []byte, each func([]byte) error) error {
	if err := s.finish(ctx); err != nil {
		return err
	}
	seq := s.NextSeq(1)
	s.request = s.request[:0]
	at := s.request.Message(uint16(typ), uint16(unix.NLM_F_REQUEST|flags), seq)
	s.request = append(s.request, body...)
	s.request.EndMessage(at)
	if err := s.Send(ctx, s.request); err != nil {
		return err
	}
	var failed, interrupted error
	read := s.arrived
	if flags&unix.NLM_F_DUMP == unix.NLM_F_DUMP {
		read = s.next // each part of a dump may be the last one that is wanted
	}
	for done := false; !done; {
		datagrams, err := read()
		if err == nil {
			done, err = walkMessages(datagrams, func(m *Message) (done bool, err error) {
				if m.Seq != seq {
					return false, nil
				}
				if m.Flags&unix.NLM_F_DUMP_INTR != 0 { // maybe only in NLMSG_DONE
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

// AskNetfilter is Ask for a subsystem of netfilter. The first request waits until
// its module is loaded.
func (s *Socket) AskNetfilter(ctx context.Context, typ, flags int, family uint8, attributes []byte, each func([]byte) error) error {
	s.body = s.body[:0]
	s.body.Netfilter(family, 0)
	s.body = append(s.body, attributes...)
	ask := func() error { return s.Ask(ctx, typ, flags, s.body, each) }
	if s.asked {
		return ask()
	}
	s.asked = true
	return untilLoaded(ctx, ask)
}

// finish reads and drops the rest of an abandoned dump.
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

// Errno returns the code of an NLMSG_ERROR or NLMSG_DONE message. Zero is an
// acknowledgement.
func (m *Messages) Errno() (unix.Errno, error) {
	if len(m.Data) < 4 {
		return 0, ErrMalformed
	}
	return unix.Errno(-int32(binary.NativeEndian.Uint32(m.Data))), nil
}

// failure returns the error of an NLMSG_ERROR or NLMSG_DONE message, or nil for an
// acknowledgement.
func (m *Messages) failure() error {
	errno, err := m.Errno()
	switch {
	case err != nil:
		return err
	case errno == unix.ENOBUFS: // there was no room for the dump (netlink_dump)
		return ErrLost
	case errno != 0:
		return errno
	}
	return nil
}

// Send sends the kernel one datagram, which may hold many messages.
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

// Receive reads datagrams and calls each for their messages, until each returns
// done or an error.
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

// arrived reads the datagrams of the kernel that have arrived, as many as there is
// room for, and returns them one behind the other. If there is none, it waits for
// one. An answer of many small datagrams so costs little more than the calls that
// read them.
func (s *Socket) arrived() ([]byte, error) {
	n := 0
	var failed error
	err := s.raw.Control(func(fd uintptr) {
		for len(s.buf)-n >= dumpLimit {
			got, fromKernel, err := s.receive(fd, s.buf[n:])
			switch {
			case errors.Is(err, unix.EINTR):
			case errors.Is(err, unix.EAGAIN):
				return
			case err != nil:
				failed = err
				return
			case fromKernel:
				n += Align(got)
			}
		}
	})
	switch {
	case errors.Is(failed, unix.ENOBUFS):
		return nil, errors.Join(ErrLost, s.Discard())
	case err != nil || failed != nil:
		return nil, os.NewSyscallError("recvfrom", errors.Join(err, failed))
	case n == 0:
		return s.next()
	case n > len(s.buf):
		return nil, fmt.Errorf("netlink reply of more than %d bytes: %w", dumpLimit, ErrLost)
	}
	return s.buf[:n], nil
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
			var fromKernel bool
			n, fromKernel, got = s.receive(fd, s.buf)
			switch {
			case errors.Is(got, unix.EINTR):
			case got == nil && !fromKernel:
			default:
				return !errors.Is(got, unix.EAGAIN)
			}
		}
	})
	switch {
	case errors.Is(got, unix.ENOBUFS):
		return nil, errors.Join(ErrLost, s.Discard())
	case err != nil || got != nil:
		return nil, os.NewSyscallError("recvfrom", errors.Join(err, got))
	case n > len(s.buf):
		return nil, fmt.Errorf("netlink reply of %d bytes: %w", n, ErrLost)
	}
	return s.buf[:n], nil
}

// receive reads one datagram, and reports whether the kernel sent it. It is unix.Recvfrom
// without the memory that that allocates, as there can be a million replies.
func (s *Socket) receive(fd uintptr, buf []byte) (n int, fromKernel bool, err error) {
	size := uint32(unsafe.Sizeof(s.from))
	s.from = unix.RawSockaddrNetlink{}
	got, _, errno := unix.Syscall6(unix.SYS_RECVFROM, fd, uintptr(unsafe.Pointer(unsafe.SliceData(buf))), uintptr(len(buf)),
		unix.MSG_DONTWAIT|unix.MSG_TRUNC, uintptr(unsafe.Pointer(&s.from)), uintptr(unsafe.Pointer(&size)))
	if errno != 0 {
		return 0, false, errno
	}
	return int(got), s.from.Family == unix.AF_NETLINK && s.from.Pid == 0, nil
}

// Discard drops everything that has been received. After an overrun the kernel
// drops all replies, even those to later requests, until the socket is empty
// (NETLINK_S_CONGESTED in net/netlink/af_netlink.c).
func (s *Socket) Discard() error {
	err := s.Drain(func(*Message) error { return nil })
	if errors.Is(err, ErrLost) {
		return nil
	}
	return err
}

// Drain reads all datagrams that have arrived and calls each for their messages,
// until each fails. It does not wait, and so does not block a Waker. With ErrLost,
// some messages were lost, and the rest is dropped.
func (s *Socket) Drain(each func(*Message) error) error { return s.DrainSome(math.MaxInt, each) }

// DrainSome is Drain for at most n datagrams, and comes to an end although others
// keep arriving.
func (s *Socket) DrainSome(n int, each func(*Message) error) error {
	var failed error
	err := s.raw.Control(func(fd uintptr) {
		for range n {
			n, fromKernel, err := s.receive(fd, s.buf)
			switch {
			case errors.Is(err, unix.EINTR):
			case errors.Is(err, unix.EAGAIN):
				return
			case errors.Is(err, unix.ENOBUFS), n > len(s.buf):
				failed = ErrLost
			case err != nil:
				failed = os.NewSyscallError("recvfrom", err)
				return
			case failed == nil && fromKernel:
				_, failed = walkMessages(s.buf[:n], func(m *Message) (bool, error) { return false, each(m) })
			}
		}
	})
	if err != nil {
		return fmt.Errorf("netlink socket: %w", err)
	}
	return failed
}

// Ioctl makes a request about a device of the socket's namespace.
func (s *Socket) Ioctl(request uint, value *unix.Ifreq) error {
	var got error
	err := s.raw.Control(func(fd uintptr) { got = unix.IoctlIfreq(int(fd), request, value) })
	return errors.Join(err, got)
}
