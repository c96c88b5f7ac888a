//go:build linux

package kernel

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// Namespace opens the namespace that the connection is bound to. The kernel
// gives it to who has CAP_NET_ADMIN there (SIOCGSKNS in net/socket.c).
func (c *Conn) Namespace() (*os.File, error) {
	var ns int
	var got error
	err := c.raw.Control(func(fd uintptr) { ns, got = unix.IoctlRetInt(int(fd), unix.SIOCGSKNS) })
	if err = errors.Join(err, got); err != nil {
		return nil, fmt.Errorf("network namespace of netlink socket: %w", os.NewSyscallError("ioctl", err))
	}
	return os.NewFile(uintptr(ns), "network namespace"), nil
}
