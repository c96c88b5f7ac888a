package flows

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/nftdp/go-nftdp/internal/compile"
	"github.com/nftdp/go-nftdp/internal/conntrack"
	"github.com/nftdp/go-nftdp/internal/ruleset"
)

// suspects are the UDP frontends whose flows may have become stale. A flow
// traverses the nat chains once, with its first datagram. It would follow an old
// state for as long as datagrams arrive.
type suspects map[compile.Key]*suspect

// suspect says where older flows of a frontend may lead.
type suspect struct {
	backends backends
	anywhere bool   // to other destinations, too
	last     uint16 // the last port of a range
	resized  bool   // the range has more or fewer ports than before
}

// portsChanged records that the frontend is new, or that its range of ports grew
// or shrank; last is the last port concerned.
func (s *suspect) portsChanged(last uint16, resized bool) {
	s.anywhere, s.last, s.resized = true, max(s.last, last), s.resized || resized
}

// led reports whether flows to a backend are known to have begun here.
func (s *suspect) led(to netip.AddrPort) bool { return s != nil && s.backends.has(to) }

// mayLead reports whether flows to a backend may have begun here.
func (s *suspect) mayLead(to netip.AddrPort) bool { return s.led(to) || s != nil && s.anywhere }

// translated reports whether only translated flows can be stale. A flow to a
// backend with the frontend's own address is not translated.
func (s *suspect) translated(k compile.Key) bool {
	if s.anywhere {
		return false
	}
	for b := range s.backends {
		if (b.Port() == k.Port || b.Port() == 0) && (b.Addr() == k.Addr || k.Addr.IsUnspecified()) {
			return false
		}
	}
	return true
}

func (ss suspects) at(k compile.Key) *suspect {
	if ss[k] == nil {
		ss[k] = &suspect{backends: backends{}}
	}
	return ss[k]
}

// Note records what is about to be committed, for FollowUp: changes of the rules,
// services that replace those of the state, and services that are deleted. If it
// is not committed after all, FollowUp only looks for flows in vain.
func (t *Table) Note(changes []ruleset.Change, state *compile.State, set []*compile.Service, gone []string) {
	replaced := map[compile.Key]uint16{}
	for i := range changes {
		if c := &changes[i]; len(c.Elements) > 0 {
			t.suspects.change(c, replaced)
		}
	}
	for _, s := range set {
		t.suspects.service(state.Service(s.Name), s)
	}
	for _, name := range gone {
		t.suspects.service(state.Service(name), &compile.Service{})
	}
	t.suspects.rewired(changes, state, set)
	t.purge = t.purge || endsAffinities(state, set, gone)
}

// change records new frontends, whose packets matched no rule before, and
// backends that are removed. A frontend is not new if only its verdict is
// replaced. The former verdict was deleted before: replaced has the last port of
// such frontends.
func (ss suspects) change(c *ruleset.Change, replaced map[compile.Key]uint16) {
	id := compile.SetNamed(c.Set.Name)
	for i := range c.Elements {
		e := &c.Elements[i]
		k, ok := compile.KeyOf(c, e)
		if !ok || k.Proto != compile.UDP {
			continue
		}
		last := k.Port
		if !e.End.IsZero() {
			last = compile.LastPort(e)
		}
		former, known := replaced[k]
		switch {
		case id.Frontends() && c.Verb == ruleset.Delete:
			replaced[k] = last
		case id.Frontends() && former != last:
			ss.at(k).portsChanged(max(former, last), known)
		case id.Backends() && c.Verb == ruleset.Delete:
			if b, ok := compile.BackendOf(c.Family, e); ok {
				ss.at(k).backends[b] = true
			}
		}
	}
}

// service records what the elements do not show: backends that kept their flows
// while they were in no pool, and those in a map that is replaced. Not all
// backends of a service that another process has left are known.
func (ss suspects) service(old, next *compile.Service) {
	if old == nil || old.Proto != compile.UDP {
		return
	}
	led := slices.Concat(old.Draining, old.Reserve)
	if !old.Equal(next) {
		led = slices.Concat(led, old.Backends())
	}
	if len(led) == 0 && !old.Adopted {
		return
	}
	for _, f := range slices.Concat(old.Frontends, next.Frontends) {
		at := ss.at(old.Key(&f))
		at.last = max(at.last, f.End)
		at.anywhere = at.anywhere || old.Adopted
		for _, b := range led {
			at.backends[b] = true
		}
	}
}

// rewired records all frontends of a family whose rules have to be repaired:
// their packets may have traversed other rules.
func (ss suspects) rewired(changes []ruleset.Change, state *compile.State, set []*compile.Service) {
	made, rewired := map[*ruleset.Chain]bool{}, map[ruleset.Family]bool{}
	for i := range changes {
		c := &changes[i]
		if c.Chain == nil || c.Verb != ruleset.Add {
			continue
		}
		switch {
		case c.Chain.Hook != nil || c.Rule != nil && !made[c.Chain]:
			rewired[c.Family] = true
		case c.Rule == nil:
			made[c.Chain] = true
		}
	}
	if len(rewired) == 0 {
		return
	}
	all := func(k compile.Key) bool {
		if k.Proto == compile.UDP && rewired[ruleset.FamilyOf(k.Addr)] {
			ss.at(k).anywhere = true
		}
		return true
	}
	state.Index().Keys(all)
	for _, s := range set {
		for i := range s.Frontends {
			all(s.Key(&s.Frontends[i]))
		}
	}
}

// prune drops the suspects whose flows can only lead to usable backends. Flows to
// ports that are no longer in a range have no usable backend.
func (ss suspects) prune(usable func(compile.Key) backends) {
	for k, s := range ss {
		if s.resized {
			continue
		}
		may := usable(k)
		for b := range s.backends {
			if may.has(b) {
				delete(s.backends, b)
			}
		}
		if len(s.backends) == 0 && !s.anywhere {
			delete(ss, k)
		}
	}
}

// FollowUp deletes, after a commit, the affinities of clients whose backend no
// longer gets connections from their frontend, and then the UDP flows that lead
// elsewhere than the state sends them. Affinities come first: otherwise a datagram
// in between would begin a flow to a former backend. If something fails, the next
// call makes up for it.
func (t *Table) FollowUp(ctx context.Context, state *compile.State) error {
	return errors.Join(t.purgeClients(ctx, state), t.deleteStale(ctx, state))
}

func (t *Table) deleteStale(ctx context.Context, state *compile.State) error {
	known := map[compile.Key]backends{}
	may := func(k compile.Key) backends {
		if known[k] == nil {
			known[k] = usable(state, k)
		}
		return known[k]
	}
	t.suspects.prune(may)
	for _, f := range ruleset.Families {
		stale, err := t.stale(ctx, state, f, may)
		if err == nil {
			_, err = t.Delete(ctx, stale)
		}
		if err != nil {
			return fmt.Errorf("services are programmed, but not their UDP flows reconciled: %w", explain(err))
		}
	}
	clear(t.suspects)
	return nil
}

// stale lists the flows of a family that have to be deleted.
func (t *Table) stale(ctx context.Context, state *compile.State, f ruleset.Family, may func(compile.Key) backends) ([]conntrack.Flow, error) {
	var at []compile.Key
	translated := true
	for k, s := range t.suspects {
		if ruleset.FamilyOf(k.Addr) == f {
			at = append(at, k)
			translated = translated && s.translated(k)
		}
	}
	return t.list(ctx, state, at, translated, func(flow *conntrack.Flow, node *nodeAddrs) bool {
		addressed, wide := keysOf(flow, node)
		at, wideAt := t.suspects.matching(addressed), t.suspects.matching(wide)
		if at == nil && wideAt == nil || foreign(state, addressed, wide) {
			return false
		}
		to := flow.ReplySrc
		owner, owned := matching(state, addressed, wide)
		if !owned {
			// No frontend matches such flows now. Where they lead shows which
			// of them began at one of ours.
			return at.led(to) || wideAt.led(to)
		}
		return !may(owner).has(to) && (at.mayLead(to) || wideAt.mayLead(to))
	})
}

// matching returns the suspect that packets to an address and port matched: a
// single port, else a range.
func (ss suspects) matching(k compile.Key) *suspect {
	if s := ss[k]; s != nil {
		return s
	}
	for at, s := range ss {
		if at.Ranged && at.Addr == k.Addr && at.Proto == k.Proto && at.Port <= k.Port && k.Port <= s.last {
			return s
		}
	}
	return nil
}
