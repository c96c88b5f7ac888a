package compile

import (
	"net/netip"
	"slices"

	"github.com/nftdp/go-nftdp/internal/ruleset"
)

// replace stages the replacement of a service by another one of its name.
// Whatever both compile to is left out.
func (d *Delta) replace(old, svc *Service) {
	before, after := &learning{Service: old}, &learning{Service: svc}
	if !old.alike(svc) || !before.alike(after) {
		old.emit(&d.state.cfg, (*removing)(d))
		svc.emit(&d.state.cfg, (*adding)(d))
		return
	}
	var lists addrLists
	pools := poolChange{lists: &lists}
	for o, f := range Changed(old, svc) {
		switch {
		case o == nil:
			after.emitFrontend(f, lists.of(f), nil, (*adding)(d))
		case f == nil:
			before.emitFrontend(o, lists.of(o), nil, (*removing)(d))
		case o.equal(f):
		case !o.alike(f) || !o.reachable() || !f.reachable():
			before.emitFrontend(o, lists.of(o), nil, (*removing)(d))
			after.emitFrontend(f, lists.of(f), nil, (*adding)(d))
		default:
			pools.compare(o, f)
			before.emitFrontend(o, pools.gone, &pools.removed, (*removing)(d))
			after.emitFrontend(f, pools.come, &pools.added, (*adding)(d))
		}
	}
	d.replaceHairpin(old, svc, &lists)
	if d.state.cfg.DropUnallocated {
		d.replaceAddresses(old, svc)
	}
}

// reachable reports whether some clients reach a backend.
func (f *Frontend) reachable() bool { return len(f.Pool)+len(f.Internal) > 0 }

// replaceHairpin stages the addresses of backends that only one of both services uses:
// none if each has the pools of all frontends that the other one does not share.
func (d *Delta) replaceHairpin(old, svc *Service, lists *addrLists) {
	was, is, alike := poolsOf{Service: old}, poolsOf{Service: svc}, true
	for o, f := range Changed(old, svc) {
		if alike = is.include(o) && was.include(f); !alike {
			break
		}
	}
	if alike {
		return
	}
	used, uses := old.addrs(lists), svc.addrs(lists)
	for family := range used {
		gone, come := differing(used[family], uses[family], netip.Addr.Compare)
		for _, a := range gone {
			(*removing)(d).addr(family, Hairpin, a)
		}
		for _, a := range come {
			(*adding)(d).addr(family, Hairpin, a)
		}
	}
}

// poolsOf finds out whether a service has a pool, without a list of all of them.
type poolsOf struct {
	*Service
	found []*Frontend // that had pools of the service
}

// include reports whether a frontend of the service has the same pools as f, or f is nil.
func (p *poolsOf) include(f *Frontend) bool {
	switch {
	case f == nil || slices.ContainsFunc(p.found, f.SamePools):
		return true
	case !slices.ContainsFunc(p.Frontends, f.SamePools):
		return false
	}
	p.found = append(p.found, f)
	return true
}

// replaceAddresses stages the addresses that only one of both services has.
func (d *Delta) replaceAddresses(old, svc *Service) {
	var last netip.Addr
	for o, f := range Changed(old, svc) {
		switch {
		case o != nil && f != nil:
		case o != nil && o.Addr != last && !svc.hasAddr(o.Addr):
			last = o.Addr
			(*removing)(d).addr(ruleset.FamilyOf(last).Index(), Addresses, last)
		case f != nil && f.Addr != last && !old.hasAddr(f.Addr):
			last = f.Addr
			(*adding)(d).addr(ruleset.FamilyOf(last).Index(), Addresses, last)
		}
	}
}

// hasAddr reports whether a frontend of the service has an address, or that is none.
func (s *Service) hasAddr(a netip.Addr) bool {
	_, ok := slices.BinarySearchFunc(s.Frontends, a, func(f *Frontend, a netip.Addr) int { return f.Addr.Compare(a) })
	return ok || a.IsUnspecified()
}
