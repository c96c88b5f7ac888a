//go:build linux

package kernel

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/nftdp/go-nftdp/internal/nfnl"
	"github.com/nftdp/go-nftdp/internal/ruleset"
)

// Generation reads the number of the namespace's rules: it moves with every
// change that anybody makes to them.
func (c *Conn) Generation(ctx context.Context) (uint32, error) {
	var generation uint32
	err := c.request(ctx, unix.NFT_MSG_GETGEN, 0, unix.AF_UNSPEC, nil, func(b []byte) error {
		const genID, header = 1, 4 // NFTA_GEN_ID
		if len(b) < header+8 || binary.NativeEndian.Uint16(b[header+2:]) != genID {
			return errMalformed
		}
		generation = binary.BigEndian.Uint32(b[header+4:])
		return nil
	})
	if err != nil {
		return 0, fmt.Errorf("read generation of the rules: %w", err)
	}
	return generation, nil
}

// Read reads the tables of that name, with counters, and the generation that
// they are of. ErrStale: they changed while being read.
func (c *Conn) Read(ctx context.Context, table string) (*ruleset.Ruleset, uint32, error) {
	return c.ReadPart(ctx, table, ruleset.Families[:], func(ruleset.Family, string) bool { return true })
}

// ReadPart is Read for some families, and there without the elements of sets
// which are not wanted.
func (c *Conn) ReadPart(ctx context.Context, table string, families []ruleset.Family,
	elements func(f ruleset.Family, set string) bool,
) (*ruleset.Ruleset, uint32, error) {
	before, err := c.Generation(ctx)
	if err != nil {
		return nil, 0, err
	}
	out := &ruleset.Ruleset{}
	for _, f := range families {
		t, err := c.readTable(ctx, table, f, func(set string) bool { return elements(f, set) })
		if errors.Is(err, unix.ENOENT) {
			return nil, 0, ErrStale // it went while being read
		}
		if err != nil {
			return nil, 0, fmt.Errorf("read table %s %s: %w", f, table, err)
		}
		if t != nil {
			out.Tables = append(out.Tables, t)
		}
	}
	after, err := c.Generation(ctx)
	if err != nil {
		return nil, 0, err
	}
	if before != after {
		return nil, 0, ErrStale
	}
	return out, after, nil
}

func (c *Conn) readTable(ctx context.Context, name string, f ruleset.Family, elements func(set string) bool) (*ruleset.Table, error) {
	t, err := c.ReadTable(ctx, name, f)
	if err != nil || t == nil {
		return nil, err
	}
	if err := c.readSets(ctx, t, elements); err != nil {
		return nil, err
	}
	for _, read := range []func(context.Context, *ruleset.Table) error{c.readChains, c.readRules} {
		if err := read(ctx, t); err != nil {
			return nil, err
		}
	}
	return t, nil
}

// ReadTable reads a table's own attributes, without what is in it; nil if
// there is none of that name.
func (c *Conn) ReadTable(ctx context.Context, name string, f ruleset.Family) (*ruleset.Table, error) {
	var t *ruleset.Table
	err := c.dump(ctx, unix.NFT_MSG_GETTABLE, f, nil, func(b []byte) error {
		got, err := nfnl.DecodeTable(b)
		if err == nil && got.Name == name {
			t = got
		}
		return err
	})
	return t, err
}

func (c *Conn) readSets(ctx context.Context, t *ruleset.Table, elements func(set string) bool) error {
	filter := nfnl.AppendAttrString(nil, unix.NFTA_SET_TABLE, t.Name)
	err := c.dump(ctx, unix.NFT_MSG_GETSET, t.Family, filter, func(b []byte) error {
		table, _, s, err := nfnl.DecodeSet(b)
		if err == nil && table == t.Name {
			t.Sets = append(t.Sets, s)
		}
		return err
	})
	if err != nil {
		return err
	}
	for _, s := range t.Sets {
		if s.Dynamic || !elements(s.Name) {
			continue // packets make the elements of dynamic ones: they are no part of the ruleset
		}
		if err := c.readElements(ctx, t, s); err != nil {
			return fmt.Errorf("elements of %s: %w", s.Name, err)
		}
	}
	return nil
}

func (c *Conn) readElements(ctx context.Context, t *ruleset.Table, s *ruleset.Set) error {
	filter := elementList(t.Name, s.Name)
	err := c.dump(ctx, unix.NFT_MSG_GETSETELEM, t.Family, filter, func(b []byte) error {
		_, _, err := nfnl.DecodeElements(b, s, t.Family, func(e ruleset.Element) {
			if n := len(s.Elements); n == cap(s.Elements) {
				s.Elements = slices.Grow(s.Elements, max(n, 64)) // append alone copies four times as much
			}
			s.Elements = append(s.Elements, e)
		})
		return err
	})
	s.Elements = nfnl.FoldIntervals(s, s.Elements)
	return err
}

func elementList(table, set string) []byte {
	b := nfnl.AppendAttrString(nil, unix.NFTA_SET_ELEM_LIST_TABLE, table)
	return nfnl.AppendAttrString(b, unix.NFTA_SET_ELEM_LIST_SET, set)
}

func (c *Conn) readChains(ctx context.Context, t *ruleset.Table) error {
	return c.dump(ctx, unix.NFT_MSG_GETCHAIN, t.Family, nil, func(b []byte) error {
		table, _, chain, err := nfnl.DecodeChain(b)
		if err == nil && table == t.Name {
			t.Chains = append(t.Chains, chain)
		}
		return err
	})
}

func (c *Conn) readRules(ctx context.Context, t *ruleset.Table) error {
	filter := nfnl.AppendAttrString(nil, unix.NFTA_RULE_TABLE, t.Name)
	return c.dump(ctx, unix.NFT_MSG_GETRULE, t.Family, filter, func(b []byte) error {
		table, _, chain, rule, err := nfnl.DecodeRule(b, t)
		if err != nil || table != t.Name {
			return err
		}
		in := t.Chain(chain)
		if in == nil {
			return ErrStale // it came after the chains were read
		}
		in.Rules = append(in.Rules, rule)
		return nil
	})
}

// ReadCounters reads the counters of these elements of a set. Those that the
// kernel does not have keep theirs.
func (c *Conn) ReadCounters(ctx context.Context, change *ruleset.Change, elements []ruleset.Element) error {
	// Each element is answered by a message of its own, and all answers of a
	// request must fit into the receive buffer.
	const chunk = 32
	for len(elements) > 0 {
		n := min(chunk, len(elements))
		if err := c.readCounters(ctx, change, elements[:n]); err != nil {
			return fmt.Errorf("read counters of %s: %w", change.Set.Name, err)
		}
		elements = elements[n:]
	}
	return nil
}

func (c *Conn) readCounters(ctx context.Context, change *ruleset.Change, elements []ruleset.Element) error {
	attrs := append(elementList(change.Table, change.Set.Name), nfnl.ElementKeys(change, elements)...)
	err := c.request(ctx, unix.NFT_MSG_GETSETELEM, unix.NLM_F_ACK, int(change.Family), attrs, func(b []byte) error {
		_, _, err := nfnl.DecodeElements(b, change.Set, change.Family, func(e ruleset.Element) {
			for i := range elements {
				if elements[i].Key == e.Key {
					elements[i].Packets, elements[i].Bytes = e.Packets, e.Bytes
				}
			}
		})
		return err
	})
	if errors.Is(err, unix.ENOENT) {
		return nil // others deleted one
	}
	return err
}

// dump reads all objects of a kind.
func (c *Conn) dump(ctx context.Context, typ int, f ruleset.Family, attrs []byte, each func([]byte) error) error {
	return c.request(ctx, typ, unix.NLM_F_DUMP, int(f), attrs, each)
}

// request is Request for nf_tables.
func (c *Conn) request(ctx context.Context, typ, flags, family int, attrs []byte, each func([]byte) error) error {
	return c.Request(ctx, unix.NFNL_SUBSYS_NFTABLES<<8|typ, flags, family, attrs, each)
}

// Request sends one message to a subsystem of netfilter and gives each reply's
// payload, valid until it returns, to each. A request that is no dump and
// wants no acknowledgement has one reply.
func (c *Conn) Request(ctx context.Context, typ, flags, family int, attrs []byte, each func([]byte) error) error {
	body := append(nfnl.AppendHeader(nil, family, 0), attrs...)
	ask := func() error { return c.ask(ctx, typ, flags, body, each) }
	if subsystem := typ >> 8; !c.asked[subsystem] {
		c.asked[subsystem] = true
		return untilLoaded(ctx, ask)
	}
	return ask()
}
