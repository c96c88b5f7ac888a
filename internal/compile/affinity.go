package compile

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"unique"

	"github.com/nftdp/go-nftdp/internal/ruleset"
)

// A client is remembered at each frontend of its service, so that it comes back to
// its backend whichever of them it connects to. What is remembered at a frontend
// has to be valid there, also if the client came by another one: since nothing is
// checked when it is used, the backend has to be one that the rules of that frontend
// lead this client to.

const (
	affinityMap     = "affinity"
	nodeAffinityMap = "node_affinity"
)

// AffinityMaps returns the maps to which rules add entries: the backend of a client
// at a frontend with an address, and at a node-wide one.
func (c Config) AffinityMaps() [2]*ruleset.Set {
	at := func(name string, key ...ruleset.Type) *ruleset.Set {
		return &ruleset.Set{
			Name: name, Key: append([]ruleset.Type{ruleset.Addr}, key...),
			Data: []ruleset.Type{ruleset.Addr, ruleset.Port}, Dynamic: true, Size: c.Affinities,
		}
	}
	return [2]*ruleset.Set{
		at(affinityMap, ruleset.Addr, ruleset.Proto, ruleset.Port),
		at(nodeAffinityMap, ruleset.Proto, ruleset.Port),
	}
}

// IsAffinityMap reports whether a set of that name is one of AffinityMaps.
func IsAffinityMap(name string) bool { return name == affinityMap || name == nodeAffinityMap }

// remembered returns the statement that sends clients of the class to the backend
// that they had before.
func (c class) remembered() ruleset.DNAT {
	out := ruleset.DNAT{Key: append(ops(ruleset.Saddr), c.key()...), Map: affinityMap}
	if c.node {
		out.Map = nodeAffinityMap
	}
	return out
}

// learner is the chain that records the backends of clients, for a number of
// seconds. It reads the backend from the source of the replies. (The packet's
// destination is the same, but if a rule uses a port of the packet, nft lists it
// without `meta l4proto tcp`, and then cannot load `ct original proto-dst`.)
//
// Frontends that are the only ones of their services share a chain, which records
// the one that the client connected to. The frontends of a service have a chain with
// their addresses and ports, which is named by its contents.
type learner struct {
	seconds uint32
	node    bool  // without targets: for node-wide frontends
	proto   uint8 // with targets
	targets targets
}

// targets is what target.line makes of frontends, one line each. It is compared as
// often as a service has frontends, so equal ones are one string.
type targets struct{ unique.Handle[string] }

func (t targets) none() bool { return t == targets{} }

const learnPrefix = "learn-"

func learnName(seconds uint32, rest string) string {
	return learnPrefix + strconv.FormatUint(uint64(seconds), 10) + rest
}

// secondsOf reads how long a chain remembers clients from its name.
func secondsOf(chain string) (uint32, bool) {
	digits, _, _ := strings.Cut(strings.TrimPrefix(chain, learnPrefix), "-")
	seconds, err := strconv.ParseUint(digits, 10, 32)
	return uint32(seconds), err == nil
}

func (l learner) name() string {
	switch {
	case !l.targets.none():
		return learnName(l.seconds, "-"+hashOf(fmt.Sprintln(l.proto, l.seconds)+l.targets.Value()))
	case l.node:
		return learnName(l.seconds, "-node")
	}
	return learnName(l.seconds, "")
}

func (learner) set() *ruleset.Set { return nil }

func (l learner) chain() *ruleset.Chain {
	out := &ruleset.Chain{Name: l.name()}
	if !l.targets.none() {
		for line := range strings.Lines(l.targets.Value()) {
			out.Rules = append(out.Rules, l.rules(l.proto, parseTarget(line))...)
		}
		return out
	}
	for _, p := range protocolNumbers {
		out.Rules = append(out.Rules, l.rules(p, target{node: l.node})...)
	}
	return out
}

// rules returns rules that record a client at one frontend. One of them at most
// matches.
func (l learner) rules(proto uint8, t target) (out []ruleset.Rule) {
	update := ruleset.Update{Map: affinityMap, Seconds: l.seconds, Data: ops(ruleset.ReplySaddr, ruleset.ReplySport)}
	addr, port := ops(ruleset.OrigDaddr), ruleset.Operand{Field: ruleset.OrigDport}
	if t.port != 0 {
		addr[0], port = ruleset.Fix(netip.AddrPortFrom(t.addr, t.port))
	}
	if t.node {
		update.Map, addr = nodeAffinityMap, nil
	}
	update.Key = slices.Concat(ops(ruleset.Saddr), addr, append(ops(ruleset.L4proto), port))
	condition := ruleset.Rule{ruleset.Match{Field: ruleset.L4proto, Value: uint32(proto)}}
	if t.clients.Deny != "" {
		condition = append(condition, prefixes{t.clients.Deny}.outside()...)
	}
	if t.clients.Allow == "" {
		return []ruleset.Rule{append(condition, update)}
	}
	for _, allowed := range (prefixes{t.clients.Allow}).inside() {
		out = append(out, append(slices.Clone(condition), allowed, update))
	}
	return out
}

// target is a frontend at which clients are recorded. Without a port it is the one
// that the client connected to.
type target struct {
	node    bool
	addr    netip.Addr
	port    uint16
	clients Clients // that may connect to it
}

func targetOf(f *Frontend) target {
	return target{f.Addr.IsUnspecified(), f.Addr, f.Port, f.Clients}
}

func (t target) line() string {
	return t.addr.String() + " " + strconv.Itoa(int(t.port)) + "," + t.clients.Allow + "," + t.clients.Deny + "\n"
}

func parseTarget(line string) (t target) {
	where, lists, _ := strings.Cut(strings.TrimSuffix(line, "\n"), ",")
	addr, port, _ := strings.Cut(where, " ")
	t.addr = netip.MustParseAddr(addr)
	t.node = t.addr.IsUnspecified()
	n, _ := strconv.ParseUint(port, 10, 16)
	t.port = uint16(n)
	t.clients.Allow, t.clients.Deny, _ = strings.Cut(lists, ",")
	return t
}

// splitLearner leads to one learner for internal clients and local processes, and to
// another one for clients outside: where they have pools of their own, the frontends
// differ at which their backends are valid.
type splitLearner struct{ internal, external learner }

func (s splitLearner) name() string {
	return learnName(s.internal.seconds, "-"+hashOf(s.internal.name()+" "+s.external.name()))
}

func (splitLearner) set() *ruleset.Set { return nil }

func (s splitLearner) chain() *ruleset.Chain {
	return &ruleset.Chain{Name: s.name(), Rules: splitRules(gotoChain(s.internal), gotoChain(s.external))}
}

// splitRules sends internal clients and local processes to one chain, and clients
// outside to another one.
func splitRules(internal, external ruleset.Verdict) []ruleset.Rule {
	return []ruleset.Rule{
		{ruleset.Lookup{Key: ops(ruleset.Saddr), Set: internalSet}, internal},
		{ruleset.Match{Field: ruleset.FibSaddr, Value: ruleset.FibLocal}, internal},
		{external},
	}
}

// learning finds the learners of a service's frontends.
type learning struct {
	*Service
	groups []siblings // nil: not yet known
}

// siblings are frontends of a service, of one family, that share their pools.
type siblings struct {
	frontends []*Frontend
	learners  *recording // nil: not yet known
}

// recording has the chains that record the clients of a frontend, and the verdict that
// leads to the first of them, which leads to the others.
type recording struct {
	units   []unit
	verdict ruleset.Verdict
}

func newRecording(units ...unit) *recording { return &recording{units, gotoChain(units[0])} }

// of returns the chains that record the clients of a frontend.
func (l *learning) of(f *Frontend) *recording {
	if f.Addr.IsLoopback() {
		return l.alone(f)
	}
	l.group()
	g := &l.groups[slices.IndexFunc(l.groups, func(g siblings) bool { return g.has(f) })]
	if g.learners == nil {
		g.learners = l.together(g.frontends[0])
	}
	if g.learners.units == nil {
		return l.alone(f)
	}
	return g.learners
}

// alone returns the chain that records the clients of a frontend without others.
func (l *learning) alone(f *Frontend) *recording {
	return newRecording(learner{seconds: l.Affinity, node: f.Addr.IsUnspecified()})
}

// alike reports whether the clients of both services' frontends are recorded alike, as
// far as both services have the frontends.
func (l *learning) alike(o *learning) bool {
	if l.Affinity == 0 || o.Affinity == 0 {
		return l.Affinity == o.Affinity
	}
	stay := true // all frontends, with what is recorded at them
	for f, other := range Changed(l.Service, o.Service) {
		stay = stay && f != nil && other != nil && f.SamePools(other) && (f.Internal == nil) == (other.Internal == nil) && f.Clients == other.Clients
	}
	if stay {
		l.group()
		o.groups = l.groups
		return true
	}
	for f, other := range Paired(l.Frontends, o.Frontends) {
		if f != nil && other != nil && l.of(f).units[0] != o.of(other).units[0] {
			return false
		}
	}
	return true
}

func (g *siblings) has(f *Frontend) bool {
	return ruleset.FamilyOf(g.frontends[0].Addr) == ruleset.FamilyOf(f.Addr) && g.frontends[0].SamePools(f)
}

// group sorts frontends into siblings. Those with a loopback address stay alone: only
// processes on this node reach them.
func (l *learning) group() {
	if l.groups != nil {
		return
	}
	for _, f := range l.Frontends {
		if f.Addr.IsLoopback() {
			continue
		}
		at := slices.IndexFunc(l.groups, func(g siblings) bool { return g.has(f) })
		if at < 0 {
			at = len(l.groups)
			l.groups = append(l.groups, siblings{})
		}
		l.groups[at].frontends = append(l.groups[at].frontends, f)
	}
}

// together returns the chains of a frontend and its siblings, none if there is no
// other frontend at which its clients can be recorded.
func (l *learning) together(f *Frontend) *recording {
	internal, external := l.targets(f, true), l.targets(f, false)
	switch {
	case len(f.Pool) == 0:
		external = internal
	case f.Internal != nil && len(f.Internal) == 0:
		internal = external
	}
	chain := func(lines []string) learner {
		return learner{seconds: l.Affinity, proto: l.Proto, targets: targets{unique.Make(strings.Join(lines, ""))}}
	}
	in, out := chain(internal), chain(external)
	switch {
	case in != out:
		return newRecording(splitLearner{in, out}, in, out)
	case len(internal) > 1:
		return newRecording(in)
	}
	return &recording{}
}

// targets lists the frontends at which clients of f are recorded: those that lead the
// same clients to all backends of f, at least.
func (l *learning) targets(f *Frontend, internal bool) (out []string) {
	pool, family := f.poolOf(internal), ruleset.FamilyOf(f.Addr)
	for i := range l.groups {
		g := l.groups[i].frontends
		if ruleset.FamilyOf(g[0].Addr) == family && covers(g[0].poolOf(internal), pool) {
			for _, sibling := range g {
				out = append(out, targetOf(sibling).line())
			}
		}
	}
	slices.Sort(out)
	return out
}

// covers reports whether a pool has all backends of another one, which is not empty.
func covers(pool, other []netip.AddrPort) bool {
	if same(pool, other) || len(pool) == 0 || len(other) == 0 {
		return len(pool) > 0 && len(other) > 0
	}
	has := make(map[netip.AddrPort]bool, len(pool))
	for _, b := range pool {
		has[b] = true
	}
	return !slices.ContainsFunc(other, func(b netip.AddrPort) bool { return !has[b] })
}

// poolOf returns the pool of internal clients or of all others.
func (f *Frontend) poolOf(internal bool) []netip.AddrPort {
	if internal && f.Internal != nil {
		return f.Internal
	}
	return f.Pool
}
