//go:build linux

package nfnl

import (
	"slices"

	"golang.org/x/sys/unix"

	"github.com/nftdp/go-nftdp/internal/ruleset"
)

// value is something that a rule has loaded into registers.
type value struct {
	op   ruleset.Operand
	size int    // bytes
	mask []byte // the bits of op that are left; nil is all
	from *ruleset.DNAT
	// Instead of op, a value that was found in a map has from and, in of, the
	// types of the map's data; one that is part of the rule has data.
	of   []ruleset.Type
	data []byte
	at   int // first word
	used bool
}

func (v *value) words() int { return (v.size + 3) / 4 }

// registers record which value each of their words belongs to. Register numbers
// name the same 64 bytes twice: 1 to 4 are 16 bytes each, and 8 to 23
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

// settled reports whether every value that was loaded has been used. A load by
// itself can end a rule, for example if the packet has no port, but the text of a
// rule shows it only where the value is used.
func (r *registers) settled() bool {
	return !slices.ContainsFunc(r.loaded, func(v *value) bool { return !v.used })
}

// load puts a value into a register.
func (d *ruleDecoder) load(reg uint32, v *value) {
	at, ok := wordOf(reg)
	if !d.check(ok && at+v.words() <= len(d.word), "register") {
		return
	}
	v.at = at
	for i := range v.words() {
		d.word[at+i] = v
	}
	d.loaded = append(d.loaded, v)
}

// use returns the whole value in a register.
func (d *ruleDecoder) use(reg uint32) *value {
	at, ok := wordOf(reg)
	if !d.check(ok, "register") {
		return &value{}
	}
	return d.useWord(at)
}

// useWord returns the whole value that begins at a word. A random number may
// be used once: in a rule's text each use draws another number.
func (d *ruleDecoder) useWord(at int) *value {
	if at >= len(d.word) || d.word[at] == nil {
		d.opaque("register that is not loaded")
		return &value{}
	}
	v := d.word[at]
	whole := v.at == at && !slices.ContainsFunc(d.word[at:min(at+v.words(), len(d.word))], func(w *value) bool { return w != v })
	d.check(whole && (!v.used || v.op.Field != ruleset.Random && v.op.Field != ruleset.Increment), "part of a value")
	v.used = true
	return v
}

// key returns the operands of a lookup: the values for the fields of a key, one
// after the other.
func (d *ruleDecoder) key(reg uint32, types []ruleset.Type) []ruleset.Operand {
	return d.operands(reg, types, false)
}

// operands returns those in registers, one after the other. If fixed is set, some may
// be part of the rule.
func (d *ruleDecoder) operands(reg uint32, types []ruleset.Type, fixed bool) []ruleset.Operand {
	at, ok := wordOf(reg)
	d.check(ok && len(types) > 0, "lookup")
	var key []ruleset.Operand
	for _, t := range types {
		v := d.useWord(at)
		o, isFixed := v.fixed(t, d.family)
		if !isFixed || !fixed {
			d.check(v.whole(d.family) && v.op.Type() == t, "type of a lookup's key")
			o = v.op
		}
		key = append(key, o)
		at += v.words()
	}
	return key
}

// fixed reads an address or a port that is part of the rule. The bytes are a part of
// the message, which is overwritten by the next one.
func (v *value) fixed(t ruleset.Type, f ruleset.Family) (o ruleset.Operand, ok bool) {
	switch o.Fixed = slices.Clone(v.data); t {
	case ruleset.Addr:
		o.Field = ruleset.FixedAddr
	case ruleset.Port:
		o.Field = ruleset.FixedPort
	case ruleset.Proto, ruleset.Slot:
		return o, false
	}
	return o, len(v.data) == t.Size(f)
}

// whole reports whether the value is a complete, unmasked field.
func (v *value) whole(f ruleset.Family) bool {
	return v.op.Field != 0 && v.mask == nil && v.size == v.op.Size(f)
}
