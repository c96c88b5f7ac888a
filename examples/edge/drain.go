//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nftdp/go-nftdp/examples/internal/lab"
	"github.com/nftdp/go-nftdp/internal/nstest"
	"github.com/nftdp/go-nftdp/nftdp"
)

// grace is how long connections may take to end by themselves.
const grace = time.Second

// showDrain moves a service from one backend to another one. Connections that
// there are go on, and those that do not end by themselves are cut.
func (g *gateway) showDrain(ctx context.Context) error {
	g.Heading("backend-1 leaves %v without breaking connections (StateDraining, Drain, Cut)", g.at(chatPort))
	conns, err := g.chatWith("backend-1")
	if err != nil {
		return err
	}
	service := g.chat()
	service.Backends = pool(g.addrs, serverPort)[:2]
	leaving := &service.Backends[0]
	leaving.State = nftdp.StateDraining
	if _, err := g.dataplane.Update(ctx, nftdp.Change{Set: []nftdp.Service{service}}); err != nil {
		return err
	}
	if _, err := g.chatWith("backend-2"); err != nil {
		return err
	}
	for _, c := range conns {
		if err := c.Echo("still here?", lab.Timeout); err != nil {
			return err
		}
	}
	g.Printf("the connections to backend-1 go on; all but two of them end\n")
	for _, c := range conns[2:] {
		if err := c.Close(); err != nil {
			return err
		}
	}

	soon, cancel := context.WithTimeout(ctx, grace)
	defer cancel()
	left, err := g.dataplane.Drain(soon, service.Name, leaving.Addr)
	if !errors.Is(err, context.DeadlineExceeded) {
		return errors.Join(fmt.Errorf("%d connections are left, want 2", left), err)
	}
	cut, err := g.dataplane.Cut(ctx, service.Name, leaving.Addr)
	if err != nil {
		return err
	}
	g.Printf("%d are left after %v, %d are cut, and backend-1 may go\n", left, grace, cut)
	_, err = g.dataplane.Drain(ctx, service.Name, leaving.Addr)
	return err
}

// chatWith opens connections to the service, all of which reach a backend.
func (g *gateway) chatWith(name string) (conns []*nstest.Conn, err error) {
	for range 8 {
		c, err := g.connect(chatPort)
		if err != nil {
			return nil, err
		}
		if c.Answer.Server != name {
			return nil, fmt.Errorf("a connection goes to %s, want %s", c.Answer.Server, name)
		}
		conns = append(conns, c)
	}
	g.Printf("%d connections: %s\n", len(conns), name)
	return conns, nil
}
