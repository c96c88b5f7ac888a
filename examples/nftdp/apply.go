//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/nftdp/go-nftdp/nftdp"
)

// applying is how services of files are programmed.
type applying struct {
	takeOver, verbose, empty bool
}

func (t *tool) applyCommand() *cobra.Command {
	var a applying
	c := &cobra.Command{
		Use:   "apply -f FILE…",
		Short: "Make the kernel hold exactly the services of files",
		Long: "apply makes the kernel hold exactly the services of files, in one transaction. What is\n" +
			"right already stays, with its connections and counters. If anything is wrong with the\n" +
			"files, all of it is reported, and nothing is changed.\n\n" + filesHelp,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return t.withWanted(c.Context(), func(d *nftdp.Dataplane, w *wanted) error {
				return t.apply(c.Context(), d, w, a)
			})
		},
	}
	a.flags(c)
	return c
}

func (a *applying) flags(c *cobra.Command) {
	c.Flags().BoolVar(&a.takeOver, "take-over", false, "also change the configuration that other owners of the tables use")
	c.Flags().BoolVarP(&a.verbose, "verbose", "v", false, "print every change as nft command")
	c.Flags().BoolVar(&a.empty, "allow-empty", false, "accept files without any service, which removes all services")
}

// withWanted reads the files, opens the namespace, and runs a function.
func (t *tool) withWanted(ctx context.Context, fn func(*nftdp.Dataplane, *wanted) error) (err error) {
	w, err := t.wanted()
	if err != nil {
		return err
	}
	d, err := t.open(ctx, w.config)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.Close()) }()
	return fn(d, w)
}

func (t *tool) apply(ctx context.Context, d *nftdp.Dataplane, w *wanted, a applying) error {
	if len(w.services) == 0 && !a.empty {
		return errors.New("the files have no services: add --allow-empty to remove all, or delete the tables: nftdp remove")
	}
	t.warnOfRequirements(ctx, d)
	change := d.Apply
	if a.takeOver {
		change = d.TakeOver
	}
	plan, err := change(ctx, w.services)
	if plan != nil && a.verbose {
		t.showPlan(plan)
	}
	if err != nil {
		return err
	}
	if plan.Empty() {
		t.printf("unchanged: %s in place\n", count(len(w.services), "service"))
		return nil
	}
	t.printf("applied: %s, %s of tables, chains, maps and elements\n", count(len(w.services), "service"), count(plan.Len(), "change"))
	return nil
}

// count is a number with its noun.
func count(n int, noun string) string {
	if n != 1 {
		noun += "s"
	}
	return fmt.Sprintf("%d %s", n, noun)
}

// warnOfRequirements prints the kernel parameters that services need and do not have.
func (t *tool) warnOfRequirements(ctx context.Context, d *nftdp.Dataplane) {
	required, err := d.Requirements(ctx)
	if err != nil {
		t.warnf("kernel parameters were not checked: %v\n", err)
	}
	for _, r := range required {
		if !r.Met() {
			t.warnf("sysctl -w %s=%s is needed: %s\n", r.Name, r.Want, r.Why)
		}
	}
}

func (t *tool) planCommand() *cobra.Command {
	var detailed bool
	c := &cobra.Command{
		Use:   "plan -f FILE…",
		Short: "Show what apply would change, and change nothing",
		Long: "plan shows what apply would change, as nft commands, and changes nothing. With\n" +
			"--detailed-exitcode it exits with 3 if there are changes.",
		Args: cobra.NoArgs,
	}
	out := formatFlag(c, "nft", "json")
	c.Flags().BoolVar(&detailed, "detailed-exitcode", false, "exit with 3 if there are changes")
	c.RunE = func(c *cobra.Command, _ []string) error {
		return t.withWanted(c.Context(), func(d *nftdp.Dataplane, w *wanted) error {
			plan, err := d.Plan(c.Context(), w.services)
			if err != nil {
				return err
			}
			if err := t.printPlan(out.value, plan); err != nil {
				return err
			}
			if detailed && !plan.Empty() {
				return &codeError{code: exitFindings}
			}
			return nil
		})
	}
	return c
}

func (t *tool) printPlan(format string, plan *nftdp.Plan) error {
	if format == "json" {
		return t.data(format, plan)
	}
	if plan.Empty() {
		t.printf("no changes: the kernel holds these services\n")
		return nil
	}
	t.showPlan(plan)
	t.printf("\n%s. To make them: nftdp apply -f %s\n", count(plan.Len(), "change"), strings.Join(t.files, " -f "))
	return nil
}

// showPlan prints nft commands, green if they add and red if they delete.
func (t *tool) showPlan(plan *nftdp.Plan) {
	colour := green
	for line := range strings.Lines(plan.String()) {
		switch verb, _, _ := strings.Cut(line, " "); verb {
		case "add":
			colour = green
		case "delete", "flush":
			colour = red
		} // a line that goes on has the colour of the one before
		t.printf("%s\n", t.paint(colour, strings.TrimSuffix(line, "\n")))
	}
}

func (t *tool) removeCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "remove",
		Short: "Delete the tables, and with them all services",
		Long: "remove deletes the tables, and with them all services. Established connections to\n" +
			"services break. To keep them, apply an empty list: nftdp apply --allow-empty -f FILE.\n" +
			"With --owner, only the services of that owner are deleted.",
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return t.with(c.Context(), func(d *nftdp.Dataplane) error { return d.Remove(c.Context()) })
		},
	}
}
