//go:build linux

package kernel

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/nftdp/go-nftdp/internal/netlink"
	"github.com/nftdp/go-nftdp/internal/nfnl"
	"github.com/nftdp/go-nftdp/internal/ruleset"
)

// Generation reads the generation of the namespace's rules, which grows with every
// commit.
func (c *Conn) Generation(ctx context.Context) (generation uint32, err error) {
	err = c.ask(ctx, c.socket, unix.NFT_MSG_GETGEN, 0, unix.AF_UNSPEC, nil, func(b []byte) error {
		generation, _ = generationOf(b)
		return nil
	})
	if err == nil && generation == 0 {
		err = netlink.ErrMalformed
	}
	if err != nil {
		return 0, fmt.Errorf("read generation of the rules: %w", err)
	}
	return generation, nil
}

// generationOf reads a message of type NFT_MSG_NEWGEN; 0 means that it has no
// generation.
func generationOf(b []byte) (generation uint32, by ruleset.Process) {
	for a := netlink.ReadAttributes(b[min(netlink.NetfilterHeaderLen, len(b)):]); a.Next(); {
		switch {
		case a.Type == unix.NFTA_GEN_ID && len(a.Value) == 4:
			generation = binary.BigEndian.Uint32(a.Value)
		case a.Type == unix.NFTA_GEN_PROC_PID && len(a.Value) == 4:
			by.PID = int(binary.BigEndian.Uint32(a.Value))
		case a.Type == unix.NFTA_GEN_PROC_NAME:
			by.Name = netlink.String(a.Value)
		}
	}
	return generation, by
}

// Read reads the tables of that name in some families, with counters, and with the
// elements of those sets for which elements returns true. Changes that others make
// meanwhile may be included or not: the caller compares generations, or monitors
// events. With ErrStale, too much changed for a result.
func (c *Conn) Read(ctx context.Context, table string, families []ruleset.Family,
	elements func(f ruleset.Family, set string) bool,
) (*ruleset.Ruleset, error) {
	out := &ruleset.Ruleset{}
	for _, f := range families {
		t, err := c.readTable(ctx, table, f, func(set string) bool { return elements(f, set) })
		if errors.Is(err, unix.ENOENT) {
			return nil, ruleset.ErrStale // it was deleted meanwhile
		}
		if err != nil {
			return nil, fmt.Errorf("read table %s %s: %w", f, table, err)
		}
		if t != nil {
			out.Tables = append(out.Tables, t)
		}
	}
	return out, nil
}

// Tables reads the tables of that name without their contents.
func (c *Conn) Tables(ctx context.Context, table string) (*ruleset.Ruleset, error) {
	out := &ruleset.Ruleset{}
	for _, f := range ruleset.Families {
		t, err := c.tableHead(ctx, table, f)
		if err != nil {
			return nil, err
		}
		if t != nil {
			out.Tables = append(out.Tables, t)
		}
	}
	return out, nil
}

func (c *Conn) readTable(ctx context.Context, name string, f ruleset.Family, elements func(set string) bool) (*ruleset.Table, error) {
	t, err := c.tableHead(ctx, name, f)
	if err != nil || t == nil {
		return nil, err
	}
	if err := c.readSets(ctx, t, elements); err != nil {
		return nil, err
	}
	if err := c.readChains(ctx, t); err != nil {
		return nil, err
	}
	if err := c.readRules(ctx, t); err != nil {
		return nil, err
	}
	return t, c.readObjects(ctx, t)
}

// tableHead reads a table's own attributes. It returns nil if the table does not
// exist.
func (c *Conn) tableHead(ctx context.Context, name string, f ruleset.Family) (t *ruleset.Table, err error) {
	err = c.dumpAll(ctx, unix.NFT_MSG_GETTABLE, f, nil, func() { t = nil }, func(b []byte) error {
		got, err := nfnl.DecodeTable(b)
		if err == nil && got.Name == name {
			t = got
		}
		return err
	})
	return t, err
}

// dumpIn reads objects of one table. Commits to other tables do not disturb that,
// since the kernel continues at an index that counts only the requested objects
// (nf_tables_dump_sets, nf_tables_dump_rules and nf_tables_dump_set in
// net/netfilter/nf_tables_api.c).
func (c *Conn) dumpIn(ctx context.Context, typ int, f ruleset.Family, filter []byte, each func([]byte) error) error {
	err := c.dump(ctx, typ, f, filter, each)
	if errors.Is(err, netlink.ErrInterrupted) {
		return nil
	}
	return err
}

// maxDumps bounds how often a list of objects is read.
const maxDumps = 16

// dumpAll reads the objects of all tables, or those that pass a filter, and, if the rules of the namespace
// changed meanwhile, reads them again: the index at which the kernel continues
// counts the objects of other tables, too (nf_tables_dump_chains).
func (c *Conn) dumpAll(ctx context.Context, typ int, f ruleset.Family, filter []byte, begin func(), each func([]byte) error) error {
	for range maxDumps {
		begin()
		if err := c.dump(ctx, typ, f, filter, each); !errors.Is(err, netlink.ErrInterrupted) {
			return err
		}
	}
	return ruleset.ErrStale
}

func (c *Conn) readSets(ctx context.Context, t *ruleset.Table, elements func(set string) bool) error {
	err := c.dumpIn(ctx, unix.NFT_MSG_GETSET, t.Family, inTable(t.Name), func(b []byte) error {
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
		if !elements(s.Name) {
			continue
		}
		if err := c.dumpElements(ctx, t, s); err != nil {
			return fmt.Errorf("elements of %s: %w", s.Name, err)
		}
	}
	return nil
}

func (c *Conn) dumpElements(ctx context.Context, t *ruleset.Table, s *ruleset.Set) error {
	if s.Dynamic {
		return nil // packets add the elements of dynamic sets, which are not part of the ruleset
	}
	s.Elements = nil
	filter := elementList(t.Name, s.Name)
	err := c.dumpIn(ctx, unix.NFT_MSG_GETSETELEM, t.Family, filter, func(b []byte) error {
		return nfnl.DecodeElements(b, s, t.Family, func(e ruleset.Element) {
			if n := len(s.Elements); n == cap(s.Elements) {
				s.Elements = slices.Grow(s.Elements, max(n, 64)) // doubled: append alone copies four times as much
			}
			s.Elements = append(s.Elements, e)
		})
	})
	s.Elements = nfnl.FoldIntervals(s, s.Elements)
	return err
}

func elementList(table, set string) netlink.Buffer {
	b := inTable(table)
	b.PutString(unix.NFTA_SET_ELEM_LIST_SET, set)
	return b
}

// inTable returns a filter by a table's name. The attribute has the same number for
// everything that is in a table.
func inTable(name string) (b netlink.Buffer) {
	b.PutString(unix.NFTA_SET_TABLE, name)
	return b
}

func (c *Conn) readChains(ctx context.Context, t *ruleset.Table) error {
	return c.dumpAll(ctx, unix.NFT_MSG_GETCHAIN, t.Family, nil, func() { t.Chains = nil }, func(b []byte) error {
		table, _, chain, err := nfnl.DecodeChain(b)
		if err == nil && table == t.Name {
			t.Chains = append(t.Chains, chain)
		}
		return err
	})
}

// readObjects reads what others have put into the table: stateful objects and
// flowtables. Where the kernel does not have them, nfnetlink answers EINVAL to the
// type of the message (nfnetlink_rcv_msg in net/netfilter/nfnetlink.c).
func (c *Conn) readObjects(ctx context.Context, t *ruleset.Table) error {
	for _, typ := range [...]int{unix.NFT_MSG_GETOBJ, unix.NFT_MSG_GETFLOWTABLE} {
		before := len(t.Objects)
		begin := func() { t.Objects = t.Objects[:before] }
		err := c.dumpAll(ctx, typ, t.Family, inTable(t.Name), begin, func(b []byte) error {
			table, _, o, err := nfnl.DecodeObject(b, typ == unix.NFT_MSG_GETFLOWTABLE)
			if err == nil && table == t.Name {
				t.Objects = append(t.Objects, o)
			}
			return err
		})
		if err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.EOPNOTSUPP) {
			return err
		}
	}
	return nil
}

func (c *Conn) readRules(ctx context.Context, t *ruleset.Table) error {
	names := t.Names()
	return c.dumpIn(ctx, unix.NFT_MSG_GETRULE, t.Family, inTable(t.Name), func(b []byte) error {
		table, _, chain, rule, err := nfnl.DecodeRule(b, names)
		if err != nil || table != t.Name {
			return err
		}
		in := names.Chain(chain)
		if in == nil {
			return ruleset.ErrStale // the chain was added after the chains were read
		}
		in.Rules = append(in.Rules, rule)
		return nil
	})
}
