//go:build linux

package nstest

import (
	"encoding/binary"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// Replay sends the kernel a recorded batch of netfilter messages, as one
// datagram, and returns the error of the kernel's answer. The batch has to
// request one acknowledgement. Records are little-endian, like the machines
// that run the tests.
func Replay(ns *Namespace, batch []byte) error {
	err := ns.Do(func() error { return replay(batch) })
	if err != nil {
		return fmt.Errorf("%s: replay batch: %w", ns.Name, err)
	}
	return nil
}

func replay(batch []byte) (err error) {
	s, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_NETFILTER)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, unix.Close(s)) }()
	if err := unix.Sendto(s, batch, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return err
	}
	// The kernel handles the batch inside the call that sends it, so the answer
	// has arrived.
	answer := make([]byte, 1<<16)
	n, _, err := unix.Recvfrom(s, answer, unix.MSG_DONTWAIT)
	if err != nil {
		return err
	}
	if n < unix.NLMSG_HDRLEN+4 || binary.NativeEndian.Uint16(answer[4:]) != unix.NLMSG_ERROR {
		return errors.New("the answer is no acknowledgement")
	}
	if errno := -int32(binary.NativeEndian.Uint32(answer[unix.NLMSG_HDRLEN:])); errno != 0 {
		return unix.Errno(errno)
	}
	return nil
}
