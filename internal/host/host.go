//go:build linux

// Package host implements engine.Kernel by the running kernel: nf_tables,
// conntrack, addresses and parameters of one network namespace.
package host

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"runtime"
	"strings"

	"github.com/nftdp/go-nftdp/internal/address"
	"github.com/nftdp/go-nftdp/internal/around"
	"github.com/nftdp/go-nftdp/internal/conntrack"
	"github.com/nftdp/go-nftdp/internal/engine"
	"github.com/nftdp/go-nftdp/internal/flows"
	"github.com/nftdp/go-nftdp/internal/kernel"
	"github.com/nftdp/go-nftdp/internal/netlink"
	"github.com/nftdp/go-nftdp/internal/ruleset"
	"github.com/nftdp/go-nftdp/internal/sysctl"
	"github.com/nftdp/go-nftdp/internal/trace"
)

// Here stands for the network namespace of the calling thread.
const Here = netlink.Here

// Host is a network namespace of the running kernel. It opens all sockets at the
// beginning: later, the thread may be in another namespace, and entering this one
// again takes CAP_SYS_ADMIN.
type Host struct {
	rules
	aside   *kernel.Conn
	monitor *kernel.Monitor
	flows   *conntrack.Conn
	address *address.Conn
	moves   *address.Monitor
	closers []io.Closer // of all that is open
}

type rules = *kernel.Conn

// Open opens the network namespace of a file descriptor, which may be closed
// afterwards, or Here. Its Monitor decodes elements of those sets of a table for
// which sets returns a declaration.
func Open(ns int, table string, sets func(name string) *ruleset.Set) (_ *Host, err error) {
	if ns == Here { // all sockets have to be opened by one thread
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
	}
	h := &Host{}
	defer func() {
		if err != nil {
			err = errors.Join(err, h.Close())
		}
	}()
	if h.rules, err = kernel.Dial(ns); err != nil {
		return nil, err
	}
	h.closers = append(h.closers, h.rules)
	if h.aside, err = kernel.Dial(ns); err != nil {
		return nil, err
	}
	h.closers = append(h.closers, h.aside)
	if h.monitor, err = kernel.NewMonitor(ns, h.Port(), table, sets); err != nil {
		return nil, err
	}
	h.closers = append(h.closers, h.monitor)
	if h.flows, err = conntrack.Dial(ns); err != nil {
		return nil, err
	}
	h.closers = append(h.closers, h.flows)
	if h.address, err = address.Dial(ns); err != nil {
		return nil, err
	}
	h.closers = append(h.closers, h.address)
	if h.moves, err = address.NewMonitor(ns); err != nil {
		return nil, err
	}
	h.closers = append(h.closers, h.moves)
	return h, nil
}

// Close closes all sockets.
func (h *Host) Close() error {
	var errs []error
	for _, c := range h.closers {
		errs = append(errs, c.Close())
	}
	return errors.Join(errs...)
}

// Route implements engine.Surroundings.
func (h *Host) Route(ctx context.Context, q around.Query) (around.Route, around.Refusal, error) {
	return h.address.Route(ctx, q)
}

// Device implements engine.Surroundings.
func (h *Host) Device(ctx context.Context, name string) (around.Device, error) {
	return h.address.Device(ctx, name)
}

// Neighbours implements engine.Surroundings.
func (h *Host) Neighbours(ctx context.Context, hops []around.Hop) ([]around.Neighbour, error) {
	return h.address.Neighbours(ctx, hops)
}

// Foreign implements engine.Surroundings.
func (h *Host) Foreign(ctx context.Context, f ruleset.Family, table string) ([]map[string]*around.Chain, error) {
	return h.aside.Foreign(ctx, f, func(in ruleset.Family, name string) bool {
		return name == table && in == f || strings.HasPrefix(name, trace.TablePrefix)
	})
}

// Aside returns a Reader with sockets of its own.
func (h *Host) Aside() engine.Reader { return h.aside }

// SetEventBuffer sets how many bytes of events may wait in the kernel.
func (h *Host) SetEventBuffer(n int) error { return h.monitor.SetBuffer(n) }

// Monitor returns the monitor of the namespace's transactions.
func (h *Host) Monitor() engine.Monitor { return h.monitor }

// AddressMonitor returns the monitor of the namespace's addresses.
func (h *Host) AddressMonitor() engine.AddressMonitor { return h.moves }

// Waker returns a Waker for the events of transactions and, with addresses, for those
// of addresses.
func (h *Host) Waker(addresses bool) (engine.Waker, error) {
	sockets := []*netlink.Socket{h.monitor.Socket()}
	if addresses {
		sockets = append(sockets, h.moves.Socket())
	}
	w, err := netlink.NewWaker(sockets...)
	if err != nil {
		return nil, err
	}
	return w, nil
}

// Flows returns the namespace's conntrack.
func (h *Host) Flows() flows.Kernel { return tracker{h.flows, h.address} }

type tracker struct {
	*conntrack.Conn
	*addresses
}

type addresses = address.Conn

func (tracker) Settle(ctx context.Context) error { return kernel.Settle(ctx) }

// Sysctl reads a kernel parameter of the namespace. Those of conntrack exist once
// its module is loaded, for which the first request to it is a reason.
func (h *Host) Sysctl(ctx context.Context, name string) (string, error) {
	value, err := h.sysctl(name)
	if !errors.Is(err, fs.ErrNotExist) || !strings.HasPrefix(name, "net.netfilter.") {
		return value, err
	}
	nothing := func(*conntrack.Flow) bool { return false }
	if _, err := h.flows.List(ctx, conntrack.Filter{Family: ruleset.IPv4}, nothing); ctx.Err() != nil {
		return "", err
	}
	return h.sysctl(name)
}

func (h *Host) sysctl(name string) (value string, err error) {
	err = h.inNamespace(func() error { value, err = sysctl.Get(name); return err })
	return value, err
}

// SetSysctl writes a kernel parameter of the namespace.
func (h *Host) SetSysctl(_ context.Context, name, value string) error {
	return h.inNamespace(func() error { return sysctl.Set(name, value) })
}

// inNamespace runs a function on a thread in the namespace.
func (h *Host) inNamespace(do func() error) error {
	ns, err := h.Socket().Namespace()
	if err != nil {
		return err
	}
	defer ns.Close()
	return sysctl.In(int(ns.Fd()), do)
}

// Tracer opens a Tracer of the namespace.
func (h *Host) Tracer(table string) (t engine.Tracer, err error) {
	err = h.inNamespace(func() error { t, err = kernel.NewTracer(Here, table); return err })
	if err != nil {
		return nil, err
	}
	return t, nil
}
