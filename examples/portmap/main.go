//go:build linux

// Command portmap is a CNI plugin that publishes ports of containers on the node, in
// the place of the reference plugin of that name. README.md says how to configure it.
//
// As a plugin it runs once for each request of the container runtime, and the rules
// need no process. "portmap agent" is a process that repairs them when a firewall has
// flushed them.
package main

import (
	"context"
	"flag"
	"fmt"
	"log"
	"os"
	"os/signal"
	"syscall"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"
	"github.com/containernetworking/cni/pkg/version"
)

func main() {
	if len(os.Args) > 1 && os.Args[1] == "agent" {
		runAgent(os.Args[2:])
		return
	}
	skel.PluginMainFuncs(skel.CNIFuncs{
		Add: command(add), Del: command(del), Check: command(check), GC: command(collect), Status: command(status),
	}, version.All, "CNI plugin portmap of nftdp. It also runs as: portmap agent")
}

// command adds a context, which ends when the runtime ends the plugin.
func command(run func(context.Context, *skel.CmdArgs) error) func(*skel.CmdArgs) error {
	return func(args *skel.CmdArgs) error {
		ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
		defer stop()
		return run(ctx, args)
	}
}

func runAgent(args []string) {
	conf := defaults()
	flags := flag.NewFlagSet("portmap agent", flag.ExitOnError)
	flags.StringVar(&conf.StateDir, "state", conf.StateDir, "`directory` with the published ports: the plugin's stateDir")
	flags.Func("dataplane", "JSON `object`: the plugin's dataplane", conf.setDataplane)
	_ = flags.Parse(args) // ExitOnError
	if flags.NArg() > 0 {
		fmt.Fprintln(flags.Output(), "portmap agent takes no arguments")
		os.Exit(2)
	}
	log.SetFlags(log.Ltime)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := keep(ctx, conf); ctx.Err() == nil {
		log.Fatal(err)
	}
}

// wrong is the error of a request that cannot be met as it is.
func wrong(code uint, format string, args ...any) error {
	return types.NewError(code, fmt.Sprintf(format, args...), "")
}
