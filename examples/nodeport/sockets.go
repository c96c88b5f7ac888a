//go:build linux

package main

import (
	"context"
	"fmt"

	"github.com/nftdp/go-nftdp/nftdp"
)

// showListeners looks for sockets of the node on the services' ports.
func (l *lab) showListeners(context.Context) error {
	l.heading("Sockets of the node on these ports")
	found := 0
	for _, protocol := range []nftdp.Protocol{nftdp.ProtocolTCP, nftdp.ProtocolUDP} {
		sockets, err := l.Node.Listening(protocol.String())
		if err != nil {
			return err
		}
		for _, addr := range sockets {
			if owner := l.ownerOf(protocol, addr.Port()); owner != "" {
				found++
				fmt.Fprintf(l.out, "%v %v, a port of service %q\n", protocol, addr, owner)
			}
		}
	}
	if found == 0 {
		fmt.Fprintln(l.out, "none")
	}
	return nil
}

// ownerOf names the service that takes the port, or is empty.
func (l *lab) ownerOf(protocol nftdp.Protocol, port uint16) string {
	for _, s := range l.services {
		for _, f := range s.Frontends {
			if s.Protocol == protocol && f.Port == port {
				return s.Name
			}
		}
	}
	return ""
}
