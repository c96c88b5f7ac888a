//go:build linux

package nfnl

import (
	"cmp"
	"slices"

	"github.com/nftdp/go-nftdp/internal/ruleset"
)

// The kernel keeps an interval of single keys as two elements: its first key,
// and the key after its last one, flagged as an end (nft_set_rbtree.c). They
// arrive in any order and in different messages. Until they are folded, an end
// is an element with an End and no Key.

// endHalf is the half that ends an interval before the key of e.
func endHalf(e *ruleset.Element) ruleset.Element {
	return ruleset.Element{End: e.Key, Opaque: e.Opaque || e.Key.IsZero()}
}

// FoldIntervals joins all the elements that DecodeElements found in s to
// intervals, and reuses their memory. The intervals are ordered. The elements of
// other sets, and of those whose keys are concatenations, are whole already and
// returned unchanged.
//
// An interval without an end extends to the start of the next one, or to the
// highest key. An end without a start has no meaning: nft puts one before the
// first interval.
func FoldIntervals(s *ruleset.Set, halves []ruleset.Element) []ruleset.Element {
	if !s.Interval || len(s.Key) != 1 {
		return halves
	}
	slices.SortStableFunc(halves, compareHalves)
	folded := halves[:0]
	open := false // the last of folded has no end yet
	for _, h := range halves {
		last := len(folded) - 1
		if open && !bound(&h).IsZero() {
			closeBefore(s.Key[0], &folded[last], bound(&h))
			folded[last].Opaque = folded[last].Opaque || h.Key.IsZero() && h.Opaque
			open = false
		}
		switch {
		case !h.Key.IsZero():
			open = h.End.IsZero()
			folded = append(folded, h)
		case h.Opaque && h.End.IsZero():
			folded = append(folded, h)
		}
	}
	if open {
		closeAtTop(s.Key[0], &folded[len(folded)-1])
	}
	return folded
}

// bound is the key at which a half starts or ends an interval.
func bound(h *ruleset.Element) *ruleset.Tuple {
	if h.Key.IsZero() {
		return &h.End
	}
	return &h.Key
}

// compareHalves orders by key; where one interval ends and the next starts at the
// same key, the end comes first.
func compareHalves(a, b ruleset.Element) int {
	return cmp.Or(bound(&a).Compare(bound(&b)), cmp.Compare(min(a.Key.Len(), 1), min(b.Key.Len(), 1)))
}

// closeBefore ends an interval at the key before next.
func closeBefore(t ruleset.Type, e *ruleset.Element, next *ruleset.Tuple) {
	e.End = *next
	b := unpadded(t, &e.End)
	if e.Key.Compare(next) >= 0 || len(b) == 0 {
		// Two intervals start at one key, which the kernel does not allow.
		e.End, e.Opaque = e.Key, true
		return
	}
	for i := len(b) - 1; ; i-- {
		b[i]--
		if b[i] != 0xff || i == 0 {
			return
		}
	}
}

// closeAtTop ends an interval at the highest key.
func closeAtTop(t ruleset.Type, e *ruleset.Element) {
	e.End = e.Key
	for b := unpadded(t, &e.End); len(b) > 0; b = b[1:] {
		b[0] = 0xff
	}
}

// unpadded is a view of the tuple's number.
func unpadded(t ruleset.Type, u *ruleset.Tuple) []byte {
	if t == ruleset.Addr {
		return u.Bytes()
	}
	return u.Bytes()[:min(t.Size(ruleset.IPv4), u.Len())]
}
