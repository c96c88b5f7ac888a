//go:build linux

package kernel

import (
	"bytes"
	"encoding/binary"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/nftdp/go-nftdp/internal/nstest"
	"github.com/nftdp/go-nftdp/internal/ruleset"
)

// affinities returns n entries of the specimen's map, beginning with number first.
func affinities(f ruleset.Family, first, n int, timeout time.Duration) *ruleset.EntryChange {
	c := &ruleset.EntryChange{Verb: ruleset.Add, Family: f, Table: "t", Set: specimen(f).Set("affinity")}
	one, two := testAddr(f, 1).AsSlice(), testAddr(f, 2).AsSlice()
	for i := range n {
		client := testAddr(f, 0).AsSlice()
		binary.BigEndian.PutUint16(client[len(client)-2:], uint16(first+i))
		c.Entries = append(c.Entries, ruleset.Entry{
			Key: [][]byte{client, one, {tcp}, {0, 80}}, Data: [][]byte{two, {0x1f, 0x90}}, Timeout: timeout,
		})
	}
	return c
}

// readEntries reads until two walks in a row find the same number of entries, since
// the kernel resizes its hash table in the background.
func readEntries(t *testing.T, c *Conn, of *ruleset.EntryChange) []ruleset.Entry {
	t.Helper()
	for last := -1; ; {
		out, err := c.Entries(t.Context(), of.Table, of.Family, of.Set)
		if err != nil {
			t.Fatal(err)
		}
		if len(out) == last {
			slices.SortFunc(out, func(a, b ruleset.Entry) int { return bytes.Compare(a.Key[0], b.Key[0]) })
			return out
		}
		last = len(out)
	}
}

// wantEntries compares entries. It only bounds their remaining times.
func wantEntries(t *testing.T, want, got []ruleset.Entry) {
	t.Helper()
	for i := range got {
		if e := &got[i]; e.Expires <= 0 || e.Expires > e.Timeout {
			t.Errorf("expires in %s, with a timeout of %s", e.Expires, e.Timeout)
		}
		got[i].Expires = 0
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func commitEntries(t *testing.T, c *Conn, change *ruleset.EntryChange, want int) {
	t.Helper()
	done, next, err := c.CommitEntries(t.Context(), generation(t, c), change)
	if err != nil || done != want {
		t.Fatalf("%s: %d of %d entries, want %d, error %v", change.Verb, done, len(change.Entries), want, err)
	}
	if now := generation(t, c); next != now {
		t.Errorf("CommitEntries returns generation %d, want %d", next, now)
	}
}

// TestEntries adds entries in more than one batch, some of which exist, and deletes
// them, together with some that do not exist. They are not part of the ruleset.
func TestEntries(t *testing.T) {
	ns := nstest.NewTestNamespace(t)
	c := dial(t, ns)
	want := specimens(ruleset.Families[:]...)
	load(t, c, want)
	for _, f := range ruleset.Families {
		all := affinities(f, 0, 3*maxEntries/2, time.Hour)
		present := affinities(f, 10, 2, 2*time.Hour)
		present.Entries[0].Data[1] = []byte{0, 1}
		commitEntries(t, c, present, 2)
		commitEntries(t, c, all, len(all.Entries)-1)
		all.Entries[10], all.Entries[11].Timeout = present.Entries[0], readEntries(t, c, all)[11].Timeout // newer kernels renew it
		wantEntries(t, all.Entries, readEntries(t, c, all))
		if listing := nft(t, ns, "", "list", "map", f.String(), "t", "affinity"); !strings.Contains(listing, " . tcp . 80 timeout 1h expires ") {
			t.Errorf("nft lists %.1000s", listing)
		}

		got, _ := read(t, c)
		wantRuleset(t, want, got)

		gone := affinities(f, maxEntries, maxEntries, 0)
		gone.Verb = ruleset.Delete
		commitEntries(t, c, gone, maxEntries/2)
		wantEntries(t, all.Entries[:maxEntries], readEntries(t, c, all))
		commitEntries(t, c, gone, 0)
	}
}

// TestEntriesExpire: expired entries are not read, and do not make a deletion fail.
func TestEntriesExpire(t *testing.T) {
	c := dial(t, nstest.NewTestNamespace(t))
	load(t, c, specimens())
	brief, lasting := affinities(ruleset.IPv6, 0, 20, 100*time.Millisecond), affinities(ruleset.IPv6, 20, 1, time.Hour)
	lasting.Entries[0].Expires = time.Minute
	commitEntries(t, c, brief, 20)
	commitEntries(t, c, lasting, 1)
	left := readEntries(t, c, brief)
	for deadline := time.Now().Add(10 * time.Second); len(left) > 1 && time.Now().Before(deadline); {
		left = readEntries(t, c, brief)
	}
	if len(left) != 1 || left[0].Expires > time.Minute || left[0].Expires < 40*time.Second {
		t.Fatalf("after ten seconds the entries are %+v", left)
	}
	brief.Verb, lasting.Verb = ruleset.Delete, ruleset.Delete
	brief.Entries = append(brief.Entries, lasting.Entries...)
	commitEntries(t, c, brief, 1)
}

// TestEntriesRefused: nothing of a refused batch is applied.
func TestEntriesRefused(t *testing.T) {
	c := dial(t, nstest.NewTestNamespace(t))
	r := specimens()
	for _, table := range r.Tables {
		table.Set("affinity").Size = 2
	}
	load(t, c, r)
	now := generation(t, c)
	three := affinities(ruleset.IPv4, 0, 3, time.Hour)
	if done, next, err := c.CommitEntries(t.Context(), now, three); done != 0 || next != now || !errors.Is(err, unix.ENFILE) {
		t.Errorf("into a full set: %d entries, generation %d of %d, error %v", done, next, now, err)
	}
	three.Entries = three.Entries[:2]
	if _, _, err := c.CommitEntries(t.Context(), now+1, three); !errors.Is(err, ruleset.ErrStale) {
		t.Errorf("for another generation: %v", err)
	}
	wantEntries(t, nil, readEntries(t, c, three))
	three.Table = "another"
	if _, _, err := c.CommitEntries(t.Context(), now, three); !errors.Is(err, unix.ENOENT) {
		t.Errorf("into a table that does not exist: %v", err)
	}
	three.Table, three.Entries[1].Key = "t", nil
	if _, _, err := c.CommitEntries(t.Context(), now, three); err == nil {
		t.Error("an entry without a key is sent")
	}
	three.Entries = three.Entries[:1]
	commitEntries(t, c, three, 1)
}
