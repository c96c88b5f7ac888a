//go:build linux

package nfnl

import (
	"bytes"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/nftdp/go-nftdp/internal/around"
	"github.com/nftdp/go-nftdp/internal/netlink"
	"github.com/nftdp/go-nftdp/internal/ruleset"
)

// ForeignSet is a set or map of any table, with its elements as bytes.
type ForeignSet struct {
	keyLen   int
	interval bool
	opaque   bool // it cannot be looked up
	elements []foreignElement
}

type foreignElement struct {
	key  []byte
	ends bool   // the interval before ends ahead of the key
	data []byte // NFTA_SET_ELEM_DATA
}

// DecodeForeignSet reads a message of type NFT_MSG_NEWSET of any table.
func DecodeForeignSet(msg []byte) (table, name string, s *ForeignSet, err error) {
	if len(msg) < netlink.NetfilterHeaderLen {
		return "", "", nil, errHeader
	}
	f := fieldsOf(msg[netlink.NetfilterHeaderLen:])
	flags := f.number(unix.NFTA_SET_FLAGS)
	s = &ForeignSet{keyLen: int(f.number(unix.NFTA_SET_KEY_LEN)), interval: flags&unix.NFT_SET_INTERVAL != 0}
	// Each field of a concatenation has an interval of its own, and packets change
	// dynamic sets.
	s.opaque = s.interval && flags&nftSetConcat != 0 || flags&unix.NFT_SET_EVAL != 0
	return f.text(unix.NFTA_SET_TABLE), f.text(unix.NFTA_SET_NAME), s, nil
}

// Decode adds the elements of a message of type NFT_MSG_NEWSETELEM.
func (s *ForeignSet) Decode(msg []byte) error {
	if len(msg) < netlink.NetfilterHeaderLen {
		return errHeader
	}
	f := fieldsOf(msg[netlink.NetfilterHeaderLen:])
	a := netlink.ReadAttributes(f[unix.NFTA_SET_ELEM_LIST_ELEMENTS])
	for a.Next() {
		e := fieldsOf(slices.Clone(a.Value))
		flags := e.number(unix.NFTA_SET_ELEM_FLAGS)
		if flags&nftSetElemCatchAll != 0 || e[nftaSetElemKeyEnd] != nil {
			s.opaque = true
			continue
		}
		s.elements = append(s.elements, foreignElement{
			key: e.data(unix.NFTA_SET_ELEM_KEY), ends: flags&unix.NFT_SET_ELEM_INTERVAL_END != 0, data: e[unix.NFTA_SET_ELEM_DATA],
		})
	}
	return a.Err()
}

// Sort is to be called when all elements have been added.
func (s *ForeignSet) Sort() {
	slices.SortStableFunc(s.elements, func(x, y foreignElement) int {
		if c := bytes.Compare(x.key, y.key); c != 0 || x.ends == y.ends {
			return c
		}
		if x.ends { // the next interval begins where this one ends
			return -1
		}
		return 1
	})
}

// find returns the element of a key, or nil. An interval reaches from its key to the
// next element.
func (s *ForeignSet) find(key []byte) (found *foreignElement) {
	for i := range s.elements {
		e := &s.elements[i]
		switch c := bytes.Compare(e.key, key); {
		case !s.interval && c == 0:
			return e
		case !s.interval:
		case c > 0:
			return found
		case e.ends:
			found = nil
		default:
			found = e
		}
	}
	return found
}

// ForeignChain reads a message of type NFT_MSG_NEWCHAIN of any table, without rules.
func ForeignChain(msg []byte) (*around.Chain, error) {
	d, err := DescribeChain(msg)
	if err != nil {
		return nil, err
	}
	f := fieldsOf(msg[netlink.NetfilterHeaderLen:])
	out := &around.Chain{
		Table: f.text(unix.NFTA_CHAIN_TABLE), Name: f.text(unix.NFTA_CHAIN_NAME), Type: d.Type, Priority: d.Priority,
		Family: map[byte]string{unix.NFPROTO_INET: "inet", unix.NFPROTO_IPV4: "ip", unix.NFPROTO_IPV6: "ip6", unix.NFPROTO_NETDEV: "netdev"}[msg[0]],
	}
	if d.Base {
		hook := ruleset.HookNum(d.Hook)
		if msg[0] == unix.NFPROTO_NETDEV {
			hook += ruleset.Ingress
		}
		out.Hook = hook.String()
		if hook >= ruleset.Ingress {
			out.Devices = devicesOf(f[unix.NFTA_CHAIN_HOOK])
		}
		out.Drops = f[unix.NFTA_CHAIN_POLICY] != nil && f.number(unix.NFTA_CHAIN_POLICY) == 0
	}
	return out, nil
}

// devicesOf reads the devices of a hook: one, or a list. Linux 6.18 has names that
// begin those of several.
func devicesOf(hook []byte) []string {
	const (
		device, devices = 3, 4 // NFTA_HOOK_DEV, NFTA_HOOK_DEVS
		prefix          = 2    // NFTA_DEVICE_PREFIX
	)
	in, out := fieldsOf(hook), []string{}
	if name := in.text(device); name != "" {
		return []string{name}
	}
	for a := netlink.ReadAttributes(in[devices]); a.Next(); {
		name := string(bytes.TrimRight(a.Value, "\x00"))
		if a.Type == prefix {
			name += "*"
		}
		out = append(out, name)
	}
	return out
}

// ForeignRulePlace reads which chain a message of type NFT_MSG_NEWRULE belongs to.
func ForeignRulePlace(msg []byte) (table, chain string) {
	if len(msg) < netlink.NetfilterHeaderLen {
		return "", ""
	}
	f := fieldsOf(msg[netlink.NetfilterHeaderLen:])
	return f.text(unix.NFTA_RULE_TABLE), f.text(unix.NFTA_RULE_CHAIN)
}
