package nftdptest

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"syscall"
	"time"

	"github.com/nftdp/go-nftdp/internal/ruleset"
)

// place names a dynamic map, to which packets add entries.
type place struct {
	family     ruleset.Family
	table, set string
}

// entries are those of one map, by key. Keys and data are as in the registers of
// the kernel, like those of a ruleset.Learned.
type entries map[string]*entry

type entry struct {
	data    []byte
	timeout time.Duration
	expires time.Duration // in the node's time
}

// learned are the entries that a packet to the tables of a name meets.
func (n *Node) learned(table string, f ruleset.Family) []ruleset.Learned {
	var out []ruleset.Learned
	for at, list := range n.entries {
		if at.table == table && at.family == f {
			for key, e := range list {
				out = append(out, ruleset.Learned{Map: at.set, Key: []byte(key), Data: e.data})
			}
		}
	}
	return out
}

// learn adds the entries that the rules make of a packet, or renews them. Of a
// path that was found with entries, the evaluator does not tell which ones it
// renews: they are those that the same path makes without any.
func (n *Node) learn(p *ruleset.Packet, w *way) {
	for _, path := range n.evaluate(w.of, p, nil) {
		if path.Outcome != w.path.Outcome {
			continue
		}
		for _, l := range path.Learned {
			n.put(place{p.Family(), w.of.name, l.Map}, l, timeoutOf(&path, l.Map))
		}
	}
}

// put adds an entry, unless the map is full, or renews it.
func (n *Node) put(at place, l ruleset.Learned, timeout time.Duration) {
	e := n.entries[at][string(l.Key)]
	if e == nil {
		if s := n.set(at); s.Size > 0 && len(n.entries[at]) >= int(s.Size) {
			return
		}
		if n.entries[at] == nil {
			n.entries[at] = entries{}
		}
		e = &entry{data: l.Data}
		n.entries[at][string(l.Key)] = e
	}
	e.timeout, e.expires = timeout, n.now+timeout
}

// timeoutOf is that of the rule on the way which updates a map.
func timeoutOf(path *ruleset.Path, set string) time.Duration {
	for _, step := range path.Trace {
		for _, s := range step.Rule {
			if u, ok := s.(ruleset.Update); ok && u.Map == set {
				return time.Duration(u.Seconds) * time.Second
			}
		}
	}
	return 0
}

// Entries implements engine.Kernel.
func (k *kernel) Entries(ctx context.Context, table string, f ruleset.Family, s *ruleset.Set) (out []ruleset.Entry, err error) {
	k.node.mu.Lock()
	defer k.node.mu.Unlock()
	at := place{f, table, s.Name}
	if k.node.set(at) == nil {
		return nil, fmt.Errorf("entries of %s %s %s: %w", f, table, s.Name, syscall.ENOENT)
	}
	for key, e := range k.node.entries[at] {
		out = append(out, ruleset.Entry{
			Key: split([]byte(key), s.Key, f), Data: split(e.data, s.Data, f), Timeout: e.timeout, Expires: e.expires - k.node.now,
		})
	}
	return out, ctx.Err()
}

// Settle implements flows.Kernel: packets take no time.
func (k *kernel) Settle(ctx context.Context) error { return ctx.Err() }

// CommitEntries implements engine.Kernel, in one transaction.
func (k *kernel) CommitEntries(ctx context.Context, generation uint32, c *ruleset.EntryChange) (done int, next uint32, err error) {
	k.node.mu.Lock()
	defer k.node.mu.Unlock()
	if err = errors.Join(ctx.Err(), k.node.stale(generation)); err == nil {
		if done, err = k.node.commitEntries(c); err == nil {
			k.node.publish(k.port, nil)
		}
	}
	if err != nil {
		return 0, generation, fmt.Errorf("%s entries of %s %s %s: %w", c.Verb, c.Family, c.Table, c.Set.Name, err)
	}
	return done, k.node.generation, nil
}

// commitEntries returns how many entries are there as wanted, or were deleted.
func (n *Node) commitEntries(c *ruleset.EntryChange) (done int, err error) {
	at := place{c.Family, c.Table, c.Set.Name}
	s := n.set(at)
	if s == nil {
		return 0, syscall.ENOENT
	}
	next := maps.Clone(n.entries[at])
	if next == nil {
		next = entries{}
	}
	for _, e := range c.Entries {
		key, data := string(ruleset.Registers(e.Key)), ruleset.Registers(e.Data)
		old := next[key]
		switch {
		case c.Verb == ruleset.Delete && old != nil:
			delete(next, key)
		case c.Verb == ruleset.Add && old == nil:
			next[key] = &entry{data, e.Timeout, n.now + cmp.Or(e.Expires, e.Timeout)}
		case c.Verb == ruleset.Delete || !bytes.Equal(old.data, data):
			continue // it has gone by itself, or another backend is remembered
		}
		done++
	}
	if s.Size > 0 && len(next) > int(s.Size) {
		return 0, syscall.ENFILE
	}
	n.entries[at] = next
	return done, nil
}

// split is the reverse of ruleset.Registers.
func split(registers []byte, types []ruleset.Type, f ruleset.Family) (fields [][]byte) {
	for _, t := range types {
		size := map[ruleset.Type]int{ruleset.Addr: f.AddrLen(), ruleset.Proto: 1, ruleset.Port: 2}[t]
		fields = append(fields, registers[:size])
		registers = registers[t.Len(f):]
	}
	return fields
}
