package ruleset

import (
	"encoding/binary"
	"math/bits"
)

// jhash is the kernel's hash of bytes, from include/linux/jhash.h, after Bob
// Jenkins' lookup3. The kernel reads whole blocks of twelve bytes in the
// machine's byte order, and the last block, whole or not, always as
// little-endian. So the hash of an IPv4 address is the same everywhere, with a
// port too, and that of an IPv6 address is not.
func jhash(key []byte, seed uint32, machine binary.ByteOrder) uint32 {
	const initval = 0xdeadbeef
	a := initval + uint32(len(key)) + seed
	b, c := a, a
	for ; len(key) > 12; key = key[12:] {
		a += machine.Uint32(key)
		b += machine.Uint32(key[4:])
		c += machine.Uint32(key[8:])
		a, b, c = jhashMix(a, b, c)
	}
	if len(key) == 0 {
		return c
	}
	var rest [12]byte
	copy(rest[:], key)
	a += binary.LittleEndian.Uint32(rest[:])
	b += binary.LittleEndian.Uint32(rest[4:])
	c += binary.LittleEndian.Uint32(rest[8:])
	return jhashFinal(a, b, c)
}

// jhashMix is __jhash_mix.
func jhashMix(a, b, c uint32) (_, _, _ uint32) {
	for _, shift := range [...][3]int{{4, 6, 8}, {16, 19, 4}} {
		a -= c
		a ^= bits.RotateLeft32(c, shift[0])
		c += b
		b -= a
		b ^= bits.RotateLeft32(a, shift[1])
		a += c
		c -= b
		c ^= bits.RotateLeft32(b, shift[2])
		b += a
	}
	return a, b, c
}

// jhashFinal is __jhash_final.
func jhashFinal(a, b, c uint32) uint32 {
	rol := bits.RotateLeft32
	c = (c ^ b) - rol(b, 14)
	a = (a ^ c) - rol(c, 11)
	b = (b ^ a) - rol(a, 25)
	c = (c ^ b) - rol(b, 16)
	a = (a ^ c) - rol(c, 4)
	b = (b ^ a) - rol(a, 14)
	c = (c ^ b) - rol(b, 24)
	return c
}

// scale brings a hash below a number, as the kernel's reciprocal_scale does.
func scale(hash, mod uint32) uint32 {
	return uint32(uint64(hash) * uint64(mod) >> 32)
}
