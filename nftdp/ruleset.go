package nftdp

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/nftdp/go-nftdp/internal/compile"
	"github.com/nftdp/go-nftdp/internal/ruleset"
)

// Ruleset is the contents of this package's tables in both families, compiled from
// services or read from the kernel. It is immutable.
type Ruleset struct {
	rules *ruleset.Ruleset
	state *compile.State // what it was compiled from; nil: it was read
}

// Compile validates services and compiles them, without access to the kernel. The
// order of the services, of their frontends and of their backends makes no
// difference. A Dataplane lets backends keep their slots where the scheduler allows
// that, so what it holds can have other slots; PlanTo takes that into account.
// Errors are those of Validate.
func (c Config) Compile(services []Service) (*Ruleset, error) {
	if err := c.Validate(services); err != nil {
		return nil, err
	}
	state := compile.New(c.lower(), lowerAll(services))
	return &Ruleset{state.Ruleset(), state}, nil
}

// String returns the ruleset as nft text that `nft -f` loads, sorted and with one
// element per line: equal rulesets have equal text.
func (r *Ruleset) String() string { return r.rules.String() }

// PlanTo returns the changes that turn r into next. If next was compiled, they are
// those of a Dataplane that holds r: where the scheduler lets it choose, a backend
// keeps its slot, so the result can have other slots than next.
func (r *Ruleset) PlanTo(next *Ruleset) *Plan {
	return &Plan{ruleset.Diff(r.rules, next.like(r).rules).Changes()}
}

// like returns the ruleset with backends at the slots that they have in another
// one, if it was compiled.
func (r *Ruleset) like(o *Ruleset) *Ruleset {
	if r.state == nil || r == o {
		return r
	}
	state := r.state.ArrangedAs(compile.HeldByName(o.rules))
	if state == r.state {
		return r
	}
	return &Ruleset{state.Ruleset(), state}
}

// Plan is a list of changes. Those that affect packets are one transaction. New
// chains are committed ahead of it. Elements that postrouting needs for packets on
// their way to former backends are deleted behind it.
type Plan struct {
	changes []ruleset.Change
}

// Empty reports whether the plan has no changes.
func (p *Plan) Empty() bool { return len(p.changes) == 0 }

// Len returns the number of objects (tables, chains, rules, sets, maps, elements)
// that are added, deleted or flushed.
func (p *Plan) Len() int {
	n := 0
	for i := range p.changes {
		n += p.changes[i].Len()
	}
	return n
}

// String returns the plan as nft commands, one per line, in the order of the
// transaction; an empty plan is "".
func (p *Plan) String() string {
	var b strings.Builder
	for i := range p.changes {
		b.WriteString(p.changes[i].String())
		b.WriteByte('\n')
	}
	return b.String()
}

// lower returns the compiler's form of the configuration.
func (c Config) lower() compile.Config {
	out := compile.Config{
		Table: c.table(), NodeAddrs: c.NodeAddrs, Internal: c.Internal, Inputs: c.InternalInterfaces, ServiceCIDRs: c.ServiceCIDRs,
		Localhost: c.Localhost, Owner: c.Owner, Affinities: cmp.Or(c.AffinitySize, defaultAffinities),
	}
	if c.Protect {
		out.Flags = ruleset.Protected
	}
	out.DropUnallocated = len(c.ServiceCIDRs) > 0 && c.Unallocated == ActionDrop
	return out
}

func (c Config) table() string { return cmp.Or(c.Table, DefaultTable) }

func lowerAll(services []Service) []*compile.Service {
	out := make([]*compile.Service, len(services))
	for i := range services {
		out[i], _ = services[i].first().lower()
	}
	return out
}

// protoNumber returns the IP protocol number.
func (p Protocol) protoNumber() uint8 {
	return [...]uint8{ProtocolTCP: compile.TCP, ProtocolUDP: compile.UDP, ProtocolSCTP: compile.SCTP}[p]
}

// protocolOf returns the protocol with an IP protocol number.
func protocolOf(n uint8) Protocol {
	switch n {
	case compile.UDP:
		return ProtocolUDP
	case compile.SCTP:
		return ProtocolSCTP
	}
	return ProtocolTCP
}

// lower returns the compiler's form of a service whose frontends are valid: sorted
// frontends of one family each, with the backends that take new connections. It reports
// whether no two frontends that are not ranges are the same.
func (x *successor) lower() (out *compile.Service, distinct bool) {
	s := x.Service
	out = &compile.Service{
		Name: s.Name, Proto: s.Protocol.protoNumber(), Scheduler: compile.Scheduler(s.Scheduler), Affinity: uint32(s.Affinity / Duration(time.Second)),
		CutStale: s.CutStale, Model: x.model,
	}
	kept := x.kept()
	come, known := make([]*compile.Frontend, 0, len(x.come)), [len(ruleset.Families)]*pools{}
	for _, i := range x.come {
		for k := range s.keys(&s.Frontends[i]) {
			p := &known[ruleset.FamilyOf(k.Addr).Index()]
			if *p == nil {
				*p = x.pools(ruleset.FamilyOf(k.Addr), kept)
			}
			come = append(come, s.lowerFrontend(&s.Frontends[i], k.Addr, *p))
		}
	}
	compile.InOrder(come)
	out.Frontends, distinct = compile.Spliced(kept, nil, come)
	for i := 1; i < len(come); i++ {
		distinct = distinct && out.Key(come[i-1]) != out.Key(come[i])
	}
	s.lowerStates(out)
	return out, distinct
}

// pools holds the slots of the backends of one family: of all backends, and of those
// on this node.
type pools struct {
	all, local pool
	same       bool // whether both have the same slots
}

// pool has the fields of a compile.Frontend.
type pool struct{ slots, ordered []netip.AddrPort }

// pools returns the pools of a family. Frontends that stay share theirs.
func (x *successor) pools(family ruleset.Family, kept []*compile.Frontend) *pools {
	s, size := x.Service, int(x.MaglevSize)
	if s.Scheduler == SchedulerMaglev && s.ranged() {
		size = cmp.Or(size, maxRangeMaglevSize)
	}
	slots := func(local bool) []netip.AddrPort {
		return compile.Slots(compile.Scheduler(s.Scheduler), s.pool(family, local), size)
	}
	all, local := slots(false), []netip.AddrPort(nil)
	if slices.ContainsFunc(x.come, func(i int) bool { return s.Frontends[i].Policy != PolicyAnyBackend }) {
		local = slots(true)
	}
	p := &pools{same: slices.Equal(all, local)}
	p.all.slots, p.all.ordered = compile.Sharing(kept, all)
	p.local.slots, p.local.ordered = compile.Sharing(kept, local)
	return p
}

// maxRangeMaglevSize is the largest of the compiler's own sizes that fits into the
// slots of a range.
const maxRangeMaglevSize = 16381

func (s *Service) lowerFrontend(f *Frontend, addr netip.Addr, p *pools) *compile.Frontend {
	out := &compile.Frontend{Addr: addr, Port: f.Port, Empty: s.empty(f, addr, p)}
	if f.ranged() {
		out.End = f.EndPort
	}
	from := p.all
	if f.Policy != PolicyAnyBackend {
		from = p.local
	}
	out.Pool, out.Ordered = from.slots, from.ordered
	if f.Policy == PolicyExternalLocalOnly && !p.same {
		out.Internal, out.OrderedInternal = p.all.slots, p.all.ordered
	}
	out.Clients = compile.Clients{Allow: clients(f.Allow, addr), Deny: clients(f.Deny, addr)}
	if out.Clients.Deny == compile.Nobody {
		out.Clients.Deny = ""
	}
	out.Source = s.source(f, addr)
	return out
}

// empty returns what happens to connections while the frontend has no usable
// backend.
func (s *Service) empty(f *Frontend, addr netip.Addr, p *pools) compile.Action {
	switch {
	case f.NoBackend == ActionDrop, f.NoBackend == ActionDefault && f.Policy != PolicyAnyBackend && len(p.all.slots) > 0:
		return compile.Drop
	case f.NoBackend == ActionPass, f.NoBackend == ActionDefault && !f.Addr.IsValid() && !s.serves(ruleset.FamilyOf(addr)):
		return compile.Pass
	}
	return compile.Reject
}

// serves reports whether the service has backends of a family, or none at all.
func (s *Service) serves(family ruleset.Family) bool {
	return len(s.Backends) == 0 || slices.ContainsFunc(s.Backends, func(b Backend) bool {
		_, ok := b.in(family)
		return ok
	})
}

// clients returns the prefixes of the address's family, or "" if the list is empty.
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
	listed := clients(f.MasqueradeClients, addr)
	switch {
	case addr.IsLoopback(): // it must not leave the node
		out.Mode = compile.All
	case f.Masquerade == MasqueradeNever || listed == compile.Nobody:
		out.Mode = compile.Keep
	case listed != "":
		out.Mode, out.Clients = compile.Listed, listed
	case f.Masquerade == MasqueradeAlways:
		out.Mode = compile.All
	case f.Policy != PolicyAnyBackend && f.Masquerade != MasqueradeExternal:
		out.Mode = compile.Local
	}
	for _, a := range s.SNAT {
		if a.Unmap().Is4() == addr.Is4() {
			out.Addr = a.Unmap()
		}
	}
	return out
}

// lowerStates sets the fields for established flows, and those for limits and ports of
// the node among the backends in use.
func (s *Service) lowerStates(out *compile.Service) {
	var used []netip.AddrPort
	if slices.ContainsFunc(s.Backends, func(b Backend) bool { return b.Backup || b.LocalOnly || b.MaxConns > 0 || b.NodePort > 0 }) {
		used = out.Backends()
		out.ToNode = slices.ContainsFunc(used, compile.OfNode)
	}
	for i := range s.Backends {
		for _, family := range ruleset.Families {
			if addr, ok := s.Backends[i].in(family); ok {
				s.Backends[i].lowerState(out, addr, used)
			}
		}
	}
	slices.SortFunc(out.Reserve, netip.AddrPort.Compare)
	slices.SortFunc(out.Draining, netip.AddrPort.Compare)
}

// lowerState does so for one backend, at its address in a family.
func (b *Backend) lowerState(out *compile.Service, addr netip.AddrPort, used []netip.AddrPort) {
	if b.State == StateDraining {
		out.Draining = append(out.Draining, addr)
	}
	if b.State != StateActive || used == nil {
		return
	}
	switch _, ok := slices.BinarySearchFunc(used, addr, netip.AddrPort.Compare); {
	case !ok && (b.Backup || b.LocalOnly):
		out.Reserve = append(out.Reserve, addr)
	case ok && b.MaxConns > 0:
		if out.Limits == nil {
			out.Limits = map[netip.AddrPort]uint32{}
		}
		out.Limits[addr] = b.MaxConns
	}
}

// in returns the compiler's form of the backend's address in a family, if the backend is
// of that family. A port of the node is of both.
func (b *Backend) in(family ruleset.Family) (addr netip.AddrPort, ok bool) {
	if b.NodePort > 0 {
		return netip.AddrPortFrom(family.Unspecified(), b.NodePort), true
	}
	return unmapped(b.Addr), b.Addr.IsValid() && ruleset.FamilyOf(b.Addr.Addr()) == family
}

// local reports whether the backend is on this node.
func (b *Backend) local() bool { return b.Local || b.NodePort > 0 }

// pool lists the backends that new connections may go to. Those that are kept for
// policies are among them without a policy only if there are no others.
func (s *Service) pool(family ruleset.Family, local bool) []compile.Weighted {
	pool := s.usable(family, func(b *Backend) bool { return local && b.local() || !local && !b.LocalOnly })
	if len(pool) == 0 && !local {
		pool = s.usable(family, func(*Backend) bool { return true })
	}
	return pool
}

// usable lists those of the chosen backends that new connections may go to. Those in
// reserve are among them only if there are no others.
func (s *Service) usable(family ruleset.Family, chosen func(*Backend) bool) []compile.Weighted {
	pool := make([]compile.Weighted, 0, len(s.Backends))
	var backups []compile.Weighted
	for i := range s.Backends {
		b := &s.Backends[i]
		addr, ok := b.in(family)
		if b.State != StateActive || !ok || !chosen(b) {
			continue
		}
		w := compile.Weighted{Addr: addr, Weight: int(max(b.Weight, 1))}
		if b.Backup {
			backups = append(backups, w)
		} else {
			pool = append(pool, w)
		}
	}
	if len(pool) > 0 {
		return pool
	}
	return backups
}
