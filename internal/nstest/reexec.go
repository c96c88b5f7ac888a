//go:build linux

package nstest

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"syscall"
)

// reexecEnv marks the run inside the user namespace, so that a host which
// grants a user namespace without rights in it does not make us loop.
const reexecEnv = "NFTDP_IN_USERNS"

// Main runs tests (m is a *testing.M) with the privileges that this package
// needs and ends the process. If the host forbids them, the tests are skipped
// with the reason printed, unless CI is set in the environment: then the
// process fails.
func Main(m interface{ Run() int }) {
	err := Reexec()
	if err == nil {
		os.Exit(m.Run())
	}
	if os.Getenv("CI") != "" {
		fmt.Fprintln(os.Stderr, "FAIL: no network namespaces, and CI is set:", err)
		os.Exit(1)
	}
	fmt.Fprintln(os.Stderr, "SKIP: no network namespaces:", err)
	os.Exit(0)
}

// Reexec returns nil at once if this process may create network namespaces.
// Otherwise it runs the program again, with the same arguments, as root of a
// new user, network and mount namespace, passes signals on to it, and exits
// with its exit code. It returns an error if the host does not allow that.
// Call it first thing in main.
func Reexec() error {
	probe := canCreate()
	if probe == nil {
		return nil
	}
	if os.Getenv(reexecEnv) != "" {
		return fmt.Errorf("in a user namespace: %w", probe)
	}
	code, err := runAgain()
	if err != nil {
		return fmt.Errorf("enter a user namespace: %w", err)
	}
	os.Exit(code)
	return nil
}

// canCreate returns why network namespaces cannot be created, or nil.
func canCreate() error {
	ns, err := New("probe")
	if err != nil {
		return err
	}
	return ns.Close()
}

// runAgain runs this program in a user namespace and returns its exit code.
func runAgain() (int, error) {
	// The kernel delivers the parent-death signal when the thread that
	// forked ends, so this thread has to stay until the child is done.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()

	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Args[0] = os.Args[0]
	cmd.Env = append(os.Environ(), reexecEnv+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNET | syscall.CLONE_NEWNS,
		UidMappings: []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}},
		Pdeathsig:   syscall.SIGKILL,
		// A group of its own: Ctrl-C reaches the child once, through us.
		Setpgid: true,
	}
	return runForwarding(cmd)
}

// runForwarding runs a command, passes signals on to it, and returns its exit
// code, or 128 plus the signal that ended it, as a shell does.
func runForwarding(cmd *exec.Cmd) (int, error) {
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT)
	defer signal.Stop(signals)
	if err := cmd.Start(); err != nil {
		return 0, err
	}
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	for {
		select {
		case s := <-signals:
			// It fails only if the child has just ended.
			_ = cmd.Process.Signal(s)
		case err := <-done:
			return exitCode(cmd, err)
		}
	}
}

func exitCode(cmd *exec.Cmd, err error) (int, error) {
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		return 0, err
	}
	if status, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		return 128 + int(status.Signal()), nil
	}
	return cmd.ProcessState.ExitCode(), nil
}
