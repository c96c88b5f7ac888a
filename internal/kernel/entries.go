//go:build linux

package kernel

import (
	"bytes"
	"context"
	"fmt"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/nftdp/go-nftdp/internal/netlink"
	"github.com/nftdp/go-nftdp/internal/nfnl"
	"github.com/nftdp/go-nftdp/internal/ruleset"
)

// Entries reads the entries of a dynamic set that have not expired, each once.
// Entries that packets add meanwhile may be included or not. While the kernel
// moves the set to a hash table of another size, which restarts the walk
// (nft_rhash_walk), a few entries may be missed, too.
func (c *Conn) Entries(ctx context.Context, table string, f ruleset.Family, s *ruleset.Set) ([]ruleset.Entry, error) {
	var out []ruleset.Entry
	seen := map[string]bool{}
	err := c.dumpIn(ctx, unix.NFT_MSG_GETSETELEM, f, elementList(table, s.Name), func(b []byte) error {
		return nfnl.DecodeEntries(b, s, f, func(e ruleset.Entry) {
			if key := string(bytes.Join(e.Key, nil)); !seen[key] {
				seen[key] = true
				out = append(out, e)
			}
		})
	})
	if err != nil {
		return nil, fmt.Errorf("entries of %s %s %s: %w", f, table, s.Name, err)
	}
	return out, nil
}

// maxEntries bounds a batch of entries to the size that any socket can send
// (net.core.wmem_max is 212992 by default): an entry takes some 200 bytes in IPv6.
const maxEntries = 500

// CommitEntries adds entries to a dynamic set or deletes them, bound to a
// generation as Commit is, in as many batches as needed. It returns how many
// entries the set now has as given, or how many were deleted, and the generation
// after that, also with an error.
//
// Entries are also added by packets, and expire. If the key of an entry to be
// added exists, that entry stays as it is. An entry to be deleted that does not
// exist is ignored, even if the whole set does not exist.
func (c *Conn) CommitEntries(ctx context.Context, generation uint32, change *ruleset.EntryChange) (done int, next uint32, err error) {
	for chunk := range slices.Chunk(change.Entries, maxEntries) {
		for len(chunk) > 0 {
			part := *change
			part.Entries = chunk
			moot, err := c.commitEntries(ctx, generation, &part)
			if err != nil {
				return done, generation, fmt.Errorf("%s entries of %s %s %s: %w",
					change.Verb, change.Family, change.Table, change.Set.Name, err)
			}
			if len(moot) == 0 {
				done += len(chunk)
				if generation != 0 {
					generation = nextGeneration(generation)
				}
				break
			}
			chunk = without(chunk, moot) // nothing was applied: repeat for the others
		}
	}
	return done, generation, nil
}

// commitEntries sends one batch. The kernel evaluates the whole batch before it
// refuses it, so one answer names every moot entry.
//
// Since Linux 6.3 a message can delete elements that may not exist
// (NFT_MSG_DESTROYSETELEM), but older kernels are supported, too.
func (c *Conn) commitEntries(ctx context.Context, generation uint32, change *ruleset.EntryChange) (moot map[int]bool, err error) {
	batch := nfnl.NewBatch(c.socket.NextSeq(0), generation)
	if err := batch.AddEntries(change); err != nil {
		return nil, err
	}
	if err := c.sendBatch(ctx, batch); err != nil {
		return nil, err
	}
	moot = map[int]bool{}
	var refused error
	err = c.answers(batch, func(m *netlink.Message, errno unix.Errno) {
		of, i := batch.FindEntry(m.Seq)
		switch {
		case errno == unix.ERESTART:
			refused = ruleset.ErrStale
		case of != nil && isMoot(change.Verb, errno):
			moot[i] = true
		case refused == nil:
			refused = errno
		}
	})
	if err == nil {
		err = refused
	}
	return moot, err
}

// isMoot reports whether an error says that the key of an entry to be added exists,
// or that an entry to be deleted does not. Adding an entry that exists with the
// same data is no error. For other data the kernel answers EEXIST, and older ones
// EBUSY (nft_add_set_elem in net/netfilter/nf_tables_api.c).
func isMoot(v ruleset.Verb, errno unix.Errno) bool {
	if v == ruleset.Delete {
		return errno == unix.ENOENT
	}
	return errno == unix.EEXIST || errno == unix.EBUSY
}

func without(entries []ruleset.Entry, moot map[int]bool) []ruleset.Entry {
	out := make([]ruleset.Entry, 0, len(entries)-len(moot))
	for i, e := range entries {
		if !moot[i] {
			out = append(out, e)
		}
	}
	return out
}
