//go:build linux

package integration

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/nftdp/go-nftdp/internal/nstest"
	"github.com/nftdp/go-nftdp/nftdp"
)

// TestWithoutCapability: without CAP_NET_ADMIN the error says so and matches
// fs.ErrPermission. A process of its own tests it, since a thread without the
// capability would share memory and sockets with those that have it.
func TestWithoutCapability(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"unprivileged", "unprivileged, handle"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ns := newNamespace(t)
			out, err := runChild(ns, name, without(unix.CAP_NET_ADMIN))
			if err != nil {
				t.Errorf("%v:\n%s", err, out)
			}
			t.Logf("%s", out)
			if got := tableNames(t, ns); len(got) != 0 {
				t.Errorf("tables are %v, want none", got)
			}
		})
	}
}

// applyUnprivileged returns an error unless Open or Apply fails for the lack of
// CAP_NET_ADMIN.
func applyUnprivileged(open func(context.Context) (*nftdp.Dataplane, error)) error {
	err := openAndApply(open)
	fmt.Println(err)
	if errors.Is(err, fs.ErrPermission) && errors.Is(err, unix.EPERM) && strings.Contains(err.Error(), "CAP_NET_ADMIN") {
		return nil
	}
	return errors.New("that is not fs.ErrPermission with a text that names CAP_NET_ADMIN")
}

func openAndApply(open func(context.Context) (*nftdp.Dataplane, error)) error {
	d, err := open(context.Background())
	if err != nil {
		return err
	}
	_, err = d.Apply(context.Background(), restartServices())
	return errors.Join(err, d.Close())
}

// openHandle opens the own namespace by a handle.
func openHandle(ctx context.Context) (*nftdp.Dataplane, error) {
	own, err := netns.Get()
	if err != nil {
		return nil, err
	}
	return nftdp.Config{}.OpenIn(ctx, own)
}

// TestOneCapability: CAP_NET_ADMIN suffices for every method. Only entering another
// namespace takes more, and the error says what.
func TestOneCapability(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nftdp.Config{}, 1)
	var others []uintptr
	for c := uintptr(0); unix.Prctl(unix.PR_CAPBSET_READ, c, 0, 0, 0) == nil; c++ {
		if c != unix.CAP_NET_ADMIN {
			others = append(others, c)
		}
	}
	other, err := unix.Dup(int(w.Client.Handle()))
	if err != nil {
		t.Fatal(err)
	}
	file := os.NewFile(uintptr(other), "another namespace")
	defer file.Close()
	out, err := runChild(w.Node, "one capability", func(cmd *exec.Cmd) error {
		cmd.ExtraFiles = []*os.File{file}
		return without(others...)(cmd)
	})
	if err != nil {
		t.Errorf("%v:\n%s", err, out)
	}
	askFor(t, "backend-1", w.Client, "tcp", netip.AddrPortFrom(nstest.IPv4().ClusterIP, 80))
}

// oneCapability is a process whose only capability is CAP_NET_ADMIN. Its first extra
// file is another namespace.
func oneCapability() error {
	if err := openAndApply(openHandle); err != nil {
		return fmt.Errorf("open the own namespace by a handle: %w", err)
	}
	const other = 3
	if _, err := (nftdp.Config{}).OpenIn(context.Background(), other); !errors.Is(err, fs.ErrPermission) || !strings.Contains(err.Error(), "CAP_SYS_ADMIN") {
		return fmt.Errorf("open another namespace without CAP_SYS_ADMIN: %w", err)
	}
	d, err := nftdp.Config{}.Open(context.Background())
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), silence)
	defer cancel()
	for _, err := range d.Trace(ctx, nftdp.TraceFilter{}) {
		if err != nil && !errors.Is(err, context.DeadlineExceeded) {
			return fmt.Errorf("trace: %w", err)
		}
	}
	return everyMethod(d)
}
