package nftdptest

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"

	"github.com/nftdp/go-nftdp/internal/engine"
	"github.com/nftdp/go-nftdp/internal/flows"
	"github.com/nftdp/go-nftdp/internal/ruleset"
)

// kernel is a node as one Dataplane sees it. It implements engine.Kernel and
// flows.Kernel, where its methods are described.
type kernel struct {
	node    *Node
	port    uint32
	monitor *monitor
}

func (k *kernel) Generation(ctx context.Context) (uint32, error) {
	k.node.mu.Lock()
	defer k.node.mu.Unlock()
	return k.node.generation, ctx.Err()
}

func (k *kernel) Tables(ctx context.Context, table string) (*ruleset.Ruleset, error) {
	out, err := k.Read(ctx, table, ruleset.Families[:], func(ruleset.Family, string) bool { return false })
	for _, t := range out.Tables {
		t.Sets, t.Chains = nil, nil
	}
	return out, err
}

func (k *kernel) Read(ctx context.Context, table string, families []ruleset.Family,
	elements func(f ruleset.Family, set string) bool,
) (*ruleset.Ruleset, error) {
	k.node.mu.Lock()
	defer k.node.mu.Unlock()
	out := &ruleset.Ruleset{}
	if i := named(k.node.tables, table); i >= 0 {
		out = ruleset.Apply(k.node.tables[i].rules, nil) // a copy
	}
	out.Tables = slices.DeleteFunc(out.Tables, func(t *ruleset.Table) bool { return !slices.Contains(families, t.Family) })
	for _, t := range out.Tables {
		for _, s := range t.Sets {
			if !elements(t.Family, s.Name) {
				s.Elements = nil
			}
		}
	}
	return out, ctx.Err()
}

func (k *kernel) ReadElements(ctx context.Context, t *ruleset.Table, s *ruleset.Set, _ []ruleset.Tuple) error {
	k.node.mu.Lock()
	defer k.node.mu.Unlock()
	held := k.node.set(place{t.Family, t.Name, s.Name})
	if held == nil {
		return errors.Join(ruleset.ErrStale, ctx.Err()) // it was deleted meanwhile
	}
	if !held.Dynamic {
		s.Elements = slices.Clone(held.Elements)
	}
	return ctx.Err()
}

// Aside returns the same: every method locks the node.
func (k *kernel) Aside() engine.Reader { return k }

func (k *kernel) ReadCounters(ctx context.Context, c *ruleset.Change, elements []ruleset.Element, each func(*ruleset.Element)) error {
	k.node.mu.Lock()
	defer k.node.mu.Unlock()
	s := k.node.set(place{c.Family, c.Table, c.Set.Name})
	if s == nil {
		return ctx.Err()
	}
	held := index(s)
	for i := range elements {
		if e := held[elements[i].Key]; e != nil {
			elements[i].Packets, elements[i].Bytes = e.Packets, e.Bytes
			if each != nil {
				each(&elements[i])
			}
		}
	}
	return ctx.Err()
}

func (k *kernel) Commit(ctx context.Context, generation uint32, changes []ruleset.Change) (uint32, error) {
	k.node.mu.Lock()
	defer k.node.mu.Unlock()
	if len(changes) == 0 {
		return generation, nil
	}
	if err := errors.Join(ctx.Err(), k.node.stale(generation)); err != nil {
		return 0, err
	}
	err := k.node.commit(k.port, changes)
	return k.node.generation, err
}

// Size is not asked for, as no batch is too big.
func (k *kernel) Size([]ruleset.Change) (int, error) { return 0, nil }

func (k *kernel) Port() uint32 { return k.port }

func (k *kernel) Monitor() engine.Monitor { return k.monitor }

func (k *kernel) AddressMonitor() engine.AddressMonitor { return fixed{} }

func (k *kernel) Waker(bool) (engine.Waker, error) { return &waker{monitor: k.monitor}, nil }

func (k *kernel) Flows() flows.Kernel { return k }

func (k *kernel) Sysctl(_ context.Context, name string) (string, error) {
	k.node.mu.Lock()
	defer k.node.mu.Unlock()
	value, ok := k.node.sysctls[name]
	if !ok {
		return "", fmt.Errorf("read sysctl %s: %w", name, fs.ErrNotExist)
	}
	return value, nil
}

func (k *kernel) SetSysctl(ctx context.Context, name, value string) error {
	if _, err := k.Sysctl(ctx, name); err != nil {
		return err
	}
	k.node.mu.Lock()
	defer k.node.mu.Unlock()
	k.node.sysctls[name] = value
	return nil
}

// Close makes orphans of the tables that the Dataplane owns.
func (k *kernel) Close() error {
	k.node.mu.Lock()
	defer k.node.mu.Unlock()
	for _, of := range k.node.tables {
		for _, t := range of.rules.Tables {
			if t.Port == k.port {
				t.Port, t.Flags = 0, t.Flags&^ruleset.Owner
			}
		}
	}
	delete(k.node.monitors, k.monitor)
	return nil
}
