//go:build linux

package nfnl

import (
	"slices"

	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/nftdp/go-nftdp/internal/ruleset"
)

// verdictCodes are the kernel's numbers of the verdicts.
var verdictCodes = [...]expr.VerdictKind{
	ruleset.Drop:   expr.VerdictDrop,
	ruleset.Accept: expr.VerdictAccept,
	ruleset.Return: expr.VerdictReturn,
	ruleset.Jump:   expr.VerdictJump,
	ruleset.Goto:   expr.VerdictGoto,
}

// verdictKind returns zero for verdicts that package ruleset cannot express, such
// as queue.
func verdictKind(code expr.VerdictKind) ruleset.VerdictKind {
	if i := slices.Index(verdictCodes[1:], code); i >= 0 {
		return ruleset.VerdictKind(i + 1)
	}
	return 0
}

func (e *ruleEncoder) verdict(v ruleset.Verdict) {
	if v.Kind == 0 || int(v.Kind) >= len(verdictCodes) {
		e.refuse("verdict %d", v.Kind)
		return
	}
	e.add(&expr.Verdict{Kind: verdictCodes[v.Kind], Chain: v.Chain})
}

// immediate knows verdicts, and bytes that are used later.
func (d *ruleDecoder) immediate() {
	reg := d.u32(unix.NFTA_IMMEDIATE_DREG)
	if reg != unix.NFT_REG_VERDICT {
		data := d.data(unix.NFTA_IMMEDIATE_DATA)
		d.load(reg, &value{data: data, size: len(data)})
		return
	}
	v, ok, err := readVerdict(d.val[unix.NFTA_IMMEDIATE_DATA], "")
	d.malformed(err)
	d.check(ok, "not a verdict that has a form")
	d.act(v)
}

// portUnreachable is the ICMP code.
var portUnreachable = inFamily{3, 4}

func (e *ruleEncoder) reject(r ruleset.Reject) {
	if r.Reset {
		e.add(&expr.Reject{Type: unix.NFT_REJECT_TCP_RST})
		return
	}
	e.add(&expr.Reject{Type: unix.NFT_REJECT_ICMP_UNREACH, Code: uint8(portUnreachable.of(e.family))})
}

func (d *ruleDecoder) reject() {
	typ, code := d.u32(unix.NFTA_REJECT_TYPE), uint8(0)
	if d.has(unix.NFTA_REJECT_ICMP_CODE) {
		code = d.u8(unix.NFTA_REJECT_ICMP_CODE)
	}
	reset := typ == unix.NFT_REJECT_TCP_RST
	if !reset && (typ != unix.NFT_REJECT_ICMP_UNREACH || uint32(code) != portUnreachable.of(d.family)) {
		d.opaque("type %d code %d", typ, code)
	}
	d.act(ruleset.Reject{Reset: reset})
}

func (e *ruleEncoder) connCount(c ruleset.ConnCount) {
	e.add(&expr.Connlimit{Count: c.Over, Flags: nftConnlimitInv})
}

// connlimit knows the count that matches above the limit.
func (d *ruleDecoder) connlimit() {
	over := d.u32(nftaConnlimitCount)
	d.check(d.optU32(nftaConnlimitFlags) == nftConnlimitInv, "flags")
	d.act(ruleset.ConnCount{Over: over})
}
