//go:build linux

package nfnl

import (
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/nftdp/go-nftdp/internal/ruleset"
)

// affinity is a map whose IPv6 keys are longer than a tuple.
func affinity() *ruleset.Set {
	return &ruleset.Set{
		Name: "s", Dynamic: true, Size: 1024,
		Key:  []ruleset.Type{ruleset.Addr, ruleset.Addr, ruleset.Proto, ruleset.Port},
		Data: []ruleset.Type{ruleset.Addr, ruleset.Port},
	}
}

func entry(f ruleset.Family, n byte, timeout, expires time.Duration) ruleset.Entry {
	client := someAddr(f).AsSlice()
	client[len(client)-1] = n
	addr := someAddr(f).AsSlice()
	return ruleset.Entry{
		Key:     [][]byte{client, addr, {udp}, {0, n}},
		Data:    [][]byte{addr, {0x1f, 0x90}},
		Timeout: timeout, Expires: expires,
	}
}

// TestEntriesRoundTrip: entries that are added are decoded unchanged, and an entry is
// deleted by its key alone.
func TestEntriesRoundTrip(t *testing.T) {
	for _, f := range ruleset.Families {
		c := &ruleset.EntryChange{Verb: ruleset.Add, Family: f, Table: "t", Set: affinity(), Entries: []ruleset.Entry{
			entry(f, 1, 3*time.Hour, time.Second),
			entry(f, 2, time.Millisecond, 0),
			entry(f, 3, 0, 0),
		}}
		if diff := cmp.Diff(c.Entries, decodeEntries(t, encodeEntries(t, c), c)); diff != "" {
			t.Errorf("%s: added (-want +got):\n%s", f, diff)
		}
		sent := *c
		sent.Entries = []ruleset.Entry{entry(f, 1, time.Second, time.Hour), entry(f, 2, time.Nanosecond, 0), entry(f, 3, 0, time.Second)}
		want := []ruleset.Entry{entry(f, 1, time.Second, time.Second), entry(f, 2, time.Millisecond, 0), entry(f, 3, 0, 0)}
		if diff := cmp.Diff(want, decodeEntries(t, encodeEntries(t, &sent), c)); diff != "" {
			t.Errorf("%s: with times that the kernel does not take (-want +got):\n%s", f, diff)
		}

		sent = *c
		sent.Verb = ruleset.Delete
		keys := affinity()
		keys.Data = nil
		for i := range want {
			want[i] = ruleset.Entry{Key: want[i].Key}
		}
		if diff := cmp.Diff(want, decodeEntries(t, encodeEntries(t, &sent), &ruleset.EntryChange{Family: f, Set: keys})); diff != "" {
			t.Errorf("%s: deleted (-want +got):\n%s", f, diff)
		}
	}
}

func encodeEntries(t *testing.T, c *ruleset.EntryChange) []encoded {
	t.Helper()
	b := NewBatch(9, 77)
	if err := b.AddEntries(c); err != nil {
		t.Fatal(err)
	}
	msgs := messages(t, b.Finish())
	for i, m := range msgs {
		of, at := b.FindEntry(m.seq)
		if inside := i > 0 && i < len(msgs)-1; inside != (of == c) || inside && at != i-1 {
			t.Errorf("message %d is found to be about entry %d", i, at)
		}
		if change, element := b.Find(m.seq, 0); change != nil || element != -1 {
			t.Errorf("message %d is found to be about %v", i, change)
		}
	}
	return msgs[1 : len(msgs)-1]
}

func decodeEntries(t *testing.T, msgs []encoded, c *ruleset.EntryChange) (out []ruleset.Entry) {
	t.Helper()
	for _, m := range msgs {
		if err := DecodeEntries(m.body, c.Set, c.Family, func(e ruleset.Entry) { out = append(out, e) }); err != nil {
			t.Error(err)
		}
	}
	return out
}

// TestEntryOfSlots: host-endian numbers are big-endian here, as in tuples.
func TestEntryOfSlots(t *testing.T) {
	s := &ruleset.Set{Name: "s", Key: []ruleset.Type{ruleset.Slot}, Data: []ruleset.Type{ruleset.Port}}
	c := &ruleset.EntryChange{Verb: ruleset.Add, Family: ruleset.IPv4, Table: "t", Set: s, Entries: []ruleset.Entry{
		{Key: [][]byte{{0, 0, 1, 2}}, Data: [][]byte{{0, 80}}},
	}}
	msgs := encodeEntries(t, c)
	if diff := cmp.Diff(c.Entries, decodeEntries(t, msgs, c)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	var got []ruleset.Element
	err := DecodeElements(msgs[0].body, s, ruleset.IPv4, func(e ruleset.Element) { got = append(got, e) })
	want := []ruleset.Element{{Key: ruleset.Tuple{}.Slot(258), Data: portTuple(80)}}
	if diff := cmp.Diff(want, got, byValue); err != nil || diff != "" {
		t.Errorf("as an element: error %v (-want +got):\n%s", err, diff)
	}
}

// TestEntriesOfNft decodes the kernel's dump of an entry that nft added.
func TestEntriesOfNft(t *testing.T) {
	d := keptDump(t, "sets")
	i := slices.IndexFunc(d.tables(t)[0].Sets, func(s *ruleset.Set) bool { return s.Dynamic && len(s.Data) > 1 })
	s := d.tables(t)[0].Sets[i]
	var got []ruleset.Entry
	for _, m := range d.of(unix.NFT_MSG_NEWSETELEM) {
		if err := DecodeEntries(m, s, ruleset.IPv4, func(e ruleset.Entry) { got = append(got, e) }); err != nil {
			t.Fatal(err)
		}
	}
	if len(got) != 1 || got[0].Expires <= 59*time.Minute || got[0].Expires > time.Hour {
		t.Fatalf("got %+v", got)
	}
	got[0].Expires = 0
	want := []ruleset.Entry{{
		Key:  [][]byte{{10, 0, 0, 1}, {tcp}, {0, 80}},
		Data: [][]byte{{10, 0, 0, 2}, {0, 81}}, Timeout: time.Hour,
	}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// TestEntriesRefused: what does not have the types of the set is neither sent nor
// decoded as an entry.
func TestEntriesRefused(t *testing.T) {
	good := entry(ruleset.IPv4, 1, time.Second, 0)
	for name, e := range map[string]ruleset.Entry{
		"no key":          {Data: good.Data},
		"no data":         {Key: good.Key},
		"another family":  entry(ruleset.IPv6, 1, 0, 0),
		"more fields":     {Key: append(good.Key[:4:4], []byte{1}), Data: good.Data},
		"a padded field":  {Key: [][]byte{good.Key[0], good.Key[1], {udp, 0, 0, 0}, {0, 1}}, Data: good.Data},
		"data of another": {Key: good.Key, Data: good.Key},
	} {
		c := &ruleset.EntryChange{Verb: ruleset.Add, Family: ruleset.IPv4, Table: "t", Set: affinity(), Entries: []ruleset.Entry{e}}
		if err := NewBatch(0, 0).AddEntries(c); err == nil {
			t.Errorf("%s is encoded", name)
		}
	}
	key := attr(unix.NFTA_SET_ELEM_KEY, valueOf(10, 0, 0, 1, 10, 0, 0, 2, tcp, 0, 0, 0, 0, 80, 0, 0))
	data := attr(unix.NFTA_SET_ELEM_DATA, valueOf(10, 0, 0, 1, 0, 80, 0, 0))
	for name, attrs := range map[string][]byte{
		"no key":     data,
		"no data":    key,
		"short key":  append(attr(unix.NFTA_SET_ELEM_KEY, valueOf(10)), data...),
		"short data": append(attr(unix.NFTA_SET_ELEM_DATA, valueOf(10)), key...),
		"verdict":    append(attr(unix.NFTA_SET_ELEM_DATA, attr(unix.NFTA_DATA_VERDICT)), key...),
	} {
		err := DecodeEntries(elementsMessage(element(attrs)), affinity(), ruleset.IPv4, func(e ruleset.Entry) { t.Errorf("%s: %+v", name, e) })
		if err != nil {
			t.Error(name, err)
		}
	}
	err := DecodeEntries(elementsMessage(attr(1, []byte{3, 0, 1, 0})), affinity(), ruleset.IPv4, func(ruleset.Entry) {})
	if err == nil {
		t.Error("malformed attributes are no error")
	}
}

func FuzzDecodeEntries(f *testing.F) {
	seed(f, unix.NFT_MSG_NEWSETELEM)
	f.Fuzz(func(t *testing.T, msg []byte) {
		for _, family := range ruleset.Families {
			for _, s := range append(fuzzSets(), affinity()) {
				name, _, err := elementList(msg, family)
				if err != nil {
					continue
				}
				s.Name = string(name)
				c := &ruleset.EntryChange{Verb: ruleset.Add, Family: family, Table: "t", Set: s}
				if err := DecodeEntries(msg, s, family, func(e ruleset.Entry) { c.Entries = append(c.Entries, e) }); err != nil {
					continue
				}
				if err := NewBatch(0, 0).AddEntries(c); err != nil {
					t.Errorf("%+v is decoded, but not encoded: %v", c.Entries, err)
				}
			}
		}
	})
}
