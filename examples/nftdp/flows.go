//go:build linux

package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/nftdp/go-nftdp/nftdp"
)

// serviceFlow is a flow with its service.
type serviceFlow struct {
	Service string `json:"service"`
	nftdp.Flow
}

func (t *tool) flowsCommand() *cobra.Command {
	var ended bool
	c := &cobra.Command{
		Use:   "flows [SERVICE…]",
		Short: "List the connections to services, of all or of some",
		Long: "flows lists the connections that began at the frontends of services. SOURCE is the client\n" +
			"as the backend sees it. The kernel walks its table of connections for each service.",
		ValidArgsFunction: t.completeService,
	}
	c.Flags().BoolVar(&ended, "ended", false, "also those that have ended, of which the kernel keeps the entries for a while")
	out := formatFlag(c, "table", "json", "yaml")
	c.RunE = func(c *cobra.Command, args []string) error {
		return t.with(c.Context(), func(d *nftdp.Dataplane) error {
			flows, err := flowsOf(c.Context(), d, args)
			if err != nil {
				return err
			}
			if !ended {
				flows = slices.DeleteFunc(flows, func(f serviceFlow) bool { return f.Ended })
			}
			return t.showFlows(out.value, flows)
		})
	}
	return c
}

// flowsOf returns the flows of some services, or of all, sorted.
func flowsOf(ctx context.Context, d *nftdp.Dataplane, names []string) ([]serviceFlow, error) {
	all, err := d.Inspect(ctx)
	if err != nil {
		return nil, err
	}
	if len(names) == 0 {
		for i := range all {
			names = append(names, all[i].Name)
		}
	}
	out := []serviceFlow{}
	for _, name := range names {
		flows, err := d.Flows(ctx, name)
		if err != nil {
			return nil, known(name, err)
		}
		for _, f := range flows {
			out = append(out, serviceFlow{name, f})
		}
	}
	slices.SortFunc(out, func(a, b serviceFlow) int {
		return cmp.Or(cmp.Compare(a.Service, b.Service), a.Frontend.Compare(b.Frontend), a.Client.Compare(b.Client))
	})
	return out, nil
}

// known says that a service is unknown by an error for which there is advice.
func known(name string, err error) error {
	if problem, ok := errors.AsType[*nftdp.FieldError](err); ok && problem.Field == "name" {
		return fmt.Errorf("%q: %w in the kernel", name, errNoService)
	}
	return err
}

func (t *tool) showFlows(format string, flows []serviceFlow) error {
	switch {
	case format != "table":
		return t.data(format, flows)
	case len(flows) == 0:
		t.printf("no flows\n")
		return nil
	}
	var rows [][]string
	for _, f := range flows {
		to, note := "none, it began before the frontend", ""
		if f.Backend.IsValid() {
			to = f.Backend.String()
		}
		if f.Ended {
			note = "ended"
		}
		rows = append(rows, []string{f.Service, f.Protocol.String(), f.Client.String(), f.Frontend.String(), to, f.Source.String(), note})
	}
	return t.columns([]string{"SERVICE", "PROTOCOL", "CLIENT", "FRONTEND", "BACKEND", "SOURCE", ""}, rows)
}

// addresses reads backends from arguments.
func addresses(args []string) (out []netip.AddrPort, err error) {
	for _, arg := range args {
		a, err := netip.ParseAddrPort(arg)
		if err != nil {
			return nil, usage("%q is no backend: write address and port, as in 10.0.0.1:8080 or [fd00::1]:8080", arg)
		}
		out = append(out, a)
	}
	return out, nil
}

func (t *tool) cutCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "cut SERVICE [BACKEND…]",
		Short: "End the connections of a service to backends at once",
		Long: "cut deletes the kernel's entries of the connections to backends. TCP connections break,\n" +
			"and UDP clients go to another backend. Without a backend, those to all backends that get\n" +
			"no new connections are cut: draining, down and removed ones.",
		Args:              cobra.MinimumNArgs(1),
		ValidArgsFunction: t.completeService,
		RunE: func(c *cobra.Command, args []string) error {
			backends, err := addresses(args[1:])
			if err != nil {
				return err
			}
			return t.with(c.Context(), func(d *nftdp.Dataplane) error {
				n, err := d.Cut(c.Context(), args[0], backends...)
				if err != nil {
					return known(args[0], err)
				}
				t.printf("cut %s\n", count(n, "flow"))
				return nil
			})
		},
	}
}

// draining is how backends are drained.
type draining struct {
	timeout time.Duration
	cut     bool
}

func (t *tool) drainCommand() *cobra.Command {
	var how draining
	c := &cobra.Command{
		Use:   "drain [-f FILE…] SERVICE [BACKEND…]",
		Short: "Let the connections to backends end",
		Long: "drain waits until no connection of a service leads to these backends any more, and prints\n" +
			"how many are left. With -f, it makes the backends draining first, so that they get no new\n" +
			"connections: the service is taken from the files, and only the state of its backends is\n" +
			"changed. Without -f, apply that before. Without a backend, it waits for all that get no new\n" +
			"connections. It exits with 4 if the time is over before.",
		Args:              cobra.MinimumNArgs(1),
		ValidArgsFunction: t.completeService,
		RunE: func(c *cobra.Command, args []string) error {
			backends, err := addresses(args[1:])
			if err != nil {
				return err
			}
			w, err := t.read()
			if err != nil {
				return err
			}
			change, err := w.drained(args[0], backends)
			if err != nil {
				return err
			}
			return t.with(c.Context(), func(d *nftdp.Dataplane) error {
				if _, err := find(c.Context(), d, args[0]); err != nil {
					return err
				}
				if len(change.Set) > 0 {
					if _, err := d.Update(c.Context(), change); err != nil {
						return err
					}
				}
				return t.drain(c.Context(), d, how, args[0], backends)
			})
		},
	}
	c.Flags().DurationVar(&how.timeout, "timeout", 0, "how long to wait (default: until all have ended)")
	c.Flags().BoolVar(&how.cut, "cut", false, "cut what is left when the time is over")
	return c
}

// drained returns the change that makes backends of a service draining.
func (w *wanted) drained(service string, backends []netip.AddrPort) (nftdp.Change, error) {
	if len(w.services) == 0 || len(backends) == 0 {
		return nftdp.Change{}, nil
	}
	for _, s := range w.services {
		if s.Name != service {
			continue
		}
		for _, b := range backends {
			i := slices.IndexFunc(s.Backends, func(of nftdp.Backend) bool { return of.Addr == b })
			if i < 0 {
				return nftdp.Change{}, fmt.Errorf("service %q has no backend %v in the files", service, b)
			}
			s.Backends[i].State = nftdp.StateDraining
		}
		return nftdp.Change{Set: []nftdp.Service{s}}, nil
	}
	return nftdp.Change{}, fmt.Errorf("the files have no service %q", service)
}

func (t *tool) drain(ctx context.Context, d *nftdp.Dataplane, how draining, service string, backends []netip.AddrPort) error {
	waiting, cancel := context.WithCancel(ctx)
	if how.timeout > 0 {
		waiting, cancel = context.WithTimeout(ctx, how.timeout)
	}
	defer cancel()
	progress := make(chan struct{})
	go func() {
		defer close(progress)
		t.showProgress(waiting, d, service, backends)
	}()
	left, err := d.Drain(waiting, service, backends...)
	cancel()
	<-progress
	switch {
	case err == nil:
		t.printf("drained: no flow is left\n")
		return nil
	case ctx.Err() != nil || !errors.Is(err, context.DeadlineExceeded):
		return err
	case how.cut:
		n, err := d.Cut(ctx, service, backends...)
		if err == nil {
			t.printf("cut %s that were left after %v\n", count(n, "flow"), how.timeout)
		}
		return err
	}
	return &codeError{exitFlowsLeft, fmt.Errorf("%s left after %v. To end them: nftdp cut %s%s",
		count(left, "flow"), how.timeout, service, arguments(backends))}
}

func arguments(backends []netip.AddrPort) (out string) {
	for _, b := range backends {
		out += " " + b.String()
	}
	return out
}

// showProgress prints how many flows lead to backends, once a second if it has changed.
func (t *tool) showProgress(ctx context.Context, d *nftdp.Dataplane, service string, backends []netip.AddrPort) {
	ticker := time.NewTicker(time.Second)
	defer ticker.Stop()
	for last := -1; ; {
		flows, err := d.Flows(ctx, service)
		if err != nil {
			return // Drain meets the same
		}
		n := 0
		for _, f := range flows {
			if !f.Ended && (len(backends) == 0 || slices.Contains(backends, f.Backend)) {
				n++
			}
		}
		if n != last && n > 0 {
			t.printf("waiting for %s%s\n", count(n, "flow"), map[bool]string{true: " of the service in all"}[len(backends) == 0])
		}
		last = n
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}
