//go:build linux

package cluster

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/nftdp/go-nftdp/internal/nstest"
)

// Process is a program that runs in a namespace.
type Process struct {
	Name string
	Log  string // the path of what it printed

	cmd  *exec.Cmd
	wait func() error
	gone chan struct{}
}

// stopTimeout bounds a program's end after SIGTERM.
const stopTimeout = 30 * time.Second

// Start runs a program in a namespace. It is killed with this process, if not stopped
// before. Its output goes to a file in dir.
func Start(ns *nstest.Namespace, dir, name, program string, args ...string) (*Process, error) {
	log, err := os.CreateTemp(dir, name+"-*.log")
	if err != nil {
		return nil, err
	}
	defer log.Close()
	cmd := exec.Command(program, args...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := ns.Do(cmd.Start); err != nil {
		return nil, fmt.Errorf("start %s: %w", filepath.Base(program), err)
	}
	p := &Process{Name: name, Log: log.Name(), cmd: cmd, gone: make(chan struct{})}
	p.wait = sync.OnceValue(cmd.Wait)
	go func() { _ = p.wait(); close(p.gone) }()
	return p, nil
}

// PID is the process's number.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Wait waits until the process has ended, and returns an error unless it went well.
func (p *Process) Wait() error {
	if err := p.wait(); err != nil {
		return fmt.Errorf("%s: %w\n%s", p.Name, err, p.Tail())
	}
	return nil
}

// Running reports whether the process has not ended.
func (p *Process) Running() bool {
	select {
	case <-p.gone:
		return false
	default:
		return true
	}
}

// Stop asks the process to end, as Kubernetes does, and waits. A second call does
// nothing.
func (p *Process) Stop() error {
	if !p.Running() {
		return nil
	}
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	select {
	case <-p.gone:
		return nil
	case <-time.After(stopTimeout):
		p.Kill()
		return fmt.Errorf("%s did not end within %v after SIGTERM", p.Name, stopTimeout)
	}
}

// Kill ends the process at once and waits.
func (p *Process) Kill() {
	_ = p.cmd.Process.Kill() // It may have ended.
	<-p.gone
}

// Tail returns the end of what the process printed.
func (p *Process) Tail() string {
	b, err := os.ReadFile(p.Log)
	if err != nil {
		return err.Error()
	}
	const most = 6000
	return string(b[max(0, len(b)-most):])
}
