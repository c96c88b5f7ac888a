package ruleset

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/netip"
)

// Type is the type of one field of a key or of a map's data.
type Type uint8

// The types. All but addresses take four bytes in a Tuple, as every field of
// a concatenation is padded to a multiple of four bytes in the kernel.
const (
	Addr  Type = iota + 1 // ipv4_addr or ipv6_addr
	Proto                 // inet_proto
	Port                  // inet_service
	Slot                  // a number below SlotMod, from numgen or a hash
)

// SlotMod bounds the slots of a pool: a slot is less than SlotMod. The
// declaration of every map that is keyed by a slot contains it.
const SlotMod = 65535

// typeRow describes a type.
type typeRow struct {
	name   string  // in nft
	size   int     // in bytes, without padding
	sample Operand // of that type, for declarations by typeof
}

func (t Type) row(f Family) typeRow {
	switch t {
	case Addr:
		name := "ipv4_addr"
		if f == IPv6 {
			name = "ipv6_addr"
		}
		return typeRow{name, f.AddrLen(), Operand{Field: Daddr}}
	case Proto:
		return typeRow{"inet_proto", 1, Operand{Field: L4proto}}
	case Port:
		return typeRow{"inet_service", 2, Operand{Field: Dport}}
	case Slot:
		return typeRow{"integer", 4, Operand{Field: Random, Mod: SlotMod}}
	}
	return typeRow{name: fmt.Sprintf("type-%d", uint8(t)), size: 4}
}

func (t Type) name(f Family) string { return t.row(f).name }

func (t Type) sample(f Family) string { return t.row(f).sample.text(f) }

// Size is the type's size in bytes, without padding.
func (t Type) Size(f Family) int { return t.row(f).size }

// Len is the type's size in bytes in a Tuple.
func (t Type) Len(f Family) int {
	if t == Addr {
		return f.AddrLen()
	}
	return 4
}

// Tuple is a concatenation of fields, each padded with zeroes at its end to a
// multiple of four bytes, as in the registers of the kernel. All numbers are
// big-endian, so that comparing bytes orders tuples. In the kernel, a Slot is
// host-endian instead. The zero Tuple is empty.
type Tuple struct {
	b [32]byte
	n uint8
}

// Len is the tuple's length in bytes.
func (t *Tuple) Len() int { return int(t.n) }

// Bytes is a view of the tuple's bytes.
func (t *Tuple) Bytes() []byte { return t.b[:t.n] }

// IsZero reports whether the tuple is empty.
func (t Tuple) IsZero() bool { return t.n == 0 }

// Compare orders tuples by their bytes.
func (t *Tuple) Compare(o *Tuple) int { return bytes.Compare(t.Bytes(), o.Bytes()) }

// TupleOf makes a tuple of raw bytes; ok is false when there are too many.
func TupleOf(b []byte) (t Tuple, ok bool) {
	if len(b) > len(t.b) {
		return t, false
	}
	t.n = uint8(copy(t.b[:], b))
	return t, true
}

// Addr appends an address.
func (t Tuple) Addr(a netip.Addr) Tuple {
	if a.Is4() {
		b := a.As4()
		t.n += uint8(copy(t.b[t.n:], b[:]))
		return t
	}
	b := a.As16()
	t.n += uint8(copy(t.b[t.n:], b[:]))
	return t
}

// Proto appends an IP protocol number.
func (t Tuple) Proto(p uint8) Tuple {
	t.b[t.n] = p
	t.n += 4
	return t
}

// Port appends a port.
func (t Tuple) Port(p uint16) Tuple {
	binary.BigEndian.PutUint16(t.b[t.n:], p)
	t.n += 4
	return t
}

// Slot appends a slot number.
func (t Tuple) Slot(n uint32) Tuple {
	binary.BigEndian.PutUint32(t.b[t.n:], n)
	t.n += 4
	return t
}

// Prefix is the tuple's first n bytes.
func (t Tuple) Prefix(n int) Tuple {
	clear(t.b[n:])
	t.n = uint8(n)
	return t
}

// AddrAt reads the address at byte i.
func (t *Tuple) AddrAt(i int, f Family) netip.Addr {
	a, _ := netip.AddrFromSlice(t.b[i : i+f.AddrLen()])
	return a
}

// ProtoAt reads the IP protocol number at byte i.
func (t *Tuple) ProtoAt(i int) uint8 { return t.b[i] }

// PortAt reads the port at byte i.
func (t *Tuple) PortAt(i int) uint16 { return binary.BigEndian.Uint16(t.b[i:]) }

// SlotAt reads the slot at byte i.
func (t *Tuple) SlotAt(i int) uint32 { return binary.BigEndian.Uint32(t.b[i:]) }
