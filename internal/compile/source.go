package compile

import (
	"net/netip"
	"slices"

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
	Keep   // none but those that are always rewritten
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
		name += [...]string{External: "-external", All: "-all", Local: "-local", Keep: "-hairpin"}[s.Mode]
	}
	if s.Addr.IsValid() {
		name += "-" + inName(s.Addr)
	}
	return name
}

func (Source) set() *ruleset.Set { return nil }

// byInput adds rules by which the packets of some interfaces are treated as those of
// internal clients. Each interface has a rule, as a set of names with asterisks would
// be found only at the very end of a commit (see nodeRules).
func (c Config) byInput(rules []ruleset.Rule) []ruleset.Rule {
	i := slices.IndexFunc(rules, func(r ruleset.Rule) bool {
		l, ok := r[0].(ruleset.Lookup)
		return ok && l.Set == internalSet
	})
	if i < 0 || len(c.Inputs) == 0 {
		return rules
	}
	out := slices.Clone(rules[:i+1])
	for _, pattern := range slices.Compact(slices.Sorted(slices.Values(c.Inputs))) {
		out = append(out, append(ruleset.Rule{ruleset.MatchInput{Pattern: pattern}}, rules[i][1:]...))
	}
	return append(out, rules[i+1:]...)
}

func (s Source) chain() *ruleset.Chain {
	var rewrite ruleset.Statement = ruleset.Masquerade{}
	out := &ruleset.Chain{Name: s.name()}
	if s.Addr.IsValid() {
		rewrite = ruleset.SNATTo{Addr: s.Addr}
		out.Rules = s.always(rewrite)
	}
	switch s.Mode {
	case External:
		internal := ruleset.Lookup{Key: ops(ruleset.Saddr), Set: internalSet}
		out.Rules = append(out.Rules, ruleset.Rule{internal, ruleset.Verdict{Kind: ruleset.Return}}, ruleset.Rule{rewrite})
	case Local:
		out.Rules = append(out.Rules, ruleset.Rule{ruleset.Match{Field: ruleset.FibSaddr, Value: ruleset.FibLocal}, rewrite})
	case Listed:
		for _, condition := range (prefixes{s.Clients}).inside() {
			out.Rules = append(out.Rules, ruleset.Rule{condition, rewrite})
		}
	case All:
		out.Rules = []ruleset.Rule{{rewrite}}
	case Keep:
	}
	return out
}

// always returns the rules for connections whose source is rewritten in every
// mode. Postrouting would masquerade them otherwise.
func (s Source) always(rewrite ruleset.Statement) []ruleset.Rule {
	return []ruleset.Rule{{hairpin(), rewrite}, {ruleset.MatchAddr{Field: ruleset.Saddr, Prefix: loopback(ruleset.FamilyOf(s.Addr))}, rewrite}}
}

// source emits the elements by which postrouting chooses the source address that
// backends see.
func (e *emission) source(c class) {
	s, id := e.f.Source, Sources
	if c.ranged {
		id = SourceRanges
	}
	switch {
	case s == Source{Mode: Keep}: // explicit, since a range or a node-wide frontend may differ
		e.byBackend(id, c, ruleset.Verdict{Kind: ruleset.Return})
	case s != Source{}:
		e.to.use(e.family, s)
		if list := (prefixes{s.Clients}); s.Mode == Listed && list.isSet() {
			e.to.use(e.family, list)
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
	s := Source{Mode: Keep}
	rules := slices.DeleteFunc(slices.Clone(c.Rules), func(rule ruleset.Rule) bool { return len(rule) == 0 }) // of others
	for _, rule := range rules {
		if snat, ok := rule[len(rule)-1].(ruleset.SNATTo); ok {
			s.Addr = snat.Addr
		}
	}
	if always := len(s.always(nil)); s.Addr.IsValid() && len(rules) >= always {
		rules = rules[always:]
	}
	for _, rule := range rules {
		r.readSource(&s, rule)
	}
	return s
}

// readSource reads a rule that is not one of those of every mode.
func (r *reader) readSource(s *Source, rule ruleset.Rule) {
	switch first := rule[0].(type) {
	case ruleset.Lookup:
		s.Mode = External
		if first.Set != internalSet {
			s.Mode = Listed
			if set := r.names.Set(first.Set); set != nil {
				s.Clients, _ = listOf(set, r.Family)
			}
		}
	case ruleset.MatchAddr:
		s.Mode, s.Clients = Listed, withPrefix(s.Clients, first.Prefix)
	case ruleset.Match:
		s.Mode = Local
	case ruleset.SNATTo, ruleset.Masquerade:
		if s.Mode == Keep {
			s.Mode = All
		}
	}
}
