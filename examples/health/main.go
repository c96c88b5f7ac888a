//go:build linux

// Command health programs the services of a file in the network namespace in which it
// runs, checks their backends, and takes those out of service that do not work, until
// it is interrupted. It prints what it finds. The services stay when it ends.
//
//	go build -o /tmp/health ./examples/health
//	unshare -Urn sh -c 'ip link set lo up; timeout 5 /tmp/health -services examples/embed/services.json'
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
	"time"

	"github.com/nftdp/go-nftdp/nftdp"
	"github.com/nftdp/go-nftdp/nftdp/health"
)

func main() {
	file := flag.String("services", "", "JSON `file` with an array of services (required)")
	path := flag.String("http", "", "check by GET of this `path` in place of a TCP connection")
	grpc := flag.Bool("grpc", false, "check by gRPC's health protocol in place of a TCP connection")
	var check health.Check
	flag.DurationVar(&check.Interval, "interval", time.Second, "time between two checks of a backend")
	flag.Float64Var(&check.Panic, "panic", 0, "`share` of healthy backends, 0 to 1, below which all are used")
	flag.Parse()
	if *file == "" || *path != "" && *grpc || flag.NArg() > 0 {
		flag.Usage()
		os.Exit(2)
	}
	switch {
	case *path != "":
		check.Probe = health.HTTP{Path: *path}
	case *grpc:
		check.Probe = health.GRPC{}
	}
	log.SetFlags(log.Ltime)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	err := run(ctx, *file, check)
	if errors.Is(err, fs.ErrPermission) {
		log.Fatalf("%v\nrun this as root, or try it in a namespace of its own: unshare -Urn %s …", err, os.Args[0])
	}
	if err != nil && ctx.Err() == nil { // To be interrupted is its end.
		log.Fatal(err)
	}
}

func run(ctx context.Context, file string, check health.Check) error {
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
	checker := health.New(dataplane, health.Options{
		Check:  func(*nftdp.Service) *health.Check { return &check },
		Report: report,
	})
	if _, err := checker.Apply(ctx, services); err != nil {
		return err
	}
	log.Printf("checking %d backends", checker.Stats().Backends)
	return checker.Run(ctx)
}

func report(e health.Event) {
	switch {
	case e.Backend.IsValid() && e.Healthy:
		log.Printf("%s: %v is healthy again", e.Service, e.Backend)
	case e.Backend.IsValid():
		log.Printf("%s: %v has failed: %v", e.Service, e.Backend, e.Err)
	case e.Err != nil:
		log.Printf("%s: %v", e.Service, e.Err)
	case e.Panic:
		log.Printf("%s: too few backends are healthy: all are used", e.Service)
	default:
		log.Printf("%s: enough backends are healthy again", e.Service)
	}
}
