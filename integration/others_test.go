//go:build linux

package integration

import (
	"encoding/binary"
	"slices"
	"testing"

	"github.com/google/nftables/expr"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/nftdp/go-nftdp/internal/nstest"
)

// other is another program that changes rules: it has a socket of its own, and
// shares no code with the library.
type other struct{ *netlink.Conn }

// edit is one change of another program.
type edit = netlink.Message

func dialOther(t *testing.T, ns *nstest.Namespace) other {
	t.Helper()
	conn, err := netlink.Dial(unix.NETLINK_NETFILTER, &netlink.Config{NetNS: int(ns.Handle())})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closeOrFail(t, conn) })
	return other{conn}
}

// meddle makes the edits in one transaction, as another program.
func meddle(t *testing.T, ns *nstest.Namespace, edits ...edit) {
	t.Helper()
	if err := dialOther(t, ns).commit(edits...); err != nil {
		t.Fatal(err)
	}
}

// commit makes the edits in one transaction and returns the first error.
func (o other) commit(edits ...edit) error {
	frame := func(typ netlink.HeaderType) edit {
		return edit{
			Header: netlink.Header{Type: typ, Flags: netlink.Request},
			Data:   []byte{unix.AF_UNSPEC, unix.NFNETLINK_V0, 0, unix.NFNL_SUBSYS_NFTABLES},
		}
	}
	batch := slices.Concat([]edit{frame(unix.NFNL_MSG_BATCH_BEGIN)}, edits, []edit{frame(unix.NFNL_MSG_BATCH_END)})
	// The last edit is acknowledged after the errors of all.
	batch[len(edits)].Header.Flags |= netlink.Acknowledge
	if _, err := o.SendMessages(batch); err != nil {
		return err
	}
	_, err := o.Receive()
	return err
}

// flushRuleset deletes the tables of all families.
func flushRuleset() edit { return nftTable{family: unix.NFPROTO_UNSPEC}.edit(unix.NFT_MSG_DELTABLE, 0) }

// nftTable is a table of any family.
type nftTable struct {
	family byte // NFPROTO_*
	name   string
}

// bothTables are the tables of one name that a Dataplane has.
func bothTables(name string) []nftTable {
	return []nftTable{{unix.NFPROTO_IPV4, name}, {unix.NFPROTO_IPV6, name}}
}

func (tb nftTable) edit(command netlink.HeaderType, flags netlink.HeaderFlags, attributes ...[]byte) edit {
	return edit{
		Header: netlink.Header{Type: unix.NFNL_SUBSYS_NFTABLES<<8 | command, Flags: netlink.Request | flags},
		Data:   append([]byte{tb.family, unix.NFNETLINK_V0, 0, 0}, slices.Concat(attributes...)...),
	}
}

func (tb nftTable) add() edit {
	return tb.edit(unix.NFT_MSG_NEWTABLE, netlink.Create, attrString(unix.NFTA_TABLE_NAME, tb.name))
}

func (tb nftTable) delete() edit {
	return tb.edit(unix.NFT_MSG_DELTABLE, 0, attrString(unix.NFTA_TABLE_NAME, tb.name))
}

// addChain adds a chain, with more attributes if it is a base chain.
func (tb nftTable) addChain(name string, more ...[]byte) edit {
	return tb.edit(unix.NFT_MSG_NEWCHAIN, netlink.Create, append(more,
		attrString(unix.NFTA_CHAIN_TABLE, tb.name), attrString(unix.NFTA_CHAIN_NAME, name))...)
}

// flushChain deletes the rules of a chain.
func (tb nftTable) flushChain(name string) edit {
	return tb.edit(unix.NFT_MSG_DELRULE, 0,
		attrString(unix.NFTA_RULE_TABLE, tb.name), attrString(unix.NFTA_RULE_CHAIN, name))
}

// insertRule adds a rule ahead of the others in a chain.
func (tb nftTable) insertRule(t *testing.T, chain string, exprs ...expr.Any) edit {
	t.Helper()
	var list []byte
	for _, e := range exprs {
		b, err := expr.Marshal(tb.family, e)
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, attrNested(unix.NFTA_LIST_ELEM, b)...)
	}
	return tb.edit(unix.NFT_MSG_NEWRULE, netlink.Create,
		attrString(unix.NFTA_RULE_TABLE, tb.name), attrString(unix.NFTA_RULE_CHAIN, chain),
		attrNested(unix.NFTA_RULE_EXPRESSIONS, list), theirComment(unix.NFTA_RULE_USERDATA))
}

// addSet adds a set or, with more attributes, a map. Its keys are ports.
func (tb nftTable) addSet(name string, flags uint32, more ...[]byte) edit {
	const inetService = 13 // TYPE_INET_SERVICE of nft
	return tb.edit(unix.NFT_MSG_NEWSET, netlink.Create, append(more,
		attrString(unix.NFTA_SET_TABLE, tb.name), attrString(unix.NFTA_SET_NAME, name),
		attr32(unix.NFTA_SET_FLAGS, flags), attr32(unix.NFTA_SET_ID, 1),
		attr32(unix.NFTA_SET_KEY_TYPE, inetService), attr32(unix.NFTA_SET_KEY_LEN, 2))...)
}

// flushSet deletes the elements of a set.
func (tb nftTable) flushSet(name string) edit {
	return tb.edit(unix.NFT_MSG_DELSETELEM, 0,
		attrString(unix.NFTA_SET_ELEM_LIST_TABLE, tb.name), attrString(unix.NFTA_SET_ELEM_LIST_SET, name))
}

// addElement adds an element with a key and more attributes.
func (tb nftTable) addElement(set string, key []byte, more ...[]byte) edit {
	element := slices.Concat(append(more, attrNested(unix.NFTA_SET_ELEM_KEY, attr(unix.NFTA_DATA_VALUE, key)))...)
	return tb.edit(unix.NFT_MSG_NEWSETELEM, netlink.Create,
		attrString(unix.NFTA_SET_ELEM_LIST_TABLE, tb.name), attrString(unix.NFTA_SET_ELEM_LIST_SET, set),
		attrNested(unix.NFTA_SET_ELEM_LIST_ELEMENTS, attrNested(unix.NFTA_LIST_ELEM, element)))
}

// theirComment is the user data of what has the comment "theirs".
func theirComment(typ int) []byte { return attr(typ, []byte("\x00\x07theirs\x00")) }

// attr is an attribute, padded.
func attr(typ int, data []byte) []byte {
	b := binary.NativeEndian.AppendUint16(nil, uint16(unix.NLA_HDRLEN+len(data)))
	b = append(binary.NativeEndian.AppendUint16(b, uint16(typ)), data...)
	return append(b, make([]byte, -len(b)&3)...)
}

func attrNested(typ int, inside ...[]byte) []byte {
	return attr(typ|unix.NLA_F_NESTED, slices.Concat(inside...))
}

func attr32(typ int, n uint32) []byte { return attr(typ, binary.BigEndian.AppendUint32(nil, n)) }

func attrString(typ int, s string) []byte { return attr(typ, append([]byte(s), 0)) }
