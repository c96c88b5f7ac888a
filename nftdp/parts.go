//go:build linux

package nftdp

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	"github.com/nftdp/go-nftdp/internal/compile"
	"github.com/nftdp/go-nftdp/internal/kernel"
	"github.com/nftdp/go-nftdp/internal/nfnl"
	"github.com/nftdp/go-nftdp/internal/ruleset"
)

// phases gives the batches of a change, so that no packet falls between its
// two states. The kernel looks at the generation once for the rules of a
// packet, but anew for every set (see class.chain in internal/compile), and a
// packet meets the sets of postrouting a little after the maps of prerouting:
//
//  1. chains and sets that were not in use come ahead, as the elements that
//     lead there are seen before the rules that they come with;
//  2. the change itself;
//  3. what postrouting asks about backends that are gone goes afterwards, and
//     what only that has been leading to, and chains that are there for the
//     time of the change.
//
// The first and the last change nothing for anybody by themselves. Mostly
// there is the second only.
func phases(changes []ruleset.Change) [][]ruleset.Change {
	remade := remadeSets(changes)
	fresh, passing := freshObjects(changes, remade), passingChains(changes)
	gone := deletedObjects(changes)
	late := make([]bool, len(changes))
	for i := range changes {
		late[i] = postponed(&changes[i], changes)
	}
	anyLate := slices.Contains(late, true)
	var ahead, now, after []ruleset.Change
	for i := range changes {
		c := &changes[i]
		switch id := objectOf(c); {
		case c.Verb == ruleset.Add && fresh[id]:
			ahead = append(ahead, *c)
		case passing[id] && c.Verb == ruleset.Add:
			now = append(now, *c)
		case passing[id], late[i], anyLate && gone[id] && (c.Verb == ruleset.Delete || !remade[c.Family]):
			after = append(after, *c)
		default:
			now = append(now, *c)
		}
	}
	return slices.DeleteFunc([][]ruleset.Change{ahead, now, after}, func(p []ruleset.Change) bool { return len(p) == 0 })
}

// postponed reports whether the change deletes what postrouting asks.
func postponed(c *ruleset.Change, changes []ruleset.Change) bool {
	return len(c.Elements) > 0 && c.Verb == ruleset.Delete && compile.SetNamed(c.Set.Name).Postrouting() &&
		!replaces(c, changes)
}

// object is a chain or set of a table; the zero one is none.
type object struct {
	family     ruleset.Family
	chain, set string
}

func objectOf(c *ruleset.Change) object {
	switch {
	case c.Chain != nil:
		return object{family: c.Family, chain: c.Chain.Name}
	case c.Set != nil:
		return object{family: c.Family, set: c.Set.Name}
	}
	return object{}
}

// replaces reports whether an element that is deleted comes back otherwise, or,
// where elements are ranges, may be in the way of another one.
func replaces(deleted *ruleset.Change, changes []ruleset.Change) bool {
	keys := make(map[ruleset.Tuple]bool, len(deleted.Elements))
	for i := range deleted.Elements {
		keys[deleted.Elements[i].Key] = true
	}
	for i := range changes {
		c := &changes[i]
		if c.Verb != ruleset.Add || c.Set == nil || c.Set.Name != deleted.Set.Name || c.Family != deleted.Family {
			continue
		}
		if c.Set.Interval {
			return true
		}
		for j := range c.Elements {
			if keys[c.Elements[j].Key] {
				return true
			}
		}
	}
	return false
}

// remadeSets are the families in which a table, or a set that chains of services
// ask, is added or deleted: then rules are written anew, too.
func remadeSets(changes []ruleset.Change) map[ruleset.Family]bool {
	out := map[ruleset.Family]bool{}
	for i := range changes {
		c := &changes[i]
		if c.Chain == nil && len(c.Elements) == 0 && c.Verb != ruleset.Adopt &&
			(c.Set == nil || !compile.Separate(c.Set.Name)) {
			out[c.Family] = true
		}
	}
	return out
}

// freshObjects are chains, and sets of prefixes, that are added to a table that
// is there already, all of whose other sets stay.
func freshObjects(changes []ruleset.Change, remade map[ruleset.Family]bool) map[object]bool {
	out := map[object]bool{}
	for i := range changes {
		c := &changes[i]
		if c.Verb == ruleset.Add && c.Rule == nil && len(c.Elements) == 0 && !remade[c.Family] &&
			(c.Chain == nil || c.Chain.Hook == nil) {
			out[objectOf(c)] = true
		}
	}
	return out
}

// passingChains are both added and deleted: they help while a table is replaced
// (see replaceTable in internal/ruleset).
func passingChains(changes []ruleset.Change) map[object]bool {
	added, out := map[object]bool{}, map[object]bool{}
	for i := range changes {
		c := &changes[i]
		if c.Chain == nil || c.Rule != nil {
			continue
		}
		id := objectOf(c)
		added[id] = added[id] || c.Verb == ruleset.Add
		out[id] = added[id] && c.Verb == ruleset.Delete
	}
	return out
}

// sendParts commits what is too big for one batch as several. The fixed parts
// come first, then new chains, then the services, each whole, and at last what
// no service uses any more. Stopped on the way, it leaves every service as it
// was or as it shall be, and the next Apply goes on from there.
func (d *Dataplane) sendParts(ctx context.Context, changes []ruleset.Change, taken claims, big *kernel.TooBigError) error {
	batches, err := split(changes, taken, big)
	if err != nil {
		return err
	}
	for _, b := range batches {
		if d.generation, err = d.conn.Commit(ctx, d.generation, b); err != nil {
			return err
		}
	}
	return nil
}

// part is changes that have to be in one batch.
type part struct {
	changes []ruleset.Change
}

// split distributes changes over batches that the socket takes.
func split(changes []ruleset.Change, taken claims, big *kernel.TooBigError) ([][]ruleset.Change, error) {
	// Half the limit leaves room for what the batches add around their parts.
	chunk := big.Limit / 2
	var first, last part
	var loose []part
	groups := newGroups(changes, taken)
	fresh, gone := freshObjects(changes, nil), deletedObjects(changes)
	for i := range changes {
		c := &changes[i]
		switch {
		case gone[objectOf(c)]:
			last.changes = append(last.changes, *c)
		case c.Verb == ruleset.Add && fresh[objectOf(c)] && awaiting(c): // in any pieces, but in this order
			loose = append(loose, chunks(c, chunk)...)
		case len(c.Elements) > 0 && compile.SetNamed(c.Set.Name) == compile.NumSets: // of no service
			first.changes = append(first.changes, *c)
		case len(c.Elements) > 0 && compile.SetNamed(c.Set.Name) < compile.Hairpin:
			groups.add(c)
		case len(c.Elements) > 0 && c.Verb == ruleset.Add:
			loose = append(loose, chunks(c, chunk)...)
		case len(c.Elements) > 0:
			last.changes = append(last.changes, *c)
		case c.Verb == ruleset.Delete && (c.Set == nil || !compile.Separate(c.Set.Name)):
			// a table or a set, whose services would be gone until the last batch
			return nil, big
		default:
			first.changes = append(first.changes, *c)
		}
	}
	parts := slices.Concat([]part{first}, loose, groups.parts())
	for i := range last.changes {
		parts = append(parts, chunks(&last.changes[i], chunk)...)
	}
	return pack(parts, big)
}

// awaiting reports whether a chain or set that is new, its rules or elements
// mean nothing before services lead there.
func awaiting(c *ruleset.Change) bool {
	if c.Chain != nil {
		return c.Chain.Hook == nil && !compile.OfSkeleton(c.Chain.Name)
	}
	return c.Set != nil && compile.Shared(c.Set.Name)
}

// deletedObjects are chains, and sets of prefixes, that are in use until the
// last service has let go of them.
func deletedObjects(changes []ruleset.Change) map[object]bool {
	out := map[object]bool{}
	for i := range changes {
		c := &changes[i]
		shared := c.Set != nil && len(c.Elements) == 0 && compile.Shared(c.Set.Name)
		if c.Verb == ruleset.Delete && (c.Chain != nil || shared) {
			out[objectOf(c)] = true
		}
	}
	return out
}

// chunks cuts the elements of a change, which do not depend on each other.
func chunks(c *ruleset.Change, limit int) []part {
	const most = 128 // bytes of an element without owner
	if len(c.Elements) == 0 {
		return []part{{changes: []ruleset.Change{*c}}}
	}
	var out []part
	for elements := range slices.Chunk(c.Elements, max(1, limit/most)) {
		piece := *c
		piece.Elements = elements
		out = append(out, part{changes: []ruleset.Change{piece}})
	}
	return out
}

// pack joins parts to batches, each as full as it can be.
func pack(parts []part, big *kernel.TooBigError) ([][]ruleset.Change, error) {
	var out [][]ruleset.Change
	room := 0
	for _, p := range parts {
		if len(p.changes) == 0 {
			continue
		}
		size, err := encodedSize(p.changes)
		switch {
		case err != nil:
			return nil, err
		case size > big.Limit:
			return nil, fmt.Errorf("one service by itself: %w", &kernel.TooBigError{Size: size, Limit: big.Limit})
		case size > room:
			out = append(out, nil)
			room = big.Limit
		}
		room -= size
		out[len(out)-1] = append(out[len(out)-1], p.changes...)
	}
	return out, nil
}

func encodedSize(changes []ruleset.Change) (int, error) {
	b := nfnl.NewBatch(0, 0)
	for i := range changes {
		if err := b.Add(&changes[i]); err != nil {
			return 0, err
		}
	}
	return len(b.Finish()), nil
}

// groups sorts elements by service.
type groups struct {
	owner  map[claim]string // by the elements of the frontends maps
	taken  claims
	merged map[string]string // services that have to go together
	order  []string
	byName map[string][]ruleset.Change
}

// newGroups learns from the frontends whose elements are whose. Where one
// service hands a frontend to another one, or some ports of a range, both
// belong together.
func newGroups(changes []ruleset.Change, taken claims) *groups {
	g := &groups{owner: map[claim]string{}, taken: taken, merged: map[string]string{}, byName: map[string][]ruleset.Change{}}
	ranges := map[place][]owned{}
	for i := range changes {
		c := &changes[i]
		for j := range c.Elements {
			e := &c.Elements[j]
			cl, ok := claimOf(c, e)
			if !ok || !compile.SetNamed(c.Set.Name).Frontends() {
				continue
			}
			if other, ok := g.owner[cl]; ok {
				g.merge(other, e.Comment)
			}
			g.owner[cl] = e.Comment
			if cl.ranged {
				ranges[cl.place()] = append(ranges[cl.place()], owned{portRange{cl.port, lastPort(e)}, e.Comment})
			}
		}
	}
	for _, at := range ranges {
		g.mergeOverlapping(at)
	}
	return g
}

// owned is a range of ports that a service has or has had.
type owned struct {
	portRange
	name string
}

// lastPort is that of an element of a map of ranges, at the end of its key.
func lastPort(e *ruleset.Element) uint16 {
	return e.End.PortAt(e.End.Len() - ruleset.Port.Len(ruleset.IPv4))
}

// mergeOverlapping joins the services whose ranges, all of one place, overlap.
func (g *groups) mergeOverlapping(ranges []owned) {
	slices.SortFunc(ranges, func(x, y owned) int { return cmp.Compare(x.first, y.first) })
	var reach owned // the one that goes furthest
	for i, r := range ranges {
		if i > 0 && r.first <= reach.last {
			g.merge(reach.name, r.name)
		}
		if r.last >= reach.last {
			reach = r
		}
	}
}

func (g *groups) merge(x, y string) {
	if x, y = g.find(x), g.find(y); x != y {
		g.merged[x] = y
	}
}

func (g *groups) find(name string) string {
	for {
		next, ok := g.merged[name]
		if !ok {
			return name
		}
		name = next
	}
}

// add sorts the elements of a change.
func (g *groups) add(c *ruleset.Change) {
	for i := range c.Elements {
		cl, _ := claimOf(c, &c.Elements[i])
		name, ok := g.owner[cl]
		if !ok {
			name = g.taken.owner[cl]
		}
		name = g.find(name)
		if _, ok := g.byName[name]; !ok {
			g.order = append(g.order, name)
		}
		g.byName[name] = appendElement(g.byName[name], c, &c.Elements[i])
	}
}

// appendElement adds an element to the last change if it is of the same kind.
func appendElement(to []ruleset.Change, c *ruleset.Change, e *ruleset.Element) []ruleset.Change {
	if n := len(to); n > 0 && to[n-1].Set == c.Set && to[n-1].Verb == c.Verb && to[n-1].Family == c.Family {
		to[n-1].Elements = append(to[n-1].Elements, *e)
		return to
	}
	next := *c
	next.Elements = []ruleset.Element{*e}
	return append(to, next)
}

func (g *groups) parts() []part {
	out := make([]part, 0, len(g.order))
	for _, name := range g.order {
		out = append(out, part{changes: g.byName[name]})
	}
	return out
}
