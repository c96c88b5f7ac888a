//go:build linux

package netlink

import (
	"context"
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Wait waits until there is something to read or the context ends, but at most for
// a given time: then the error matches os.ErrDeadlineExceeded.
func (s *Socket) Wait(ctx context.Context, atMost time.Duration) error {
	if err := s.nl.SetReadDeadline(time.Now().Add(atMost)); err != nil {
		return fmt.Errorf("netlink deadline: %w", err)
	}
	ended := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		_ = s.nl.SetReadDeadline(time.Unix(1, 0))
		close(ended)
	})
	defer func() {
		if !stop() {
			<-ended // otherwise it could end the next read
		}
	}()
	err := s.raw.Read(readable)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err != nil {
		return fmt.Errorf("wait for netlink messages: %w", err)
	}
	return nil
}

// readable reports whether a read would return something, even an error. It
// consumes nothing, not even the error that says that messages were lost.
func readable(fd uintptr) bool {
	p := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	n, _ := unix.Poll(p, 0)
	return n != 0
}

// Waker wakes one goroutine when there is something to read from a socket.
type Waker struct {
	file *os.File // an epoll instance, which is readable if one of the sockets is
	raw  syscall.RawConn
}

// NewWaker returns a Waker for some sockets. Its Wait does not block their reads.
func NewWaker(sockets ...*Socket) (*Waker, error) {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("epoll_create1", err)
	}
	err = unix.SetNonblock(fd, true) // a condition of the deadlines of os.File
	w := &Waker{file: os.NewFile(uintptr(fd), "epoll")}
	for _, s := range sockets {
		control := s.raw.Control(func(of uintptr) {
			event := unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(of)}
			err = errors.Join(err, unix.EpollCtl(fd, unix.EPOLL_CTL_ADD, int(of), &event))
		})
		err = errors.Join(err, control)
	}
	if err == nil {
		w.raw, err = w.file.SyscallConn()
	}
	if err != nil {
		return nil, fmt.Errorf("wait for netlink sockets: %w", errors.Join(err, w.file.Close()))
	}
	return w, nil
}

// Wait waits until there is something to read, or until Wake is called; a call
// since the last Reset counts.
func (w *Waker) Wait() error {
	if err := w.raw.Read(readable); err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
		return fmt.Errorf("wait for netlink messages: %w", err)
	}
	return nil
}

// Wake ends Wait. It may be called at any time.
func (w *Waker) Wake() { _ = w.file.SetReadDeadline(time.Unix(1, 0)) }

// Reset makes Wait wait again.
func (w *Waker) Reset() error {
	if err := w.file.SetReadDeadline(time.Time{}); err != nil {
		return fmt.Errorf("netlink deadline: %w", err)
	}
	return nil
}

// Close closes the Waker, but not its sockets.
func (w *Waker) Close() error { return w.file.Close() }
