//go:build linux

package nfnl

import (
	"encoding/binary"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/nftdp/go-nftdp/internal/netlink"
	"github.com/nftdp/go-nftdp/internal/ruleset"
)

// encoded is one netlink message of a batch.
type encoded struct {
	typ, flags uint16
	seq        uint32
	at         int    // where it begins in the batch
	body       []byte // from struct nfgenmsg on
}

// messages splits a batch as the kernel does.
func messages(t *testing.T, batch []byte) []encoded {
	t.Helper()
	var out []encoded
	for at := 0; at < len(batch); {
		size := int(binary.NativeEndian.Uint32(batch[at:]))
		if size < msgHeader || size%4 != 0 || at+size > len(batch) {
			t.Fatalf("message of %d bytes at %d of %d", size, at, len(batch))
		}
		m := batch[at : at+size]
		out = append(out, encoded{
			typ: binary.NativeEndian.Uint16(m[4:]), flags: binary.NativeEndian.Uint16(m[6:]),
			seq: binary.NativeEndian.Uint32(m[8:]), at: at, body: m[16:],
		})
		at += size
	}
	return out
}

func encode(t *testing.T, seq uint32, changes ...ruleset.Change) (*Batch, []encoded) {
	t.Helper()
	b := NewBatch(seq, 77)
	for i := range changes {
		if err := b.Add(&changes[i]); err != nil {
			t.Fatal(err)
		}
	}
	return b, messages(t, b.Finish())
}

// portElements drop n ports, starting at first.
func portElements(first, n int, comment string) []ruleset.Element {
	out := make([]ruleset.Element, n)
	for i := range out {
		out[i] = ruleset.Element{
			Key:     ruleset.Tuple{}.Port(uint16(first + i)),
			Verdict: ruleset.Verdict{Kind: ruleset.Drop}, Comment: comment,
		}
	}
	return out
}

func portMap() *ruleset.Set {
	return &ruleset.Set{Name: "ports", Key: []ruleset.Type{ruleset.Port}, Verdict: true, Counter: true}
}

// TestBatchFrame: a batch begins with its generation, ends with the end message, and
// asks for one acknowledgement, that of its last change.
func TestBatchFrame(t *testing.T) {
	table := ruleset.Change{Verb: ruleset.Add, Family: ruleset.IPv4, Table: "t"}
	const first = ^uint32(0) // sequence numbers may wrap around
	b, msgs := encode(t, first, table, table)
	type frame struct {
		Typ, Flags uint16
		Seq        uint32
	}
	const add = unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_NEWTABLE
	const create = unix.NLM_F_REQUEST | unix.NLM_F_CREATE | unix.NLM_F_EXCL
	want := []frame{
		{unix.NFNL_MSG_BATCH_BEGIN, unix.NLM_F_REQUEST, first},
		{add, create, 0},
		{add, create | unix.NLM_F_ACK, 1},
		{unix.NFNL_MSG_BATCH_END, unix.NLM_F_REQUEST, 2},
	}
	var got []frame
	for _, m := range msgs {
		got = append(got, frame{m.typ, m.flags, m.seq})
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if b.FirstSeq() != first || b.LastSeq() != 1 || b.NextSeq() != 2 {
		t.Errorf("numbers are %d, %d, %d", b.FirstSeq(), b.LastSeq(), b.NextSeq())
	}
	f := readAttributes(msgs[0].body[4:], unix.NFNL_BATCH_GENID)
	if got := f.u32(unix.NFNL_BATCH_GENID); got != 77 || f.err != nil {
		t.Errorf("generation %d, error %v", got, f.err)
	}
	if subsys := binary.BigEndian.Uint16(msgs[0].body[2:]); subsys != unix.NFNL_SUBSYS_NFTABLES {
		t.Errorf("the batch is for subsystem %d", subsys)
	}
}

// TestElementsFillMessages: the attribute that contains elements is as full as its
// length of 16 bits allows, and does not exceed it with the longest elements.
func TestElementsFillMessages(t *testing.T) {
	long := strings.Repeat("é", 64)
	c := ruleset.Change{Verb: ruleset.Add, Family: ruleset.IPv6, Table: "t", Set: portMap(), Elements: portElements(0, 5000, long)}
	for i := range c.Elements {
		c.Elements[i].Verdict = ruleset.Verdict{Kind: ruleset.Goto, Chain: strings.Repeat("c", 100)}
		c.Elements[i].Packets = 1
	}
	_, msgs := encode(t, 0, c)
	msgs = msgs[1 : len(msgs)-1]
	next := 0
	for i, m := range msgs {
		f := readAttributes(m.body[4:], unix.NFTA_SET_ELEM_LIST_TABLE, unix.NFTA_SET_ELEM_LIST_SET, unix.NFTA_SET_ELEM_LIST_ELEMENTS)
		list := f.val[unix.NFTA_SET_ELEM_LIST_ELEMENTS]
		if full := len(list) > maxPayload-1024; f.err != nil || !full && i < len(msgs)-1 {
			t.Errorf("message %d of %d has %d bytes of elements, error %v", i, len(msgs), len(list), f.err)
		}
		err := DecodeElements(m.body, c.Set, c.Family, func(e ruleset.Element) {
			if !c.Elements[next].Same(&e) {
				t.Errorf("element %d is another one: %+v", next, e)
			}
			next++
		})
		if err != nil {
			t.Error(err)
		}
	}
	if next != len(c.Elements) {
		t.Errorf("%d elements arrive, want %d", next, len(c.Elements))
	}
}

// TestFind: the offset of an error in a message leads back to the element, among
// thousands in several messages.
func TestFind(t *testing.T) {
	changes := []ruleset.Change{
		{Verb: ruleset.Add, Family: ruleset.IPv4, Table: "t"},
		{Verb: ruleset.Add, Family: ruleset.IPv4, Table: "t", Set: portMap(), Elements: portElements(0, 3000, "x")},
		{Verb: ruleset.Delete, Family: ruleset.IPv4, Table: "t", Set: portMap(), Elements: portElements(0, 1, "x")},
		{Verb: ruleset.Delete, Family: ruleset.IPv4, Table: "t", Set: portMap(), Elements: portElements(0, 9000, "")},
	}
	b, msgs := encode(t, 1000, changes...)
	next := map[*ruleset.Change]int{}
	for _, m := range msgs {
		c, element := b.Find(m.seq, 0)
		switch {
		case m.typ == unix.NFNL_MSG_BATCH_BEGIN || m.typ == unix.NFNL_MSG_BATCH_END:
			if c != nil || element != -1 {
				t.Errorf("the frame of the batch is found as change %v, element %d", c, element)
			}
		case len(c.Elements) <= 1:
			if want := len(c.Elements) - 1; element != want {
				t.Errorf("%s: element %d, want %d", c, element, want)
			}
		default:
			if element != -1 {
				t.Errorf("element %d is found without an offset", element)
			}
			next[c] += checkFind(t, b, m, c, next[c])
		}
	}
	for i := range changes {
		if c := &changes[i]; len(c.Elements) > 1 && next[c] != len(c.Elements) {
			t.Errorf("%d elements of change %d are found, want %d", next[c], i, len(c.Elements))
		}
	}
	if c, _ := b.Find(999, 0); c != nil {
		t.Error("a message before the batch is found")
	}
	if c, _ := b.Find(b.NextSeq()+1, 0); c != nil {
		t.Error("a message after the batch is found")
	}
}

// checkFind looks for each element of one message by the offset of its first and
// last byte, and returns how many there are.
func checkFind(t *testing.T, b *Batch, m encoded, want *ruleset.Change, first int) (n int) {
	t.Helper()
	at := msgHeader // in the message
	f := netlink.ReadAttributes(m.body[4:])
	for f.Next() && f.Type != unix.NFTA_SET_ELEM_LIST_ELEMENTS {
		at += netlink.AttributeHeaderLen + netlink.Align(len(f.Value))
	}
	at += netlink.AttributeHeaderLen
	for in := netlink.ReadAttributes(f.Value); in.Next(); n++ {
		end := at + netlink.AttributeHeaderLen + netlink.Align(len(in.Value))
		for _, offset := range []int{at, end - 1} {
			if c, element := b.Find(m.seq, offset); c != want || element != first+n {
				t.Fatalf("offset %d leads to %d, want %d", offset, element, first+n)
			}
		}
		at = end
	}
	return n
}

// TestFindInterval: an interval is written as two elements, so it is not found.
func TestFindInterval(t *testing.T) {
	s := &ruleset.Set{Name: "s", Key: []ruleset.Type{ruleset.Addr}, Interval: true}
	c := ruleset.Change{Verb: ruleset.Add, Family: ruleset.IPv4, Table: "t", Set: s, Elements: []ruleset.Element{
		interval("10.0.0.0", "10.0.0.9"), interval("10.0.1.0", "10.0.1.9"),
	}}
	b, _ := encode(t, 0, c)
	for offset := range 200 {
		if _, element := b.Find(1, offset); element != -1 {
			t.Errorf("offset %d is found as element %d", offset, element)
		}
	}
}

// TestEncodeRefuses: what cannot be expressed is an error, and is never sent.
func TestEncodeRefuses(t *testing.T) {
	opaque := portElements(1, 1, "")
	opaque[0].Opaque = true
	rule := func(s ruleset.Statement) ruleset.Change {
		return ruleset.Change{Chain: &ruleset.Chain{Name: "c"}, Rule: ruleset.Rule{s}}
	}
	addr := ops(ruleset.Saddr)
	long := slices.Repeat(addr, 16)
	hash := ruleset.Operand{Field: ruleset.Hash, Mod: 3}
	for name, c := range map[string]ruleset.Change{
		"an update without a timeout":    rule(ruleset.Update{Map: "m", Key: addr, Data: addr}),
		"no timeout":                     rule(ruleset.Update{Map: "m", Key: addr, Data: addr}),
		"an update by hash":              rule(ruleset.Update{Map: "m", Key: []ruleset.Operand{hash}, Data: addr, Seconds: 1}),
		"an address of the other family": rule(ruleset.Update{Map: "m", Key: fixedKey("[fd00:96::a]:80"), Data: addr, Seconds: 1}),
		"a lookup of a fixed port":       rule(ruleset.Lookup{Key: fixedKey("10.96.0.10:80")[3:], Set: "s"}),
		"data after the registers":       rule(ruleset.Update{Map: "m", Key: long, Data: addr, Seconds: 1}),
		"a key after the registers":      rule(ruleset.Lookup{Key: append(long, addr...), Set: "s"}),
		"no register for a hash":         rule(ruleset.VMap{Key: append(long[:15:15], hash), Map: "m"}),
		"no register for two":            rule(ruleset.VMap{Key: append(long[:14:14], hashOf(ruleset.Saddr, ruleset.Sport)), Map: "m"}),
		"a hash of a hash":               rule(ruleset.VMap{Key: []ruleset.Operand{hashOf(ruleset.Hash)}, Map: "m"}),
		"a hash of a random number":      rule(ruleset.VMap{Key: []ruleset.Operand{hashOf(ruleset.Random)}, Map: "m"}),
		"a hash of nothing":              rule(ruleset.VMap{Key: []ruleset.Operand{hashOf()}, Map: "m"}),
		"a match of a port":              rule(ruleset.Match{Field: ruleset.Dport, Value: 80}),
		"a prefix of ports":              rule(ruleset.MatchAddr{Field: ruleset.Dport, Prefix: mustPrefix("10.0.0.0/8")}),
		"a port as an address":           rule(ruleset.SetAddr{Field: ruleset.Daddr, From: ruleset.Dport}),
		"an unknown verdict":             rule(ruleset.Verdict{Kind: 99}),
		"a match that is not":            rule(ruleset.Match{Field: ruleset.L4proto, Not: true, Value: tcp}),

		"an opaque element": {Set: portMap(), Elements: opaque},
		"an opaque set":     {Set: &ruleset.Set{Name: "s", Key: []ruleset.Type{ruleset.Port}, Opaque: "timeout"}},
		"an opaque rule":    {Chain: &ruleset.Chain{Name: "c"}, Rule: ruleset.Rule{ruleset.Opaque{What: "quota"}}},
		"an unknown field":  {Chain: &ruleset.Chain{Name: "c"}, Rule: ruleset.Rule{ruleset.Match{Field: 99}}},
		"an empty prefix":   rule(ruleset.MatchAddr{Field: ruleset.Daddr, Prefix: mustPrefix("0.0.0.0/0")}),
		"an unknown key": {Chain: &ruleset.Chain{Name: "c"}, Rule: ruleset.Rule{
			ruleset.Lookup{Key: []ruleset.Operand{{}}, Set: "s"},
		}},
	} {
		c.Verb, c.Family, c.Table = ruleset.Add, ruleset.IPv4, "t"
		if err := NewBatch(0, 0).Add(&c); err == nil {
			t.Errorf("%s is encoded", name)
		}
	}
	deleted := ruleset.Change{Verb: ruleset.Delete, Family: ruleset.IPv4, Table: "t", Set: portMap(), Elements: opaque}
	if err := NewBatch(0, 0).Add(&deleted); err != nil {
		t.Errorf("an opaque element cannot be deleted: %v", err)
	}
}

// hashOf is never nil: that is the source address.
func hashOf(inputs ...ruleset.Field) ruleset.Operand {
	return ruleset.Operand{Field: ruleset.Hash, Mod: 3, Inputs: ops(inputs...)}
}

func TestSuccessor(t *testing.T) {
	for _, c := range []struct{ in, want string }{
		{"10.0.0.0", "10.0.0.1"},
		{"10.0.0.255", "10.0.1.0"},
		{"10.255.255.255", "11.0.0.0"},
		{"255.255.255.255", ""},
		{"fd00::ffff", "fd00::1:0"},
		{"ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", ""},
	} {
		in := addrTuple(c.in)
		got, ok := successor(in, in.Len())
		if ok != (c.want != "") || ok && got != addrTuple(c.want) {
			t.Errorf("after %s comes %v, %t, want %q", c.in, got.Bytes(), ok, c.want)
		}
	}
	port := ruleset.Tuple{}.Port(0xffff)
	if _, ok := successor(port, 2); ok {
		t.Error("something comes after the last port")
	}
	port = ruleset.Tuple{}.Port(0x00ff)
	if got, _ := successor(port, 2); got != (ruleset.Tuple{}.Port(0x0100)) {
		t.Errorf("after port 255 comes %v", got.Bytes())
	}
}

// BenchmarkEncodeElements encodes as many backends as 20,000 services with
// about ten each have.
func BenchmarkEncodeElements(b *testing.B) {
	const n = 220_000
	s, msgs := backendMessages(n)
	c := ruleset.Change{Verb: ruleset.Add, Family: ruleset.IPv4, Table: "t", Set: s}
	for _, m := range msgs {
		if err := DecodeElements(m, s, c.Family, func(e ruleset.Element) { c.Elements = append(c.Elements, e) }); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportAllocs()
	for b.Loop() {
		if err := NewBatch(0, 0).Add(&c); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/n, "ns/element")
}
