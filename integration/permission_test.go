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
	"runtime"
	"strings"
	"testing"

	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/nftdp/go-nftdp/internal/nstest"
	"github.com/nftdp/go-nftdp/nftdp"
)

// unprivilegedEnv makes TestMain run runUnprivileged instead of the tests. Its
// value says how the namespace is given: "none" or "handle".
const unprivilegedEnv = "NFTDP_TEST_UNPRIVILEGED"

// TestWithoutCapability: without CAP_NET_ADMIN the error says so and matches
// fs.ErrPermission. A process that never had the capability finds it out, as a
// thread that gave it up would share memory and sockets with those that have it.
func TestWithoutCapability(t *testing.T) {
	t.Parallel()
	for _, how := range []string{"none", "handle"} {
		t.Run(how, func(t *testing.T) {
			t.Parallel()
			ns, err := nstest.New("node")
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { closeOrFail(t, ns) })
			out, err := runChild(ns, unprivilegedEnv+"="+how, without(unix.CAP_NET_ADMIN))
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

// runChild runs this program in a namespace, with a variable added to its
// environment. Its parent is a thread of ours, which prepares it and is never
// used for anything else.
func runChild(ns *nstest.Namespace, env string, prepare func(*exec.Cmd) error) (out []byte, err error) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread()
		if err = netns.Set(ns.Handle()); err != nil {
			return
		}
		cmd := exec.Command("/proc/self/exe")
		cmd.Env = append(os.Environ(), env)
		if err = prepare(cmd); err != nil {
			return
		}
		out, err = cmd.CombinedOutput()
	}()
	<-done
	return out, err
}

// without takes capabilities out of the thread's bounding set, and so from its
// children.
func without(capabilities ...uintptr) func(*exec.Cmd) error {
	return func(*exec.Cmd) error {
		for _, c := range capabilities {
			if err := unix.Prctl(unix.PR_CAPBSET_DROP, c, 0, 0, 0); err != nil {
				return err
			}
		}
		return nil
	}
}

// runUnprivileged is what the child does. It gives the exit code.
func runUnprivileged() int {
	err := openUnprivileged(os.Getenv(unprivilegedEnv))
	fmt.Println(err)
	if errors.Is(err, fs.ErrPermission) && errors.Is(err, unix.EPERM) && strings.Contains(err.Error(), "CAP_NET_ADMIN") {
		return 0
	}
	fmt.Println("that is not fs.ErrPermission with a text that names CAP_NET_ADMIN")
	return 1
}

func openUnprivileged(how string) error {
	ctx := context.Background()
	open := nftdp.Config{}.Open
	if how == "handle" {
		own, err := netns.Get()
		if err != nil {
			return err
		}
		open = func(ctx context.Context) (*nftdp.Dataplane, error) { return nftdp.Config{}.OpenIn(ctx, own) }
	}
	d, err := open(ctx)
	if err != nil {
		return err
	}
	defer d.Close()
	_, err = d.Apply(ctx, restartServices())
	return err
}

// TestOneCapability: CAP_NET_ADMIN is all that any method takes. Only to enter
// another namespace takes more, and the error says what.
func TestOneCapability(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nftdp.Config{}, 1)
	var others []uintptr
	for c := uintptr(0); unix.Prctl(unix.PR_CAPBSET_READ, c, 0, 0, 0) == nil; c++ {
		if c != unix.CAP_NET_ADMIN {
			others = append(others, c)
		}
	}
	out, err := runChild(w.Node, childEnv+"=one right", func(cmd *exec.Cmd) error {
		_, err := cmd.StdinPipe() // open as long as somebody waits for the child
		return errors.Join(err, without(others...)(cmd))
	})
	if err != nil {
		t.Errorf("%v:\n%s", err, out)
	}
	askFor(t, "backend-1", w.Client, "tcp", netip.AddrPortFrom(nstest.IPv4().ClusterIP, 80))
}

// oneRight is a process that has CAP_NET_ADMIN alone.
func oneRight() error {
	if err := openUnprivileged("handle"); !errors.Is(err, fs.ErrPermission) || !strings.Contains(err.Error(), "CAP_SYS_ADMIN") {
		return fmt.Errorf("by a handle: %w", err)
	}
	d, err := nftdp.Config{}.Open(context.Background())
	if err != nil {
		return err
	}
	return everyMethod(d)
}
