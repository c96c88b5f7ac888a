package nftdp

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"github.com/nftdp/go-nftdp/internal/engine"
)

// Requirement is a kernel parameter of the namespace for which services need a
// certain value.
type Requirement struct {
	Name string `json:"name"` // as for sysctl(8): "net.ipv4.ip_forward"
	Want string `json:"want"` // the value that services need: "1" for on
	Have string `json:"have"` // the value that was read
	Why  string `json:"why"`  // what does not work otherwise
}

// Met reports whether the requirement is met. All parameters are switches: any value
// but 0 is on.
func (r Requirement) Met() bool { return r.Have != "0" }

// String returns one line: "net.ipv4.ip_forward = 0, want 1: …".
func (r Requirement) String() string {
	if r.Met() {
		return fmt.Sprintf("%s = %s", r.Name, r.Have)
	}
	return fmt.Sprintf("%s = %s, want %s: %s", r.Name, r.Have, r.Want, r.Why)
}

// requirements lists the parameters that services need.
//
// Conntrack calls a TCP segment INVALID that is outside of the window which it has
// tracked, and NAT leaves it as it is. From a backend it reaches the client as one of
// a connection that the client does not know; from a client it reaches the node's own
// stack instead of the backend. Both answer with a reset. No rule can translate such
// a packet, and none can tell whether it is ours, since it has no connection
// (nf_conntrack_in sets none): by addresses and ports, a rule would also drop what
// is sent past the services, of which conntrack has seen one direction only. With
// tcp_be_liberal the segment is translated like any other, and the TCP of its
// receiver judges it (tcp_in_window in net/netfilter/nf_conntrack_proto_tcp.c).
func requirements() []Requirement {
	return []Requirement{
		{Name: "net.ipv4.ip_forward", Want: "1", Why: "IPv4 connections from outside do not reach backends outside this namespace"},
		{Name: "net.ipv6.conf.all.forwarding", Want: "1", Why: "IPv6 connections from outside do not reach backends outside this namespace"},
		{
			Name: "net.netfilter.nf_conntrack_tcp_be_liberal", Want: "1",
			Why: "a TCP segment outside of the window that conntrack has tracked is not translated, and the answer to it resets the connection",
		},
	}
}

// Requirements lists the kernel parameters of the namespace that services need, met
// or not: net.ipv4.ip_forward, net.ipv6.conf.all.forwarding and
// net.netfilter.nf_conntrack_tcp_be_liberal. It changes nothing; of all methods, only
// MeetRequirements and Fix change parameters. It leaves out what the kernel does not have:
// IPv6 if it runs without it (ipv6.disable=1), and conntrack's parameter if there is
// no conntrack over netlink, by which it makes the kernel load conntrack.
//
// No services are needed: an agent prepares its node by these before the first Apply.
// Doctor asks what the services need that the kernel holds.
//
// A node whose services have only local clients, or only backends in the namespace
// itself, does not need forwarding. Requirements does not look for filters that drop
// forwarded packets, or for interfaces whose own forwarding is turned off: Doctor does,
// and for much else. A local
// process reaches a frontend only if the node has some route to its address.
//
// If the process is in another namespace than the Dataplane and lacks CAP_SYS_ADMIN,
// the error matches fs.ErrPermission; otherwise CAP_NET_ADMIN suffices, as for all
// methods.
func (d *Dataplane) Requirements(ctx context.Context) (out []Requirement, err error) {
	err = d.engine.Sysctls(ctx, func(s engine.Sysctls) error {
		out, err = readRequirements(ctx, s)
		return err
	})
	return out, err
}

// MeetRequirements sets the parameters that are not met, and returns them, each with
// the value that it had before. If one fails, those set before it are returned
// together with the error, which matches fs.ErrPermission as for Requirements, and
// syscall.EROFS if /proc/sys is mounted read-only, as container engines do. Remove
// and Close do not restore the former values.
//
// Think before you call it: the namespace becomes a router, for everything that its
// filters let through. The kernel copies forwarding to every interface, and an
// interface that forwards IPv6 no longer accepts addresses and routes from router
// advertisements, unless its accept_ra is 2. With tcp_be_liberal, `ct state invalid`
// of a firewall no longer matches TCP segments outside of the window, except resets.
func (d *Dataplane) MeetRequirements(ctx context.Context) (changed []Requirement, err error) {
	err = d.engine.Sysctls(ctx, func(s engine.Sysctls) error {
		all, err := readRequirements(ctx, s)
		if err != nil {
			return err
		}
		for _, r := range all {
			if r.Met() {
				continue
			}
			if err := s.SetSysctl(ctx, r.Name, r.Want); err != nil {
				return err
			}
			changed = append(changed, r)
		}
		return nil
	})
	return changed, err
}

func readRequirements(ctx context.Context, s engine.Sysctls) ([]Requirement, error) {
	var out []Requirement
	for _, r := range requirements() {
		var err error
		r.Have, err = s.Sysctl(ctx, r.Name)
		switch {
		case err == nil:
			out = append(out, r)
		case !errors.Is(err, fs.ErrNotExist) || strings.HasPrefix(r.Name, "net.ipv4."):
			return nil, err
		}
	}
	return out, nil
}
