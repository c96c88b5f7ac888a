//go:build linux

package nstest_test

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/nftdp/go-nftdp/internal/nstest"
)

// reexecTestEnv makes TestMain run reexecChild instead of the tests.
const reexecTestEnv = "NFTDP_TEST_REEXEC"

func TestMain(m *testing.M) {
	if os.Getenv(reexecTestEnv) != "" {
		os.Exit(reexecChild())
	}
	nstest.Main(m)
}

// Exit codes of reexecChild.
const (
	codeEntered   = 7
	codeForbidden = 8
)

// reexecChild is a program that needs network namespaces.
func reexecChild() int {
	if err := nstest.Reexec(); err != nil {
		fmt.Println(err)
		return codeForbidden
	}
	ns, err := nstest.New("child")
	if err != nil {
		fmt.Println(err)
		return 1
	}
	fmt.Println(os.Getuid(), os.Args[1:], ns.Close())
	return codeEntered
}

// TestReexec: a program that may not create network namespaces can do so in a
// user namespace. It keeps its arguments and its exit code.
func TestReexec(t *testing.T) {
	out, code := runWithoutAdmin(t, "one", "two")
	if code == codeForbidden && os.Getenv("CI") == "" {
		t.Skipf("no user namespaces here: %s", out)
	}
	if code != codeEntered || out != "0 [one two] <nil>\n" {
		t.Errorf("exit code %d, output %q", code, out)
	}
}

// runWithoutAdmin runs this program from a thread that has dropped
// CAP_SYS_ADMIN from its bounding set, and is not used again.
func runWithoutAdmin(t *testing.T, args ...string) (out string, code int) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread()
		if err := unix.Prctl(unix.PR_CAPBSET_DROP, unix.CAP_SYS_ADMIN, 0, 0, 0); err != nil {
			t.Error(err)
			return
		}
		cmd := exec.Command("/proc/self/exe", args...)
		// This process may be in a user namespace itself, and marked as such.
		cmd.Env = slices.DeleteFunc(os.Environ(), func(v string) bool {
			return strings.HasPrefix(v, "NFTDP_IN_USERNS=")
		})
		cmd.Env = append(cmd.Env, reexecTestEnv+"=1")
		b, err := cmd.CombinedOutput()
		if cmd.ProcessState == nil {
			t.Error(err)
			return
		}
		out, code = string(b), cmd.ProcessState.ExitCode()
	}()
	<-done
	return out, code
}
