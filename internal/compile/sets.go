package compile

import (
	"slices"

	"github.com/nftdp/go-nftdp/internal/ruleset"
)

// SetID numbers the sets and maps in which services have elements.
type SetID uint8

// The sets, in the order in which they are created. There are two of each kind:
// one for frontends with an address, and one for node-wide frontends.
const (
	Frontends           SetID = iota // daddr . proto . dport : verdict
	NodeFrontends                    // proto . dport : verdict
	FrontendRanges                   // daddr . proto . dports : verdict
	NodeFrontendRanges               // proto . dports : verdict
	Backends                         // daddr . proto . dport . slot : addr . port
	NodeBackends                     // proto . dport . slot : addr . port
	LimitedBackends                  // daddr . proto . dport . slot : verdict
	NodeLimitedBackends              // proto . dport . slot : verdict
	RangeBackends                    // daddr . proto . slot : addr; the slot begins with the first port
	NodeRangeBackends                // proto . slot : addr
	Masq                             // original daddr . proto . original dport: masqueraded unless internal
	NodeMasq                         // proto . original dport . backend: the same for node-wide frontends
	Sources                          // original daddr . proto . original dport : verdict
	NodeSources                      // proto . original dport . backend : verdict
	SourceRanges                     // original daddr . proto . original dports : verdict
	NodeSourceRanges                 // proto . original dports . backend : verdict
	Affinities                       // original daddr . proto . original dport : verdict
	NodeAffinities                   // proto . original dport . backend : verdict
	AffinityRanges                   // original daddr . proto . original dports : verdict; none is node-wide
	Hairpin                          // backend . backend: connections of a backend to itself
	Addresses                        // those of frontends, with Config.DropUnallocated
	NumSets
)

// addrSets is the number of sets whose elements belong to addresses, which services
// share: Hairpin and those after it.
const addrSets = NumSets - Hairpin

// of returns the set of the same kind for node-wide frontends or for others.
func (id SetID) of(node bool) SetID {
	if node {
		return id + 1
	}
	return id
}

// NodeWide reports whether the set is for node-wide frontends.
func (id SetID) NodeWide() bool { return id < Hairpin && id%2 == 1 }

// Ranged reports whether the set is for ranges of ports.
func (id SetID) Ranged() bool {
	kind := id &^ 1
	return kind == FrontendRanges || kind == RangeBackends || kind == SourceRanges || id == AffinityRanges
}

// Frontends reports whether the set holds the frontends themselves.
func (id SetID) Frontends() bool { return id <= NodeFrontendRanges }

// Sources reports whether the set says how the sources of connections are treated.
func (id SetID) Sources() bool { return id >= Masq && id <= NodeSourceRanges }

// Backends reports whether the set holds the slots of pools.
func (id SetID) Backends() bool { return id >= Backends && id <= NodeRangeBackends }

// setNames by SetID.
var setNames = [NumSets]string{
	Frontends: "frontends", NodeFrontends: "node_frontends",
	FrontendRanges: "frontend_ranges", NodeFrontendRanges: "node_frontend_ranges",
	Backends: "backends", NodeBackends: "node_backends",
	LimitedBackends: "limited_backends", NodeLimitedBackends: "node_limited_backends",
	RangeBackends: "range_backends", NodeRangeBackends: "node_range_backends",
	Masq: "masq", NodeMasq: "node_masq",
	Sources: "sources", NodeSources: "node_sources",
	SourceRanges: "source_ranges", NodeSourceRanges: "node_source_ranges",
	Affinities: "affinities", NodeAffinities: "node_affinities", AffinityRanges: "affinity_ranges",
	Hairpin: "hairpin", Addresses: "service_addrs",
}

func (id SetID) name() string { return setNames[id] }

// declared holds the sets without elements, by SetID. They are never changed.
var declared = declarations()

// Declaration returns a set without elements.
func Declaration(id SetID) *ruleset.Set {
	s := declared[id]
	return &s
}

func declarations() [NumSets]ruleset.Set {
	port := []ruleset.Type{ruleset.Proto, ruleset.Port}
	frontend := append([]ruleset.Type{ruleset.Addr}, port...)
	backend := []ruleset.Type{ruleset.Addr, ruleset.Port}
	addr := backend[:1]
	with := func(k []ruleset.Type, t ruleset.Type) []ruleset.Type { return append(slices.Clip(k), t) }
	slot := func(k []ruleset.Type) []ruleset.Type { return with(k, ruleset.Slot) }
	out := [NumSets]ruleset.Set{
		Frontends:           {Key: frontend, Verdict: true, Counter: true},
		NodeFrontends:       {Key: port, Verdict: true, Counter: true},
		FrontendRanges:      {Key: frontend, Interval: true, Verdict: true, Counter: true},
		NodeFrontendRanges:  {Key: port, Interval: true, Verdict: true, Counter: true},
		Backends:            {Key: slot(frontend), Data: backend, Counter: true},
		NodeBackends:        {Key: slot(port), Data: backend, Counter: true},
		LimitedBackends:     {Key: slot(frontend), Verdict: true, Counter: true},
		NodeLimitedBackends: {Key: slot(port), Verdict: true, Counter: true},
		RangeBackends:       {Key: slot(frontend[:2]), Data: addr, Counter: true},
		NodeRangeBackends:   {Key: slot(port[:1]), Data: addr, Counter: true},
		Masq:                {Key: frontend},
		NodeMasq:            {Key: with(port, ruleset.Addr)},
		Sources:             {Key: frontend, Verdict: true},
		NodeSources:         {Key: with(port, ruleset.Addr), Verdict: true},
		SourceRanges:        {Key: frontend, Interval: true, Verdict: true},
		NodeSourceRanges:    {Key: with(port, ruleset.Addr), Interval: true, Verdict: true},
		Affinities:          {Key: frontend, Verdict: true},
		NodeAffinities:      {Key: with(port, ruleset.Addr), Verdict: true},
		AffinityRanges:      {Key: frontend, Interval: true, Verdict: true},
		Hairpin:             {Key: []ruleset.Type{ruleset.Addr, ruleset.Addr}, Repeatable: true},
		Addresses:           {Key: addr, Repeatable: true},
	}
	for id := range out {
		out[id].Name, out[id].AfterDNAT = SetID(id).name(), SetID(id) >= Masq && SetID(id) != Addresses
	}
	return out
}

// sizeFor returns the size that is declared for n elements. Interval sets are
// trees, for which a size would be nothing but a limit.
func sizeFor(s *ruleset.Set, n int) uint32 {
	if s.Interval {
		return 0
	}
	return ruleset.SizeFor(n)
}
