package ruleset

import (
	"encoding/binary"
	"net/netip"
	"slices"
	"testing"
)

// TestJhash has values of the C code in include/linux/jhash.h, with
// get_unaligned reading either byte order. The packet tests compare with the
// kernel itself.
func TestJhash(t *testing.T) {
	v4 := netip.MustParseAddr("203.0.113.122").AsSlice()
	v6 := netip.MustParseAddr("fd00:203:0:113::122").AsSlice()
	port := []byte{0xc3, 0x50, 0, 0} // padded, as in registers
	for _, c := range []struct {
		key               []byte
		seed, little, big uint32
	}{
		{v4, HashSeed, 0xd501c19f, 0xd501c19f},
		{slices.Concat(v4, port), HashSeed, 0x2b47ea90, 0x2b47ea90},
		{v6, HashSeed, 0xdfd3f5, 0xc6ad3c13},
		{slices.Concat(v6, port), HashSeed, 0x27447e9e, 0x76405e19},
		{slices.Concat(v6, port, []byte{0, 0, 0, 0, 0, 9, 0, 0}), HashSeed, 0x70fd5fbb, 0x32350054}, // two blocks
		{v6[:12], 7, 0x2cb60926, 0x2cb60926},
		{nil, 0, 0xdeadbeef, 0xdeadbeef},
	} {
		if got := jhash(c.key, c.seed, binary.LittleEndian); got != c.little {
			t.Errorf("jhash of %x, little-endian: %#x, want %#x", c.key, got, c.little)
		}
		if got := jhash(c.key, c.seed, binary.BigEndian); got != c.big {
			t.Errorf("jhash of %x, big-endian: %#x, want %#x", c.key, got, c.big)
		}
	}
	for _, c := range []struct{ hash, mod, want uint32 }{{0, 5, 0}, {1 << 31, 4, 2}, {1<<32 - 1, 5, 4}} {
		if got := scale(c.hash, c.mod); got != c.want {
			t.Errorf("%#x below %d: %d, want %d", c.hash, c.mod, got, c.want)
		}
	}
}

// TestEvalHash: what is hashed decides the slot. The hashes are those of
// TestJhash.
func TestEvalHash(t *testing.T) {
	packet := testPacket()
	packet.Src = netip.MustParseAddrPort("203.0.113.122:50000")
	for _, c := range []struct {
		inputs []Operand
		want   string
	}{
		{nil, "to 10.0.0.107:8080"},                                       // 0xd501c19f is in the seventh eighth: slot 6 + 1
		{[]Operand{{Field: Saddr}}, "to 10.0.0.107:8080"},                 // the same
		{[]Operand{{Field: Saddr}, {Field: Sport}}, "to 10.0.0.100:8080"}, // 0x2b47ea90 is in the second: slot 1 + 1
	} {
		hash := Operand{Field: Hash, Mod: 8, Offset: 1, Inputs: c.inputs}
		paths := evaluate(t, evalTable(Rule{DNAT{Key: []Operand{hash}, Map: "slots"}}), packet)
		if len(paths) != 1 || paths[0].String() != c.want {
			t.Errorf("%s: %v, want %s", hash.text(IPv4), paths, c.want)
		}
	}
}
