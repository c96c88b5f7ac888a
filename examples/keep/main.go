//go:build linux

// Command keep lets a service be repaired whenever somebody else damages it:
// an element of a map is deleted, a chain is emptied, all tables are. The
// network is made of namespaces that are gone afterwards.
//
//	go run ./examples/keep
package main

import (
	"context"
	"errors"
	"fmt"
	"log"
	"net/netip"
	"time"

	"github.com/google/nftables"

	"github.com/nftdp/go-nftdp/internal/nstest"
	"github.com/nftdp/go-nftdp/nftdp"
)

// timeout is for what takes some milliseconds.
const timeout = 10 * time.Second

func main() {
	err := nstest.Reexec()
	if err == nil {
		err = run(context.Background())
	}
	if err != nil {
		log.Fatal(err)
	}
}

func run(ctx context.Context) (err error) {
	t, err := nstest.NewTopology(1)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, t.Close()) }()
	server, err := nstest.Serve(t.Backends[0], "backend-1", 8080, "tcp")
	if err != nil {
		return err
	}
	defer server.Close()
	dataplane, err := nftdp.Config{}.OpenIn(ctx, t.Node.Handle())
	if err != nil {
		return err
	}
	defer dataplane.Close()
	return keep(ctx, t, dataplane)
}

// keep programs a service and lets it be kept while it is damaged.
func keep(ctx context.Context, t *nstest.Topology, dataplane *nftdp.Dataplane) error {
	a := nstest.IPv4()
	_, err := dataplane.Apply(ctx, []nftdp.Service{{
		Name:      "shop/web",
		Frontends: []nftdp.Frontend{{Addr: a.Node, Port: 80}},
		Backends:  []nftdp.Backend{{Addr: netip.AddrPortFrom(a.Backend(0), 8080)}},
	}})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	repaired, ended := make(chan *nftdp.Drift), make(chan error, 1)
	go func() {
		ended <- dataplane.Keep(ctx, func(drift *nftdp.Drift, err error) {
			if err != nil {
				log.Print(err) // Keep tries again.
				return
			}
			repaired <- drift
		})
	}()
	if err := damageAll(ctx, t, repaired); err != nil {
		return err
	}
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

// damageAll damages the service in one way after the other.
func damageAll(ctx context.Context, t *nstest.Topology, repaired <-chan *nftdp.Drift) error {
	table := &nftables.Table{Family: nftables.TableFamilyIPv4, Name: nftdp.DefaultTable}
	for _, damage := range []struct {
		name string
		do   func(*nftables.Conn)
	}{
		{"the map of frontends is emptied", func(c *nftables.Conn) {
			c.FlushSet(&nftables.Set{Table: table, Name: "frontends"})
		}},
		{"a chain is emptied", func(c *nftables.Conn) {
			c.FlushChain(&nftables.Chain{Table: table, Name: "prerouting"})
		}},
		{"everything is deleted, as `nft flush ruleset` does", (*nftables.Conn).FlushRuleset},
	} {
		conn, err := nftables.New(nftables.WithNetNSFd(int(t.Node.Handle())))
		if err != nil {
			return err
		}
		damage.do(conn)
		begin := time.Now()
		if err := conn.Flush(); err != nil {
			return err
		}
		select {
		case drift := <-repaired:
			fmt.Printf("\n%s: repaired after %v, which took %d changes\n",
				damage.name, time.Since(begin).Round(10*time.Microsecond), drift.Len())
			for _, p := range drift.By {
				fmt.Printf("it was %s\n", p.Name)
			}
		case <-ctx.Done():
			return ctx.Err()
		}
		answer, err := nstest.Dial(t.Client, "tcp", netip.Addr{}, netip.AddrPortFrom(nstest.IPv4().Node, 80), timeout)
		if err != nil {
			return err
		}
		fmt.Println("the client is answered by", answer.Server)
	}
	return nil
}
