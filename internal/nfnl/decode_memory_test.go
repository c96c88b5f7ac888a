//go:build linux

package nfnl

import (
	"encoding/binary"
	"math/rand/v2"
	"runtime"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/nftdp/go-nftdp/internal/ruleset"
)

// TestDecodersAllocateLittle: what the decoders allocate for a message is bounded
// by its size, whatever it contains: the lengths that it claims do not matter.
func TestDecodersAllocateLittle(t *testing.T) {
	const base, perByte = 64 << 10, 256
	dice := rand.New(rand.NewPCG(1, 2))
	table := ourTable(ruleset.IPv4, "10.9.0.", "10.8.%.2", "127.0.0.0/8")
	table.Name = "rules"
	for name, d := range map[string]struct {
		typ    int
		decode func([]byte)
	}{
		"table": {unix.NFT_MSG_NEWTABLE, func(b []byte) { _, _ = DecodeTable(b) }},
		"chain": {unix.NFT_MSG_NEWCHAIN, func(b []byte) { _, _, _, _ = DecodeChain(b) }},
		"set":   {unix.NFT_MSG_NEWSET, func(b []byte) { _, _, _, _ = DecodeSet(b) }},
		"rule":  {unix.NFT_MSG_NEWRULE, func(b []byte) { _, _, _, _, _ = DecodeRule(b, table.Names()) }},
		"elements": {unix.NFT_MSG_NEWSETELEM, func(b []byte) {
			for _, s := range fuzzSets() {
				_ = DecodeElements(b, s, ruleset.IPv4, func(ruleset.Element) {})
			}
		}},
	} {
		t.Run(name, func(t *testing.T) {
			worst := 0.0
			for _, m := range keptDump(t, "ours").of(d.typ) {
				for range 20 {
					hostile := spoiled(dice, m)
					allocated := allocatedBy(func() { d.decode(hostile) })
					if allocated > base+perByte*uint64(len(hostile)) {
						t.Fatalf("%d bytes for a message of %d: %x", allocated, len(hostile), hostile)
					}
					worst = max(worst, float64(allocated)/float64(len(hostile)))
				}
			}
			t.Logf("at most %.0f bytes for each byte of a message", worst)
		})
	}
}

// spoiled is a message with some random bytes, among them lengths, or with its
// tail repeated.
func spoiled(dice *rand.Rand, m []byte) []byte {
	out := slices.Clone(m)
	for range dice.IntN(4) {
		at := dice.IntN(len(out)-4) &^ 3
		binary.NativeEndian.PutUint16(out[at:], uint16(dice.Uint32()))
	}
	if tail := dice.IntN(len(out)) &^ 3; dice.IntN(2) == 0 {
		for len(out) < 32<<10 {
			out = append(out, out[tail:]...)
		}
	}
	return out
}

func allocatedBy(f func()) uint64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	f()
	runtime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc
}
