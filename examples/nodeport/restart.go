//go:build linux

package main

import (
	"context"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/nftdp/go-nftdp/examples/internal/lab"
	"github.com/nftdp/go-nftdp/nftdp"
)

// settle is how many connections each of the load's workers makes before the
// next step of the rolling restart.
const settle = 100

// restartBackends restarts one backend after the other under load: out of the
// service, server stopped, server started, back into the service.
func (n *node) restartBackends(ctx context.Context) error {
	target := n.targetsOf(n.services[0])[0]
	n.Heading("A rolling restart, with %d clients that connect to %v all the time", lab.LoadWorkers, target.To)
	load := lab.StartLoad(ctx, target)
	defer load.Stop()
	err := n.Table(func(w io.Writer) error {
		fmt.Fprintln(w, "STEP\tUPDATE TOOK\tCONNECTIONS SINCE")
		for i := range n.services[0].Backends {
			if err := n.restart(ctx, w, load, i); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	load.Stop()
	result, err := load.Result()
	n.Printf("%s\n", result)
	return err
}

func (n *node) restart(ctx context.Context, w io.Writer, load *lab.Load, i int) error {
	whole := n.services[0]
	rest, at := whole, whole.Backends[i].Addr
	rest.Backends = slices.Delete(slices.Clone(whole.Backends), i, i+1)
	name := n.Backends[i].Name

	took, err := n.update(ctx, load, rest)
	if err != nil {
		return err
	}
	// Whoever was still on the way to the server is through by now.
	if _, err := load.Wait(ctx, settle); err != nil {
		return err
	}
	if err := n.Stop("tcp", at); err != nil {
		return err
	}
	landed, err := load.Wait(ctx, 2*settle)
	if err != nil {
		return err
	}
	fmt.Fprintf(w, "remove %s, then stop it\t%v\t%v\n", name, round(took), landed)
	if strays := landed.Servers[name]; strays > 0 {
		return fmt.Errorf("%d connections reached %s after its removal", strays, name)
	}

	if err := n.Serve("tcp", at); err != nil {
		return err
	}
	if took, err = n.update(ctx, load, whole); err != nil {
		return err
	}
	landed, err = load.Wait(ctx, settle)
	fmt.Fprintf(w, "start %s, then add it\t%v\t%v\n", name, round(took), landed)
	return err
}

// update changes the service. Connections that begin meanwhile may still go
// where it sent them before, so they belong to neither step.
func (n *node) update(ctx context.Context, load *lab.Load, s nftdp.Service) (time.Duration, error) {
	load.NextStep()
	begin := time.Now()
	_, err := n.dataplane.Update(ctx, nftdp.Change{Set: []nftdp.Service{s}})
	took := time.Since(begin)
	load.NextStep()
	return took, err
}
