//go:build linux

package nstest

import (
	"fmt"
	"net/netip"
	"strings"
)

// Answer is what a server says about itself and about whom it sees.
type Answer struct {
	Server string         // the server's name
	Client netip.AddrPort // the source address of the connection at the server
}

// String is the answer as it goes over the wire.
func (a Answer) String() string { return a.Server + " " + a.Client.String() }

func parseAnswer(s string) (Answer, error) {
	server, client, _ := strings.Cut(s, " ")
	addr, err := netip.ParseAddrPort(client)
	if err != nil {
		return Answer{}, fmt.Errorf("answer %q: %w", s, err)
	}
	return Answer{Server: server, Client: addr}, nil
}

// unmap removes the IPv4-mapped form that Go's net package returns.
func unmap(a netip.AddrPort) netip.AddrPort {
	return netip.AddrPortFrom(a.Addr().Unmap().WithZone(""), a.Port())
}
