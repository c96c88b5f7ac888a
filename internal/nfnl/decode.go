//go:build linux

package nfnl

import (
	"errors"
	"fmt"
	"slices"

	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/nftdp/go-nftdp/internal/ruleset"
)

// The decoder is total. A message with malformed attributes, or one that does
// not name its object, is an error; everything else has a value. What that value
// cannot express makes it opaque, and thus different from everything that we
// compile, so that nothing foreign is taken for ours. That includes attributes of
// future kernels, and what only nft shows, such as comments. Left out are handles,
// use counts, and numbers that are valid within one batch.
//
// All messages are passed without the netlink header, from struct nfgenmsg on.

// DecodeTable decodes a message of type NFT_MSG_NEWTABLE.
func DecodeTable(msg []byte) (*ruleset.Table, error) {
	family, a := readMessage(msg, unix.NFTA_TABLE_NAME, unix.NFTA_TABLE_FLAGS, unix.NFTA_TABLE_USE,
		nftaTableHandle, nftaTableUserdata, nftaTableOwner)
	t := &ruleset.Table{Family: family, Name: a.str(unix.NFTA_TABLE_NAME), Port: a.optU32(nftaTableOwner)}
	flags := ruleset.TableFlags(a.optU32(unix.NFTA_TABLE_FLAGS))
	t.Flags = flags & ruleset.Protected
	if flags != t.Flags {
		t.Opaque = append(t.Opaque, fmt.Sprintf("flags %#x", uint32(flags)))
	}
	text, ok := comment(a.val[nftaTableUserdata])
	if t.Comment = string(text); !ok {
		t.Opaque = append(t.Opaque, "user data")
	}
	what, err := ownerError(family, a.err, t.Name)
	if err != nil {
		return nil, fmt.Errorf("decode table: %w", err)
	}
	if what != "" {
		t.Opaque = append(t.Opaque, what)
	}
	return t, nil
}

// DecodeChain decodes a message of type NFT_MSG_NEWCHAIN.
func DecodeChain(msg []byte) (table string, family ruleset.Family, c *ruleset.Chain, err error) {
	family, a := readMessage(msg, unix.NFTA_CHAIN_TABLE, unix.NFTA_CHAIN_HANDLE, unix.NFTA_CHAIN_NAME,
		unix.NFTA_CHAIN_HOOK, unix.NFTA_CHAIN_POLICY, unix.NFTA_CHAIN_USE, unix.NFTA_CHAIN_TYPE,
		nftaChainFlags)
	table = a.str(unix.NFTA_CHAIN_TABLE)
	c = &ruleset.Chain{Name: a.str(unix.NFTA_CHAIN_NAME)}
	c.Hook = chainHook(a)
	if c.Opaque, err = ownerError(family, a.err, table, c.Name); err != nil {
		return "", 0, nil, fmt.Errorf("decode chain: %w", err)
	}
	return table, family, c, nil
}

// chainHook returns nil for a regular chain, and when a.err is set.
func chainHook(a *attributes) *ruleset.Hook {
	flags := a.optU32(nftaChainFlags)
	if !a.has(unix.NFTA_CHAIN_HOOK) {
		if flags != 0 || a.has(unix.NFTA_CHAIN_TYPE) || a.has(unix.NFTA_CHAIN_POLICY) {
			a.opaque("base chain without a hook")
		}
		return nil
	}
	in := a.nested(unix.NFTA_CHAIN_HOOK, unix.NFTA_HOOK_HOOKNUM, unix.NFTA_HOOK_PRIORITY)
	hook := ruleset.Hook{
		Num:      ruleset.HookNum(in.u32(unix.NFTA_HOOK_HOOKNUM)),
		Priority: int32(in.u32(unix.NFTA_HOOK_PRIORITY)),
	}
	typ, policy := a.str(unix.NFTA_CHAIN_TYPE), a.u32(unix.NFTA_CHAIN_POLICY)
	hook.Filter = typ == "filter"
	if typ != chainType(&hook) || policy != uint32(expr.VerdictAccept) {
		a.opaque("type %s hook %d priority %d policy %d", typ, hook.Num, hook.Priority, policy)
	}
	if flags&^nftChainBase != 0 {
		a.opaque("flags %#x", flags)
	}
	if a.err != nil {
		return nil
	}
	return &hook
}

// ownerError ends the decoding of an object: it returns what makes the object
// opaque, or why the message is malformed. The names identify the object.
func ownerError(family ruleset.Family, err error, names ...string) (what string, bad error) {
	if what, bad = opaqueText(err); bad != nil {
		return "", bad
	}
	if slices.Contains(names, "") {
		return "", errors.New("no name")
	}
	if what == "" && family != ruleset.IPv4 && family != ruleset.IPv6 {
		// NFPROTO_INET and others have tables of their own.
		what = fmt.Sprintf("family %d", family)
	}
	return what, nil
}
