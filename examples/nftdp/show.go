//go:build linux

package main

import (
	"cmp"
	"fmt"
	"net/netip"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/nftdp/go-nftdp/nftdp"
)

func (t *tool) listCommand() *cobra.Command {
	c := &cobra.Command{
		Use:     "list",
		Aliases: []string{"ls"},
		Short:   "List the services that the kernel holds, with counters",
		Long: "list reads from the kernel which services it holds. Connections are those that began at\n" +
			"a frontend since it exists. wide has a line for each backend; nft is what nft -f loads.",
		Args: cobra.NoArgs,
	}
	out := formatFlag(c, "table", "wide", "json", "yaml", "nft")
	c.RunE = func(c *cobra.Command, _ []string) error {
		return t.with(c.Context(), func(d *nftdp.Dataplane) error {
			if out.value == "nft" {
				rules, err := d.Ruleset(c.Context())
				if err == nil {
					t.printf("%v", rules)
				}
				return err
			}
			services, err := d.Inspect(c.Context())
			if err != nil {
				return err
			}
			return t.list(out.value, services)
		})
	}
	return c
}

func (t *tool) list(format string, services []nftdp.ServiceStatus) error {
	switch {
	case format == "json" || format == "yaml":
		return t.data(format, services)
	case len(services) == 0:
		t.printf("the kernel holds no services. To program some: nftdp apply -f FILE\n")
		return nil
	case format == "wide":
		return t.columns(wideRows(services))
	}
	var rows [][]string
	for i := range services {
		s := &services[i]
		for j := range s.Frontends {
			f := &s.Frontends[j]
			rows = append(rows, []string{s.Name, s.Protocol.String(), frontend(f), backends(f), number(f.Counter.Connections)})
		}
	}
	return t.columns([]string{"SERVICE", "PROTOCOL", "FRONTEND", "BACKENDS", "CONNECTIONS"}, rows)
}

func wideRows(services []nftdp.ServiceStatus) (heading []string, rows [][]string) {
	for i := range services {
		s := &services[i]
		for j := range s.Frontends {
			f := &s.Frontends[j]
			lead := []string{s.Name, s.Protocol.String(), frontend(f)}
			if len(f.Backends) == 0 {
				rows = append(rows, append(lead, backends(f), "", number(f.Counter.Connections)))
			}
			for _, b := range f.Backends {
				row := append(slices.Clone(lead), address(b.Addr), share(f, b), number(b.Counter.Connections))
				rows = append(rows, row)
			}
		}
	}
	return []string{"SERVICE", "PROTOCOL", "FRONTEND", "BACKEND", "SHARE", "CONNECTIONS"}, rows
}

// frontend names a frontend: "10.96.0.10:80", "*:80 (ip)" if it is node-wide.
func frontend(f *nftdp.FrontendStatus) string {
	port := strconv.Itoa(int(f.Port))
	if f.EndPort != 0 {
		port += "-" + strconv.Itoa(int(f.EndPort))
	}
	switch {
	case f.Addr == netip.IPv4Unspecified():
		return "*:" + port + " (ip)"
	case f.Addr == netip.IPv6Unspecified():
		return "*:" + port + " (ip6)"
	case f.Addr.Is6():
		return "[" + f.Addr.String() + "]:" + port
	}
	return f.Addr.String() + ":" + port
}

// address is a backend. Port 0 is the one that the client connects to.
func address(a netip.AddrPort) string {
	if a.Port() == 0 {
		return a.Addr().String()
	}
	return a.String()
}

// backends is how many backends a frontend has, or what happens without one.
func backends(f *nftdp.FrontendStatus) string {
	switch {
	case f.NoBackend == nil:
		return strconv.Itoa(len(f.Backends))
	case len(f.Backends) > 0:
		return fmt.Sprintf("%d, none for external clients: %v", len(f.Backends), *f.NoBackend)
	}
	return fmt.Sprintf("none: %v", *f.NoBackend)
}

// share is the part of a frontend's connections that a backend is to get.
func share(f *nftdp.FrontendStatus, b nftdp.BackendStatus) string {
	all := 0
	for _, other := range f.Backends {
		all += other.Slots
	}
	return fmt.Sprintf("%.1f %%", 100*float64(b.Slots)/float64(all))
}

func number(n uint64) string { return strconv.FormatUint(n, 10) }

func (t *tool) getCommand() *cobra.Command {
	c := &cobra.Command{
		Use:               "get SERVICE",
		Short:             "Show one service with frontends, backends, flows and clients with affinity",
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: t.completeService,
	}
	out := formatFlag(c, "text", "json", "yaml")
	c.RunE = func(c *cobra.Command, args []string) error {
		return t.with(c.Context(), func(d *nftdp.Dataplane) error {
			s, err := find(c.Context(), d, args[0])
			if err != nil {
				return err
			}
			flows, err := d.Flows(c.Context(), s.Name)
			if err != nil {
				return err
			}
			affinities, err := d.Affinities(c.Context())
			if err != nil {
				return err
			}
			affinities = slices.DeleteFunc(affinities, func(a nftdp.Affinity) bool { return a.Service != s.Name })
			if out.value != "text" {
				return t.data(out.value, detail{*s, flows, affinities})
			}
			return t.describe(s, flows, affinities)
		})
	}
	return c
}

// detail is what get prints as data.
type detail struct {
	nftdp.ServiceStatus
	Flows      []nftdp.Flow     `json:"flows"`
	Affinities []nftdp.Affinity `json:"affinities"`
}

func (t *tool) describe(s *nftdp.ServiceStatus, flows []nftdp.Flow, affinities []nftdp.Affinity) error {
	t.printf("%s, %v\n", t.paint(bold, s.Name), s.Protocol)
	for i := range s.Frontends {
		f := &s.Frontends[i]
		t.printf("\nfrontend %s: %s\n", frontend(f), count(int(f.Counter.Connections), "connection"))
		if f.NoBackend != nil {
			t.printf("  %s\n", t.paint(yellow, "backends: "+backends(f)))
		}
		var rows [][]string
		for _, b := range f.Backends {
			rows = append(rows, []string{"  " + address(b.Addr), share(f, b), number(b.Counter.Connections), number(uint64(flowsTo(flows, f, b.Addr)))})
		}
		if len(rows) > 0 {
			if err := t.columns([]string{"  BACKEND", "SHARE", "CONNECTIONS", "FLOWS"}, rows); err != nil {
				return err
			}
		}
	}
	if len(affinities) > 0 {
		t.printf("\nclients with affinity: %d\n", len(affinities))
	}
	return nil
}

// flowsTo counts the flows from a frontend to a backend that have not ended.
func flowsTo(flows []nftdp.Flow, f *nftdp.FrontendStatus, to netip.AddrPort) (n int) {
	for _, flow := range flows {
		port := flow.Frontend.Port()
		from := f.Addr == flow.Frontend.Addr() || f.Addr.IsUnspecified() && f.Addr.Is4() == flow.Frontend.Addr().Is4()
		backend := flow.Backend == to || to.Port() == 0 && flow.Backend.Addr() == to.Addr()
		if from && backend && !flow.Ended && port >= f.Port && port <= max(f.Port, f.EndPort) {
			n++
		}
	}
	return n
}

func (t *tool) versionCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the version of this program and of the library",
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			info, ok := debug.ReadBuildInfo()
			if !ok {
				t.printf("nftdp, built without module information\n")
				return nil
			}
			t.printf("nftdp %s, %s\n", cmp.Or(info.Main.Version, "(devel)"), info.GoVersion)
			for _, m := range info.Deps {
				if strings.HasSuffix(m.Path, "/go-nftdp") {
					t.printf("library %s\n", m.Version)
				}
			}
			return nil
		},
	}
}
