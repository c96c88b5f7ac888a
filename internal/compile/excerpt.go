package compile

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"

	"github.com/nftdp/go-nftdp/internal/ruleset"
)

// Place identifies an element by its set and key.
type Place struct {
	Family ruleset.Family
	Set    SetID
	Key    ruleset.Tuple
}

// OwnerOf returns the service whose frontend an element belongs to.
func (s *State) OwnerOf(p Place) (name string, ok bool) {
	k, ok := FrontendOf(p.Set, p.Family, p.Key)
	if !ok {
		return "", false
	}
	return s.index.Owner(k)
}

// Excerpt returns the ruleset with only those elements of services that are at
// the given places. The map services names all services that can own such
// elements; unknown names are ignored. The chains and sets that services share
// are included if chains is set. The cost follows the named services, plus the
// chains if they are included.
func (s *State) Excerpt(at map[Place]bool, services map[string]bool, chains bool) *ruleset.Ruleset {
	out := s.hollow()
	if chains {
		s.addUnits(out)
	}
	x := excerpt{byID(out), at}
	for _, name := range slices.Sorted(maps.Keys(services)) {
		if svc := s.services[name]; svc != nil {
			svc.emit(&s.cfg, x)
		}
	}
	var addrs []addrUse
	for p := range at {
		if a, ok := addrOf(p); ok && s.Has(p) {
			addrs = append(addrs, a)
		}
	}
	slices.SortFunc(addrs, func(x, y addrUse) int { return cmp.Or(cmp.Compare(x.SetID, y.SetID), x.Compare(y.Addr)) })
	for _, a := range addrs {
		x.element(ruleset.FamilyOf(a.Addr).Index(), a.SetID, addrElement(a.SetID, a.Addr))
	}
	return out
}

type excerpt struct {
	sets [2][NumSets]*ruleset.Set
	at   map[Place]bool
}

func (x excerpt) element(f int, id SetID, e ruleset.Element) {
	if x.at[Place{ruleset.Families[f], id, e.Key}] {
		s := x.sets[f][id]
		s.Elements = append(s.Elements, e)
	}
}

func (excerpt) use(int, unit)               {}
func (excerpt) addr(int, SetID, netip.Addr) {}

// addrOf returns the address of an element of one of the addrSets.
func addrOf(p Place) (a addrUse, ok bool) {
	n := p.Family.AddrLen()
	if p.Set < Hairpin || p.Set >= NumSets || p.Key.Len() < n {
		return a, false
	}
	a = addrUse{p.Set, p.Key.AddrAt(0, p.Family)}
	return a, p.Key == addrElement(a.SetID, a.Addr).Key
}
