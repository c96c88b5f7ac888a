package compile

import (
	"net/netip"
	"strconv"

	"github.com/nftdp/go-nftdp/internal/ruleset"
)

// Source says which source address backends see. The zero value is the most
// common one, for which there are sets of frontends instead of maps to a chain.
type Source struct {
	Mode    Mode
	Addr    netip.Addr // the address that is rewritten to; unset: masquerade
	Clients string     // of Listed: prefixes as Prefixes writes them
}

// Mode says which clients' addresses are rewritten.
type Mode uint8

// The modes.
const (
	External Mode = iota // those of clients that are not internal
	All
	Local  // those of processes on this node
	Keep   // none
	Listed // those of clients inside a list of prefixes
)

func (s Source) name() string {
	name := "masquerade"
	if s.Addr.IsValid() {
		name = "snat"
	}
	if s.Mode == Listed {
		name += "-" + prefixes{s.Clients}.name()
	} else {
		name += [...]string{External: "-external", All: "-all", Local: "-local"}[s.Mode]
	}
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
	case Listed:
		listed := ruleset.Lookup{Key: ops(ruleset.Saddr), Set: prefixes{s.Clients}.name()}
		out.Rules = []ruleset.Rule{{listed, rewrite}}
	case All, Keep:
		out.Rules = []ruleset.Rule{{rewrite}}
	}
	return out
}

// source emits the elements by which postrouting chooses the source address that
// backends see.
func (e *emission) source(c class) {
	s, id := e.f.Source, Sources
	if c.ranged {
		id = SourceRanges
	}
	switch {
	case s.Mode == Keep: // explicit, since a range or a node-wide frontend may differ
		e.byBackend(id, c, ruleset.Verdict{Kind: ruleset.Return})
	case s != Source{}:
		e.to.use(e.family, s)
		if s.Mode == Listed {
			e.to.use(e.family, prefixes{s.Clients})
		}
		e.byBackend(id, c, gotoChain(s))
	case c.ranged:
		e.byBackend(id, c, gotoChain(s))
	default:
		e.byBackend(Masq, c, ruleset.Verdict{})
	}
}

// sourceOf reads a source from a chain that Source.chain made.
func (r *reader) sourceOf(c *ruleset.Chain) Source {
	s := Source{Mode: All}
	for _, rule := range c.Rules {
		for _, st := range rule {
			switch st := st.(type) {
			case ruleset.Lookup:
				s.Mode = External
				if set := r.Set(st.Set); set != nil && st.Set != internalSet {
					s.Mode = Listed
					s.Clients, _ = listOf(set, r.Family)
				}
			case ruleset.Match:
				s.Mode = Local
			case ruleset.SNATTo:
				s.Addr = st.Addr
			}
		}
	}
	return s
}

// learner is the chain that records the backends of clients, for a number of
// seconds. It reads the backend from the source of the replies. (The packet's
// destination is the same, but if a rule uses a port of the packet, nft lists it
// without `meta l4proto tcp`, and then cannot load `ct original proto-dst`.)
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
