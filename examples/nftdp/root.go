//go:build linux

package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"github.com/vishvananda/netns"

	"github.com/nftdp/go-nftdp/nftdp"
)

// tool is one run.
type tool struct {
	in          io.Reader
	out, errOut io.Writer
	colour      bool // of out
	began       bool // the command line is right

	netns, table, owner string
	files               []string
}

func (t *tool) root() *cobra.Command {
	root := &cobra.Command{
		Use:           "nftdp",
		Short:         "Program services into nftables, and see what becomes of connections to them",
		Long:          "nftdp programs services into nftables, and shows what becomes of connections to them.\n\n" + filesHelp + "\n\n" + exitCodes,
		SilenceErrors: true, SilenceUsage: true,
		PersistentPreRun: func(*cobra.Command, []string) { t.began = true },
		Args:             cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return errors.Join(c.Help(), usage("which command?"))
		},
	}
	flags := root.PersistentFlags()
	flags.StringVar(&t.netns, "netns", "", "network `namespace`: a name of ip-netns(8), a path, or the number of a process in it")
	flags.StringVar(&t.table, "table", "", "name of the tables (default \"nftdp\", or what the files say)")
	flags.StringVar(&t.owner, "owner", "", "whose services they are, in tables that several programs share")
	flags.StringSliceVarP(&t.files, "file", "f", nil, "`file` or directory of services, YAML or JSON; - is standard input; can be repeated")
	root.AddGroup(&cobra.Group{ID: "change", Title: "Change:"}, &cobra.Group{ID: "look", Title: "Look:"}, &cobra.Group{ID: "flows", Title: "Connections:"})
	for _, c := range []struct {
		group string
		list  []*cobra.Command
	}{
		{"change", []*cobra.Command{t.applyCommand(), t.planCommand(), t.keepCommand(), t.removeCommand()}},
		{"look", []*cobra.Command{t.listCommand(), t.getCommand(), t.topCommand(), t.explainCommand(), t.doctorCommand(), t.traceCommand(), t.watchCommand()}},
		{"flows", []*cobra.Command{t.flowsCommand(), t.drainCommand(), t.cutCommand()}},
		{"", []*cobra.Command{t.demoCommand(), t.versionCommand()}},
	} {
		for _, command := range c.list {
			command.GroupID = c.group
			root.AddCommand(command)
		}
	}
	return root
}

const filesHelp = `A file is a list of services, or an object with the fields "services" and "config",
in YAML (of one or more documents) or JSON. Field names are those of the Go types Service
and Config of github.com/nftdp/go-nftdp/nftdp in JSON. One of the files may have a config,
which holds for all of them, and for every command that gets the file by -f.

    config:
      nodeAddrs: [192.168.0.0/24]
    services:
    - name: demo/web:http
      frontends: [{port: 80}]
      backends: [{addr: "10.180.0.1:8080"}]`

// wanted reads the files.
func (t *tool) wanted() (*wanted, error) {
	if len(t.files) == 0 {
		return nil, usage("which services? Name a file: -f FILE, or -f - for standard input")
	}
	return t.read()
}

// read reads the files, if there are any. Flags have precedence over what files say.
func (t *tool) read() (*wanted, error) {
	w := &wanted{}
	if len(t.files) > 0 {
		var err error
		if w, err = read(t.files, t.in); err != nil {
			return nil, err
		}
	}
	w.config.Table = cmp.Or(t.table, w.config.Table)
	w.config.Owner = cmp.Or(t.owner, w.config.Owner)
	return w, nil
}

// open opens the namespace.
func (t *tool) open(ctx context.Context, c nftdp.Config) (*nftdp.Dataplane, error) {
	if t.netns == "" {
		return c.Open(ctx)
	}
	ns, err := namespace(t.netns)
	if err != nil {
		return nil, err
	}
	defer ns.Close()
	return c.OpenIn(ctx, ns)
}

// with opens the namespace to look at it, and runs a function.
func (t *tool) with(ctx context.Context, fn func(*nftdp.Dataplane) error) (err error) {
	w, err := t.read()
	if err != nil {
		return err
	}
	d, err := t.open(ctx, w.config)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.Close()) }()
	return fn(d)
}

// namespace finds a network namespace by its name, its path, or a process in it.
func namespace(which string) (netns.NsHandle, error) {
	path := which
	if !strings.Contains(which, "/") {
		path = filepath.Join("/run/netns", which)
		if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
			if pid, err := strconv.ParseUint(which, 10, 32); err == nil {
				path = fmt.Sprintf("/proc/%d/ns/net", pid)
			}
		}
	}
	ns, err := netns.GetFromPath(path)
	if errors.Is(err, fs.ErrNotExist) {
		return ns, fmt.Errorf("--netns %s: there is no %s: use a name that `ip netns list` has, a path, or the number of a process", which, path)
	}
	if err != nil {
		err = fmt.Errorf("--netns %s: %w", which, err)
	}
	return ns, err
}

// errNoService is an unknown service, for advice.
var errNoService = errors.New("no such service")

// find returns a service that the kernel holds.
func find(ctx context.Context, d *nftdp.Dataplane, name string) (*nftdp.ServiceStatus, error) {
	all, err := d.Inspect(ctx)
	if err != nil {
		return nil, err
	}
	i := slices.IndexFunc(all, func(s nftdp.ServiceStatus) bool { return s.Name == name })
	if i < 0 {
		return nil, fmt.Errorf("%q: %w in the kernel", name, errNoService)
	}
	return &all[i], nil
}

// completeService completes the name of a service by those that the kernel holds.
func (t *tool) completeService(c *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	var names []string
	_ = t.with(c.Context(), func(d *nftdp.Dataplane) error {
		all, err := d.Inspect(c.Context())
		for i := range all {
			names = append(names, all[i].Name)
		}
		return err
	}) // without privileges there is nothing to complete
	return names, cobra.ShellCompDirectiveNoFileComp
}
