//go:build linux

package nfnl

import (
	"strings"
	"testing"
	"unicode"

	"golang.org/x/sys/unix"

	"github.com/nftdp/go-nftdp/internal/ruleset"
)

// The fuzz targets look for panics and for values that contradict what the
// decoder promises. Their seeds are dumps of kernels.

// seed adds the messages of a type in all dumps.
func seed(f *testing.F, typ int) {
	f.Helper()
	for _, name := range []string{"ours", "rules-ip", "rules-ip6", "sets", "tables"} {
		for _, m := range keptDump(f, name).of(typ) {
			f.Add(m)
		}
	}
}

func FuzzDecodeTable(f *testing.F) {
	seed(f, unix.NFT_MSG_NEWTABLE)
	f.Fuzz(func(t *testing.T, msg []byte) {
		table, err := DecodeTable(msg)
		if (err == nil) == (table == nil) {
			t.Fatal(table, err)
		}
		if err == nil && (table.Name == "" || !known(table.Family) && len(table.Opaque) == 0) {
			t.Errorf("%+v", table)
		}
	})
}

func FuzzDecodeChain(f *testing.F) {
	seed(f, unix.NFT_MSG_NEWCHAIN)
	f.Fuzz(func(t *testing.T, msg []byte) {
		table, family, c, err := DecodeChain(msg)
		if (err == nil) == (c == nil) {
			t.Fatal(c, err)
		}
		if err == nil && (table == "" || c.Name == "" || !known(family) && c.Opaque == "") {
			t.Errorf("%q %v %+v", table, family, c)
		}
	})
}

func FuzzDecodeSet(f *testing.F) {
	seed(f, unix.NFT_MSG_NEWSET)
	f.Fuzz(func(t *testing.T, msg []byte) {
		table, family, s, err := DecodeSet(msg)
		if (err == nil) == (s == nil) {
			t.Fatal(s, err)
		}
		if err != nil {
			return
		}
		if s.Dynamic && s.Interval {
			t.Errorf("dynamic intervals: %+v", s)
		}
		if table == "" || s.Name == "" || s.Opaque == "" && (!known(family) || len(s.Key) == 0) {
			t.Errorf("%q %v %+v", table, family, s)
		}
		if l := layoutOf(s.Key, family); len(s.Key) > 0 && l.size == 0 && !s.Dynamic {
			t.Errorf("key %v has no layout", s.Key)
		}
	})
}

func FuzzDecodeRule(f *testing.F) {
	seed(f, unix.NFT_MSG_NEWRULE)
	tables := []*ruleset.Table{
		nil, syntheticTable(), ourTable(ruleset.IPv4, "10.9.0.", "10.8.%.2", "127.0.0.0/8"),
		ourTable(ruleset.IPv6, "fd00:9::", "fd00:8::%:2", "::1/128"),
	}
	for _, t := range tables[2:] {
		t.Name = "rules"
	}
	f.Fuzz(func(t *testing.T, msg []byte) {
		for _, table := range tables {
			name, family, chain, r, err := DecodeRule(msg, table.Names())
			if err == nil && (name == "" || chain == "" || !known(family) && !isOpaque(r)) {
				t.Errorf("%q %v %q %+v", name, family, chain, r)
			}
			// Rules are compared by their text.
			_ = r.Text(family)
		}
	})
}

func FuzzDecodeElements(f *testing.F) {
	seed(f, unix.NFT_MSG_NEWSETELEM)
	f.Fuzz(func(t *testing.T, msg []byte) {
		for _, family := range ruleset.Families {
			for _, s := range fuzzSets() {
				fuzzElements(t, msg, s, family)
			}
		}
	})
}

func fuzzElements(t *testing.T, msg []byte, s *ruleset.Set, family ruleset.Family) {
	t.Helper()
	name, _, err := elementList(msg, family)
	if err != nil {
		return
	}
	s.Name = string(name)
	err = DecodeElements(msg, s, family, func(e ruleset.Element) { s.Elements = append(s.Elements, e) })
	if err != nil {
		return
	}
	if len(s.Elements) > len(msg)/unix.NLA_HDRLEN {
		t.Errorf("%d elements of %d bytes", len(s.Elements), len(msg))
	}
	l := layoutOf(s.Key, family)
	for _, e := range FoldIntervals(s, s.Elements) {
		whole := e.Key.Len() == l.padded && (e.End.Len() == l.padded) == s.Interval
		if !whole && !e.Opaque {
			t.Errorf("%+v of %+v", e, s)
		}
		if whole && s.Interval && len(s.Key) == 1 && !e.Opaque && e.End.Compare(&e.Key) < 0 {
			t.Errorf("%+v ends before it begins", e)
		}
	}
}

// fuzzSets are of every shape: no key, all types, padded or not, of values,
// verdicts and intervals.
func fuzzSets() []*ruleset.Set {
	addr, port, slot := ruleset.Addr, ruleset.Port, ruleset.Slot
	return []*ruleset.Set{
		{},
		{Key: []ruleset.Type{addr}},
		{Key: []ruleset.Type{addr}, Interval: true},
		{Key: []ruleset.Type{port}, Interval: true, Verdict: true},
		{Key: []ruleset.Type{ruleset.Proto}, Interval: true, Counter: true},
		{Key: []ruleset.Type{addr, port}, Interval: true},
		{Key: []ruleset.Type{addr, ruleset.Proto, port}, Verdict: true, Counter: true},
		{Key: []ruleset.Type{addr, ruleset.Proto, port, slot}, Data: []ruleset.Type{addr, port}, Counter: true},
		{Key: []ruleset.Type{addr, addr, addr}, Data: []ruleset.Type{slot}},
	}
}

func known(f ruleset.Family) bool { return f == ruleset.IPv4 || f == ruleset.IPv6 }

func isOpaque(r ruleset.Rule) bool {
	if len(r) != 1 {
		return false
	}
	_, ok := r[0].(ruleset.Opaque)
	return ok
}

// FuzzDescribe looks for panics, and for text that would control a terminal.
func FuzzDescribe(f *testing.F) {
	seed(f, unix.NFT_MSG_NEWRULE)
	seed(f, unix.NFT_MSG_NEWCHAIN)
	f.Fuzz(func(t *testing.T, msg []byte) {
		_, _ = DescribeChain(msg)
		_, _ = DecodeTrace(msg)
		d, err := DescribeRule(msg)
		if text := d.Text + d.Comment; err == nil && strings.ContainsFunc(text, func(r rune) bool { return !unicode.IsPrint(r) }) {
			t.Errorf("%q", text)
		}
	})
}
