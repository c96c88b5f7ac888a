//go:build linux

package kernel

import (
	"context"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/nftdp/go-nftdp/internal/nfnl"
	"github.com/nftdp/go-nftdp/internal/ruleset"
)

// Names lists the names of the tables for which of returns true.
func (c *Conn) Names(ctx context.Context, of func(*ruleset.Table) bool) (names []string, err error) {
	found := map[string]bool{}
	for _, f := range ruleset.Families {
		err := c.dumpAll(ctx, unix.NFT_MSG_GETTABLE, f, nil, func() {}, func(b []byte) error {
			t, err := nfnl.DecodeTable(b)
			if err == nil && of(t) && !found[t.Name] {
				found[t.Name] = true
				names = append(names, t.Name)
			}
			return err
		})
		if err != nil {
			return nil, fmt.Errorf("list tables: %w", err)
		}
	}
	return names, nil
}
