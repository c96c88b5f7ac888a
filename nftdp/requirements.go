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
func requirements() []Requirement {
	return []Requirement{
		{Name: "net.ipv4.ip_forward", Want: "1", Why: "IPv4 connections from outside do not reach backends outside this namespace"},
		{Name: "net.ipv6.conf.all.forwarding", Want: "1", Why: "IPv6 connections from outside do not reach backends outside this namespace"},
	}
}

// Requirements lists the kernel parameters of the namespace that services need, met
// or not: net.ipv4.ip_forward and net.ipv6.conf.all.forwarding. It changes nothing; of all
// methods, only MeetRequirements changes parameters. IPv6 is left out if the kernel
// runs without it (ipv6.disable=1).
//
// A node whose services have only local clients, or only backends in the namespace
// itself, does not need forwarding. Requirements does not look for filters that drop
// forwarded packets, or for interfaces whose own forwarding is turned off. A local
// process reaches a frontend only if the node has some route to its address.
//
// If the process is in another namespace than the Dataplane and lacks CAP_SYS_ADMIN,
// the error matches fs.ErrPermission; otherwise CAP_NET_ADMIN suffices, as for all
// methods.
func (d *Dataplane) Requirements(ctx context.Context) (out []Requirement, err error) {
	err = d.engine.Sysctls(ctx, func(s engine.Sysctls) error {
		out, err = readRequirements(s)
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
// advertisements, unless its accept_ra is 2.
func (d *Dataplane) MeetRequirements(ctx context.Context) (changed []Requirement, err error) {
	err = d.engine.Sysctls(ctx, func(s engine.Sysctls) error {
		all, err := readRequirements(s)
		if err != nil {
			return err
		}
		for _, r := range all {
			if r.Met() {
				continue
			}
			if err := s.SetSysctl(r.Name, r.Want); err != nil {
				return err
			}
			changed = append(changed, r)
		}
		return nil
	})
	return changed, err
}

func readRequirements(s engine.Sysctls) ([]Requirement, error) {
	var out []Requirement
	for _, r := range requirements() {
		var err error
		r.Have, err = s.Sysctl(r.Name)
		switch {
		case err == nil:
			out = append(out, r)
		case !errors.Is(err, fs.ErrNotExist) || !strings.HasPrefix(r.Name, "net.ipv6."):
			return nil, err
		}
	}
	return out, nil
}
