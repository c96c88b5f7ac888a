//go:build linux

// Command keep programs the services of a file in the network namespace in
// which it runs, and repairs what others do to them until it is interrupted:
// elements deleted by hand, a flush of the ruleset by a firewall. It prints what
// it repaired and who it was. The services stay when it ends.
//
//	go build -o /tmp/keep ./examples/keep
//	unshare -Urn sh -c '/tmp/keep -services examples/embed/services.json & sleep 1; nft flush ruleset; sleep 1; kill $!'
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"log"
	"os"
	"os/signal"
	"syscall"

	"github.com/nftdp/go-nftdp/nftdp"
)

func main() {
	file := flag.String("services", "", "JSON `file` with an array of services (required)")
	verbose := flag.Bool("v", false, "print every command of a repair")
	flag.Parse()
	if *file == "" || flag.NArg() > 0 {
		flag.Usage()
		os.Exit(2)
	}
	log.SetFlags(log.Ltime)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	err := keep(ctx, *file, *verbose)
	if errors.Is(err, fs.ErrPermission) {
		log.Fatalf("%v\nrun this as root, or try it in a namespace of its own: unshare -Urn %s …", err, os.Args[0])
	}
	if err != nil && ctx.Err() == nil { // To be interrupted is its end.
		log.Fatal(err)
	}
}

func keep(ctx context.Context, file string, verbose bool) error {
	text, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	services, err := nftdp.ParseServices(text)
	if err != nil {
		return fmt.Errorf("%s:\n%w", file, err)
	}
	dataplane, err := nftdp.Config{}.Open(ctx)
	if err != nil {
		return err
	}
	defer dataplane.Close()
	plan, err := dataplane.Apply(ctx, services)
	if err != nil {
		return err
	}
	log.Printf("programmed %d services with %d changes, and keeping them", len(services), plan.Len())
	return dataplane.Keep(ctx, func(drift *nftdp.Drift, err error) {
		if err != nil {
			log.Printf("trying again after: %v", err)
		}
		if drift == nil {
			return
		}
		log.Printf("repaired with %d changes", drift.Len())
		for _, p := range drift.By {
			log.Printf("it was %s, thread %d", p.Name, p.PID)
		}
		if verbose {
			fmt.Print(drift)
		}
	})
}
