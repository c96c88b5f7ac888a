package compile

import (
	"slices"
	"strings"

	"github.com/nftdp/go-nftdp/internal/ruleset"
)

// Account is the way of a packet through our rules in the terms of services, read
// from the rules that it matched.
type Account struct {
	Set      SetID            // in which its frontend was found, or NumSets
	Element  *ruleset.Element // the frontend, or nil
	CIDR     bool             // no frontend takes it, but its address belongs to services
	Clients  ClientsAnswer
	Split    SplitAnswer
	Affinity AffinityAnswer
	Refusal  Refusal // if it was dropped or rejected
	Routed   bool    // our rules refused nothing: the kernel does not route such a packet
	Source   SourceAnswer
}

// ClientsAnswer says what the lists of clients make of a client.
type ClientsAnswer uint8

// The answers.
const (
	NoLists ClientsAnswer = iota
	Permitted
	Denied
	NotAllowed
)

// SplitAnswer says which pool a client is sent to.
type SplitAnswer uint8

// The answers.
const (
	OnePool SplitAnswer = iota
	InternalClient
	ProcessHere
	ExternalClient
)

// AffinityAnswer says whether a client has a backend already.
type AffinityAnswer uint8

// The answers.
const (
	NoAffinity AffinityAnswer = iota
	NewClient
	Remembered
)

// SourceAnswer says why the source of a connection is rewritten or not.
type SourceAnswer uint8

// The answers.
const (
	NotAsked          SourceAnswer = iota // it ends on this node, or is not translated
	SelfConnection                        // a backend reaches itself
	LoopbackClient                        // a loopback address must not leave the node
	NeverRewritten                        // the frontend says so
	InternalKept                          // the client is internal
	ExternalRewritten                     // the client is not internal
	AlwaysRewritten                       // the frontend says so
	ProcessRewritten                      // only processes on this node are, and it is one
	ClientKept                            // only processes on this node are
	ListedRewritten                       // the list has the client
	UnlistedKept                          // the list has not
)

// AccountOf reads the account of a path.
func AccountOf(f ruleset.Family, p *ruleset.Path) Account {
	a := Account{Set: NumSets}
	for i := range p.Trace {
		a.add(&p.Trace[i])
	}
	n := len(p.Trace) - 1
	switch {
	case p.Fate == ruleset.Passed:
	case n < 0 || !refuses(p.Trace[n].Rule, p.Trace[n].Found):
		a.Routed = true
	default:
		before := ""
		for i := n; i >= 0 && before == ""; i-- {
			if p.Trace[i].Chain != p.Trace[n].Chain {
				before = p.Trace[i].Chain
			}
		}
		a.Refusal = RefusalOf(p.Trace[n].Chain, p.Trace[n].Rule.Text(f), before)
	}
	return a
}

// refuses reports whether a rule ends with a refusal, or led to the verdict drop.
func refuses(r ruleset.Rule, found *ruleset.Element) bool {
	if found != nil && found.Verdict.Kind == ruleset.Drop || len(r) == 0 {
		return true
	}
	switch s := r[len(r)-1].(type) {
	case ruleset.Reject:
		return true
	case ruleset.Verdict:
		return s.Kind == ruleset.Drop
	}
	return false
}

func (a *Account) add(s *ruleset.Step) {
	chain := strings.TrimPrefix(s.Chain, "node-")
	last := s.Rule[len(s.Rule)-1]
	verdict, _ := last.(ruleset.Verdict)
	lookup, looks := s.Rule[0].(ruleset.Lookup)
	switch {
	case s.Chain == servicesChain || s.Chain == nodeWideChain:
		if v, ok := last.(ruleset.VMap); ok && s.Found != nil {
			a.Set, a.Element = SetNamed(v.Map), s.Found
		}
		a.CIDR = a.CIDR || looks && lookup.Set == serviceCIDRsSet
	case strings.HasPrefix(chain, prefixesPrefix):
		match, compares := s.Rule[0].(ruleset.MatchAddr)
		switch {
		case looks && lookup.Not || compares && match.Not:
			a.Clients = NotAllowed
		case looks || compares:
			a.Clients = Denied
		default:
			a.Clients = Permitted
		}
	case strings.HasPrefix(chain, "split-"):
		a.Split = ExternalClient
		switch s.Rule[0].(type) {
		case ruleset.Lookup, ruleset.MatchInput:
			a.Split = InternalClient
		case ruleset.Match:
			a.Split = ProcessHere
		}
	case strings.HasPrefix(chain, "affinity-"):
		if d, ok := last.(ruleset.DNAT); ok && IsAffinityMap(d.Map) {
			a.Affinity = Remembered
		} else if verdict.Kind == ruleset.Goto {
			a.Affinity = NewClient
		}
	default:
		a.addSource(s, verdict)
	}
}

// addSource reads the rules by which postrouting chooses the source.
func (a *Account) addSource(s *ruleset.Step, verdict ruleset.Verdict) {
	in := func(words ...string) bool {
		return slices.ContainsFunc(words, func(w string) bool { return strings.HasPrefix(s.Chain, w) })
	}
	switch {
	case s.Chain == masqChain && verdict.Kind == ruleset.Goto:
		a.Source = keptBy(verdict.Chain)
	case s.Chain == masqChain && s.Found != nil:
		a.Source = keptBy(s.Found.Verdict.Chain)
	case !in("masquerade-", "snat-", postroutingChain) || verdict.Kind == ruleset.Jump:
	case slices.ContainsFunc(s.Rule, isHairpin):
		a.Source = SelfConnection
	case slices.ContainsFunc(s.Rule, isLoopbackSource):
		a.Source = LoopbackClient
	case verdict.Kind == ruleset.Return:
		a.Source = InternalKept
	case in("masquerade-"+prefixesPrefix, "snat-"+prefixesPrefix):
		a.Source = ListedRewritten
	case in("masquerade-local", "snat-local"):
		a.Source = ProcessRewritten
	case in("masquerade-all", "snat-all"):
		a.Source = AlwaysRewritten
	default:
		a.Source = ExternalRewritten
	}
}

// keptBy says why the rules of a chain keep a source, unless one of them rewrites it.
func keptBy(chain string) SourceAnswer {
	switch {
	case strings.Contains(chain, "-local"):
		return ClientKept
	case strings.Contains(chain, "-"+prefixesPrefix):
		return UnlistedKept
	}
	return NeverRewritten
}

func isHairpin(s ruleset.Statement) bool {
	l, ok := s.(ruleset.Lookup)
	return ok && l.Set == Hairpin.name()
}

func isLoopbackSource(s ruleset.Statement) bool {
	m, ok := s.(ruleset.MatchAddr)
	return ok && m.Field == ruleset.Saddr && !m.Not && m.Prefix.Addr().IsLoopback()
}

// NodeAddrs reads which addresses the rules limit node-wide frontends to; none: there
// is no limit.
func NodeAddrs(t *ruleset.Table) (limits []string) {
	if c := t.Chain(servicesChain); c != nil {
		for _, r := range c.Rules {
			if m, ok := r[0].(ruleset.MatchAddr); ok && m.Field == ruleset.Daddr && !m.Not {
				limits = append(limits, m.Prefix.String())
			}
		}
	}
	return limits
}

// HasAffinity reports whether a table has services that remember their clients.
func HasAffinity(t *ruleset.Table) bool {
	for _, id := range []SetID{Affinities, NodeAffinities} {
		for e := range elements(t, id) {
			if e.Verdict.Kind != ruleset.Return {
				return true
			}
		}
	}
	return false
}
