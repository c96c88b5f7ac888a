//go:build linux

package address

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/nftdp/go-nftdp/internal/netlink"
	"github.com/nftdp/go-nftdp/internal/ruleset"
)

// Monitor notices that the local addresses of a network namespace may have changed.
// Before Join it receives nothing. It is not safe for concurrent use.
type Monitor struct{ socket *netlink.Socket }

// NewMonitor opens a socket in the network namespace of a file descriptor, or
// netlink.Here.
func NewMonitor(ns int) (*Monitor, error) {
	s, err := netlink.Dial(unix.NETLINK_ROUTE, ns)
	if err != nil {
		return nil, err
	}
	return &Monitor{s}, nil
}

// groups returns the multicast groups with the events of local addresses. The kernel
// sends no event for every local route that goes with an address (fib_flush in
// net/ipv4/fib_frontend.c), so addresses count, too.
func groups() []uint32 {
	return []uint32{
		unix.RTNLGRP_IPV4_ROUTE, unix.RTNLGRP_IPV6_ROUTE,
		unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV6_IFADDR,
	}
}

// Join begins to receive events.
func (m *Monitor) Join() error {
	for _, g := range groups() {
		if err := m.socket.Conn().JoinGroup(g); err != nil {
			return fmt.Errorf("join netlink group: %w", err)
		}
	}
	return nil
}

// Leave stops receiving events.
func (m *Monitor) Leave() error {
	for _, g := range groups() {
		if err := m.socket.Conn().LeaveGroup(g); err != nil {
			return fmt.Errorf("leave netlink group: %w", err)
		}
	}
	return nil
}

// Close closes the socket.
func (m *Monitor) Close() error { return m.socket.Close() }

// Socket returns the socket that receives the events, to wait for them.
func (m *Monitor) Socket() *netlink.Socket { return m.socket }

// Changed returns the families whose local addresses may have changed since the last
// call: all if events were lost. LocalAddrs then reads what they are.
func (m *Monitor) Changed() ([]ruleset.Family, error) {
	var changed [len(ruleset.Families)]bool
	err := m.socket.Drain(func(msg *netlink.Message) error {
		for i, f := range ruleset.Families {
			changed[i] = changed[i] || concerns(msg, f)
		}
		return nil
	})
	switch {
	case errors.Is(err, netlink.ErrLost):
		return ruleset.Families[:], nil
	case err != nil:
		return nil, fmt.Errorf("receive changes of addresses: %w", err)
	}
	var out []ruleset.Family
	for i, f := range ruleset.Families {
		if changed[i] {
			out = append(out, f)
		}
	}
	return out, nil
}

// concerns reports whether an event is about a local address of a family. Both
// kinds of message begin with the family.
func concerns(msg *netlink.Message, f ruleset.Family) bool {
	if len(msg.Data) == 0 || msg.Data[0] != byte(f) {
		return false
	}
	switch msg.Type {
	case unix.RTM_NEWADDR, unix.RTM_DELADDR:
		return true
	case unix.RTM_NEWROUTE, unix.RTM_DELROUTE:
		return len(msg.Data) >= unix.SizeofRtMsg && msg.Data[7] == unix.RTN_LOCAL
	}
	return false
}
