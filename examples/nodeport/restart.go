//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"time"

	"github.com/nftdp/go-nftdp/nftdp"
)

// settle is how many connections each of the load's workers makes before the
// next step of the rolling restart.
const settle = 100

// restartBackends restarts one backend after the other under load: out of the
// service, server stopped, server started, back into the service.
func (l *lab) restartBackends(ctx context.Context) error {
	to := netip.AddrPortFrom(l.addrs.Node, 80)
	l.heading("A rolling restart, with %d clients that connect to %v all the time", loadWorkers, to)
	load := startLoad(ctx, l.Client, to)
	defer load.stop()
	var restarted error
	err := l.table(func(w io.Writer) {
		fmt.Fprintln(w, "STEP\tUPDATE TOOK\tCONNECTIONS SINCE")
		for i := range l.pods {
			if restarted = l.restart(ctx, w, load, i); restarted != nil {
				break
			}
		}
	})
	if err := errors.Join(err, restarted); err != nil {
		return err
	}
	load.stop()
	fmt.Fprintf(l.out, "%d connections, %d failed\n", load.total(), load.failed.sum())
	if load.failed.sum() > 0 {
		return fmt.Errorf("failed connections: %v", load.failed)
	}
	return nil
}

func (l *lab) restart(ctx context.Context, w io.Writer, load *load, i int) error {
	p, whole := l.pods[i], l.services[0]
	rest := whole
	rest.Backends = slices.Delete(slices.Clone(whole.Backends), i, i+1)

	took, err := l.update(ctx, load, rest)
	if err != nil {
		return err
	}
	// Whoever was still on the way to the server is through by now.
	if err := load.wait(ctx, settle); err != nil {
		return err
	}
	if err := p.stop(); err != nil {
		return err
	}
	if err := load.wait(ctx, 2*settle); err != nil {
		return err
	}
	landed := load.landed()
	fmt.Fprintf(w, "remove %s, then stop it\t%v\t%v\n", p.ns.Name, round(took), landing{servers: landed}.outcome())
	if landed[p.ns.Name] > 0 {
		return fmt.Errorf("%d connections reached %s after its removal", landed[p.ns.Name], p.ns.Name)
	}

	if err := p.start(); err != nil {
		return err
	}
	if took, err = l.update(ctx, load, whole); err != nil {
		return err
	}
	if err := load.wait(ctx, settle); err != nil {
		return err
	}
	fmt.Fprintf(w, "start %s, then add it\t%v\t%v\n", p.ns.Name, round(took), landing{servers: load.landed()}.outcome())
	return nil
}

// update changes the service. Connections that begin meanwhile may still go
// where it sent them before, so they belong to neither step.
func (l *lab) update(ctx context.Context, load *load, s nftdp.Service) (time.Duration, error) {
	load.nextStep()
	begin := time.Now()
	_, err := l.dataplane.Update(ctx, nftdp.Change{Set: []nftdp.Service{s}})
	took := time.Since(begin)
	load.nextStep()
	return took, err
}
