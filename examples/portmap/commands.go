//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"
	current "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/cni/pkg/version"

	"github.com/nftdp/go-nftdp/nftdp"
)

// errTaken is this plugin's own code of an error: a port of the node is published
// already. CNI leaves the codes from 100 on to plugins.
const errTaken = 100

// request is what the runtime asks for.
type request struct {
	*config
	attachment
	services []nftdp.Service // of ADD and CHECK
}

// newRequest reads a request about an attachment that exists.
func newRequest(args *skel.CmdArgs) (*request, error) {
	c, err := parse(args.StdinData, true)
	if err != nil {
		return nil, err
	}
	if c.RawPrevResult == nil {
		return nil, wrong(types.ErrInvalidNetworkConfig, "there is no prevResult: list portmap after the plugin that makes the interface")
	}
	if err := version.ParsePrevResult(&c.PluginConf); err != nil {
		return nil, wrong(types.ErrDecodingFailure, "read prevResult: %v", err)
	}
	result, err := current.NewResultFromResult(c.PrevResult)
	if err != nil {
		return nil, wrong(types.ErrDecodingFailure, "read prevResult: %v", err)
	}
	r := &request{config: c, attachment: c.attachment(args)}
	r.services, err = c.services(r.attachment, containerAddrs(result, args.IfName))
	return r, err
}

func (c *config) attachment(args *skel.CmdArgs) attachment {
	return attachment{c.Dataplane.Owner, c.Name, args.ContainerID, args.IfName}
}

// add publishes the container's ports, all or none.
func add(ctx context.Context, args *skel.CmdArgs) error {
	r, err := newRequest(args)
	if err != nil {
		return err
	}
	if len(r.services) > 0 {
		err = r.locked(ctx, func(d *nftdp.Dataplane) error { return r.publish(ctx, d) })
	}
	if err != nil {
		return err
	}
	return types.PrintResult(r.PrevResult, r.CNIVersion)
}

func (r *request) publish(ctx context.Context, d *nftdp.Dataplane) error {
	change := nftdp.Change{Set: r.services}
	if _, err := d.Update(ctx, change); err != nil {
		return r.explain(ctx, d, err)
	}
	err := r.remember(r.attachment, r.services)
	if err != nil {
		_, undo := d.Update(ctx, nftdp.Change{Delete: names(r.services)})
		err = errors.Join(err, undo)
	}
	return err
}

func names(services []nftdp.Service) (out []string) {
	for _, s := range services {
		out = append(out, s.Name)
	}
	return out
}

// explain names the container that has published a port of the node before.
func (r *request) explain(ctx context.Context, d *nftdp.Dataplane, err error) error {
	if _, ok := errors.AsType[*nftdp.FieldError](err); !ok {
		return fmt.Errorf("publish ports: %w", err)
	}
	held, inspected := d.Inspect(ctx)
	if inspected != nil {
		return errors.Join(err, inspected)
	}
	by := frontendsOf(held)
	for _, s := range r.services {
		for _, f := range s.Frontends {
			k := frontend{s.Protocol, netip.AddrPortFrom(f.Addr, f.Port)}
			if other, ok := by[k]; ok && !strings.HasPrefix(other.service, r.prefix()) {
				return types.NewError(errTaken, fmt.Sprintf("host port %v is already published for %s", k, holder(r.owner, other.service)), err.Error())
			}
		}
	}
	return wrong(types.ErrInvalidNetworkConfig, "publish ports: %v", err)
}

// del withdraws the container's ports. Whatever is missing is no error: the runtime
// may call it again, or after a restart of the node, and with less of the
// configuration than it called ADD with.
func del(ctx context.Context, args *skel.CmdArgs) error {
	c, err := parse(args.StdinData, false)
	if err != nil {
		return err
	}
	a := c.attachment(args)
	return c.withdraw(ctx, func(of string) bool { return of == a.prefix() }, a.owner+"/")
}

// collect withdraws the ports of all containers of the network but those that the
// runtime lists.
func collect(ctx context.Context, args *skel.CmdArgs) error {
	c, err := parse(args.StdinData, false)
	if err != nil {
		return err
	}
	valid := map[string]bool{}
	for _, v := range c.ValidAttachments {
		valid[attachment{c.Dataplane.Owner, c.Name, v.ContainerID, v.IfName}.prefix()] = true
	}
	return c.withdraw(ctx, func(of string) bool { return !valid[of] }, networkPrefix(c.Dataplane.Owner, c.Name))
}

// withdraw deletes the services of attachments, which are known by the beginning of
// their names, within those whose names begin with a prefix. What the kernel holds is
// what counts.
func (c *config) withdraw(ctx context.Context, which func(attachment string) bool, within string) error {
	return c.locked(ctx, func(d *nftdp.Dataplane) error {
		held, err := d.Inspect(ctx)
		if err != nil {
			return fmt.Errorf("withdraw ports: %w", err)
		}
		var gone []string
		for _, s := range held {
			if strings.HasPrefix(s.Name, within) && which(attachmentOf(s.Name)) {
				gone = append(gone, s.Name)
			}
		}
		err = c.forget(func(of string) bool { return strings.HasPrefix(of, within) && which(of) })
		if err != nil || len(gone) == 0 {
			return err
		}
		if _, err := d.Update(ctx, nftdp.Change{Delete: gone}); err != nil {
			return fmt.Errorf("withdraw ports: %w", err)
		}
		return nil
	})
}

// attachmentOf returns the beginning of a service's name: all but protocol and port.
func attachmentOf(service string) string {
	parts := strings.SplitAfter(service, "/")
	return strings.Join(parts[:max(0, len(parts)-2)], "")
}

// check compares what the kernel holds with what ADD has programmed.
func check(ctx context.Context, args *skel.CmdArgs) error {
	r, err := newRequest(args)
	if err != nil || len(r.services) == 0 {
		return err
	}
	return r.locked(ctx, func(d *nftdp.Dataplane) error {
		held, err := d.Inspect(ctx)
		if err != nil {
			return fmt.Errorf("check ports: %w", err)
		}
		by := frontendsOf(held)
		for _, s := range r.services {
			for _, f := range s.Frontends {
				k := frontend{s.Protocol, netip.AddrPortFrom(f.Addr, f.Port)}
				if got := by[k]; got.service != s.Name || !leads(s, f, got.backends) {
					return fmt.Errorf("host port %v does not lead to port %d of the container", k, s.Backends[0].Addr.Port())
				}
			}
		}
		return nil
	})
}

// status says whether ports can be published.
func status(ctx context.Context, args *skel.CmdArgs) error {
	c, err := parse(args.StdinData, true)
	if err != nil {
		return err
	}
	err = c.locked(ctx, func(d *nftdp.Dataplane) error {
		_, err := d.Plan(ctx, nil) // Of all that ADD can meet, it changes nothing.
		return err
	})
	if err != nil {
		return wrong(types.ErrPluginNotAvailable, "ports cannot be published: %v", err)
	}
	return nil
}

// frontend is a port of the node. Its address is unspecified for all addresses.
type frontend struct {
	protocol nftdp.Protocol
	netip.AddrPort
}

func (f frontend) String() string { return fmt.Sprintf("%v/%v", f.AddrPort, f.protocol) }

type target struct {
	service  string
	backends []nftdp.BackendStatus
}

// frontendsOf returns where the kernel leads connections to the node's ports.
func frontendsOf(held []nftdp.ServiceStatus) map[frontend]target {
	out := map[frontend]target{}
	for _, s := range held {
		for _, f := range s.Frontends {
			out[frontend{s.Protocol, netip.AddrPortFrom(f.Addr, f.Port)}] = target{s.Name, f.Backends}
		}
	}
	return out
}

// leads reports whether a frontend of the service leads to its backend alone.
func leads(s nftdp.Service, f nftdp.Frontend, backends []nftdp.BackendStatus) bool {
	return len(backends) == 1 && slices.ContainsFunc(s.Backends, func(b nftdp.Backend) bool {
		return b.Addr == backends[0].Addr && b.Addr.Addr().Is4() == f.Addr.Is4()
	})
}
