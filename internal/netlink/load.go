//go:build linux

package netlink

import (
	"context"
	"errors"
	"time"

	"golang.org/x/sys/unix"
)

// How long the first request to a subsystem waits for its module: 630 ms in
// all, in pauses that double.
const (
	firstPause = 10 * time.Millisecond
	lastPause  = 320 * time.Millisecond
)

// UntilLoaded repeats the first request to a subsystem of netfilter while the
// kernel seems to be loading it.
//
// If the subsystem is a module, the kernel has modprobe load it and asks again
// whether it is there; if not, it answers EINVAL (nfnetlink_rcv_msg in
// net/netfilter/nfnetlink.c). When somebody else is loading it at that moment,
// that can be too early: busybox's modprobe takes every module of /proc/modules
// for loaded, also one that has not been initialised yet. A kernel that does
// not have the subsystem at all answers the same, and only time tells.
func UntilLoaded(ctx context.Context, ask func() error) error {
	err := ask()
	for pause := firstPause; errors.Is(err, unix.EINVAL) && pause <= lastPause; pause *= 2 {
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return ctx.Err()
		}
		err = ask()
	}
	return err
}
