//go:build linux

package nstest

import (
	"encoding/binary"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// Forge sends a netlink port, from another socket of the namespace, messages
// that would end any of n requests if the kernel had sent them: an
// acknowledgement (NLMSG_ERROR), or the end of a dump (NLMSG_DONE). The
// sequence numbers begin with first.
func Forge(ns *Namespace, protocol int, port uint32, typ uint16, first, n uint32) error {
	err := ns.Do(func() error { return forge(protocol, port, typ, first, n) })
	if err != nil {
		return fmt.Errorf("%s: forge replies: %w", ns.Name, err)
	}
	return nil
}

func forge(protocol int, port uint32, typ uint16, first, n uint32) (err error) {
	s, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, protocol)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, unix.Close(s)) }()
	reply := make([]byte, unix.NLMSG_HDRLEN+4)
	binary.NativeEndian.PutUint32(reply, uint32(len(reply)))
	binary.NativeEndian.PutUint16(reply[4:], typ)
	for seq := first; seq != first+n; seq++ {
		binary.NativeEndian.PutUint32(reply[8:], seq)
		if err := unix.Sendto(s, reply, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Pid: port}); err != nil {
			return err
		}
	}
	return nil
}
