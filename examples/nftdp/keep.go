//go:build linux

package main

import (
	"context"
	"errors"

	"github.com/spf13/cobra"

	"github.com/nftdp/go-nftdp/nftdp"
)

func (t *tool) keepCommand() *cobra.Command {
	var a applying
	c := &cobra.Command{
		Use:   "keep -f FILE…",
		Short: "Apply the services of files, and repair what others do to them until Ctrl-C",
		Long: "keep applies the services of files. Then it waits, and repairs at once what others do to\n" +
			"the tables, up to nft flush ruleset. It prints what it repaired and which process it was.\n" +
			"The services stay when it ends.",
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return t.withWanted(c.Context(), func(d *nftdp.Dataplane, w *wanted) error {
				if err := t.apply(c.Context(), d, w, a); err != nil {
					return err
				}
				t.printf("keeping them until Ctrl-C\n")
				err := d.Keep(c.Context(), func(drift *nftdp.Drift, err error) { t.showDrift("repaired", drift, err, a.verbose) })
				return ended(c.Context(), err)
			})
		},
	}
	a.flags(c)
	return c
}

// ended is the error of what Ctrl-C ends.
func ended(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil
	}
	return err
}

func (t *tool) showDrift(what string, drift *nftdp.Drift, err error, verbose bool) {
	if err != nil {
		t.warnf("trying again after: %v\n", err)
	}
	if drift == nil {
		return
	}
	t.printf("%s: %s\n", t.paint(yellow, what), count(drift.Len(), "change"))
	for _, p := range drift.By {
		t.printf("it was %s, thread %d\n", p.Name, p.PID)
	}
	if verbose {
		t.showPlan(drift.Plan)
	}
}

func (t *tool) watchCommand() *cobra.Command {
	var verbose bool
	c := &cobra.Command{
		Use:   "watch -f FILE…",
		Short: "Report what others do to the services of files, and change nothing",
		Long: "watch reports what others do to the tables of the services of files, and which process it\n" +
			"was, until Ctrl-C. It repairs nothing, so it begins only if the kernel holds these services.",
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return t.withWanted(c.Context(), func(d *nftdp.Dataplane, w *wanted) error {
				return t.watch(c.Context(), d, w, verbose)
			})
		},
	}
	c.Flags().BoolVarP(&verbose, "verbose", "v", false, "print every change of a repair as nft command")
	return c
}

func (t *tool) watch(ctx context.Context, d *nftdp.Dataplane, w *wanted, verbose bool) error {
	plan, err := d.Plan(ctx, w.services)
	if err != nil {
		return err
	}
	if !plan.Empty() {
		return errors.New("the kernel does not hold these services as they are in the files: see nftdp plan, then run nftdp apply or nftdp keep")
	}
	// The library compares with what it has applied last, which changes nothing here.
	if _, err := d.Apply(ctx, w.services); err != nil {
		return err
	}
	t.printf("watching until Ctrl-C\n")
	for drift, err := range d.Watch(ctx) {
		if ctx.Err() != nil {
			return nil
		}
		t.showDrift("changed by others, a repair takes", drift, err, verbose)
	}
	return ended(ctx, nftdp.ErrClosed)
}
