package compile

import (
	"cmp"
	"net/netip"
	"slices"

	"github.com/nftdp/go-nftdp/internal/ruleset"
)

// Keys finds the keys that the sets of a table probably have. They follow from what
// the table's other sets and its chains are known to hold: the slots of pools from the
// frontends and the chains that these lead to, and the addresses of backends from the
// slots.
type Keys struct {
	*ruleset.Table
	slots *[NumSets][]ruleset.Tuple // nil before they are needed
}

// Of returns the keys of a set, each once, without values. For a set whose keys do not
// follow from those before it there are none.
func (k *Keys) Of(id SetID) []ruleset.Tuple {
	set := k.Set(id.name())
	switch {
	case set == nil || !slices.Equal(set.Key, declared[id].Key):
		return nil
	case id.Backends():
		if k.slots == nil {
			k.slots = slotKeys(k.Table)
		}
		return k.slots[id]
	case id == Hairpin:
		return hairpinKeys(k.Table)
	}
	return nil
}

// slots is a part of a map of pools: how many slots of each frontend a chain
// chooses from, and the first one.
type slots struct {
	set      SetID
	first, n uint32
}

// maxKeys bounds the slots of a table, 36 bytes each: the chains of a table that another
// process has changed can choose from any number of slots.
const maxKeys = 1 << 22

// slotKeys returns the keys of the slots of all pools by map.
func slotKeys(t *ruleset.Table) *[NumSets][]ruleset.Tuple {
	chosen := slotsByChain{names: t.Names(), known: map[string][]slots{}}
	out, n := &[NumSets][]ruleset.Tuple{}, uint64(0)
	for _, nodeWide := range []bool{false, true} {
		for _, e := range inOrderOfServices(t, nodeWide) {
			for _, s := range chosen.from(e.Verdict.Chain) {
				if s.set.NodeWide() != nodeWide {
					continue
				}
				if n += uint64(s.n); n > maxKeys {
					return &[NumSets][]ruleset.Tuple{}
				}
				out[s.set] = appendSlots(out[s.set], e.Key, s)
			}
		}
	}
	return out
}

// inOrderOfServices lists the frontends in the order in which State.Ruleset compiles
// services: ruleset.Diff is faster with lists of the same order.
func inOrderOfServices(t *ruleset.Table, nodeWide bool) (out []*ruleset.Element) {
	for _, kind := range []SetID{Frontends, FrontendRanges} {
		out = slices.AppendSeq(out, elements(t, kind.of(nodeWide)))
	}
	slices.SortFunc(out, func(x, y *ruleset.Element) int {
		return cmp.Or(cmp.Compare(x.Comment, y.Comment), x.Key.Compare(&y.Key))
	})
	return out
}

func appendSlots(to []ruleset.Tuple, frontend ruleset.Tuple, s slots) []ruleset.Tuple {
	if s.set.Ranged() {
		frontend = frontend.Prefix(frontend.Len() - ruleset.Port.Len(ruleset.IPv4))
	}
	to = slices.Grow(to, int(min(s.n, ruleset.SlotMod)))
	for i := range min(s.n, ruleset.SlotMod) {
		to = append(to, frontend.Slot(s.first+i))
	}
	return to
}

// slotsByChain finds the slots that packets are sent to from a chain.
type slotsByChain struct {
	names *ruleset.Names
	known map[string][]slots
}

func (x *slotsByChain) from(chain string) []slots {
	if out, ok := x.known[chain]; ok {
		return out
	}
	x.known[chain] = nil // another process may have made a loop
	var out []slots
	if c := x.names.Chain(chain); c != nil {
		for _, rule := range c.Rules {
			if v, ok := verdictOf(rule); ok {
				for _, s := range x.from(v.Chain) {
					out = s.addTo(out)
				}
			}
			if s, ok := chosenSlots(rule); ok {
				out = s.addTo(out)
			}
		}
	}
	x.known[chain] = out
	return out
}

// addTo appends s to a list, unless the list has these slots already: a chain that
// chooses a slot goes on to the first one.
func (s slots) addTo(list []slots) []slots {
	for _, l := range list {
		if l.set == s.set && s.first-l.first < l.n {
			return list
		}
	}
	return append(list, s)
}

// chosenSlots returns the slots that a rule chooses from.
func chosenSlots(rule ruleset.Rule) (s slots, ok bool) {
	for _, st := range rule {
		var key []ruleset.Operand
		var set string
		switch st := st.(type) {
		case ruleset.DNAT:
			key, set = st.Key, st.Map
		case ruleset.VMap:
			key, set = st.Key, st.Map
		}
		if n := len(key); n > 0 && key[n-1].Mod > 0 && SetNamed(set).Backends() {
			return slots{SetNamed(set), key[n-1].Offset, key[n-1].Mod}, true
		}
	}
	return s, false
}

// hairpinKeys returns a key for each address of a backend.
func hairpinKeys(t *ruleset.Table) []ruleset.Tuple {
	n := 0
	for id := Backends; id.Backends(); id++ {
		if s := t.Set(id.name()); s != nil {
			n += len(s.Elements)
		}
	}
	seen := make(map[netip.Addr]bool, n)
	out := make([]ruleset.Tuple, 0, n)
	for id := Backends; id.Backends(); id++ {
		for e := range elements(t, id) {
			if b, ok := BackendOf(t.Family, e); ok && !OfNode(b) && !seen[b.Addr()] {
				seen[b.Addr()] = true
				out = append(out, addrElement(Hairpin, b.Addr()).Key)
			}
		}
	}
	return out
}
