//go:build linux

package nstest

import (
	"fmt"
	"net/netip"
	"strings"
)

// Answer is a server's answer: its name, and the client's address as it sees
// it.
type Answer struct {
	Server string         // the server's name
	Client netip.AddrPort // the source address of the connection at the server
}

// String returns the answer in the form in which it is sent.
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
