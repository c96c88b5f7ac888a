//go:build linux

package nfnl

import (
	"cmp"
	"encoding/binary"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/nftdp/go-nftdp/internal/nstest"
	"github.com/nftdp/go-nftdp/internal/ruleset"
)

var update = flag.Bool("update", false, "rewrite the dumps in testdata with stock nft and this kernel")

// The decoder is tested with what a kernel dumped after stock nft had loaded a
// ruleset. The dumps are kept in testdata, so that the tests need neither nft nor
// privileges; where both are available, the running kernel's dump is tested too.

// dump is a list of netlink messages as the kernel sent them.
type dump []netlink.Message

// source provides a dump.
type source struct {
	name string
	dump func(*testing.T) dump
}

// sources are the fresh dump of a ruleset and the kept one.
func sources(name, script string) []source {
	live := func(t *testing.T) dump {
		t.Helper()
		d := liveDump(t, script)
		if *update {
			d.write(t, name)
		}
		return d
	}
	kept := func(t *testing.T) dump { t.Helper(); return keptDump(t, name) }
	return []source{{"live", live}, {"kept", kept}}
}

// liveDump loads a ruleset in a namespace of its own and dumps it.
func liveDump(t *testing.T, script string) dump {
	t.Helper()
	nft, err := exec.LookPath("nft")
	if err != nil {
		skip(t, err)
	}
	ns, err := nstest.New("dump")
	if err != nil {
		skip(t, err)
	}
	t.Cleanup(func() {
		if err := ns.Close(); err != nil {
			t.Error(err)
		}
	})
	err = ns.Do(func() error {
		load := exec.CommandContext(t.Context(), nft, "-f", "-")
		load.Stdin = strings.NewReader(script)
		if out, err := load.CombinedOutput(); err != nil {
			return fmt.Errorf("nft: %w\n%s", err, out)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	conn, err := netlink.Dial(unix.NETLINK_NETFILTER, &netlink.Config{NetNS: int(ns.Handle())})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	return dumpAll(t, conn)
}

// skip says why a test has not run; in CI, which should have everything, that is a
// failure.
func skip(t *testing.T, why error) {
	t.Helper()
	if os.Getenv("CI") != "" {
		t.Fatalf("CI is set, and this cannot run: %v", why)
	}
	t.Skipf("needs nft and network namespaces: %v", why)
}

func dumpAll(t *testing.T, conn *netlink.Conn) dump {
	t.Helper()
	var d dump
	for _, typ := range []int{unix.NFT_MSG_GETTABLE, unix.NFT_MSG_GETSET, unix.NFT_MSG_GETCHAIN, unix.NFT_MSG_GETRULE} {
		d = append(d, request(t, conn, typ, unix.NFPROTO_UNSPEC, nil)...)
	}
	for _, m := range d.of(unix.NFT_MSG_NEWSET) {
		table, _, s, err := DecodeSet(m)
		if err != nil {
			t.Fatal(err)
		}
		attrs, err := netlink.MarshalAttributes([]netlink.Attribute{
			{Type: unix.NFTA_SET_ELEM_LIST_TABLE, Data: append([]byte(table), 0)},
			{Type: unix.NFTA_SET_ELEM_LIST_SET, Data: append([]byte(s.Name), 0)},
		})
		if err != nil {
			t.Fatal(err)
		}
		d = append(d, request(t, conn, unix.NFT_MSG_GETSETELEM, m[0], attrs)...)
	}
	return d
}

func request(t *testing.T, conn *netlink.Conn, typ int, family byte, attrs []byte) []netlink.Message {
	t.Helper()
	msgs, err := conn.Execute(netlink.Message{
		Header: netlink.Header{
			Type:  netlink.HeaderType(unix.NFNL_SUBSYS_NFTABLES<<8 | typ),
			Flags: netlink.Request | netlink.Dump,
		},
		Data: append([]byte{family, unix.NFNETLINK_V0, 0, 0}, attrs...),
	})
	if err != nil {
		t.Fatal(err)
	}
	return msgs
}

// of returns the messages of a type.
func (d dump) of(typ int) (msgs [][]byte) {
	for _, m := range d {
		if int(m.Header.Type) == unix.NFNL_SUBSYS_NFTABLES<<8|typ {
			msgs = append(msgs, m.Data)
		}
	}
	return msgs
}

func (d dump) write(t *testing.T, name string) {
	t.Helper()
	var file []byte
	for _, m := range d {
		m.Header.Sequence, m.Header.PID = 0, 0
		b, err := m.MarshalBinary()
		if err != nil {
			t.Fatal(err)
		}
		file = append(file, b...)
	}
	if err := os.WriteFile(dumpFile(name), file, 0o644); err != nil {
		t.Fatal(err)
	}
}

func dumpFile(name string) string { return filepath.Join("testdata", name+".dump") }

func keptDump(tb testing.TB, name string) dump {
	tb.Helper()
	if binary.NativeEndian.Uint16([]byte{1, 0}) != 1 {
		tb.Skip("the kept dumps are of little-endian kernels")
	}
	file, err := os.ReadFile(dumpFile(name))
	if err != nil {
		tb.Fatal(err)
	}
	var d dump
	for len(file) > 0 {
		size := binary.NativeEndian.Uint32(file)
		var m netlink.Message
		if err := m.UnmarshalBinary(file[:size]); err != nil {
			tb.Fatal(err)
		}
		d = append(d, m)
		file = file[size:]
	}
	return d
}

// tables decodes everything in a dump, and sorts sets and elements, which the
// kernel dumps in no order.
func (d dump) tables(t *testing.T) []*ruleset.Table {
	t.Helper()
	var tables []*ruleset.Table
	for _, m := range d.of(unix.NFT_MSG_NEWTABLE) {
		table, err := DecodeTable(m)
		if err != nil {
			t.Fatal(err)
		}
		tables = append(tables, table)
	}
	for _, m := range d.of(unix.NFT_MSG_NEWSET) {
		name, f, s, err := DecodeSet(m)
		if err != nil {
			t.Fatal(err)
		}
		table := tableOf(t, tables, f, name)
		table.Sets = append(table.Sets, s)
		d.elements(t, table, s)
	}
	for _, m := range d.of(unix.NFT_MSG_NEWCHAIN) {
		name, f, c, err := DecodeChain(m)
		if err != nil {
			t.Fatal(err)
		}
		table := tableOf(t, tables, f, name)
		table.Chains = append(table.Chains, c)
	}
	for _, m := range d.of(unix.NFT_MSG_NEWRULE) {
		d.rule(t, tables, m)
	}
	for _, table := range tables {
		sortTable(table)
	}
	return tables
}

func (d dump) elements(t *testing.T, table *ruleset.Table, s *ruleset.Set) {
	t.Helper()
	for _, m := range d.of(unix.NFT_MSG_NEWSETELEM) {
		if m[0] != byte(table.Family) {
			continue
		}
		collect := func(e ruleset.Element) { s.Elements = append(s.Elements, e) }
		if err := DecodeElements(m, s, table.Family, collect); err != nil {
			t.Fatal(err)
		}
	}
	s.Elements = FoldIntervals(s, s.Elements)
}

func sortTable(t *ruleset.Table) {
	slices.SortFunc(t.Sets, func(a, b *ruleset.Set) int { return cmp.Compare(a.Name, b.Name) })
	slices.SortFunc(t.Chains, func(a, b *ruleset.Chain) int { return cmp.Compare(a.Name, b.Name) })
	for _, s := range t.Sets {
		slices.SortFunc(s.Elements, func(a, b ruleset.Element) int { return a.Key.Compare(&b.Key) })
	}
}

func (d dump) rule(t *testing.T, tables []*ruleset.Table, m []byte) {
	t.Helper()
	name, f, _, _, err := DecodeRule(m, nil)
	if err != nil {
		t.Fatal(err)
	}
	table := tableOf(t, tables, f, name)
	_, _, chain, r, err := DecodeRule(m, table.Names())
	if err != nil {
		t.Fatal(err)
	}
	c := table.Chain(chain)
	c.Rules = append(c.Rules, r)
}

func tableOf(t *testing.T, tables []*ruleset.Table, f ruleset.Family, name string) *ruleset.Table {
	t.Helper()
	i := slices.IndexFunc(tables, func(x *ruleset.Table) bool { return x.Family == f && x.Name == name })
	if i < 0 {
		t.Fatalf("no table %s of family %d", name, f)
	}
	return tables[i]
}
