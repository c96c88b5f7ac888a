//go:build linux

package nfnl

import (
	"errors"
	"fmt"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/nftdp/go-nftdp/internal/ruleset"
)

// The decoder is total. A message whose bytes are not a row of attributes, or
// that does not say whose it is, is an error; everything else has a value.
// What that value can not express makes it opaque, and with that different
// from everything we compile, so that nothing foreign passes for ours. That
// holds for attributes of kernels to come as well. What only decorates is
// left out: handles, use counts, numbers that hold within one batch, and the
// user data of sets, chains and rules.
//
// A message here begins with struct nfgenmsg, after the netlink header.

// DecodeTable decodes a message of type NFT_MSG_NEWTABLE.
func DecodeTable(msg []byte) (*ruleset.Table, error) {
	family, attrs, err := body(msg)
	if err != nil {
		return nil, fmt.Errorf("decode table: %w", err)
	}
	f := readFields(attrs, unix.NFTA_TABLE_NAME, unix.NFTA_TABLE_FLAGS, unix.NFTA_TABLE_USE,
		nftaTableHandle, nftaTableUserdata, nftaTableOwner)
	t := &ruleset.Table{Family: family, Name: f.str(unix.NFTA_TABLE_NAME), Port: f.optU32(nftaTableOwner)}
	flags := ruleset.TableFlags(f.optU32(unix.NFTA_TABLE_FLAGS))
	t.Flags = flags & ruleset.Protected
	if flags != t.Flags {
		t.Opaque = append(t.Opaque, fmt.Sprintf("flags %#x", uint32(flags)))
	}
	text, ok := comment(f.val[nftaTableUserdata])
	if t.Comment = string(text); !ok {
		t.Opaque = append(t.Opaque, "user data")
	}
	what, err := ownerError(family, f.err, t.Name)
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
	family, attrs, err := body(msg)
	if err != nil {
		return "", 0, nil, fmt.Errorf("decode chain: %w", err)
	}
	f := readFields(attrs, unix.NFTA_CHAIN_TABLE, unix.NFTA_CHAIN_HANDLE, unix.NFTA_CHAIN_NAME,
		unix.NFTA_CHAIN_HOOK, unix.NFTA_CHAIN_POLICY, unix.NFTA_CHAIN_USE, unix.NFTA_CHAIN_TYPE,
		nftaChainFlags, nftaChainUserdata)
	table = f.str(unix.NFTA_CHAIN_TABLE)
	c = &ruleset.Chain{Name: f.str(unix.NFTA_CHAIN_NAME)}
	c.Hook = chainHook(f)
	if c.Opaque, err = ownerError(family, f.err, table, c.Name); err != nil {
		return "", 0, nil, fmt.Errorf("decode chain: %w", err)
	}
	return table, family, c, nil
}

// chainHook is nil for a regular chain, and for what f.err then tells.
func chainHook(f *fields) *ruleset.Hook {
	flags := f.optU32(nftaChainFlags)
	if !f.has(unix.NFTA_CHAIN_HOOK) {
		if flags != 0 || f.has(unix.NFTA_CHAIN_TYPE) || f.has(unix.NFTA_CHAIN_POLICY) {
			f.fail(unknown("base chain without a hook"))
		}
		return nil
	}
	in := f.nested(unix.NFTA_CHAIN_HOOK, unix.NFTA_HOOK_HOOKNUM, unix.NFTA_HOOK_PRIORITY)
	hook := ruleset.Hook{
		Num:      ruleset.HookNum(in.u32(unix.NFTA_HOOK_HOOKNUM)),
		Priority: int32(in.u32(unix.NFTA_HOOK_PRIORITY)),
	}
	typ, policy := f.str(unix.NFTA_CHAIN_TYPE), f.u32(unix.NFTA_CHAIN_POLICY)
	hook.Filter = typ == "filter"
	if typ != chainType(&hook) || policy != nfAccept {
		f.fail(unknown(fmt.Sprintf("type %s hook %d priority %d policy %d", typ, hook.Num, hook.Priority, policy)))
	}
	if flags&^nftChainBase != 0 {
		f.fail(unknown(fmt.Sprintf("flags %#x", flags)))
	}
	if f.err != nil {
		return nil
	}
	return &hook
}

// ownerError ends the decoding of an object: it tells what makes the object
// opaque, or why the message can not be taken. The names are those that say
// which object it is.
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
