package health

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"
	"sync"
	"time"

	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// Namespace connects from a network namespace. A socket belongs to the namespace of the
// thread that makes it, and it needs no thread from then on: so one thread, which stays
// in the namespace until Close, makes the sockets of all connections.
type Namespace struct {
	requests chan request
	closed   chan struct{}
	close    sync.Once
}

// request asks for a socket of an address family.
type request struct {
	family int
	reply  chan<- reply
}

type reply struct {
	fd  int
	err error
}

// OpenNamespace returns a Namespace for a handle, which may be closed afterwards. The
// thread needs CAP_SYS_ADMIN to enter it, unless it is that of the process.
func OpenNamespace(ns netns.NsHandle) (*Namespace, error) {
	if !ns.IsOpen() {
		return nil, errors.New("health: the handle of the network namespace is closed")
	}
	n := &Namespace{requests: make(chan request), closed: make(chan struct{})}
	entered := make(chan error)
	go n.serve(ns, entered)
	if err := <-entered; err != nil {
		return nil, fmt.Errorf("health: enter the network namespace: %w", err)
	}
	return n, nil
}

// serve makes sockets until Close.
func (n *Namespace) serve(ns netns.NsHandle, entered chan<- error) {
	// Without an unlock, the thread ends with the goroutine.
	runtime.LockOSThread()
	err := unix.Setns(int(ns), unix.CLONE_NEWNET)
	entered <- err
	if err != nil {
		return
	}
	for {
		select {
		case r := <-n.requests:
			fd, err := unix.Socket(r.family, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, unix.IPPROTO_TCP)
			r.reply <- reply{fd, err}
		case <-n.closed:
			return
		}
	}
}

// Close ends the thread. Connections stay open, and Dial returns net.ErrClosed from then
// on. Another Close does nothing.
func (n *Namespace) Close() error {
	n.close.Do(func() { close(n.closed) })
	return nil
}

// Dial connects by TCP to an address with an IP address and a port as numbers.
func (n *Namespace) Dial(ctx context.Context, network, address string) (net.Conn, error) {
	to, err := netip.ParseAddrPort(address)
	if err == nil && network != "tcp" {
		err = net.UnknownNetworkError(network)
	}
	if err != nil {
		return nil, err
	}
	conn, err := n.connect(ctx, netip.AddrPortFrom(to.Addr().Unmap(), to.Port()))
	if err != nil {
		return nil, &net.OpError{Op: "dial", Net: network, Addr: net.TCPAddrFromAddrPort(to), Err: err}
	}
	return conn, nil
}

func (n *Namespace) connect(ctx context.Context, to netip.AddrPort) (net.Conn, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	fd, err := n.socket(to.Addr())
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	if err := unix.Connect(fd, sockaddr(to)); err != nil && !errors.Is(err, unix.EINPROGRESS) {
		return nil, errors.Join(os.NewSyscallError("connect", err), unix.Close(fd))
	}
	file := os.NewFile(uintptr(fd), "tcp")
	defer file.Close() // FileConn duplicates it.
	stop := context.AfterFunc(ctx, func() { _ = file.SetWriteDeadline(time.Unix(0, 1)) })
	defer stop()
	if err := connected(file); err != nil {
		return nil, errors.Join(ctx.Err(), err)
	}
	return net.FileConn(file)
}

func (n *Namespace) socket(a netip.Addr) (int, error) {
	family := unix.AF_INET
	if a.Is6() {
		family = unix.AF_INET6
	}
	done := make(chan reply)
	select {
	case n.requests <- request{family, done}:
	case <-n.closed:
		return -1, net.ErrClosed
	}
	r := <-done
	return r.fd, r.err
}

func sockaddr(to netip.AddrPort) unix.Sockaddr {
	if to.Addr().Is4() {
		return &unix.SockaddrInet4{Port: int(to.Port()), Addr: to.Addr().As4()}
	}
	return &unix.SockaddrInet6{Port: int(to.Port()), Addr: to.Addr().As16()}
}

// connected waits until a socket is connected, or cannot be.
func connected(file *os.File) error {
	raw, err := file.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	err = raw.Write(func(fd uintptr) bool {
		errno, err := unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_ERROR)
		switch {
		case err != nil:
			failed = os.NewSyscallError("getsockopt", err)
		case errno != 0:
			failed = os.NewSyscallError("connect", unix.Errno(errno))
		default:
			_, err := unix.Getpeername(int(fd))
			return err == nil // ENOTCONN: not yet.
		}
		return true
	})
	return errors.Join(failed, err)
}
