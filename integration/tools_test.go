//go:build linux

package integration

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/nftdp/go-nftdp/internal/nstest"
)

// needTool skips a test that is about a tool which is not installed.
func needTool(tb testing.TB, name string) {
	tb.Helper()
	if _, err := exec.LookPath(name); err != nil {
		skipOrFail(tb, "needs a tool: %v", err)
	}
}

// skipOrFail ends a test that cannot run here. With CI set, on a machine that
// is made for it, that is a failure.
func skipOrFail(tb testing.TB, format string, args ...any) {
	tb.Helper()
	if os.Getenv("CI") != "" {
		tb.Fatalf(format, args...)
	}
	tb.Skipf(format, args...)
}

// runTool runs a tool inside a namespace and returns its output.
func runTool(tb testing.TB, ns *nstest.Namespace, stdin, name string, args ...string) (string, error) {
	tb.Helper()
	cmd := exec.CommandContext(tb.Context(), name, args...)
	var stdout, stderr bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &stdout, &stderr
	if err := ns.Do(cmd.Run); err != nil {
		return "", fmt.Errorf("%s: %w\n%.2000s", cmd, err, &stderr)
	}
	return stdout.String(), nil
}

// tool runs a tool that has to succeed.
func tool(tb testing.TB, ns *nstest.Namespace, name string, args ...string) string {
	tb.Helper()
	out, err := runTool(tb, ns, "", name, args...)
	if err != nil {
		tb.Fatal(err)
	}
	return out
}

// nftLoad has stock nft load a text.
func nftLoad(t *testing.T, ns *nstest.Namespace, text string) {
	t.Helper()
	if _, err := runTool(t, ns, text, "nft", "-f", "-"); err != nil {
		t.Fatal(err)
	}
}
