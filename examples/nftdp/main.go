//go:build linux

// Command nftdp programs services of files into a network namespace, and shows what
// the kernel holds and does with them. docs/tool.md of its repository introduces it.
//
//	go install github.com/nftdp/go-nftdp/examples/nftdp@latest
//	nftdp demo
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/signal"
	"syscall"

	"github.com/nftdp/go-nftdp/nftdp"
)

// The exit codes.
const (
	exitError       = 1
	exitUsage       = 2   // wrong flags or arguments
	exitFindings    = 3   // something was found: changes, findings of doctor, what stops a packet
	exitFlowsLeft   = 4   // drain: the time was over before all flows had ended
	exitInterrupted = 130 // Ctrl-C, where that leaves something undone
)

// exitCodes describes them for the help.
const exitCodes = `Exit codes:
  0    done
  1    an error, which is printed with what to do about it
  2    wrong flags or arguments
  3    plan --detailed-exitcode: there are changes; doctor: there are findings;
       explain: the packet is not delivered
  4    drain: flows were left when the time was over
  130  interrupted before the work was done`

// codeError is an error with an exit code.
type codeError struct {
	code int
	err  error // nil: everything is said
}

func (e *codeError) Error() string {
	if e.err == nil {
		return fmt.Sprintf("exit code %d", e.code)
	}
	return e.err.Error()
}

func (e *codeError) Unwrap() error { return e.err }

// usage is an error in flags or arguments.
func usage(format string, args ...any) error {
	return &codeError{exitUsage, fmt.Errorf(format, args...)}
}

func main() { os.Exit(run(os.Args[1:], os.Stdin, os.Stdout, os.Stderr)) }

// run runs the command line and returns the exit code.
func run(args []string, stdin io.Reader, stdout, stderr *os.File) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	t := &tool{in: stdin, out: stdout, errOut: stderr, colour: colourful(stdout)}
	root := t.root()
	root.SetArgs(args)
	root.SetIn(stdin)
	root.SetOut(stdout)
	root.SetErr(stderr)
	err := root.ExecuteContext(ctx)
	switch {
	case err == nil, errors.Is(err, syscall.EPIPE): // nobody reads on
		return 0
	case !t.began:
		err = &codeError{exitUsage, err}
	case ctx.Err() != nil && errors.Is(err, context.Canceled):
		err = &codeError{exitInterrupted, errors.New("interrupted")}
	}
	code := exitError
	coded, ok := errors.AsType[*codeError](err)
	if ok {
		code = coded.code
	}
	if !ok || coded.err != nil {
		fmt.Fprintf(stderr, "nftdp: %v\n", err)
	}
	if next := advice(err); next != "" {
		fmt.Fprintln(stderr, next)
	}
	return code
}

// advice says what to do about an error.
func advice(err error) string {
	_, usage := errors.AsType[*codeError](err)
	switch {
	case usage:
		return ""
	case errors.Is(err, nftdp.ErrProtected):
		return "Another process keeps the tables to itself: end it, or use another table (--table)."
	case errors.Is(err, fs.ErrPermission):
		return "Run it as root, or try it in a namespace of its own: unshare -Urn"
	case errors.Is(err, nftdp.ErrNotOwned):
		return "Use another name (--table)."
	case errors.Is(err, nftdp.ErrOtherConfig):
		return "Use the configuration that the tables have, or replace it for all owners: nftdp apply --take-over"
	case errors.Is(err, nftdp.ErrOutdated):
		return "Apply all services once: nftdp apply -f FILE"
	case errors.Is(err, nftdp.ErrConflict):
		return "Try again; find out who changes the rules: nft monitor"
	case errors.Is(err, errNoService):
		return "See which there are: nftdp list"
	}
	return ""
}
