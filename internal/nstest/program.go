//go:build linux

package nstest

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"
)

// TB has the methods of *testing.T that helpers of tests need. They do not
// import package testing, since demonstrations use this package, too.
type TB interface {
	Helper()
	Fatal(args ...any)
	Cleanup(fn func())
	Context() context.Context
}

// NewTestTopology builds a topology that lasts until the end of a test. Its
// backends answer on port 8080 in the given protocols.
func NewTestTopology(t TB, backends int, protocols ...string) *Topology {
	t.Helper()
	top, err := NewTopology(backends)
	if err != nil {
		t.Fatal(err)
	}
	closeAtEnd(t, top)
	for _, b := range top.Backends {
		server, err := Serve(b, b.Name, 8080, protocols...)
		if err != nil {
			t.Fatal(err)
		}
		closeAtEnd(t, server)
	}
	return top
}

// NewTestNamespace creates a namespace that lasts until the end of a test.
func NewTestNamespace(t TB) *Namespace {
	t.Helper()
	ns, err := New("node")
	if err != nil {
		t.Fatal(err)
	}
	closeAtEnd(t, ns)
	return ns
}

func closeAtEnd(t TB, c io.Closer) {
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
	})
}

// programEnv marks the run of a test binary that is the program under test.
const programEnv = "NFTDP_TEST_PROGRAM"

// programTimeout bounds the whole run of a program, which takes some seconds.
const programTimeout = 30 * time.Second

// MainOf is Main for the tests of a program. Start then runs its function main.
func MainOf(m interface{ Run() int }, program func()) {
	if os.Getenv(programEnv) == "" {
		Main(m)
	}
	program()
	os.Exit(0)
}

// Program is a process that runs the program under test.
type Program struct {
	process *os.Process
	output  *bufio.Reader // standard output and error
	said    strings.Builder
	wait    func() error
}

// Start runs the function main that MainOf was called with, as a process in a
// network namespace. At the end of the test it is killed.
func Start(t TB, ns *Namespace, args ...string) *Program {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	closeAtEnd(t, r)
	ctx, cancel := context.WithTimeout(t.Context(), programTimeout)
	cmd := exec.CommandContext(ctx, "/proc/self/exe", args...)
	cmd.Env = append(os.Environ(), programEnv+"=1")
	cmd.Stdout, cmd.Stderr = w, w
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err = errors.Join(ns.Do(cmd.Start), w.Close()); err != nil {
		t.Fatal(err)
	}
	p := &Program{process: cmd.Process, output: bufio.NewReader(r), wait: sync.OnceValue(cmd.Wait)}
	t.Cleanup(func() {
		cancel()
		_ = p.wait() // It was killed, or Exit has said how it ended.
	})
	return p
}

// Await waits until the program prints a line that contains some words.
func (p *Program) Await(t TB, words string) {
	t.Helper()
	for {
		line, err := p.output.ReadString('\n')
		p.said.WriteString(line)
		if strings.Contains(line, words) {
			return
		}
		if err != nil {
			t.Fatal(fmt.Sprintf("the program did not print %q then, but in all:\n%s", words, &p.said))
		}
	}
}

// Signal sends the program a signal.
func (p *Program) Signal(t TB, s os.Signal) {
	t.Helper()
	if err := p.process.Signal(s); err != nil {
		t.Fatal(err)
	}
}

// Exit waits for the program's end with an exit code, and returns all that it
// has printed.
func (p *Program) Exit(t TB, code int) string {
	t.Helper()
	_, err := io.Copy(&p.said, p.output)
	if err != nil {
		t.Fatal(err)
	}
	var exit *exec.ExitError
	got := 0
	if err := p.wait(); errors.As(err, &exit) {
		got = exit.ExitCode() // -1 after a signal
	} else if err != nil {
		t.Fatal(err)
	}
	if got != code {
		t.Fatal(fmt.Sprintf("exit code %d, want %d, after:\n%s", got, code, &p.said))
	}
	return p.said.String()
}
