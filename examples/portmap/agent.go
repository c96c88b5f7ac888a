//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"log"
	"syscall"
	"time"

	"github.com/nftdp/go-nftdp/nftdp"
)

// keep makes the kernel hold what is published, now and whenever others have changed
// that, until the context ends. Ports that the plugin adds or withdraws meanwhile are
// no reason to wait for: the files say what is wanted.
func keep(ctx context.Context, c *config) error {
	d, err := c.Dataplane.Open(ctx)
	if err != nil {
		return err
	}
	defer d.Close()
	if err := c.restore(ctx, d, nil); err != nil {
		return err
	}
	log.Print("published ports are kept")
	for drift, err := range d.Watch(ctx) {
		if err == nil {
			err = c.restore(ctx, d, drift.By)
		}
		for err != nil && ctx.Err() == nil {
			log.Printf("trying again: %v", err)
			select {
			case <-time.After(time.Second):
			case <-ctx.Done():
			}
			err = c.restore(ctx, d, nil)
		}
	}
	return fmt.Errorf("watch: %w", context.Cause(ctx))
}

// restore makes the kernel hold exactly what is published. No run of the plugin is
// between its change of the rules and that of the files then.
func (c *config) restore(ctx context.Context, d *nftdp.Dataplane, by []nftdp.Process) error {
	return c.with(syscall.LOCK_EX, func() error {
		services, err := c.remembered()
		if err != nil {
			return err
		}
		plan, err := d.Apply(ctx, services)
		if errors.Is(err, nftdp.ErrOutdated) {
			plan, err = d.TakeOver(ctx, services)
		}
		if err == nil && !plan.Empty() {
			log.Printf("restored %d services, by %d changes, after those of %v", len(services), plan.Len(), by)
		}
		return err
	})
}
