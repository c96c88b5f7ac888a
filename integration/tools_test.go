//go:build linux

package integration

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nftdp/go-nftdp/internal/nstest"
)

// needTool skips a test that is about a tool which is not there, or fails it
// if CI is set.
func needTool(t *testing.T, name string) {
	t.Helper()
	_, err := exec.LookPath(name)
	switch {
	case err != nil && os.Getenv("CI") != "":
		t.Fatal("CI is set, but a tool is not there:", err)
	case err != nil:
		t.Skip("needs a tool:", err)
	}
}

// runTool runs a tool inside a namespace and gives its output.
func runTool(t *testing.T, ns *nstest.Namespace, stdin, name string, args ...string) (string, error) {
	t.Helper()
	var stdout, stderr bytes.Buffer
	err := ns.Do(func() error {
		cmd := exec.CommandContext(t.Context(), name, args...)
		cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &stdout, &stderr
		// iptables-legacy takes a lock, by default in /run, which is root's.
		cmd.Env = append(os.Environ(), "XTABLES_LOCKFILE="+filepath.Join(t.TempDir(), "lock"))
		if err := cmd.Run(); err != nil {
			return fmt.Errorf("%s %s: %w\n%s", name, strings.Join(args, " "), err, &stderr)
		}
		return nil
	})
	return stdout.String(), err
}

// tool runs a tool that has to succeed.
func tool(t *testing.T, ns *nstest.Namespace, name string, args ...string) string {
	t.Helper()
	out, err := runTool(t, ns, "", name, args...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// nftLoad has stock nft load a text.
func nftLoad(t *testing.T, ns *nstest.Namespace, format string, args ...any) {
	t.Helper()
	if _, err := runTool(t, ns, fmt.Sprintf(format, args...), "nft", "-f", "-"); err != nil {
		t.Fatal(err)
	}
}
