//go:build linux

package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"github.com/nftdp/go-nftdp/internal/nstest"
)

// The versions of what the plugin is tested with. They are built from their modules,
// so that neither this module nor the machine needs them.
const (
	cniTool   = "github.com/containernetworking/cni/cnitool@v1.3.1"
	bridge    = "github.com/containernetworking/plugins/plugins/main/bridge@v1.10.0"
	hostLocal = "github.com/containernetworking/plugins/plugins/ipam/host-local@v1.10.0"
)

// Variables of the environment: the directory of the tools, why there are none, and
// the directory for execWithVarLib.
const (
	toolsEnv   = "NFTDP_TEST_TOOLS"
	noToolsEnv = "NFTDP_TEST_NO_TOOLS"
	libraryEnv = "NFTDP_TEST_VAR_LIB"
)

// TestMain builds the tools before it enters a user namespace, if it has to, where
// there is no network to fetch their modules by.
func TestMain(m *testing.M) {
	if dir := os.Getenv(libraryEnv); dir != "" {
		fmt.Fprintln(os.Stderr, execWithVarLib(dir))
		os.Exit(1)
	}
	if os.Getenv(toolsEnv) == "" {
		dir := filepath.Join(os.TempDir(), fmt.Sprint("nftdp-portmap-", os.Getpid()))
		err := os.Setenv(toolsEnv, dir)
		if err == nil {
			err = buildTools(dir)
		}
		if err != nil {
			_ = os.Setenv(noToolsEnv, err.Error()) // It is not empty.
		}
	}
	nstest.Main(run{m})
}

func buildTools(dir string) error {
	for _, args := range []string{"build -o " + dir + "/ .", "install " + cniTool, "install " + bridge + " " + hostLocal} {
		cmd := exec.Command("go", strings.Fields(args)...)
		if strings.HasPrefix(args, "install") {
			cmd.Env = append(os.Environ(), "GOBIN="+dir, "GOWORK=off", "GOFLAGS=-mod=mod")
		}
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("go %s: %w\n%s", args, err, out)
		}
	}
	return nil
}

// run deletes the tools at the end of the tests.
type run struct{ *testing.M }

func (r run) Run() int {
	code := r.M.Run()
	if err := os.RemoveAll(os.Getenv(toolsEnv)); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	return code
}

// tools returns a directory with cnitool and all plugins.
func tools(t *testing.T) string {
	t.Helper()
	switch reason := os.Getenv(noToolsEnv); {
	case reason != "" && os.Getenv("CI") == "":
		t.Skip("the tools for this test cannot be built:", reason)
	case reason != "":
		t.Fatal(reason)
	}
	return os.Getenv(toolsEnv)
}

// execWithVarLib becomes another program, with a directory mounted over /var/lib for
// it alone: cnitool keeps results there, and has no option for another place.
func execWithVarLib(dir string) error {
	runtime.LockOSThread() // The namespace is the thread's.
	if err := syscall.Unshare(syscall.CLONE_NEWNS); err != nil {
		return fmt.Errorf("unshare: %w", err)
	}
	if err := syscall.Mount("", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	if err := syscall.Mount(dir, "/var/lib", "", syscall.MS_BIND, ""); err != nil {
		return fmt.Errorf("mount %s: %w", dir, err)
	}
	if err := os.Unsetenv(libraryEnv); err != nil {
		return err
	}
	return syscall.Exec(os.Args[1], os.Args[1:], os.Environ())
}
