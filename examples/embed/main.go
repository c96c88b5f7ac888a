//go:build linux

// Command embed programs the services of a JSON file in the network namespace
// in which it runs, and prints what it changed. Run it again after editing the
// file: it changes only what differs. It needs CAP_NET_ADMIN; to try it:
//
//	go build -o /tmp/embed ./examples/embed
//	sudo unshare --net /tmp/embed examples/embed/services.json
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"log"
	"os"

	"github.com/nftdp/go-nftdp/nftdp"
)

func main() {
	if len(os.Args) != 2 {
		log.Fatal("usage: embed FILE")
	}
	plan, err := program(context.Background(), os.Args[1])
	if err != nil {
		log.Fatal(err)
	}
	fmt.Print(plan)
}

func program(ctx context.Context, file string) (*nftdp.Plan, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	var services []nftdp.Service
	if err := json.Unmarshal(text, &services); err != nil {
		return nil, err
	}
	dataplane, err := nftdp.Config{}.Open(ctx)
	if err != nil {
		return nil, err
	}
	defer dataplane.Close() // The rules stay.
	return dataplane.Apply(ctx, services)
}
