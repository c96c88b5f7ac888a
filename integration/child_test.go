//go:build linux

package integration

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"testing"

	"github.com/nftdp/go-nftdp/internal/nstest"
)

// childEnv makes TestMain run one of children instead of the tests.
const childEnv = "NFTDP_TEST_CHILD"

// children are what tests need a process of its own for.
func children() map[string]func() error {
	return map[string]func() error{
		"alternate":     alternate,
		"many files":    manyFiles,
		"no more files": noMoreFiles,
		"write":         write,
		"one right":     oneRight,
		"open often":    openOften,
		"update often":  updateOften,
	}
}

// beChild is what a child process does. It gives the exit code. A child that
// nobody waits for any more ends.
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

// child is a process in a namespace that tells its steps line by line.
type child struct {
	*exec.Cmd
	stdin  io.Closer
	lines  *bufio.Reader
	stderr *bytes.Buffer
}

// startChild starts one of children in a namespace, with more in its
// environment.
func startChild(t *testing.T, ns *nstest.Namespace, name string, env ...string) *child {
	t.Helper()
	c := &child{Cmd: exec.Command("/proc/self/exe"), stderr: &bytes.Buffer{}}
	c.Env = append(append(os.Environ(), childEnv+"="+name), env...)
	c.Stderr = c.stderr
	stdin, err := c.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	c.stdin, c.lines = stdin, bufio.NewReader(stdout)
	if err := ns.Do(c.Start); err != nil {
		t.Fatal(err)
	}
	return c
}

// line waits for what the child says next.
func (c *child) line(t *testing.T) string {
	t.Helper()
	line, err := c.lines.ReadString('\n')
	if err != nil {
		err := c.Wait()
		t.Fatalf("the child has ended: %v\n%s", err, c.stderr)
	}
	return line[:len(line)-1]
}

// end waits until the child has done what it was to do.
func (c *child) end(t *testing.T) {
	t.Helper()
	if err := c.Wait(); err != nil {
		t.Errorf("%v\n%s", err, c.stderr)
	}
}
