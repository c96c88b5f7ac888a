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
	return compile.Config{Table: c.table(), NodeAddrs: c.NodeAddrs, Internal: c.Internal}
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
	return [...]uint8{TCP: compile.TCP, UDP: compile.UDP, SCTP: compile.SCTP}[p]
}

func (b Balance) lower() compile.Balance {
	return [...]compile.Balance{
		Random: compile.Random, RoundRobin: compile.RoundRobin, SourceHash: compile.SourceHash, Maglev: compile.Maglev,
	}[b]
}

// protocolOf is the protocol of an IP protocol number.
func protocolOf(n uint8) Protocol {
	switch n {
	case compile.UDP:
		return UDP
	case compile.SCTP:
		return SCTP
	}
	return TCP
}

// lower gives the compiler's form of a valid service: frontends of one family
// each, and of the backends those that take new connections, in order.
func (s *Service) lower() *compile.Service {
	out := &compile.Service{Name: s.Name, Proto: s.Protocol.protoNumber(), Balance: s.Balance.lower()}
	out.Frontends = make([]compile.Frontend, 0, len(s.Frontends))
	for i := range s.Frontends {
		f := &s.Frontends[i]
		for _, family := range [...]families{ipv4, ipv6} {
			if c, ok := s.claim(f, family); ok {
				out.Frontends = append(out.Frontends,
					compile.Frontend{Addr: c.addr, Port: f.Port, Drop: f.NoBackend == Drop})
			}
		}
	}
	slices.SortFunc(out.Frontends, func(x, y compile.Frontend) int {
		return cmp.Or(x.Addr.Compare(y.Addr), cmp.Compare(x.Port, y.Port))
	})
	for i, family := range [...]families{ipv4, ipv6} {
		pool, reserve := s.pool(family)
		out.Pools[i] = compile.Slots(out.Balance, pool, int(s.MaglevSize))
		for _, b := range reserve {
			out.Reserve = append(out.Reserve, b.Addr)
		}
	}
	for i := range s.Backends {
		if b := &s.Backends[i]; b.State == Draining {
			out.Draining = append(out.Draining, unmapped(b.Addr))
		}
	}
	slices.SortFunc(out.Reserve, netip.AddrPort.Compare)
	slices.SortFunc(out.Draining, netip.AddrPort.Compare)
	return out
}

// pool lists the backends that new connections may go to, and the backups that
// are held in reserve: all if there is anything else.
func (s *Service) pool(family families) (pool, reserve []compile.Weighted) {
	var backups []compile.Weighted
	pool = make([]compile.Weighted, 0, len(s.Backends))
	for i := range s.Backends {
		b := &s.Backends[i]
		if b.State != Active || familyOf(b.Addr.Addr().Unmap()) != family {
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
		return backups, nil
	}
	return pool, backups
}

// lift gives back a service with the frontends of a lowered one, for what
// needs to know only these.
func lift(s *compile.Service) *Service {
	out := &Service{Name: s.Name, Protocol: protocolOf(s.Proto)}
	for _, f := range s.Frontends {
		out.Frontends = append(out.Frontends, Frontend{Addr: f.Addr, Port: f.Port})
	}
	return out
}
