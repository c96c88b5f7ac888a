package nftdp

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"

	"github.com/nftdp/go-nftdp/internal/compile"
	"github.com/nftdp/go-nftdp/internal/ruleset"
)

// Ruleset is what services compile to, or what the kernel holds: the contents
// of our tables in both families. It does not change.
type Ruleset struct {
	rules *ruleset.Ruleset
}

// Compile validates services and compiles them. It is pure: it touches no
// kernel, and the order of the services, of their frontends and of their
// backends makes no difference. Errors are those of Validate.
func (c Config) Compile(services []Service) (*Ruleset, error) {
	if err := c.Validate(services); err != nil {
		return nil, err
	}
	return &Ruleset{compile.New(c.lower(), lowerAll(services)).Ruleset()}, nil
}

// String is canonical nft text, one element per line, sorted: equal rulesets
// have equal text. `nft -f` loads it.
func (r *Ruleset) String() string { return r.rules.String() }

// PlanTo gives the changes that turn r into next. It is pure.
func (r *Ruleset) PlanTo(next *Ruleset) *Plan {
	return &Plan{ruleset.Diff(r.rules, next.rules)}
}

// Plan is a list of changes. What packets can see of it is one transaction;
// chains for sizes of pools that were not in use before are committed ahead of
// it, and what postrouting knows of backends that are gone is deleted behind.
type Plan struct {
	changes []ruleset.Change
}

// Empty reports whether there is nothing to do.
func (p *Plan) Empty() bool { return len(p.changes) == 0 }

// Len is the number of objects (tables, chains, rules, sets, elements) that
// are added, deleted or flushed.
func (p *Plan) Len() int {
	n := 0
	for i := range p.changes {
		n += p.changes[i].Len()
	}
	return n
}

// String is the plan as nft commands, one per line, in the order in which the
// kernel gets them; empty for an empty plan.
func (p *Plan) String() string {
	var b strings.Builder
	for i := range p.changes {
		b.WriteString(p.changes[i].String())
		b.WriteByte('\n')
	}
	return b.String()
}

// lower gives the compiler's form of the configuration.
func (c Config) lower() compile.Config {
	out := compile.Config{
		Table: c.table(), NodeAddrs: c.NodeAddrs, Internal: c.Internal, ServiceCIDRs: c.ServiceCIDRs,
		Localhost: c.Localhost, Affinities: cmp.Or(c.AffinitySize, defaultAffinities),
	}
	if c.Protect {
		out.Flags = ruleset.Protected
	}
	return out
}

func (c Config) table() string { return cmp.Or(c.Table, DefaultTable) }

func lowerAll(services []Service) []*compile.Service {
	out := make([]*compile.Service, len(services))
	for i := range services {
		out[i] = services[i].lower()
	}
	return out
}

// protoNumber is the IP protocol number.
func (p Protocol) protoNumber() uint8 {
	return [...]uint8{ProtocolTCP: compile.TCP, ProtocolUDP: compile.UDP, ProtocolSCTP: compile.SCTP}[p]
}

func (b Scheduler) lower() compile.Scheduler {
	return [...]compile.Scheduler{
		SchedulerRandom: compile.Random, SchedulerRoundRobin: compile.RoundRobin, SchedulerSourceHash: compile.SourceHash, SchedulerMaglev: compile.Maglev,
	}[b]
}

// protocolOf is the protocol of an IP protocol number.
func protocolOf(n uint8) Protocol {
	switch n {
	case compile.UDP:
		return ProtocolUDP
	case compile.SCTP:
		return ProtocolSCTP
	}
	return ProtocolTCP
}

// lower gives the compiler's form of a valid service: frontends of one family
// each, with the backends that take new connections, in order.
func (s *Service) lower() *compile.Service {
	out := &compile.Service{
		Name: s.Name, Proto: s.Protocol.protoNumber(), Scheduler: s.Scheduler.lower(), Affinity: s.AffinitySeconds,
	}
	out.Frontends = make([]compile.Frontend, 0, len(s.Frontends))
	var pools [2]pools
	for i, family := range [...]families{ipv4, ipv6} {
		pools[i] = s.pools(family)
	}
	for i := range s.Frontends {
		f := &s.Frontends[i]
		for j, family := range [...]families{ipv4, ipv6} {
			if c, ok := s.claim(f, family); ok {
				out.Frontends = append(out.Frontends, s.lowerFrontend(f, c.addr, &pools[j]))
			}
		}
	}
	slices.SortFunc(out.Frontends, func(x, y compile.Frontend) int {
		return cmp.Or(x.Addr.Compare(y.Addr), cmp.Compare(x.Port, y.Port), cmp.Compare(x.End, y.End))
	})
	s.lowerStates(out)
	return out
}

// pools are the slots of the backends of one family: all of them, and those on
// this node.
type pools struct{ all, local []netip.AddrPort }

func (s *Service) pools(family families) (p pools) {
	size := int(s.MaglevSize)
	if s.ranged() {
		size = cmp.Or(size, maxRangeMaglevSize)
	}
	p.all = compile.Slots(s.Scheduler.lower(), s.pool(family, false), size)
	if slices.ContainsFunc(s.Frontends, func(f Frontend) bool { return f.Policy != PolicyAnyBackend }) {
		p.local = compile.Slots(s.Scheduler.lower(), s.pool(family, true), size)
	}
	return p
}

// maxRangeMaglevSize fits into the slots of a range, as prime sizes do for a
// hundred slots a backend.
const maxRangeMaglevSize = 16381

func (s *Service) lowerFrontend(f *Frontend, addr netip.Addr, p *pools) compile.Frontend {
	out := compile.Frontend{Addr: addr, Port: f.Port, Pool: p.all, Drop: f.NoBackend == ActionDrop}
	if f.ranged() {
		out.End = f.EndPort
	}
	if f.Policy != PolicyAnyBackend {
		out.Pool = p.local
		out.Drop = out.Drop || f.NoBackend == ActionDefault && len(p.all) > 0
	}
	if f.Policy == PolicyExternalLocalOnly && !slices.Equal(p.local, p.all) {
		out.Internal = p.all
	}
	out.Clients = compile.Clients{Allow: clients(f.Allow, addr), Deny: clients(f.Deny, addr)}
	if out.Clients.Deny == compile.Nobody {
		out.Clients.Deny = ""
	}
	out.Source = s.source(f, addr)
	return out
}

// clients gives the prefixes of the address's family; "" says nothing.
func clients(prefixes []netip.Prefix, addr netip.Addr) string {
	if len(prefixes) == 0 {
		return ""
	}
	var of []netip.Prefix
	for _, p := range prefixes {
		if p.Addr().Is4() == addr.Is4() {
			of = append(of, p)
		}
	}
	return compile.Prefixes(of)
}

func (s *Service) source(f *Frontend, addr netip.Addr) (out compile.Source) {
	switch {
	case f.Masquerade == MasqueradeNever:
		return compile.Source{Mode: compile.Keep}
	case f.Masquerade == MasqueradeAlways:
		out.Mode = compile.All
	case f.Policy != PolicyAnyBackend:
		out.Mode = compile.Local
	}
	for _, a := range s.SNAT {
		if a.Unmap().Is4() == addr.Is4() {
			out.Addr = a.Unmap()
		}
	}
	return out
}

// lowerStates fills in what matters for established flows, and the limits of
// backends in use.
func (s *Service) lowerStates(out *compile.Service) {
	var used []netip.AddrPort
	if slices.ContainsFunc(s.Backends, func(b Backend) bool { return b.Backup || b.MaxConns > 0 }) ||
		slices.ContainsFunc(s.Frontends, func(f Frontend) bool { return f.Policy != PolicyAnyBackend }) {
		used = out.Backends()
	}
	for i := range s.Backends {
		b := &s.Backends[i]
		addr := unmapped(b.Addr)
		if b.State == StateDraining {
			out.Draining = append(out.Draining, addr)
		}
		if b.State != StateActive || used == nil {
			continue
		}
		if _, ok := slices.BinarySearchFunc(used, addr, netip.AddrPort.Compare); !ok {
			out.Reserve = append(out.Reserve, addr)
		} else if b.MaxConns > 0 {
			if out.Limits == nil {
				out.Limits = map[netip.AddrPort]uint32{}
			}
			out.Limits[addr] = b.MaxConns
		}
	}
	slices.SortFunc(out.Reserve, netip.AddrPort.Compare)
	slices.SortFunc(out.Draining, netip.AddrPort.Compare)
}

// pool lists the backends that new connections may go to: those that are held
// in reserve only if there is nothing else.
func (s *Service) pool(family families, local bool) []compile.Weighted {
	pool := make([]compile.Weighted, 0, len(s.Backends))
	var backups []compile.Weighted
	for i := range s.Backends {
		b := &s.Backends[i]
		if b.State != StateActive || local && !b.Local || familyOf(b.Addr.Addr().Unmap()) != family {
			continue
		}
		w := compile.Weighted{Addr: unmapped(b.Addr), Weight: int(max(b.Weight, 1))}
		if b.Backup {
			backups = append(backups, w)
		} else {
			pool = append(pool, w)
		}
	}
	if len(pool) == 0 {
		return backups
	}
	return pool
}

// lift gives back a service with the frontends of a lowered one, for what
// needs to know only these.
func lift(s *compile.Service) *Service {
	out := &Service{Name: s.Name, Protocol: protocolOf(s.Proto)}
	for _, f := range s.Frontends {
		out.Frontends = append(out.Frontends, Frontend{Addr: f.Addr, Port: f.Port, EndPort: f.End})
	}
	return out
}
