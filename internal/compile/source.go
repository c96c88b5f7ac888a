package compile

import (
	"net/netip"
	"strconv"

	"github.com/nftdp/go-nftdp/internal/ruleset"
)

// Source is which source address backends see. The zero value is the usual
// one, for which there are sets instead of a chain.
type Source struct {
	Mode Mode
	Addr netip.Addr // rewritten to this one; unset: masqueraded
}

// Mode is which clients' addresses are rewritten.
type Mode uint8

// The modes.
const (
	External Mode = iota // of clients that are not internal
	All
	Local // of processes on this node
	Keep  // of none
)

func (s Source) name() string {
	name := "masquerade"
	if s.Addr.IsValid() {
		name = "snat"
	}
	name += [...]string{External: "-external", All: "-all", Local: "-local"}[s.Mode]
	if s.Addr.IsValid() {
		name += "-" + inName(s.Addr)
	}
	return name
}

func (Source) set() *ruleset.Set { return nil }

func (s Source) chain() *ruleset.Chain {
	var rewrite ruleset.Statement = ruleset.Masquerade{}
	if s.Addr.IsValid() {
		rewrite = ruleset.SNATTo{Addr: s.Addr}
	}
	out := &ruleset.Chain{Name: s.name()}
	switch s.Mode {
	case External:
		internal := ruleset.Lookup{Key: ops(ruleset.Saddr), Set: internalSet}
		out.Rules = []ruleset.Rule{{internal, ruleset.Verdict{Kind: ruleset.Return}}, {rewrite}}
	case Local:
		out.Rules = []ruleset.Rule{{ruleset.Match{Field: ruleset.FibSaddr, Value: ruleset.FibLocal}, rewrite}}
	case All, Keep:
		out.Rules = []ruleset.Rule{{rewrite}}
	}
	return out
}

// sourceOf reads the source from its chain, as chain makes it.
func sourceOf(c *ruleset.Chain) (Source, bool) {
	s := Source{Mode: All}
	for _, r := range c.Rules {
		for _, st := range r {
			switch st := st.(type) {
			case ruleset.Lookup:
				s.Mode = External
			case ruleset.Match:
				s.Mode = Local
			case ruleset.SNATTo:
				s.Addr = st.Addr
			}
		}
	}
	return s, s.name() == c.Name
}

// learner is the chain that notes where clients are sent, with the timeout in
// seconds. Replies come from the chosen backend. (The destination is the same,
// but a port of the packet makes nft leave out `meta l4proto tcp`, without which
// it can not load `ct original proto-dst`.)
type learner struct{ seconds uint32 }

func (l learner) name() string { return learnPrefix + strconv.FormatUint(uint64(l.seconds), 10) }

const learnPrefix = "learn-"

func (learner) set() *ruleset.Set { return nil }

func (l learner) chain() *ruleset.Chain {
	out := &ruleset.Chain{Name: l.name()}
	for _, p := range protocolNumbers {
		out.Rules = append(out.Rules, ruleset.Rule{
			ruleset.Match{Field: ruleset.L4proto, Value: uint32(p)},
			ruleset.Update{
				Map:     affinityMap,
				Key:     ops(ruleset.Saddr, ruleset.OrigDaddr, ruleset.L4proto, ruleset.OrigDport),
				Seconds: l.seconds,
				Data:    ops(ruleset.ReplySaddr, ruleset.ReplySport),
			},
		})
	}
	return out
}
