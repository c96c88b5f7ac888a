//go:build linux

// Package sysctl reads and writes kernel parameters of a network namespace.
//
// The files below /proc/sys/net are those of the namespace of the thread that
// opens them (net_ctl_header_lookup in net/sysctl_net.c), so a thread has to enter
// it.
package sysctl

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"
)

// Get reads a parameter, named as sysctl(8) does ("net.ipv4.ip_forward"). If the
// kernel does not have it, the error matches fs.ErrNotExist.
func Get(name string) (string, error) {
	b, err := os.ReadFile(path(name))
	if err != nil {
		return "", fmt.Errorf("read sysctl %s: %w", name, err)
	}
	return strings.TrimSpace(string(b)), nil
}

// Set writes a parameter.
func Set(name, value string) error {
	f, err := os.OpenFile(path(name), os.O_WRONLY, 0)
	if err == nil {
		_, err = f.WriteString(value)
		err = errors.Join(err, f.Close())
	}
	switch {
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("set sysctl %s=%s: %w: CAP_NET_ADMIN is needed in the user namespace that owns the network namespace", name, value, err)
	case err != nil:
		return fmt.Errorf("set sysctl %s=%s: %w", name, value, err)
	}
	return nil
}

// path exchanges dots and slashes, as sysctl(8) does: the parameter of the device
// eth0.100 is net.ipv4.conf.eth0/100.forwarding.
func path(name string) string {
	return filepath.Join("/proc/sys", strings.NewReplacer(".", "/", "/", ".").Replace(name))
}

// In runs a function on a thread in the namespace of a file descriptor. The
// function must return, and must not start goroutines, which would run elsewhere.
//
// If the process is in that namespace already, this takes no privileges. Entering
// another one takes CAP_SYS_ADMIN both in the user namespace that owns it and in
// that of the process (netns_install in net/core/net_namespace.c); without it, the
// error matches fs.ErrPermission.
func In(ns int, do func() error) error {
	result := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		home, err := visit(ns, do)
		// A thread that is still locked ends with its goroutine, and is
		// not used again.
		if home {
			runtime.UnlockOSThread()
		}
		result <- err
	}()
	return <-result
}

// visit runs a function in a namespace, and reports whether the thread is back
// where it was before.
func visit(ns int, do func() error) (home bool, err error) {
	own, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return true, fmt.Errorf("network namespace of this thread: %w", err)
	}
	defer own.Close()
	same, err := same(int(own.Fd()), ns)
	if err != nil {
		return true, fmt.Errorf("network namespace: %w", err)
	}
	if same {
		return true, do()
	}
	if err := enter(ns); err != nil {
		return true, err
	}
	err = do()
	if back := enter(int(own.Fd())); back != nil {
		return false, errors.Join(err, fmt.Errorf("go back: %w", back))
	}
	return true, err
}

func enter(ns int) error {
	err := os.NewSyscallError("setns", unix.Setns(ns, unix.CLONE_NEWNET))
	switch {
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("enter network namespace: %w: CAP_SYS_ADMIN is needed, in the process's own user namespace and in the one that owns the network namespace", err)
	case err != nil:
		return fmt.Errorf("enter network namespace: %w", err)
	}
	return nil
}

// same reports whether two file descriptors refer to one namespace (namespaces(7)).
func same(a, b int) (bool, error) {
	var x, y unix.Stat_t
	if err := errors.Join(unix.Fstat(a, &x), unix.Fstat(b, &y)); err != nil {
		return false, os.NewSyscallError("fstat", err)
	}
	return x.Dev == y.Dev && x.Ino == y.Ino, nil
}
