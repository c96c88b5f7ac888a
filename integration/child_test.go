//go:build linux

package integration

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"syscall"
	"testing"

	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/nftdp/go-nftdp/internal/nstest"
	"github.com/nftdp/go-nftdp/nftdp"
)

// childEnv makes TestMain run one of children instead of the tests.
const childEnv = "NFTDP_TEST_CHILD"

// children are what tests need a process of its own for.
func children() map[string]func() error {
	return map[string]func() error{
		"alternate":              alternate,
		"many files":             manyFiles,
		"no more files":          noMoreFiles,
		"write":                  write,
		"own the tables":         ownTables,
		"one capability":         oneCapability,
		"unprivileged":           func() error { return applyUnprivileged(nftdp.Config{}.Open) },
		"unprivileged, handle":   func() error { return applyUnprivileged(openHandle) },
		"open often":             openOften,
		"manage tenants":         manageTenants,
		"plugin":                 plugin,
		"update often":           updateOften,
		"trace":                  traceForever,
		"require":                func() error { return meetRequirements() },
		"require without IPv6":   func() error { return meetRequirements(hideIPv6) },
		"require, but read-only": func() error { return meetRequirements(makeReadOnly) },
	}
}

// beChild is what a child process does. It returns the exit code. A child ends
// when its parent no longer waits for it.
func beChild(name string) int {
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		os.Exit(3)
	}()
	if err := children()[name](); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// childCommand is one of children, with more in its environment. It has a pipe
// for its input, which closes when this process ends.
func childCommand(name string, env ...string) (*exec.Cmd, error) {
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = slices.Concat(os.Environ(), []string{childEnv + "=" + name}, env)
	_, err := cmd.StdinPipe()
	return cmd, err
}

// child is a process in a namespace that reports its steps line by line.
type child struct {
	*exec.Cmd
	lines  *bufio.Reader
	stderr *bytes.Buffer
}

// startChild starts one of children in a namespace.
func startChild(t *testing.T, ns *nstest.Namespace, name string, env ...string) *child {
	t.Helper()
	cmd, err := childCommand(name, env...)
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	c := &child{Cmd: cmd, lines: bufio.NewReader(stdout), stderr: &bytes.Buffer{}}
	c.Stderr = c.stderr
	if err := ns.Do(c.Start); err != nil {
		t.Fatal(err)
	}
	return c
}

// line waits for the next line.
func (c *child) line(t *testing.T) string {
	t.Helper()
	line, err := c.lines.ReadString('\n')
	if err != nil {
		err := c.Wait()
		t.Fatalf("the child has ended: %v\n%s", err, c.stderr)
	}
	return line[:len(line)-1]
}

// end waits until the child has done its work.
func (c *child) end(t *testing.T) {
	t.Helper()
	if err := c.Wait(); err != nil {
		t.Errorf("%v\n%s", err, c.stderr)
	}
}

// kill ends the child as kill -9 does, waits until the kernel has closed its
// sockets, and returns the lines that nobody has read.
func (c *child) kill(t *testing.T) []byte {
	t.Helper()
	if err := c.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	rest, err := io.ReadAll(c.lines)
	if err != nil {
		t.Fatal(err)
	}
	_ = c.Wait() // it was killed
	if status, ok := c.ProcessState.Sys().(syscall.WaitStatus); !ok || status.Signal() != syscall.SIGKILL {
		t.Errorf("the process has ended by itself: %v\n%s", c.ProcessState, c.stderr)
	}
	return rest
}

// runChild runs one of children in a namespace and returns its output. Its
// parent is a thread of this process, which prepares it and is never used for
// anything else.
func runChild(ns *nstest.Namespace, name string, prepare func(*exec.Cmd) error) (out []byte, err error) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread()
		if err = netns.Set(ns.Handle()); err != nil {
			return
		}
		var cmd *exec.Cmd
		if cmd, err = childCommand(name); err != nil {
			return
		}
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
