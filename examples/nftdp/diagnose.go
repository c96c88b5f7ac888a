//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/nftdp/go-nftdp/nftdp"
)

func (t *tool) explainCommand() *cobra.Command {
	var device string
	c := &cobra.Command{
		Use:   "explain SOURCE[:PORT] DESTINATION[:PORT][/PROTOCOL]",
		Short: "Say what happens to a packet and why, without sending it",
		Long: "explain says what happens to the first packet of a connection: which service takes it, the\n" +
			"candidates, the source that they see, and what else on the node keeps it from getting\n" +
			"there, with a code and what to do. Without a port it is 80, without a protocol TCP. It\n" +
			"exits with 3 if the packet is not delivered.\n\n" +
			"  nftdp explain 203.0.113.7 10.96.0.10:80\n  nftdp explain 2001:db8::7 [fd00::a]:53/udp",
		Args: cobra.ExactArgs(2),
	}
	c.Flags().StringVarP(&device, "in", "i", "", "`device` on which the packet arrives")
	out := formatFlag(c, "text", "json", "yaml")
	c.RunE = func(c *cobra.Command, args []string) error {
		probe, err := nftdp.ParseProbe(strings.Join(args, " "))
		if err != nil {
			return &codeError{exitUsage, err}
		}
		probe.Interface = device
		return t.with(c.Context(), func(d *nftdp.Dataplane) error { return t.explain(c.Context(), d, probe, out.value) })
	}
	return c
}

func (t *tool) explain(ctx context.Context, d *nftdp.Dataplane, probe nftdp.Probe, format string) error {
	e, err := d.Explain(ctx, probe)
	if err != nil {
		return err
	}
	if format != "text" {
		err = t.data(format, e)
	} else {
		t.printf("%s\n", strings.TrimSuffix(e.String(), "\n"))
	}
	if err == nil && e.Code != nftdp.CodeDelivered {
		return &codeError{code: exitFindings}
	}
	return err
}

func (t *tool) doctorCommand() *cobra.Command {
	var fix []string
	c := &cobra.Command{
		Use:   "doctor",
		Short: "Look for what keeps packets from services on this node",
		Long: "doctor looks for what keeps packets from services: kernel parameters, firewalls and\n" +
			"translations of others, sockets, routes, neighbours, and services that cannot work. Each\n" +
			"finding has evidence and says what to do. --fix sets the kernel parameters of findings\n" +
			"with a code. It exits with 3 if there are findings, other than those that it fixed.",
		Args: cobra.NoArgs,
	}
	c.Flags().StringSliceVar(&fix, "fix", nil, "fix the findings with this `code`; can be repeated")
	out := formatFlag(c, "text", "json", "yaml")
	c.RunE = func(c *cobra.Command, _ []string) error {
		return t.with(c.Context(), func(d *nftdp.Dataplane) error { return t.doctor(c.Context(), d, fix, out.value) })
	}
	return c
}

func (t *tool) doctor(ctx context.Context, d *nftdp.Dataplane, fix []string, format string) error {
	found, err := d.Doctor(ctx)
	if err != nil {
		return err
	}
	var fixed, left []nftdp.Finding
	var errs []error
	for _, f := range found {
		if !slices.Contains(fix, string(f.Code)) {
			left = append(left, f)
			continue
		}
		if err := d.Fix(ctx, f); err != nil {
			errs = append(errs, err)
			left = append(left, f)
			continue
		}
		fixed = append(fixed, f)
	}
	for _, code := range fix {
		if !slices.ContainsFunc(found, func(f nftdp.Finding) bool { return string(f.Code) == code }) {
			errs = append(errs, fmt.Errorf("--fix %s: there is no such finding", code))
		}
	}
	if err := t.showFindings(format, fixed, left); err != nil {
		return err
	}
	if len(errs) > 0 {
		return errors.Join(errs...)
	}
	if len(left) > 0 {
		return &codeError{code: exitFindings}
	}
	return nil
}

func (t *tool) showFindings(format string, fixed, left []nftdp.Finding) error {
	if format != "text" {
		if left == nil {
			left = []nftdp.Finding{}
		}
		return t.data(format, left)
	}
	for _, f := range fixed {
		t.printf("%s %s: %s\n", t.paint(green, "fixed"), f.Code, f.Subject)
	}
	for _, f := range left {
		colour := map[nftdp.Severity]string{nftdp.SeverityError: red, nftdp.SeverityWarning: yellow}[f.Severity]
		if colour == "" {
			colour = faint
		}
		t.printf("%s %s: %s\n", t.paint(colour, f.Severity.String()), t.paint(bold, string(f.Code)), f.Subject)
		t.printf("  %s\n  %s\n", f.Evidence, f.Remedy)
		switch {
		case f.Fixable():
			t.printf("  run: nftdp doctor --fix %s\n", f.Code)
		case f.Command != "":
			t.printf("  run: %s\n", f.Command)
		}
	}
	if len(left) == 0 {
		t.printf("nothing is wrong with this node\n")
	}
	return nil
}
