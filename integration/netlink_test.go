//go:build linux

package integration

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"testing"

	"github.com/google/nftables/expr"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/nftdp/go-nftdp/internal/nstest"
)

// objects are the kinds of objects in a table, each with the message that lists
// them. Attribute 1 of all of them is the table's name, and attribute 2 of sets
// their own.
func objects() map[string]netlink.HeaderType {
	return map[string]netlink.HeaderType{
		"chain":     unix.NFT_MSG_GETCHAIN,
		"rule":      unix.NFT_MSG_GETRULE,
		"set":       unix.NFT_MSG_GETSET,
		"object":    unix.NFT_MSG_GETOBJ,
		"flowtable": unix.NFT_MSG_GETFLOWTABLE,
	}
}

// dumpTables is dumpTable for the tables of a Dataplane.
func dumpTables(t *testing.T, ns *nstest.Namespace, name string) (lines []string) {
	t.Helper()
	for _, tb := range bothTables(name) {
		lines = append(lines, dumpTable(t, ns, tb)...)
	}
	return lines
}

// dumpTable returns the kernel's dump of a table, byte for byte, with a line for
// each object or message.
func dumpTable(t *testing.T, ns *nstest.Namespace, tb nftTable) []string {
	t.Helper()
	other := dialOther(t, ns)
	var lines []string
	for _, b := range listObjects(t, other, tb, unix.NFT_MSG_GETTABLE) {
		lines = append(lines, fmt.Sprintf("table %x", b))
	}
	for kind, command := range objects() {
		for _, b := range listObjects(t, other, tb, command) {
			lines = append(lines, fmt.Sprintf("%s %x", kind, b))
			if kind != "set" {
				continue
			}
			for _, e := range listObjects(t, other, tb, unix.NFT_MSG_GETSETELEM,
				attrString(unix.NFTA_SET_ELEM_LIST_TABLE, tb.name),
				attr(unix.NFTA_SET_ELEM_LIST_SET, attribute(t, b, unix.NFTA_SET_NAME))) {
				lines = append(lines, fmt.Sprintf("elements %x", e))
			}
		}
	}
	slices.Sort(lines)
	return lines
}

// headerLen is the size of struct nfgenmsg: family, version, generation.
const headerLen = 4

// listObjects returns the attributes of the objects that a dump lists for one
// table. It leaves out the header before them, which contains the generation of
// the whole namespace and so follows everybody's changes.
func listObjects(t *testing.T, other other, tb nftTable, command netlink.HeaderType, attributes ...[]byte) [][]byte {
	t.Helper()
	var all [][]byte
	for _, b := range other.dump(t, tb, command, attributes...) {
		if b[0] == tb.family && bytes.Equal(attribute(t, b[headerLen:], 1), append([]byte(tb.name), 0)) {
			all = append(all, b[headerLen:])
		}
	}
	return all
}

// dump lists objects of a table's family, or of all families.
func (o other) dump(t *testing.T, tb nftTable, command netlink.HeaderType, attributes ...[]byte) (all [][]byte) {
	t.Helper()
	messages, err := o.Execute(tb.edit(command, netlink.Dump, attributes...))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("list objects of table %s: %v", tb.name, err)
	}
	for _, m := range messages {
		all = append(all, m.Data)
	}
	return all
}

func attribute(t *testing.T, b []byte, number uint16) []byte {
	t.Helper()
	attributes, err := netlink.UnmarshalAttributes(b)
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range attributes {
		if a.Type == number {
			return a.Data
		}
	}
	return nil
}

// tableNames lists all tables of a namespace: "ip nftdp".
func tableNames(t *testing.T, ns *nstest.Namespace) []string {
	t.Helper()
	families := map[byte]string{unix.NFPROTO_IPV4: "ip", unix.NFPROTO_IPV6: "ip6", unix.NFPROTO_INET: "inet"}
	var all []string
	for _, b := range dialOther(t, ns).dump(t, nftTable{}, unix.NFT_MSG_GETTABLE) {
		name := attribute(t, b[headerLen:], unix.NFTA_TABLE_NAME)
		all = append(all, fmt.Sprintf("%s %s", families[b[0]], bytes.TrimSuffix(name, []byte{0})))
	}
	slices.Sort(all)
	return all
}

// addForeign adds a table as another program would: sets with and without
// intervals, a map, chains, one of them at a hook that we use too, and rules.
// Nothing in it counts, so that traffic does not change it.
func addForeign(t *testing.T, ns *nstest.Namespace, tb nftTable) {
	t.Helper()
	const mark = 19 // TYPE_MARK of nft
	isEnd := attr32(unix.NFTA_SET_ELEM_FLAGS, unix.NFT_SET_ELEM_INTERVAL_END)
	seven := attrNested(unix.NFTA_SET_ELEM_DATA, attr32(unix.NFTA_DATA_VALUE, 7))
	hook := attrNested(unix.NFTA_CHAIN_HOOK,
		attr32(unix.NFTA_HOOK_HOOKNUM, unix.NF_INET_PRE_ROUTING), attr32(unix.NFTA_HOOK_PRIORITY, ^uint32(99)))
	meddle(t, ns,
		tb.add(),
		tb.addSet("ports", 0),
		tb.addElement("ports", port(1)), tb.addElement("ports", port(2)), tb.addElement("ports", port(3)),
		tb.addSet("ranges", unix.NFT_SET_INTERVAL),
		tb.addElement("ranges", port(10)), tb.addElement("ranges", port(20), isEnd),
		tb.addSet("frontends", unix.NFT_SET_MAP, attr32(unix.NFTA_SET_DATA_TYPE, mark), attr32(unix.NFTA_SET_DATA_LEN, 4)),
		tb.addElement("frontends", port(80), seven, theirComment(unix.NFTA_SET_ELEM_USERDATA)),
		tb.addChain("services"),
		tb.addChain("prerouting", hook, attrString(unix.NFTA_CHAIN_TYPE, "filter"), attr32(unix.NFTA_CHAIN_POLICY, 1)),
		tb.insertRule(t, "prerouting",
			&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1},
			&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{unix.IPPROTO_TCP}},
			&expr.Verdict{Kind: expr.VerdictJump, Chain: "services"}),
		tb.insertRule(t, "services",
			&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
			&expr.Lookup{SourceRegister: 1, SetName: "ports"},
			&expr.Verdict{Kind: expr.VerdictDrop}))
}

// port is the key of a port.
func port(n byte) []byte { return []byte{0, n} }
