//go:build linux

package main

import (
	"context"
	"errors"
	"net/netip"

	"github.com/spf13/cobra"

	"github.com/nftdp/go-nftdp/nftdp"
)

// tracing is which packets are followed, and how they are shown.
type tracing struct {
	filter              nftdp.TraceFilter
	source, destination string
	full                bool
	count               int
}

func (t *tool) traceCommand() *cobra.Command {
	var f tracing
	c := &cobra.Command{
		Use:   "trace",
		Short: "Follow live packets through all tables, and say what happened to them and why",
		Long: "trace follows live packets through all tables of the namespace, whoever made them, and\n" +
			"prints a line for each: time, source > destination, service → backend, verdict, and a code\n" +
			"that says why. It ends with Ctrl-C, or after --count packets.",
		Args: cobra.NoArgs,
	}
	flags := c.Flags()
	flags.StringVarP(&f.filter.Service, "service", "s", "", "packets to the frontends of this `service`")
	flags.StringVarP(&f.filter.Protocol, "protocol", "p", "", "tcp, udp, sctp, icmp or icmpv6")
	flags.StringVar(&f.source, "src", "", "source `address` or prefix")
	flags.StringVar(&f.destination, "dst", "", "destination `address` or prefix, before translation")
	flags.Uint16Var(&f.filter.SourcePort, "sport", 0, "source `port`")
	flags.Uint16Var(&f.filter.DestinationPort, "dport", 0, "destination `port`, before translation")
	flags.StringVarP(&f.filter.Interface, "in", "i", "", "`device` on which the packets arrive")
	flags.BoolVarP(&f.filter.Replies, "replies", "r", false, "also the replies")
	flags.IntVar(&f.filter.Rate, "rate", nftdp.DefaultTraceRate, "the most packets per second")
	flags.BoolVar(&f.full, "full", false, "every rule that a packet matches")
	flags.IntVarP(&f.count, "count", "n", 0, "end after so many packets")
	out := formatFlag(c, "text", "json")
	_ = c.RegisterFlagCompletionFunc("service", t.completeService)
	c.RunE = func(c *cobra.Command, _ []string) (err error) {
		if f.filter.Source, err = prefix("--src", f.source); err != nil {
			return err
		}
		if f.filter.Destination, err = prefix("--dst", f.destination); err != nil {
			return err
		}
		return t.with(c.Context(), func(d *nftdp.Dataplane) error { return t.trace(c.Context(), d, &f, out.value) })
	}
	return c
}

// prefix reads a prefix, or an address as the prefix of itself.
func prefix(flag, s string) (netip.Prefix, error) {
	if s == "" {
		return netip.Prefix{}, nil
	}
	if a, err := netip.ParseAddr(s); err == nil {
		return netip.PrefixFrom(a, a.BitLen()), nil
	}
	p, err := netip.ParsePrefix(s)
	if err != nil {
		return p, usage("%s %q is neither an address nor a prefix, as in 10.0.0.0/8", flag, s)
	}
	return p, nil
}

func (t *tool) trace(ctx context.Context, d *nftdp.Dataplane, f *tracing, format string) error {
	n := 0
	for found, err := range d.Trace(ctx, f.filter) {
		switch {
		case ctx.Err() != nil:
			return nil // Ctrl-C is its end
		case errors.Is(err, nftdp.ErrMissed):
			t.warnf("%v: use a narrower filter, or a lower --rate\n", err)
			continue
		case err != nil:
			return known(f.filter.Service, err)
		}
		switch {
		case format == "json":
			if err := t.line(found); err != nil {
				return err
			}
		case f.full:
			t.printf("%s\n", found.Full())
		default:
			t.printf("%s\n", t.paint(traceColour(found), found.String()))
		}
		if n++; n == f.count {
			return nil
		}
	}
	return nil
}

func traceColour(found *nftdp.Trace) string {
	switch found.Code {
	case nftdp.CodeDelivered:
		return green
	case nftdp.CodeNoService:
		return faint
	default:
		return red
	}
}
