//go:build linux

package nftdp

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/nftdp/go-nftdp/internal/compile"
	"github.com/nftdp/go-nftdp/internal/conntrack"
	"github.com/nftdp/go-nftdp/internal/ruleset"
)

// touched are the UDP frontends that changes may have left flows behind of. A
// flow goes through the nat chains once, with its first datagram. It would
// follow an old state for as long as datagrams come.
type touched map[claim]*former

// former says where a frontend's flows may lead that began before.
type former struct {
	backends map[netip.AddrPort]bool
	anywhere bool   // elsewhere, too
	last     uint16 // port of a range
	resized  bool   // the range has more or fewer ports than before
}

// takes notes that the frontend has come to take ports, up to this one, or to
// take no more.
func (f *former) takes(last uint16, resized bool) {
	f.anywhere, f.last, f.resized = true, max(f.last, last), f.resized || resized
}

func (f *former) was(backend netip.AddrPort) bool { return f != nil && leads(f.backends, backend) }

func (f *former) may(backend netip.AddrPort) bool { return f.was(backend) || f != nil && f.anywhere }

func (t touched) at(c claim) *former {
	if t[c] == nil {
		t[c] = &former{backends: map[netip.AddrPort]bool{}}
	}
	return t[c]
}

// add notes what is about to be committed. Should it not be
// committed, then there is something to look at in vain.
func (t touched) add(st *staged) {
	replaced := map[claim]uint16{}
	for i := range st.changes {
		if c := &st.changes[i]; len(c.Elements) > 0 {
			t.change(c, replaced)
		}
	}
	for _, s := range st.set {
		t.service(st.former.Service(s.Name), s)
	}
	for _, name := range st.gone {
		t.service(st.former.Service(name), &compile.Service{})
	}
}

// rewire notes all frontends of a family where rules have to be mended: their
// packets went by others.
func (t touched) rewire(st *staged) {
	made, rewired := map[*ruleset.Chain]bool{}, map[ruleset.Family]bool{}
	for i := range st.changes {
		c := &st.changes[i]
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
	for c := range st.taken.owner {
		if c.proto == ProtocolUDP && rewired[familyFor(c.addr)] {
			t.at(c).anywhere = true
		}
	}
}

// change notes new frontends, which had no rule for their packets, and
// backends that leave. A frontend is not new if another verdict replaces its
// former one, which was deleted before: replaced has the last port of these.
func (t touched) change(c *ruleset.Change, replaced map[claim]uint16) {
	id := compile.SetNamed(c.Set.Name)
	for i := range c.Elements {
		e := &c.Elements[i]
		addr, proto, port, ok := compile.FrontendOf(id, c.Family, e.Key)
		if !ok || proto != compile.UDP {
			continue
		}
		at := claim{addr, port, ProtocolUDP, id.Ranged()}
		last := port
		if !e.End.IsZero() {
			last = e.End.PortAt(e.End.Len() - ruleset.Port.Len(c.Family))
		}
		former, known := replaced[at]
		switch {
		case id.Frontends() && c.Verb == ruleset.Delete:
			replaced[at] = last
		case id.Frontends() && former != last:
			t.at(at).takes(max(former, last), known)
		case id.Backends() && c.Verb == ruleset.Delete:
			if b, ok := compile.BackendOf(c.Family, e); ok {
				t.at(at).backends[b] = true
			}
		}
	}
}

// service notes what does not show in the elements: backends that kept their
// flows while they were in no pool, and those in a map that is made anew. Of a
// service that another process has left not all are known.
func (t touched) service(old, next *compile.Service) {
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
		at := t.at(claim{f.Addr, f.Port, ProtocolUDP, f.End > 0})
		at.last = max(at.last, f.End)
		at.anywhere = at.anywhere || old.Adopted
		for _, b := range led {
			at.backends[b] = true
		}
	}
}

// prune forgets the frontends whose flows can only lead where they may. Those
// to ports that are in a range no more may lead nowhere.
func (t touched) prune(users *users) {
	for c, f := range t {
		if f.resized {
			continue
		}
		maps := users.backends(c)
		for b := range f.backends {
			if leads(maps, b) {
				delete(f.backends, b)
			}
		}
		if len(f.backends) == 0 && !f.anywhere {
			delete(t, c)
		}
	}
}

// reconcile deletes the UDP flows that lead to where the state does not send
// them. What could not be done is left for the next time.
func (d *Dataplane) reconcile(ctx context.Context) error {
	users := &users{state: d.state, taken: d.taken, usable: map[claim]map[netip.AddrPort]bool{}}
	d.touched.prune(users)
	for _, f := range ruleset.Families {
		stale, err := d.staleFlows(ctx, f, users)
		if err == nil {
			_, err = d.deleteFlows(ctx, stale)
		}
		if err != nil {
			return fmt.Errorf("services are programmed, but not their UDP flows reconciled: %w", explainConntrack(err))
		}
	}
	clear(d.touched)
	return nil
}

func (d *Dataplane) staleFlows(ctx context.Context, f ruleset.Family, users *users) ([]conntrack.Flow, error) {
	var at []claim
	translated := true
	for c, former := range d.touched {
		if familyFor(c.addr) == f {
			at = append(at, c)
			translated = translated && former.translated(c)
		}
	}
	return d.listFlows(ctx, users, at, translated, func(flow *conntrack.Flow, local *nodeAddrs) bool {
		return d.touched.stale(flow, local, users)
	})
}

// stale reports whether a flow has to go.
func (t touched) stale(flow *conntrack.Flow, local *nodeAddrs, users *users) bool {
	addressed, node := claimsOf(flow, local)
	at, nodeAt := t.taking(addressed), t.taking(node)
	if at == nil && nodeAt == nil {
		return false
	}
	owner, owned := users.owner(addressed, node)
	if !owned {
		// Nobody takes such flows now: those that we had are told by where
		// they lead.
		return at.was(flow.ReplySrc) || nodeAt.was(flow.ReplySrc)
	}
	return !leads(users.backends(owner), flow.ReplySrc) && (at.may(flow.ReplySrc) || nodeAt.may(flow.ReplySrc))
}

// taking finds what is noted of the frontend that took packets to an address
// and port: of the port, else of a range.
func (t touched) taking(c claim) *former {
	if f := t[c]; f != nil {
		return f
	}
	for at, f := range t {
		if at.ranged && at.place() == c.place() && at.port <= c.port && c.port <= f.last {
			return f
		}
	}
	return nil
}

// translated reports whether only translated flows can have to go. One to a
// backend with the frontend's own address has nothing to translate.
func (f *former) translated(c claim) bool {
	if f.anywhere {
		return false
	}
	for b := range f.backends {
		if (b.Port() == c.port || b.Port() == 0) && (b.Addr() == c.addr || c.addr.IsUnspecified()) {
			return false
		}
	}
	return true
}

// users tells which service has an address and where its flows may lead.
type users struct {
	state  *compile.State
	taken  claims
	usable map[claim]map[netip.AddrPort]bool
}

// owner is the frontend that takes packets which could be for either.
func (u *users) owner(addressed, node claim) (claim, bool) {
	for _, c := range []claim{addressed, node} {
		if c.port == 0 {
			continue
		}
		if at, ok := u.taken.taking(c); ok {
			return at, true
		}
	}
	return claim{}, false
}

// backends are those that a frontend's flows may lead to: new ones are sent
// there, or established ones are kept.
func (u *users) backends(c claim) map[netip.AddrPort]bool {
	if out, ok := u.usable[c]; ok {
		return out
	}
	out := map[netip.AddrPort]bool{}
	if s := u.state.Service(u.taken.owner[c]); s != nil {
		for _, b := range slices.Concat(s.Backends(), s.Draining, s.Reserve) {
			out[b] = true
		}
	}
	u.usable[c] = out
	return out
}

// explainConntrack adds to an error of the kernel what to do about it.
func explainConntrack(err error) error {
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EPROTONOSUPPORT) {
		return fmt.Errorf("conntrack over netlink (CONFIG_NF_CT_NETLINK): %w: %w", ErrNotSupported, err)
	}
	return err
}
