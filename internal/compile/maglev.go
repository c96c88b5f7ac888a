package compile

import (
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"net/netip"
)

// MaxMaglevSize is the largest prime that a slot number can reach.
const MaxMaglevSize = 65521

// MaglevSize chooses the size of a table for a number of backends: a prime with
// at least a hundred slots for each, as far as possible, for which the paper
// finds shares within one percent. There are few sizes, so that one backend more
// or less hardly ever changes the size, which would move almost every client.
func MaglevSize(backends int) int {
	for _, s := range []struct{ backends, size int }{{2, 251}, {10, 1021}, {40, 4093}, {160, 16381}} {
		if backends <= s.backends {
			return s.size
		}
	}
	return MaxMaglevSize
}

// maglev fills a table of prime size as in section 3.4 of "Maglev: A Fast and
// Reliable Software Network Load Balancer" (NSDI 2016): in turn, each backend
// takes the next free slot of its own permutation of all slots. A backend has as
// many turns as its weight. The hash is fixed, so that all nodes agree. A size
// of 0 stands for MaglevSize.
func maglev(pool []Weighted, size int) []netip.AddrPort {
	type walk struct{ next, skip uint64 }
	walks := make(map[netip.AddrPort]*walk, len(pool))
	turns := inTurns(pool, 0)
	m := uint64(cmp.Or(size, MaglevSize(len(pool))))
	for _, a := range turns {
		if walks[a] == nil {
			b, _ := a.MarshalBinary() // which never fails
			h := sha256.Sum256(b)
			walks[a] = &walk{binary.BigEndian.Uint64(h[:]) % m, binary.BigEndian.Uint64(h[8:])%(m-1) + 1}
		}
	}
	table := make([]netip.AddrPort, m)
	for filled := uint64(0); ; {
		for _, a := range turns {
			w := walks[a]
			for table[w.next].IsValid() {
				w.next = (w.next + w.skip) % m
			}
			table[w.next] = a
			if filled++; filled == m {
				return table
			}
		}
	}
}
