//go:build linux

// Command ingress shows the whole way of a request into a cluster, on one
// machine: a client on the internet, a cloud's load balancer, two nodes, and on
// each of them a pod with nginx as ingress and one with an application. Each is a
// network namespace; nftdp is on the nodes and, once more, the load balancer
// itself. It needs no root and leaves nothing behind. If anything is otherwise
// than it says, it exits with 1.
//
//	go run ./examples/ingress
//
// What there is to copy is node.go, all that a node needs, and balancer.go, all
// that a load balancer needs, with the addresses in plan.go: they import the
// library alone. The other files are the cloud, and the story.
package main

import (
	"context"
	"errors"
	"io"
	"os/exec"

	"github.com/nftdp/go-nftdp/examples/internal/lab"
)

func main() {
	lab.Main(func(ctx context.Context, out io.Writer) error { return run(ctx, out, findNginx()) })
}

// findNginx returns the path of nginx, or nothing. Debian keeps it where only root
// looks for programs.
func findNginx() string {
	for _, name := range []string{"nginx", "/usr/sbin/nginx"} {
		if path, err := exec.LookPath(name); err == nil {
			return path
		}
	}
	return ""
}

// run builds the cloud, goes through the story, and takes everything down.
func run(ctx context.Context, out io.Writer, nginx string) (err error) {
	c, err := newCloud(ctx, nginx)
	defer func() { err = errors.Join(err, c.Close()) }()
	if err != nil {
		return err
	}
	s := &story{cloud: c, out: out}
	s.draw()
	return lab.InOrder(ctx,
		s.nothingListens, s.deadNode, s.takenOut, s.broughtBack, s.restarted,
		s.applications, s.encrypted, s.clientAddress,
		s.sockets, s.rules, s.wayOfSYN)
}
