//go:build linux

package main

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/nftdp/go-nftdp/examples/internal/lab"
	"github.com/nftdp/go-nftdp/internal/nstest"
)

// demoServices is the file that the demonstration applies.
//
//go:embed demo.yaml
var demoServices string

func (t *tool) demoCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "demo",
		Short: "Show the main job in a network of namespaces, as root or not",
		Long: "demo builds a client, a node and three backends out of network namespaces, runs this program\n" +
			"in the node, and connects from the client. It needs no root: it enters a user namespace by\n" +
			"itself. Nothing is left behind.",
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if err := nstest.Reexec(); err != nil {
				return fmt.Errorf("the demo needs network namespaces: %w", err)
			}
			return t.demo(c.Context())
		},
	}
}

// stage is the network of the demonstration, with a directory for files.
type stage struct {
	*lab.Lab
	dir string
}

// newStage builds the network. Its backends answer on port 8080.
func newStage(t *tool) (*stage, error) {
	l, err := lab.New(t.out, 3, 0)
	if err != nil {
		return nil, err
	}
	s := &stage{Lab: l}
	if s.dir, err = os.MkdirTemp("", "nftdp-demo-"); err == nil {
		l.AtEnd(func() error { return os.RemoveAll(s.dir) })
		for i := range l.Backends {
			err = errors.Join(err, l.Serve("tcp", netip.AddrPortFrom(nstest.IPv4().Backend(i), 8080)))
		}
	}
	if err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return s, nil
}

// command is a run of this program in the node.
func (s *stage) command(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "/proc/self/exe", args...)
	cmd.Dir, cmd.Env = s.dir, append(os.Environ(), "NO_COLOR=1")
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return cmd
}

// run runs this program in the node and prints the command line and its output.
func (s *stage) run(ctx context.Context, args ...string) error {
	s.Printf("\nnode# nftdp %s\n", strings.Join(args, " "))
	cmd := s.command(ctx, args...)
	cmd.Stdout, cmd.Stderr = s.Out, s.Out
	if err := s.Node.Do(cmd.Start); err != nil {
		return err
	}
	return cmd.Wait()
}

func (t *tool) demo(ctx context.Context) (err error) {
	s, err := newStage(t)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	if err := os.WriteFile(filepath.Join(s.dir, "demo.yaml"), []byte(demoServices), 0o600); err != nil {
		return err
	}
	a := nstest.IPv4()
	s.Draw("client "+a.Client.String()+" ── node "+a.Node.String(), s.names()...)
	s.Heading("demo.yaml")
	s.Printf("%s", demoServices)
	return lab.InOrder(ctx, s.program, s.visit, s.look, s.follow)
}

func (s *stage) names() (out []string) {
	for i, b := range s.Backends {
		out = append(out, b.Name+" "+nstest.IPv4().Backend(i).String())
	}
	return out
}

func (s *stage) program(ctx context.Context) error {
	s.Heading("Program it: the second time nothing is to be done")
	return lab.InOrder(ctx,
		func(ctx context.Context) error { return s.run(ctx, "apply", "-f", "demo.yaml") },
		func(ctx context.Context) error { return s.run(ctx, "plan", "-f", "demo.yaml") })
}

// demoVisits are connections to each frontend.
const demoVisits = 60

func (s *stage) visit(ctx context.Context) error {
	listening, err := s.Node.Listening("tcp")
	if err != nil {
		return err
	}
	s.Heading("Connect, although %d sockets listen on the node", len(listening))
	for _, to := range []string{"192.168.0.2:80", "10.96.0.10:80"} {
		landing := lab.Visit{From: s.Client, To: netip.MustParseAddrPort(to)}.Repeat(ctx, demoVisits, 1, lab.Timeout)
		s.Printf("client: %d connections to %s landed at %v\n", demoVisits, to, landing)
		if landing.Failed.Sum() > 0 {
			return fmt.Errorf("connections to %s failed", to)
		}
	}
	return nil
}

func (s *stage) look(ctx context.Context) error {
	s.Heading("What the kernel holds and has counted")
	return lab.InOrder(ctx,
		func(ctx context.Context) error { return s.run(ctx, "list") },
		func(ctx context.Context) error { return s.run(ctx, "get", "demo/web:http") })
}

// follow traces packets of two connections: one that arrives, and one whose way a
// firewall blocks.
func (s *stage) follow(ctx context.Context) error {
	s.Heading("The way of a packet: through, and then not, since forwarding is turned off")
	to := netip.MustParseAddrPort("192.168.0.2:80")
	if err := s.traced(ctx, to); err != nil {
		return err
	}
	if err := s.Node.Sysctl("net/ipv4/ip_forward", "0"); err != nil {
		return err
	}
	return s.traced(ctx, to)
}

// traced runs `nftdp trace` in the node until it has seen one packet of a client that
// connects again and again.
func (s *stage) traced(ctx context.Context, to netip.AddrPort) error {
	done := make(chan struct{})
	go func() {
		defer close(done)
		for ctx.Err() == nil {
			// What becomes of it is the subject of the trace.
			_ = lab.Visit{From: s.Client, To: to}.Repeat(ctx, 1, 1, 50*time.Millisecond)
			select {
			case done <- struct{}{}:
				return
			default:
			}
		}
	}()
	err := s.run(ctx, "trace", "--dst", to.Addr().String(), "-n", "1")
	<-done
	return err
}
