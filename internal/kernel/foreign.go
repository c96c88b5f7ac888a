//go:build linux

package kernel

import (
	"context"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/nftdp/go-nftdp/internal/around"
	"github.com/nftdp/go-nftdp/internal/nfnl"
	"github.com/nftdp/go-nftdp/internal/ruleset"
)

// Foreign reads the chains of all tables that see IP packets of a family, except
// those of ours and those of traces: by table, and then by name. The rules can be
// evaluated as far as they are understood.
func (c *Conn) Foreign(ctx context.Context, f ruleset.Family, ours func(family ruleset.Family, table string) bool) ([]map[string]*around.Chain, error) {
	var out []map[string]*around.Chain
	for _, in := range []ruleset.Family{unix.NFPROTO_NETDEV, unix.NFPROTO_INET, f} {
		tables, err := c.foreignChains(ctx, in, func(table string) bool { return ours(in, table) })
		if err != nil {
			return nil, fmt.Errorf("read chains of others: %w", err)
		}
		for name, chains := range tables {
			if err := c.foreignRules(ctx, in, name, chains); err != nil {
				return nil, fmt.Errorf("read rules of table %s: %w", name, err)
			}
			out = append(out, chains)
		}
	}
	return out, nil
}

// foreignChains reads the chains of those tables of a family that have a base chain.
func (c *Conn) foreignChains(ctx context.Context, f ruleset.Family, ours func(table string) bool) (map[string]map[string]*around.Chain, error) {
	tables, based := map[string]map[string]*around.Chain{}, map[string]bool{}
	err := c.dumpAll(ctx, unix.NFT_MSG_GETCHAIN, f, nil, func() { clear(tables) }, func(b []byte) error {
		chain, err := nfnl.ForeignChain(b)
		if err != nil || ours(chain.Table) {
			return err
		}
		if tables[chain.Table] == nil {
			tables[chain.Table] = map[string]*around.Chain{}
		}
		tables[chain.Table][chain.Name] = chain
		based[chain.Table] = based[chain.Table] || chain.Hook != ""
		return nil
	})
	for name := range tables {
		if !based[name] {
			delete(tables, name)
		}
	}
	if errors.Is(err, unix.EAFNOSUPPORT) || errors.Is(err, unix.EOPNOTSUPP) {
		return nil, nil // a kernel without the family
	}
	return tables, err
}

// foreignRules reads the rules of a table, and the sets that they can look up.
func (c *Conn) foreignRules(ctx context.Context, f ruleset.Family, table string, chains map[string]*around.Chain) error {
	sets := nfnl.ForeignSets{}
	err := c.dumpIn(ctx, unix.NFT_MSG_GETSET, f, inTable(table), func(b []byte) error {
		in, name, s, err := nfnl.DecodeForeignSet(b)
		if err == nil && in == table {
			sets[name] = s
		}
		return err
	})
	if err != nil {
		return err
	}
	for name, s := range sets {
		err := c.dumpIn(ctx, unix.NFT_MSG_GETSETELEM, f, elementList(table, name), s.Decode)
		if err != nil && !errors.Is(err, unix.ENOENT) {
			return err
		}
		s.Sort()
	}
	return c.dumpIn(ctx, unix.NFT_MSG_GETRULE, f, inTable(table), func(b []byte) error {
		in, chain := nfnl.ForeignRulePlace(b)
		if at := chains[chain]; in == table && at != nil {
			rule, err := nfnl.ForeignRule(b, sets)
			if err != nil {
				return err
			}
			at.Rules = append(at.Rules, rule)
		}
		return nil
	})
}
