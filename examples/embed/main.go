//go:build linux

// Command embed programs the services of a file in the network namespace in
// which it runs, and prints what it changed. Run it again after editing the
// file: it changes only what differs.
//
//	go build -o /tmp/embed ./examples/embed
//	unshare -Urn /tmp/embed -services examples/embed/services.json
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
	dry := flag.Bool("dry-run", false, "print what would be changed, and change nothing")
	flag.Parse()
	if *file == "" || flag.NArg() > 0 {
		flag.Usage()
		os.Exit(2)
	}
	log.SetFlags(0)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	plan, err := embed(ctx, *file, *dry)
	if errors.Is(err, fs.ErrPermission) {
		log.Fatalf("%v\nrun this as root, or try it in a namespace of its own: unshare -Urn %s …", err, os.Args[0])
	}
	if err != nil {
		log.Fatal(err)
	}
	fmt.Print(plan)
}

func embed(ctx context.Context, file string, dry bool) (*nftdp.Plan, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	services, err := nftdp.ParseServices(text)
	if err != nil {
		return nil, fmt.Errorf("%s:\n%w", file, err)
	}
	dataplane, err := nftdp.Config{}.Open(ctx)
	if err != nil {
		return nil, err
	}
	defer dataplane.Close() // The rules stay.
	required, err := dataplane.Requirements(ctx)
	if err != nil {
		return nil, err
	}
	for _, r := range required {
		if !r.Met() {
			log.Printf("sysctl -w %s=%s is needed: %s", r.Name, r.Want, r.Why)
		}
	}
	if dry {
		return dataplane.Plan(ctx, services)
	}
	return dataplane.Apply(ctx, services)
}
