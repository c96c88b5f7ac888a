//go:build linux

package main

import (
	"cmp"
	"fmt"
	"net/netip"
	"os"
	"strings"

	"github.com/nftdp/go-nftdp/internal/nstest"
	"github.com/nftdp/go-nftdp/nftdp"
)

// The built-in service and the topology around it.
const (
	podCount = 3
	podPort  = 8080
	nodePort = 30644
)

// webService is the built-in service: port 80 of the node, a NodePort and a
// ClusterIP in front of three servers.
func webService(a nstest.Addrs) nftdp.Service {
	anyAddr := netip.IPv4Unspecified()
	if a.Node.Is6() {
		anyAddr = netip.IPv6Unspecified()
	}
	s := nftdp.Service{
		Name: "demo/web:http",
		Frontends: []nftdp.Frontend{
			{Addr: a.Node, Port: 80},
			{Addr: anyAddr, Port: nodePort},
			{Addr: a.ClusterIP, Port: 80},
		},
	}
	for i := range podCount {
		s.Backends = append(s.Backends, nftdp.Backend{Addr: netip.AddrPortFrom(a.Backend(i), podPort)})
	}
	return s
}

// readServices reads a file and checks it, so that every mistake is reported
// before anything is built.
func readServices(file string) ([]nftdp.Service, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	services, err := nftdp.ParseServices(text)
	if err != nil {
		return nil, fmt.Errorf("%s:\n%w", file, err)
	}
	return services, nil
}

// How services are printed.

func frontendsOf(s nftdp.Service) string {
	return list(s.Frontends, "no frontend", func(f nftdp.Frontend) string { return frontendWords(f.Addr, f.Port) })
}

func frontendWords(a netip.Addr, port uint16) string {
	switch a {
	case netip.Addr{}:
		return fmt.Sprintf("any node address:%d", port)
	case netip.IPv4Unspecified():
		return fmt.Sprintf("any node IPv4:%d", port)
	case netip.IPv6Unspecified():
		return fmt.Sprintf("any node IPv6:%d", port)
	}
	return netip.AddrPortFrom(a, port).String()
}

func (n *node) backendsOf(s nftdp.Service) string {
	return list(s.Backends, "no backend", func(b nftdp.Backend) string {
		if b.State != nftdp.StateActive {
			return fmt.Sprintf("%s (%v)", n.Name(b.Addr), b.State)
		}
		return n.Name(b.Addr)
	})
}

func (n *node) countsOf(f nftdp.FrontendStatus) string {
	if f.NoBackend != nil {
		return "none: " + f.NoBackend.String()
	}
	return list(f.Backends, "", func(b nftdp.BackendStatus) string {
		return fmt.Sprintf("%s %d", n.Name(b.Addr), b.Counter.Connections)
	})
}

func list[T any](all []T, none string, word func(T) string) string {
	var words []string
	for _, x := range all {
		words = append(words, word(x))
	}
	return cmp.Or(strings.Join(words, ", "), none)
}
