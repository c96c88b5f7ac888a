package compile

import (
	"hash/crc32"
	"slices"
	"strconv"

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
	Ranges                           // daddr . proto . dports: all of FrontendRanges, once more
	NodeRanges                       // proto . dports
	FirstBackends                    // daddr . proto . dport : addr . port; the first slots of OwnBackends
	NodeFirstBackends                // proto . dport : addr . port
	Backends                         // daddr . proto . dport . slot : addr . port
	NodeBackends                     // proto . dport . slot : addr . port
	LimitedBackends                  // daddr . proto . dport . slot : verdict
	NodeLimitedBackends              // proto . dport . slot : verdict
	firstShard
)

// Sets that exist only while services use them: each kind consists of shards, of
// which these are the first ones.
const (
	OwnBackends        = firstShard                    // as Backends
	OwnLimitedBackends = OwnBackends + 2*shards        // as LimitedBackends
	RangeBackends      = OwnLimitedBackends + 2*shards // daddr . proto . slot : addr; the slot begins with the first port
	afterShards        = RangeBackends + 2*shards
)

// shards is the number of maps in which the slots of pools are that have chains of
// their own. The kernel checks each element that is added to a map against every rule
// that looks the map up (nft_add_set_elem in net/netfilter/nf_tables_api.c), and each
// such rule against every element (nf_tables_bind_set), so that one map for n chains
// would cost n². It is a power of 2.
const shards = 32

// More sets that always exist.
const (
	Masq             SetID = afterShards + iota // original daddr . proto . original dport: masqueraded unless internal
	NodeMasq                                    // proto . original dport . backend: the same for node-wide frontends
	Sources                                     // original daddr . proto . original dport : verdict
	NodeSources                                 // proto . original dport . backend : verdict
	SourceRanges                                // original daddr . proto . original dports : verdict
	NodeSourceRanges                            // proto . original dports . backend : verdict
	Affinities                                  // original daddr . proto . original dport : verdict
	NodeAffinities                              // proto . original dport . backend : verdict
	AffinityRanges                              // original daddr . proto . original dports : verdict; none is node-wide
	Hairpin                                     // backend . backend: connections of a backend to itself
	Addresses                                   // those of frontends, with Config.DropUnallocated
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

// Shard reports whether the set exists only while services use it.
func (id SetID) Shard() bool { return id >= firstShard && id < afterShards }

// shard returns the shard of a kind that has the slots of an owner's pool.
func (id SetID) shard(o owner) SetID {
	addr := o.addr.As16()
	n := crc32.ChecksumIEEE(append(addr[:], o.proto, byte(o.port>>8), byte(o.port)))
	return id + 2*SetID(n%shards)
}

// kind returns the first one of the set's shards, or the set itself, for frontends
// with an address.
func (id SetID) kind() SetID {
	if id.Shard() {
		return id - (id-firstShard)%(2*shards)
	}
	if id < Hairpin {
		return id &^ 1
	}
	return id
}

// Ranged reports whether the set is for ranges of ports.
func (id SetID) Ranged() bool {
	kind := id.kind()
	return kind == FrontendRanges || kind == Ranges || kind == RangeBackends || kind == SourceRanges || kind == AffinityRanges
}

// Frontends reports whether the set holds the frontends themselves.
func (id SetID) Frontends() bool { return id <= NodeFrontendRanges }

// Sources reports whether the set says how the sources of connections are treated.
func (id SetID) Sources() bool { return id >= Masq && id <= NodeSourceRanges }

// Backends reports whether the set holds the slots of pools.
func (id SetID) Backends() bool { return id >= Backends && id < afterShards }

// setNames by SetID.
var setNames = withShards([NumSets]string{
	Frontends: "frontends", NodeFrontends: "node_frontends",
	FrontendRanges: "frontend_ranges", NodeFrontendRanges: "node_frontend_ranges",
	Ranges: "ranges", NodeRanges: "node_ranges",
	FirstBackends: "first_backends", NodeFirstBackends: "node_first_backends",
	Backends: "backends", NodeBackends: "node_backends",
	LimitedBackends: "limited_backends", NodeLimitedBackends: "node_limited_backends",
	Masq: "masq", NodeMasq: "node_masq",
	Sources: "sources", NodeSources: "node_sources",
	SourceRanges: "source_ranges", NodeSourceRanges: "node_source_ranges",
	Affinities: "affinities", NodeAffinities: "node_affinities", AffinityRanges: "affinity_ranges",
	Hairpin: "hairpin", Addresses: "service_addrs",
})

func withShards(names [NumSets]string) [NumSets]string {
	for first, kind := range map[SetID]string{OwnBackends: "backends", OwnLimitedBackends: "limited_backends", RangeBackends: "range_backends"} {
		for n := range SetID(shards) {
			name := kind + "-" + strconv.Itoa(int(n))
			names[first+2*n], names[first+2*n+1] = name, "node_"+name
		}
	}
	return names
}

// setIDs finds sets by their names.
var setIDs = func() map[string]SetID {
	out := make(map[string]SetID, NumSets)
	for id, name := range setNames {
		out[name] = SetID(id)
	}
	return out
}()

// SetNamed returns the number of the set of that name, or NumSets.
func SetNamed(name string) SetID {
	if id, ok := setIDs[name]; ok {
		return id
	}
	return NumSets
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
		Ranges:              {Key: frontend, Interval: true},
		NodeRanges:          {Key: port, Interval: true},
		FirstBackends:       {Key: frontend, Data: backend},
		NodeFirstBackends:   {Key: port, Data: backend},
		Backends:            {Key: slot(frontend), Data: backend, Counter: true},
		NodeBackends:        {Key: slot(port), Data: backend, Counter: true},
		LimitedBackends:     {Key: slot(frontend), Verdict: true, Counter: true},
		NodeLimitedBackends: {Key: slot(port), Verdict: true, Counter: true},
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
	for n := range SetID(2 * shards) {
		out[OwnBackends+n], out[OwnLimitedBackends+n] = out[Backends+n%2], out[LimitedBackends+n%2]
		key := slot(frontend[:2])
		if n%2 == 1 {
			key = slot(port[:1])
		}
		out[RangeBackends+n] = ruleset.Set{Key: key, Data: addr, Counter: true}
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
