//go:build linux

package main

import (
	"fmt"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/creack/pty"

	"github.com/nftdp/go-nftdp/internal/nstest"
)

// terminal runs the tool in a terminal in the node, and returns that.
func (n *node) terminal(env []string, args ...string) (*os.File, func() int) {
	n.Helper()
	cmd := n.command(args...)
	cmd.Env = append(append(cmd.Env, "TERM=xterm-256color", "NO_COLOR="), env...)
	var tty *os.File
	err := n.Node.Do(func() (err error) {
		tty, err = pty.StartWithSize(cmd, &pty.Winsize{Rows: 24, Cols: 100})
		return err
	})
	if err != nil {
		n.Fatal(err)
	}
	n.Cleanup(func() { _ = tty.Close() })
	return tty, func() int {
		_ = cmd.Wait() // the exit code is compared
		return cmd.ProcessState.ExitCode()
	}
}

// reader reads a terminal, and remembers what it has not looked at yet.
type reader struct {
	from io.Reader
	said string
}

// until reads until the terminal shows some words, and returns all up to their end.
func (r *reader) until(t *testing.T, words string) string {
	t.Helper()
	buffer := make([]byte, 4096)
	for !strings.Contains(r.said, words) {
		n, err := r.from.Read(buffer)
		r.said += string(buffer[:n])
		if err != nil {
			t.Fatalf("the terminal did not show %q then, but %q", words, r.said)
		}
	}
	before, after, _ := strings.Cut(r.said, words)
	r.said = after
	return before + words
}

// On a terminal top takes the whole screen, shows services and backends, and gives the
// screen back at its end, by q and by Ctrl-C.
func TestTopScreen(t *testing.T) {
	n := newNode(t)
	n.nftdp(0, "apply", "-f", "web.yaml")
	for _, end := range []string{"q", "\x03"} {
		tty, wait := n.terminal(nil, "top", "--interval", "200ms")
		r := &reader{from: tty}
		said := r.until(t, "CONN/S")
		if !strings.Contains(said, "\x1b[?1049h") {
			t.Errorf("no alternate screen: %q", said)
		}
		r.until(t, "demo/web")
		r.until(t, "10.180.0.2:8080")
		n.connect()
		r.until(t, "█")
		fmt.Fprint(tty, end)
		r.until(t, "\x1b[?1049l")
		if code := wait(); code != 0 {
			t.Errorf("exit code %d after %q", code, end)
		}
	}
}

// Where there is no terminal, top prints lines.
func TestTopPlain(t *testing.T) {
	n := newNode(t)
	n.nftdp(0, "apply", "-f", "web.yaml")
	load := nstest.StartLoad(n, n.dial)
	out := n.nftdp(0, "top", "--interval", "300ms", "-n", "2")
	load.Stop(n)
	n.says(out, `"demo/web" - `, `"demo/web" 10.180.0.1:8080 `)
	if strings.Contains(out, "\x1b") {
		t.Errorf("control sequences: %q", out)
	}
}

// Colours are for terminals, and not if NO_COLOR is set or the terminal has none.
func TestColours(t *testing.T) {
	n := newNode(t)
	plan := []string{"plan", "-f", "web.yaml"}
	if out := n.nftdp(0, plan...); strings.Contains(out, "\x1b") {
		t.Errorf("colours in a pipe: %q", out)
	}
	for _, c := range []struct {
		env     []string
		colours bool
	}{{nil, true}, {[]string{"NO_COLOR=1"}, false}, {[]string{"TERM=dumb"}, false}} {
		tty, wait := n.terminal(c.env, plan...)
		said, _ := io.ReadAll(tty) // a terminal ends with EIO
		if got := strings.Contains(string(said), "\x1b[32madd table"); got != c.colours {
			t.Errorf("%v: colours: %v, in %q", c.env, got, said[:min(len(said), 300)])
		}
		if code := wait(); code != 0 {
			t.Errorf("exit code %d", code)
		}
	}
}

// Rates are differences of counters, also of those that begin anew.
func TestRates(t *testing.T) {
	var r rate
	for _, c := range []uint64{10, 30, 30, 5} {
		r.add(c, 2*time.Second)
	}
	if got, want := fmt.Sprint(r.samples), "[10 0 2.5]"; got != want {
		t.Errorf("samples %v, want %v", got, want)
	}
	if got, want := sparkline(r.samples, 5), "  █ ▃"; got != want {
		t.Errorf("sparkline %q, want %q", got, want)
	}
	if got := sparkline(nil, 3); got != "   " {
		t.Errorf("sparkline %q of nothing", got)
	}
}
