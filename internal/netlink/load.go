//go:build linux

package netlink

import (
	"context"
	"errors"
	"time"

	"golang.org/x/sys/unix"
)

// The first request to a subsystem waits for its module for 630 ms in all, in
// pauses that double.
const (
	firstPause = 10 * time.Millisecond
	lastPause  = 320 * time.Millisecond
)

// untilLoaded repeats the first request to a subsystem of netfilter while the
// kernel may be loading it.
//
// If the subsystem is a module, the kernel runs modprobe and then looks for the
// subsystem again; if it is still missing, it answers EINVAL (nfnetlink_rcv_msg in
// net/netfilter/nfnetlink.c). If another process is loading the module at that
// moment, the answer can come too early: busybox's modprobe counts every module of
// /proc/modules as loaded, even one that is not initialised yet. A kernel without
// the subsystem answers the same; only time distinguishes the two.
func untilLoaded(ctx context.Context, ask func() error) error {
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
