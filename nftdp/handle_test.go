//go:build linux

package nftdp

import (
	"os"
	"os/exec"
	"syscall"
	"testing"

	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/nftdp/go-nftdp/internal/nstest"
)

// TestHandleZero: in a program that was started without standard input, the
// first file that it opens has descriptor 0; here it is that of a namespace.
// That namespace is programmed, not the caller's.
func TestHandleZero(t *testing.T) {
	const env = "NFTDP_HANDLE_ZERO"
	if os.Getenv(env) != "" {
		programHandleZero(t)
		return
	}
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestHandleZero$", "-test.v")
	cmd.Env = append(os.Environ(), env+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET} // the caller's namespace
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

func programHandleZero(t *testing.T) {
	t.Helper()
	ns, err := nstest.New("node")
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	if err := os.Stdin.Close(); err != nil {
		t.Fatal(err)
	}
	zero, err := unix.FcntlInt(uintptr(ns.Handle()), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil || zero != 0 {
		t.Fatalf("descriptor %d, error %v: want 0", zero, err)
	}
	d, err := Config{}.OpenIn(t.Context(), netns.NsHandle(zero))
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if _, err := d.Apply(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	other, err := Config{}.Open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	here, err := other.Ruleset(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if text := here.String(); text != "" {
		t.Errorf("the namespace of the caller was programmed:\n%s", text)
	}
}
