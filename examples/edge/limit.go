//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"syscall"
	"time"

	"github.com/nftdp/go-nftdp/examples/internal/lab"
	"github.com/nftdp/go-nftdp/internal/nstest"
)

// showLimit keeps as many connections to a backend open as it may have.
func (g *gateway) showLimit(context.Context) error {
	g.Heading("The backend of %v takes %d connections at a time (MaxConns)", g.at(dbPort), dbLimit)
	var conns []*nstest.Conn
	for range dbLimit {
		c, err := g.connect(dbPort)
		if err != nil {
			return err
		}
		conns = append(conns, c)
		g.Printf("connection %d: %s\n", len(conns), c.Answer.Server)
	}
	if c, err := g.connect(dbPort); err == nil {
		return errors.Join(fmt.Errorf("connection %d is over the limit, and is not refused", dbLimit+1), c.Close())
	} else if !errors.Is(err, syscall.ECONNREFUSED) {
		return fmt.Errorf("connection %d, over the limit, is not refused: %w", dbLimit+1, err)
	}
	g.Printf("connection %d: %s\n", dbLimit+1, lab.Refused)
	for i, c := range conns {
		if err := c.Echo("still here?", lab.Timeout); err != nil {
			return fmt.Errorf("connection %d: %w", i+1, err)
		}
	}
	if err := conns[0].Close(); err != nil {
		return err
	}
	c, err := g.connectSoon()
	if err != nil {
		return fmt.Errorf("connection after the end of another one: %w", err)
	}
	g.Printf("connection 1 ends, another one: %s\n", c.Answer.Server)
	return c.Close()
}

// connect opens a connection that lasts until the end of the demonstration, or
// until it is closed before.
func (g *gateway) connect(port uint16) (*nstest.Conn, error) {
	c, err := nstest.DialTCP(g.Client, g.clients[0], g.at(port), lab.Timeout)
	if err == nil {
		g.AtEnd(func() error { _ = c.Close(); return nil })
	}
	return c, err
}

// connectSoon connects once it is not refused any more: the end of another
// connection is a packet that is still on its way.
func (g *gateway) connectSoon() (*nstest.Conn, error) {
	poll := time.NewTicker(10 * time.Millisecond)
	defer poll.Stop()
	for deadline := time.Now().Add(lab.Timeout); ; <-poll.C {
		c, err := g.connect(dbPort)
		if !errors.Is(err, syscall.ECONNREFUSED) || time.Now().After(deadline) {
			return c, err
		}
	}
}
