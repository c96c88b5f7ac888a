//go:build linux

package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"

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
// ClusterIP in front of three HTTP servers.
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

// readServices reads a file and checks it, so that every mistake is told
// before anything is built.
func readServices(file string) ([]nftdp.Service, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	services, err := parseServices(text)
	if err == nil {
		err = nftdp.Config{}.Validate(services)
	}
	if err != nil {
		return nil, fmt.Errorf("%s:\n%w", file, err)
	}
	return services, nil
}

// parseServices takes one JSON array and refuses fields that it does not know,
// since a misspelt field would silently mean its zero value.
func parseServices(text []byte) ([]nftdp.Service, error) {
	var raw []json.RawMessage
	if err := json.Unmarshal(text, &raw); err != nil {
		if syntax, ok := errors.AsType[*json.SyntaxError](err); ok {
			return nil, fmt.Errorf("line %d: %w", 1+bytes.Count(text[:syntax.Offset], []byte("\n")), err)
		}
		return nil, fmt.Errorf("not an array of services: %w", err)
	}
	services := make([]nftdp.Service, len(raw))
	var errs []error
	for i, r := range raw {
		d := json.NewDecoder(bytes.NewReader(r))
		d.DisallowUnknownFields()
		if err := d.Decode(&services[i]); err != nil {
			errs = append(errs, fmt.Errorf("services[%d]: %w", i, err))
		}
	}
	return services, errors.Join(errs...)
}
