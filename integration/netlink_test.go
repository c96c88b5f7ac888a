//go:build linux

package integration

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"testing"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/nftdp/go-nftdp/internal/nstest"
)

// objects are the kinds of things in a table, each with the message that lists
// them. All have the table's name as attribute 1, and sets their own as 2.
func objects() map[string]uint16 {
	return map[string]uint16{
		"chain":     unix.NFT_MSG_GETCHAIN,
		"rule":      unix.NFT_MSG_GETRULE,
		"set":       unix.NFT_MSG_GETSET,
		"object":    unix.NFT_MSG_GETOBJ,
		"flowtable": unix.NFT_MSG_GETFLOWTABLE,
	}
}

// dumpTable gives everything that the kernel tells about a table, byte for
// byte, one line for each object or message.
func dumpTable(t *testing.T, ns *nstest.Namespace, family nftables.TableFamily, table string) []string {
	t.Helper()
	conn, err := netlink.Dial(unix.NETLINK_NETFILTER, &netlink.Config{NetNS: int(ns.Handle())})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	list := func(command uint16, attributes ...netlink.Attribute) [][]byte {
		return listObjects(t, conn, family, table, command, attributes...)
	}
	var lines []string
	for _, b := range list(unix.NFT_MSG_GETTABLE) {
		lines = append(lines, fmt.Sprintf("table %x", b))
	}
	for kind, command := range objects() {
		for _, b := range list(command) {
			lines = append(lines, fmt.Sprintf("%s %x", kind, b))
			if kind != "set" {
				continue
			}
			for _, e := range list(unix.NFT_MSG_GETSETELEM,
				netlink.Attribute{Type: unix.NFTA_SET_ELEM_LIST_TABLE, Data: cString(table)},
				netlink.Attribute{Type: unix.NFTA_SET_ELEM_LIST_SET, Data: attribute(t, b, unix.NFTA_SET_NAME)}) {
				lines = append(lines, fmt.Sprintf("elements %x", e))
			}
		}
	}
	slices.Sort(lines)
	return lines
}

// listObjects gives the attributes of what a dump lists of one table. The
// header before them is left out: it holds the generation of the whole
// namespace, which every change of anybody moves.
func listObjects(t *testing.T, conn *netlink.Conn, family nftables.TableFamily, table string,
	command uint16, attributes ...netlink.Attribute,
) [][]byte {
	t.Helper()
	body, err := netlink.MarshalAttributes(attributes)
	if err != nil {
		t.Fatal(err)
	}
	messages, err := conn.Execute(netlink.Message{
		Header: netlink.Header{
			Type:  netlink.HeaderType(unix.NFNL_SUBSYS_NFTABLES<<8 | command),
			Flags: netlink.Request | netlink.Dump,
		},
		Data: append([]byte{byte(family), unix.NFNETLINK_V0, 0, 0}, body...),
	})
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	} else if err != nil {
		t.Fatalf("list objects of table %s: %v", table, err)
	}
	const headerLen = 4 // struct nfgenmsg: family, version, generation
	var all [][]byte
	for _, m := range messages {
		if m.Data[0] == byte(family) && bytes.Equal(attribute(t, m.Data[headerLen:], 1), cString(table)) {
			all = append(all, m.Data[headerLen:])
		}
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

func cString(s string) []byte { return append([]byte(s), 0) }

// tableNames lists all tables of a namespace: "ip nftdp".
func tableNames(t *testing.T, ns *nstest.Namespace) []string {
	t.Helper()
	tables, err := connectNftables(t, ns).ListTables()
	if err != nil {
		t.Fatal(err)
	}
	names := map[nftables.TableFamily]string{
		nftables.TableFamilyIPv4: "ip", nftables.TableFamilyIPv6: "ip6", nftables.TableFamilyINet: "inet",
	}
	var all []string
	for _, table := range tables {
		all = append(all, names[table.Family]+" "+table.Name)
	}
	slices.Sort(all)
	return all
}

func connectNftables(t *testing.T, ns *nstest.Namespace) *nftables.Conn {
	t.Helper()
	conn, err := nftables.New(nftables.WithNetNSFd(int(ns.Handle())))
	if err != nil {
		t.Fatal(err)
	}
	return conn
}

// addForeign makes a table as somebody else would: sets with and without
// ranges, a map, base chains at the hooks that we use too, and rules. Nothing
// in it counts, so that traffic leaves it as it is.
func addForeign(t *testing.T, ns *nstest.Namespace, family nftables.TableFamily, name string) {
	t.Helper()
	conn := connectNftables(t, ns)
	table := conn.AddTable(&nftables.Table{Family: family, Name: name})
	addForeignSets(t, conn, table)
	regular := conn.AddChain(&nftables.Chain{Name: "services", Table: table})
	accept := nftables.ChainPolicyAccept
	base := conn.AddChain(&nftables.Chain{
		Name: "prerouting", Table: table, Type: nftables.ChainTypeFilter,
		Hooknum: nftables.ChainHookPrerouting, Priority: nftables.ChainPriorityNATDest, Policy: &accept,
	})
	conn.AddRule(&nftables.Rule{Table: table, Chain: base, Exprs: []expr.Any{
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{unix.IPPROTO_TCP}},
		&expr.Verdict{Kind: expr.VerdictJump, Chain: regular.Name},
	}, UserData: []byte("\x00\x06theirs")})
	conn.AddRule(&nftables.Rule{Table: table, Chain: regular, Exprs: []expr.Any{
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
		&expr.Lookup{SourceRegister: 1, SetName: "ports"},
		&expr.Verdict{Kind: expr.VerdictDrop},
	}})
	if err := conn.Flush(); err != nil {
		t.Fatalf("make table %s: %v", name, err)
	}
}

func addForeignSets(t *testing.T, conn *nftables.Conn, table *nftables.Table) {
	t.Helper()
	port := binaryutil.BigEndian.PutUint16
	for _, err := range []error{
		conn.AddSet(&nftables.Set{Table: table, Name: "ports", KeyType: nftables.TypeInetService},
			[]nftables.SetElement{{Key: port(1)}, {Key: port(2)}, {Key: port(3)}}),
		conn.AddSet(&nftables.Set{Table: table, Name: "ranges", KeyType: nftables.TypeInetService, Interval: true},
			[]nftables.SetElement{{Key: port(10)}, {Key: port(20), IntervalEnd: true}}),
		conn.AddSet(&nftables.Set{
			Table: table, Name: "frontends", KeyType: nftables.TypeInetService,
			DataType: nftables.TypeMark, IsMap: true,
		}, []nftables.SetElement{
			{Key: port(80), Val: binary.NativeEndian.AppendUint32(nil, 7), Comment: "theirs"},
		}),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
}
