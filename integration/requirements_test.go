//go:build linux

package integration

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/nftdp/go-nftdp/internal/nstest"
	"github.com/nftdp/go-nftdp/nftdp"
)

// TestMeetRequirements: in its own namespace a process needs CAP_NET_ADMIN and not
// CAP_SYS_ADMIN. A kernel without IPv6 needs no IPv6 forwarding. The read-only
// /proc/sys of a container leads to an error that says so.
func TestMeetRequirements(t *testing.T) {
	t.Parallel()
	const (
		ipv4 = "net.ipv4.ip_forward = 0\n"
		ipv6 = "net.ipv6.conf.all.forwarding = 0\n"
		tcp  = "net.netfilter.nf_conntrack_tcp_be_liberal = 0\n"
	)
	mounts := func(cmd *exec.Cmd) error {
		cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: unix.CLONE_NEWNS}
		return nil
	}
	for _, c := range []struct {
		name    string
		prepare func(*exec.Cmd) error
		out     string
		on      bool
	}{
		{"require", without(unix.CAP_SYS_ADMIN), ipv4 + ipv6 + tcp, true},
		{"require without IPv6", mounts, ipv4 + tcp, true},
		{"require, but read-only", mounts, "set sysctl net.ipv4.ip_forward=1: open /proc/sys/net/ipv4/ip_forward: read-only file system\n", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			ns := newNamespace(t)
			out, err := runChild(ns, c.name, c.prepare)
			if err != nil {
				t.Errorf("%v:\n%s", err, out)
			}
			if diff := cmp.Diff(c.out, string(out)); diff != "" {
				t.Errorf("changed sysctls, or the error (-want +got):\n%s", diff)
			}
			if on := forwards(t, ns); on != c.on {
				t.Errorf("IPv4 forwarding is on: %v, want %v", on, c.on)
			}
		})
	}
}

func forwards(t *testing.T, ns *nstest.Namespace) bool {
	t.Helper()
	var b []byte
	err := ns.Do(func() (err error) { b, err = os.ReadFile("/proc/sys/net/ipv4/ip_forward"); return err })
	if err != nil {
		t.Fatal(err)
	}
	return string(b) == "1\n"
}

// meetRequirements prepares its surroundings, meets the requirements, and prints
// what it has changed, or that /proc/sys is read-only.
func meetRequirements(prepare ...func() error) error {
	for _, p := range prepare {
		if err := p(); err != nil {
			return err
		}
	}
	ctx := context.Background()
	d, err := nftdp.Config{}.Open(ctx)
	if err != nil {
		return err
	}
	defer d.Close()
	changed, err := d.MeetRequirements(ctx)
	for _, r := range changed {
		fmt.Println(r.Name, "=", r.Have)
	}
	if errors.Is(err, syscall.EROFS) {
		fmt.Println(err)
		return nil
	}
	return err
}

// hideIPv6 hides the sysctls of IPv6, as if the kernel ran without it.
func hideIPv6() error {
	if err := unix.Mount("none", "/proc/sys/net/ipv6", "tmpfs", 0, ""); err != nil {
		return fmt.Errorf("mount over IPv6: %w", err)
	}
	return nil
}

// makeReadOnly makes /proc/sys read-only, as it is in most containers.
func makeReadOnly() error {
	const dir = "/proc/sys"
	if err := unix.Mount(dir, dir, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("bind mount: %w", err)
	}
	// A mount that a user namespace got from its parent keeps its flags.
	const kept = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC
	if err := unix.Mount("", dir, "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY|kept, ""); err != nil {
		return fmt.Errorf("mount read-only: %w", err)
	}
	return nil
}
