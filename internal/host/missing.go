//go:build linux

package host

import (
	"context"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/nftdp/go-nftdp/internal/around"
	"github.com/nftdp/go-nftdp/internal/compile"
	"github.com/nftdp/go-nftdp/internal/conntrack"
	"github.com/nftdp/go-nftdp/internal/ruleset"
)

// triedTable is the name of tables that are tried, and never made.
const triedTable = "nftdp-tried"

// missing finds out what the kernel cannot do, by trying it. A change that it must
// refuse ends each batch, so that nothing is committed, and nobody sees any of it. The
// kernel loads its modules meanwhile.
func missing(ctx context.Context, commit func(context.Context, uint32, []ruleset.Change) (uint32, error), flags ruleset.TableFlags) (out []around.Missing, err error) {
	const anyGeneration = 0
	for _, f := range compile.Features(triedTable, flags) {
		changes := ruleset.Diff(&ruleset.Ruleset{}, f.Ruleset()).Changes()
		last := ruleset.Change{Verb: ruleset.Delete, Family: ruleset.IPv4, Table: triedTable, Chain: &ruleset.Chain{Name: "none"}}
		_, err := commit(ctx, anyGeneration, append(changes, last))
		refused, ok := errors.AsType[*ruleset.RefusedError](err)
		switch {
		case !ok:
			return nil, fmt.Errorf("try %s: %w", f.Name, err)
		case refused.Change != nil && refused.Change.Verb == ruleset.Delete:
			continue
		case !lacks(refused.Errno):
			return nil, fmt.Errorf("try %s: %w", f.Name, err)
		}
		m := around.Missing{What: f.Name, Options: f.Options, Refused: refused.Error(), Cost: "services that use this cannot be programmed"}
		if f.Basic {
			m.Need, m.Cost = around.Needed, "no service can be programmed"
		}
		if out = append(out, m); m.Need == around.Needed {
			break // the others need the same
		}
	}
	return out, nil
}

// missingConntrack finds out whether the kernel lacks conntrack over netlink: nfnetlink
// answers EINVAL then (nfnetlink_rcv_msg in net/netfilter/nfnetlink.c).
func missingConntrack(ctx context.Context, list func(context.Context, conntrack.Filter, func(*conntrack.Flow) bool) ([]conntrack.Flow, error)) []around.Missing {
	const nobodys = 255 // the protocol; the kernel has few such flows to send
	nothing := func(*conntrack.Flow) bool { return false }
	_, err := list(ctx, conntrack.Filter{Family: ruleset.IPv4, Proto: nobodys}, nothing)
	if err == nil || !lacks(err) {
		return nil
	}
	return []around.Missing{{
		What: "conntrack over netlink", Options: "CONFIG_NF_CT_NETLINK", Need: around.Missed,
		Refused: fmt.Sprintf("refused a list of connections: %v", err),
		Cost:    "connections cannot be listed or ended, so that UDP clients stay at backends that are gone",
	}}
}

// lacks reports whether an errno says that the kernel does not know an expression, a
// type of chain, a family or a flag: before Linux 5.12 the latter is EINVAL.
func lacks(errno error) bool {
	for _, e := range []error{unix.ENOENT, unix.EOPNOTSUPP, unix.EAFNOSUPPORT, unix.EPROTONOSUPPORT, unix.EINVAL} {
		if errors.Is(errno, e) {
			return true
		}
	}
	return false
}
