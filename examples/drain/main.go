//go:build linux

// Command drain takes a backend out of service without breaking connections: it
// makes it draining, so that it takes no new ones, waits while those that it
// has end, and cuts what is left at the deadline. Interrupted, it cuts nothing,
// and the backend stays draining.
//
//	go build -o /tmp/drain ./examples/drain
//	unshare -Urn /tmp/drain -services examples/embed/services.json -service shop/web:http -backend 10.180.0.1:8080
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"log"
	"net/netip"
	"os"
	"os/signal"
	"slices"
	"syscall"
	"time"

	"github.com/nftdp/go-nftdp/nftdp"
)

func main() {
	var backend netip.AddrPort
	file := flag.String("services", "", "JSON `file` with an array of services (required)")
	name := flag.String("service", "", "`name` of the service (required)")
	flag.TextVar(&backend, "backend", backend, "`address:port` of the backend to drain (required)")
	patience := flag.Duration("deadline", 30*time.Second, "when to cut what is left")
	flag.Parse()
	if *file == "" || *name == "" || !backend.IsValid() || flag.NArg() > 0 {
		flag.Usage()
		os.Exit(2)
	}
	log.SetFlags(log.Ltime)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	err := drain(ctx, *file, *name, backend, *patience)
	switch {
	case err == nil:
		log.Printf("%v may stop now; remove it from %s, or the next to apply that uses it again", backend, *file)
	case ctx.Err() != nil:
		log.Printf("interrupted: %v stays draining, and nothing was cut", backend)
		os.Exit(130)
	case errors.Is(err, fs.ErrPermission):
		log.Fatalf("%v\nrun this as root, or try it in a namespace of its own: unshare -Urn %s …", err, os.Args[0])
	default:
		log.Fatal(err)
	}
}

// drain makes a backend draining and waits until nobody uses it any more.
func drain(ctx context.Context, file, name string, backend netip.AddrPort, patience time.Duration) error {
	service, err := readService(file, name)
	if err != nil {
		return err
	}
	i := slices.IndexFunc(service.Backends, func(b nftdp.Backend) bool { return b.Addr == backend })
	if i < 0 {
		return fmt.Errorf("%s: service %q has no backend %v", file, name, backend)
	}
	service.Backends[i].State = nftdp.StateDraining
	dataplane, err := nftdp.Config{}.Open(ctx)
	if err != nil {
		return err
	}
	defer dataplane.Close()
	if _, err := dataplane.Update(ctx, nftdp.Change{Set: []nftdp.Service{service}}); err != nil {
		return err
	}
	log.Printf("%v is draining", backend)
	if err := wait(ctx, dataplane, name, backend, patience); !errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	cut, err := dataplane.Cut(ctx, name, backend)
	if err == nil {
		log.Printf("%d connections are cut", cut)
	}
	return err
}

// wait returns when no connections are left, or DeadlineExceeded. It prints how
// many there are.
func wait(ctx context.Context, dataplane *nftdp.Dataplane, name string, backend netip.AddrPort, patience time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	printed := -1
	for left, err := range dataplane.Draining(ctx, name, backend) {
		if err != nil {
			return err
		}
		if left != printed {
			log.Printf("%d connections are left", left)
			printed = left
		}
	}
	return nil
}

// readService reads a file and returns one of its services.
func readService(file, name string) (nftdp.Service, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nftdp.Service{}, err
	}
	services, err := nftdp.ParseServices(text)
	if err != nil {
		return nftdp.Service{}, fmt.Errorf("%s:\n%w", file, err)
	}
	i := slices.IndexFunc(services, func(s nftdp.Service) bool { return s.Name == name })
	if i < 0 {
		return nftdp.Service{}, fmt.Errorf("%s: no service %q", file, name)
	}
	return services[i], nil
}
