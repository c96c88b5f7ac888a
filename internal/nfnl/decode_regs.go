//go:build linux

package nfnl

import (
	"golang.org/x/sys/unix"

	"github.com/nftdp/go-nftdp/internal/ruleset"
)

// value is what a rule has loaded into registers.
type value struct {
	op   ruleset.Operand
	size int    // bytes
	mask []byte // what was left of op by a bitwise and; nil is all
	from *ruleset.DNAT
	// from or data is set, and op is not, for what a map has given and for
	// what an expression has brought along; of are the types of a map's data.
	of   []ruleset.Type
	data []byte // what stands in the rule
	at   int    // first word
	used bool
}

func (v *value) words() int { return (v.size + 3) / 4 }

// registers tells which value each word of the registers belongs to. Register
// numbers name the same 64 bytes twice: 1 to 4 are 16 bytes each, and 8 to 23
// four bytes each (linux/netfilter/nf_tables.h, enum nft_registers).
type registers struct {
	word   [unix.NFT_REG32_15 - unix.NFT_REG32_00 + 1]*value
	loaded []*value
}

// wordOf is the first word of a register.
func wordOf(reg uint32) (int, bool) {
	switch {
	case reg >= unix.NFT_REG_1 && reg <= unix.NFT_REG_4:
		return int(reg-unix.NFT_REG_1) * 4, true
	case reg >= unix.NFT_REG32_00 && reg <= unix.NFT_REG32_15:
		return int(reg - unix.NFT_REG32_00), true
	}
	return 0, false
}

// load puts a value into a register.
func (r *registers) load(reg uint32, v *value) error {
	at, ok := wordOf(reg)
	if !ok || at+v.words() > len(r.word) {
		return unknown("register")
	}
	v.at = at
	for i := range v.words() {
		r.word[at+i] = v
	}
	r.loaded = append(r.loaded, v)
	return nil
}

// use takes the whole value that begins at a word. A random number may be
// used once: in a rule's text each use draws another number.
func (r *registers) use(at int) (*value, error) {
	if at >= len(r.word) || r.word[at] == nil {
		return nil, unknown("register that is not loaded")
	}
	v := r.word[at]
	for i := range v.words() {
		if v.at+i >= len(r.word) || r.word[v.at+i] != v {
			return nil, unknown("part of a value")
		}
	}
	if v.at != at || v.used && (v.op.Field == ruleset.Random || v.op.Field == ruleset.Increment) {
		return nil, unknown("part of a value")
	}
	v.used = true
	return v, nil
}

// useReg takes the whole value in a register.
func (r *registers) useReg(reg uint32) (*value, error) {
	at, ok := wordOf(reg)
	if !ok {
		return nil, unknown("register")
	}
	return r.use(at)
}

// key takes the operands of a lookup: the values for the fields of a key, one
// behind the other.
func (r *registers) key(reg uint32, types []ruleset.Type, f ruleset.Family) ([]ruleset.Operand, error) {
	at, ok := wordOf(reg)
	if !ok || len(types) == 0 {
		return nil, unknown("lookup")
	}
	var ops []ruleset.Operand
	for _, t := range types {
		v, err := r.use(at)
		if err != nil {
			return nil, err
		}
		if operandType(v.op.Field) != t || v.mask != nil || v.size != operandSize(v.op.Field, f) {
			return nil, unknown("type of a lookup's key")
		}
		ops = append(ops, v.op)
		at += v.words()
	}
	return ops, nil
}

// settled reports whether every value that was loaded has been used. A load
// by itself can end a rule, as one of a port that the packet does not have
// does, which a rule's text shows only where the value is used.
func (r *registers) settled() bool {
	for _, v := range r.loaded {
		if !v.used {
			return false
		}
	}
	return true
}

// operandType is zero for what is never part of a key.
func operandType(f ruleset.Field) ruleset.Type {
	switch f {
	case ruleset.Saddr, ruleset.Daddr, ruleset.OrigSaddr, ruleset.OrigDaddr, ruleset.ReplySaddr, ruleset.ReplyDaddr:
		return ruleset.Addr
	case ruleset.L4proto:
		return ruleset.Proto
	case ruleset.Dport, ruleset.OrigDport, ruleset.ReplySport:
		return ruleset.Port
	case ruleset.Random, ruleset.Increment, ruleset.Hash:
		return ruleset.Slot
	default:
		return 0
	}
}

// operandSize is the size of a whole field in bytes.
func operandSize(field ruleset.Field, f ruleset.Family) int {
	if t := operandType(field); t != 0 {
		return typeLen(t, f)
	}
	switch field {
	case ruleset.IifType:
		return 2
	case ruleset.CtDirection:
		return 1
	default:
		return 4 // ct status and the type of an address
	}
}
