//go:build linux

package sysctl

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nftdp/go-nftdp/internal/nstest"
)

// TestMain locks the main thread: if another goroutine ended with that thread
// locked, the thread would not end, but be parked for ever.
func TestMain(m *testing.M) {
	runtime.LockOSThread()
	if os.Getenv(strangerEnv) != "" {
		os.Exit(stranger())
	}
	nstest.Main(m)
}

func newNamespace(t *testing.T) int {
	t.Helper()
	return int(nstest.NewTestNamespace(t).Handle())
}

const forward = "net.ipv4.ip_forward"

func get(t *testing.T, ns int) (value string) {
	t.Helper()
	if err := In(ns, func() (err error) { value, err = Get(forward); return err }); err != nil {
		t.Fatal(err)
	}
	return value
}

// set sets the parameter, but not in the namespace of the test itself: a mistake
// must not change the machine.
func set(value string) error {
	home, err := os.Readlink("/proc/self/ns/net")
	if err != nil {
		return err
	}
	here, err := os.Readlink("/proc/thread-self/ns/net")
	if err != nil {
		return err
	}
	if here == home {
		return errors.New("the thread has not left its namespace")
	}
	return Set(forward, value)
}

// TestIn: a parameter is set in the given namespace and in no other.
func TestIn(t *testing.T) {
	ns, other := newNamespace(t), newNamespace(t)
	ours, err := Get(forward)
	if err != nil {
		t.Fatal(err)
	}
	if err := In(ns, func() error { return set("3") }); err != nil {
		t.Fatal(err)
	}
	if got := get(t, ns); got != "3" {
		t.Errorf("the value there is %s, want 3", got)
	}
	if got := get(t, other); got != "0" {
		t.Errorf("the value in another namespace is %s, want 0", got)
	}
	if got, err := Get(forward); err != nil || got != ours {
		t.Errorf("the value here is %s (%v), want %s", got, err, ours)
	}
}

func TestErrors(t *testing.T) {
	ns := newNamespace(t)
	err := In(ns, func() error { _, err := Get("net.ipv4.no_such"); return err })
	if !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "net.ipv4.no_such") {
		t.Errorf("error is %v, want fs.ErrNotExist that names it", err)
	}
	if err := In(ns, func() error { return Set("net.ipv4.no_such", "1") }); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("error is %v, want fs.ErrNotExist", err)
	}
	if err := In(ns, func() error { return Set(forward, "many") }); !errors.Is(err, unix.EINVAL) {
		t.Errorf("error is %v, want EINVAL", err)
	}
	if err := In(-1, func() error { t.Error("it ran nowhere"); return nil }); !errors.Is(err, unix.EBADF) {
		t.Errorf("error is %v, want EBADF", err)
	}
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	if err := In(int(null.Fd()), func() error { t.Error("it ran nowhere"); return nil }); !errors.Is(err, unix.EINVAL) {
		t.Errorf("error is %v, want EINVAL", err)
	}
}

// strays lists the threads that are in another namespace than the first.
func strays(t *testing.T) []string {
	t.Helper()
	home, err := os.Readlink("/proc/self/ns/net")
	if err != nil {
		t.Error(err)
	}
	threads, err := os.ReadDir("/proc/self/task")
	if err != nil {
		t.Error(err)
	}
	var out []string
	for _, thread := range threads {
		ns, err := os.Readlink("/proc/self/task/" + thread.Name() + "/ns/net")
		if err == nil && ns != home { // an error: the thread has ended
			out = append(out, thread.Name()+" in "+ns)
		}
	}
	return out
}

// TestThreadsGoHome: threads return to their namespace, however many visit another
// one, and even if their functions fail.
func TestThreadsGoHome(t *testing.T) {
	ns := newNamespace(t)
	failed := errors.New("failed")
	away := make(chan int, 1)
	var callers sync.WaitGroup
	for range 32 {
		callers.Go(func() {
			err := In(ns, func() error {
				select {
				case away <- len(strays(t)):
				default:
				}
				return failed
			})
			if !errors.Is(err, failed) {
				t.Errorf("error is %v, want that of the function", err)
			}
		})
	}
	callers.Wait()
	if n := <-away; n == 0 {
		t.Error("no thread was away, so nothing was tested")
	}
	if left := strays(t); len(left) > 0 {
		t.Errorf("threads left in another namespace: %v", left)
	}
}

// TestThreadIsGivenUp: a thread that cannot go back ends, and is not used again.
func TestThreadIsGivenUp(t *testing.T) {
	ns := newNamespace(t)
	err := In(ns, dropAdmin)
	if !errors.Is(err, fs.ErrPermission) || !strings.HasPrefix(err.Error(), "go back: ") {
		t.Errorf("error is %v, want that of going back", err)
	}
	deadline := time.Now().Add(10 * time.Second)
	for left := strays(t); len(left) > 0; left = strays(t) {
		if time.Now().After(deadline) {
			t.Fatalf("threads left in another namespace: %v", left)
		}
		runtime.Gosched()
	}
}

// TestWithoutAdmin: without CAP_SYS_ADMIN a thread can work in its own namespace.
// For another one, the error names the missing capability.
func TestWithoutAdmin(t *testing.T) {
	ns, other := newNamespace(t), newNamespace(t)
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // for good: the thread ends, since it lacks the capability
		if err := errors.Join(enter(ns), dropAdmin()); err != nil {
			t.Error(err)
			return
		}
		if home, err := visit(ns, func() error { return set("1") }); err != nil || !home {
			t.Errorf("in its own namespace: %v, home %v", err, home)
		}
		home, err := visit(other, func() error { t.Error("it ran elsewhere"); return nil })
		if !home || !errors.Is(err, fs.ErrPermission) || !strings.Contains(err.Error(), "CAP_SYS_ADMIN") {
			t.Errorf("in another namespace: %v, home %v, want fs.ErrPermission that names CAP_SYS_ADMIN", err, home)
		}
	}()
	<-done
	if got := get(t, ns); got != "1" {
		t.Errorf("the value there is %s, want 1", got)
	}
}

// TestSetWithoutNetAdmin: for a process without privileges in the namespace, the
// error names the missing capability.
func TestSetWithoutNetAdmin(t *testing.T) {
	ns := newNamespace(t)
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), strangerEnv+"=1")
	// A new user namespace: all capabilities there, and none here.
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWUSER}
	cmd.Stderr = os.Stderr
	if err := In(ns, cmd.Start); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
	if got := get(t, ns); got != "0" {
		t.Errorf("the value is %s, want 0", got)
	}
}

// strangerEnv makes TestMain run stranger instead of the tests.
const strangerEnv = "NFTDP_TEST_STRANGER"

// stranger tries to set the parameter, and returns its exit code.
func stranger() int {
	err := Set(forward, "1")
	if errors.Is(err, fs.ErrPermission) && strings.Contains(err.Error(), "CAP_NET_ADMIN") {
		return 0
	}
	fmt.Fprintf(os.Stderr, "error is %v, want fs.ErrPermission that names CAP_NET_ADMIN\n", err)
	return 1
}

// dropAdmin drops CAP_SYS_ADMIN of the calling thread alone.
func dropAdmin() error {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var sets [2]unix.CapUserData // of 32 capabilities each
	if err := unix.Capget(&header, &sets[0]); err != nil {
		return os.NewSyscallError("capget", err)
	}
	sets[unix.CAP_SYS_ADMIN/32].Effective &^= 1 << (unix.CAP_SYS_ADMIN % 32)
	return os.NewSyscallError("capset", unix.Capset(&header, &sets[0]))
}
