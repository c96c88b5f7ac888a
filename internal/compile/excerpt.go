package compile

import (
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
	x := excerpt{Ruleset: s.hollow(), at: at}
	if chains {
		s.addUnits(x.Ruleset)
	}
	for _, name := range slices.Sorted(maps.Keys(services)) {
		if svc := s.services[name]; svc != nil {
			svc.emit(x)
		}
	}
	var hairpins []netip.Addr
	for p := range at {
		if a, ok := hairpinOf(p); ok && s.shared.hairpins[ruleset.FamilyOf(a).Index()][a] > 0 {
			hairpins = append(hairpins, a)
		}
	}
	slices.SortFunc(hairpins, netip.Addr.Compare)
	for _, a := range hairpins {
		x.element(ruleset.FamilyOf(a).Index(), Hairpin, hairpinElement(a))
	}
	return x.Ruleset
}

type excerpt struct {
	*ruleset.Ruleset
	at map[Place]bool
}

func (x excerpt) element(f int, id SetID, e ruleset.Element) {
	if x.at[Place{ruleset.Families[f], id, e.Key}] {
		t := x.Tables[f]
		t.Sets[id].Elements = append(t.Sets[id].Elements, e)
	}
}

func (excerpt) use(int, unit)           {}
func (excerpt) hairpin(int, netip.Addr) {}

// hairpinOf returns the address of an element of the hairpin set.
func hairpinOf(p Place) (a netip.Addr, ok bool) {
	n := p.Family.AddrLen()
	if p.Set != Hairpin || p.Key.Len() != 2*n || p.Key.AddrAt(0, p.Family) != p.Key.AddrAt(n, p.Family) {
		return a, false
	}
	return p.Key.AddrAt(0, p.Family), true
}
