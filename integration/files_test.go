//go:build linux

package integration

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/nftdp/go-nftdp/internal/nstest"
	"github.com/nftdp/go-nftdp/nftdp"
)

// TestFileDescriptors: a process with more than 1,024 open files can use every
// method. If it cannot open any more files, Open returns the error, and a
// Dataplane that is already open still works.
func TestFileDescriptors(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"many files", "no more files"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, nftdp.Config{}, 1)
			c := startChild(t, w.Node, name)
			c.end(t)
			askFor(t, "backend-1", w.Client, "tcp", netip.AddrPortFrom(nstest.IPv4().ClusterIP, 80))
		})
	}
}

func manyFiles() error {
	const many = 1100
	for range many {
		if _, err := os.Open("/dev/null"); err != nil {
			return err
		}
	}
	d, err := nftdp.Config{}.Open(context.Background())
	if err != nil {
		return err
	}
	return everyMethod(d)
}

func noMoreFiles() error {
	d, err := nftdp.Config{}.Open(context.Background())
	if err != nil {
		return err
	}
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return err
	}
	limit.Cur = 3
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return err
	}
	if _, err := (nftdp.Config{}).Open(context.Background()); !errors.Is(err, unix.EMFILE) {
		return fmt.Errorf("open with all file descriptors in use: %w", err)
	}
	return everyMethod(d)
}

// everyMethod calls all methods of a Dataplane, closes it, and leaves a service
// "web" with one backend.
func everyMethod(d *nftdp.Dataplane) error {
	ctx := context.Background()
	web := nftdp.Service{Name: "web", Frontends: on(clusterIP, 80), Backends: backends(0)}
	dns := nftdp.Service{Name: "dns", Protocol: nftdp.ProtocolUDP, Frontends: nodeWide(53), Backends: backends(0)}
	for _, method := range []struct {
		name string
		call func() error
	}{
		{"plan", func() error { _, err := d.Plan(ctx, []nftdp.Service{web}); return err }},
		{"apply", func() error { _, err := d.Apply(ctx, []nftdp.Service{dns}); return err }},
		{"update", func() error { _, err := d.Update(ctx, nftdp.Change{Set: []nftdp.Service{web}}); return err }},
		{"inspect", func() error { _, err := d.Inspect(ctx); return err }},
		{"ruleset", func() error { _, err := d.Ruleset(ctx); return err }},
		{"flows", func() error { _, err := d.Flows(ctx, "dns"); return err }},
		{"drain", func() error { _, err := d.Drain(ctx, "dns"); return err }},
		{"cut", func() error { _, err := d.Cut(ctx, "dns"); return err }},
		{"remove", func() error { return d.Remove(ctx) }},
		{"apply again", func() error { _, err := d.Apply(ctx, []nftdp.Service{web}); return err }},
	} {
		if err := method.call(); err != nil {
			return fmt.Errorf("%s: %w", method.name, err)
		}
	}
	return d.Close()
}
