//go:build linux

package nfnl

import (
	"encoding/binary"
	"math"
	"slices"
	"time"

	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/nftdp/go-nftdp/internal/ruleset"
)

func (e *ruleEncoder) lookup(l ruleset.Lookup) {
	e.key(l.Key, reg0)
	e.add(&expr.Lookup{SourceRegister: reg0, SetName: l.Set, Invert: l.Not})
}

func (e *ruleEncoder) vmap(v ruleset.VMap) {
	e.key(v.Key, reg0)
	e.add(&expr.Lookup{SourceRegister: reg0, SetName: v.Map, IsDestRegSet: true, DestRegister: unix.NFT_REG_VERDICT})
}

func (d *ruleDecoder) lookup() {
	name, flags := d.str(unix.NFTA_LOOKUP_SET), d.optU32(unix.NFTA_LOOKUP_FLAGS)
	not, isMap := flags == unix.NFT_LOOKUP_F_INV, d.has(unix.NFTA_LOOKUP_DREG)
	d.check(flags == 0 || not && !isMap, "flags")
	dreg := d.optU32(unix.NFTA_LOOKUP_DREG)
	s := d.set(name)
	key := d.key(d.u32(unix.NFTA_LOOKUP_SREG), s.Key)
	data := layoutOf(s.Data, d.family)
	switch {
	case !isMap:
		d.match(ruleset.Lookup{Key: key, Not: not, Set: name})
	case s.Verdict && dreg == unix.NFT_REG_VERDICT:
		d.act(ruleset.VMap{Key: key, Map: name})
	case d.check(data.size > 0, "data of map "+name):
		d.load(dreg, &value{from: &ruleset.DNAT{Key: key, Map: name}, of: s.Data, size: data.size})
	}
}

// update loads the key and after it the data, at the register that nft uses if the
// key is short. It refuses a hash, whose inputs would be loaded in between, and
// values of another size than their type.
func (e *ruleEncoder) update(u ruleset.Update) {
	unfit := func(o ruleset.Operand) bool {
		return o.Field == ruleset.Hash || o.IsFixed() && len(o.Fixed) != o.Size(e.family)
	}
	if u.Seconds == 0 || slices.ContainsFunc(u.Key, unfit) || slices.ContainsFunc(u.Data, unfit) {
		e.refuse("update of %s", u.Map)
	}
	data := max(e.operands(u.Key, reg0), reg0+4)
	e.key(u.Data, data)
	e.add(&expr.Dynset{
		SrcRegKey: reg0, SrcRegData: data, SetName: u.Map,
		Operation: unix.NFT_DYNSET_OP_UPDATE, Timeout: time.Duration(u.Seconds) * time.Second,
	})
}

// dynset knows the update of a dynamic map with a timeout of whole seconds.
func (d *ruleDecoder) dynset() {
	name := d.str(unix.NFTA_DYNSET_SET_NAME)
	keyReg, dataReg := d.u32(unix.NFTA_DYNSET_SREG_KEY), d.u32(unix.NFTA_DYNSET_SREG_DATA)
	ms := binary.BigEndian.Uint64(d.sized(unix.NFTA_DYNSET_TIMEOUT, 8))
	d.check(!d.has(unix.NFTA_DYNSET_EXPR), "expression")
	d.check(d.u32(unix.NFTA_DYNSET_OP) == unix.NFT_DYNSET_OP_UPDATE && d.optU32(unix.NFTA_DYNSET_FLAGS) == 0, "operation or flags")
	d.check(ms > 0 && ms%1000 == 0 && ms/1000 <= math.MaxUint32, "timeout")
	s := d.set(name)
	if !s.Dynamic {
		d.opaque("set %s", name)
	}
	d.act(ruleset.Update{Map: name, Key: d.operands(keyReg, s.Key, true), Seconds: uint32(ms / 1000), Data: d.key(dataReg, s.Data)})
}
