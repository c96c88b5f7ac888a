//go:build linux

// Command drain takes a backend out of service without breaking a connection:
// it makes it draining, waits while its clients finish, and cuts those that do
// not. The network is made of namespaces that are gone afterwards.
//
//	go run ./examples/drain
package main

import (
	"context"
	"errors"
	"fmt"
	"log"
	"net/netip"
	"time"

	"github.com/nftdp/go-nftdp/internal/nstest"
	"github.com/nftdp/go-nftdp/nftdp"
)

const (
	connections = 8
	patience    = 2 * time.Second
	timeout     = 5 * time.Second // of an exchange, which takes no millisecond
)

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
	t, err := nstest.NewTopology(2)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, t.Close()) }()
	for _, b := range t.Backends {
		server, err := nstest.Serve(b, b.Name, 8080, "tcp")
		if err != nil {
			return err
		}
		defer server.Close()
	}
	dataplane, err := nftdp.Config{}.OpenIn(ctx, t.Node.Handle())
	if err != nil {
		return err
	}
	defer dataplane.Close()
	return replace(ctx, t, dataplane)
}

// replace moves a service from one backend to another one.
func replace(ctx context.Context, t *nstest.Topology, dataplane *nftdp.Dataplane) error {
	leaving, coming := backend(0), backend(1)
	web := nftdp.Service{Name: "shop/web", Frontends: []nftdp.Frontend{{Port: 80}}, Backends: []nftdp.Backend{leaving}}
	if _, err := dataplane.Apply(ctx, []nftdp.Service{web}); err != nil {
		return err
	}
	conns, err := connect(t.Client)
	if err != nil {
		return err
	}

	leaving.State = nftdp.StateDraining
	web.Backends = []nftdp.Backend{leaving, coming}
	if _, err := dataplane.Update(ctx, nftdp.Change{Set: []nftdp.Service{web}}); err != nil {
		return err
	}
	fmt.Println("backend-1 is draining; new connections go to:")
	if _, err := connect(t.Client); err != nil {
		return err
	}
	return finish(ctx, dataplane, web.Name, leaving.Addr, conns)
}

// finish waits for the connections to the backend, of which all but two end.
func finish(ctx context.Context, dataplane *nftdp.Dataplane, service string, leaving netip.AddrPort, conns []*nstest.Conn) error {
	for i, c := range conns {
		if err := c.Echo("still here?", timeout); err != nil {
			return fmt.Errorf("connection %d: %w", i, err)
		}
	}
	fmt.Println("all", len(conns), "connections to backend-1 go on; all but two of them end")
	for _, c := range conns[2:] {
		if err := c.Close(); err != nil {
			return err
		}
	}

	soon, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	left, err := dataplane.Drain(soon, service, leaving)
	if err != nil && !errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	fmt.Println(left, "are left after", patience)
	cut, err := dataplane.Cut(ctx, service, leaving)
	if err != nil {
		return err
	}
	fmt.Println(cut, "flows are cut")
	left, err = dataplane.Drain(ctx, service, leaving)
	fmt.Println(left, "are left: backend-1 may go")
	return err
}

// connect opens connections to the service and prints who answers.
func connect(client *nstest.Namespace) ([]*nstest.Conn, error) {
	counts := map[string]int{}
	conns := make([]*nstest.Conn, connections)
	for i := range conns {
		c, err := nstest.DialTCP(client, netip.Addr{}, netip.AddrPortFrom(nstest.IPv4().Node, 80), timeout)
		if err != nil {
			return nil, err
		}
		conns[i] = c
		counts[c.Answer.Server]++
	}
	for server, n := range counts {
		fmt.Printf("  %s: %d connections\n", server, n)
	}
	return conns, nil
}

func backend(i int) nftdp.Backend {
	return nftdp.Backend{Addr: netip.AddrPortFrom(nstest.IPv4().Backend(i), 8080)}
}
