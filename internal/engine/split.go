package engine

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/nftdp/go-nftdp/internal/compile"
	"github.com/nftdp/go-nftdp/internal/ruleset"
)

// Splitter distributes changes over batches that the socket can send.
type Splitter struct {
	Owner func(compile.Key) string // returns the service of a frontend that the changes do not name
	Size  func([]ruleset.Change) (int, error)
	Big   *ruleset.TooBigError // the error for the batch as a whole
}

// component is a list of changes that have to be in one batch.
type component struct {
	what      string // for errors
	service   string // whose component it is; empty: of several
	changes   []ruleset.Change
	divisible bool // it may be cut if it does not fit into any batch
}

// Split distributes the changes of one stage of a transaction. The fixed parts
// of the tables come first, then the units that services share, then the services,
// each whole, and last the objects that no service uses any more. If it stops on
// the way, every service is as it was or as wanted, and the next edit continues
// from there.
func (s *Splitter) Split(changes []ruleset.Change) ([][]ruleset.Change, error) {
	fixed := component{what: "the fixed part of the tables, with Config.Internal and Config.ServiceCIDRs"}
	var shared, last []component
	services := s.newGroups(changes)
	fresh, gone := freshObjects(changes), deletedObjects(changes)
	for i := range changes {
		c := &changes[i]
		switch {
		case len(c.Elements) > 0 && compile.SetNamed(c.Set.Name) < compile.Hairpin:
			services.add(c)
		case gone[objectOf(c)]:
			last = append(last, whole(c))
		case c.Verb == ruleset.Add && fresh[objectOf(c)] && unused(c): // cut anywhere, but in this order
			shared = append(shared, whole(c))
		case len(c.Elements) > 0 && compile.SetNamed(c.Set.Name) == compile.NumSets: // they belong to no service
			fixed.changes = append(fixed.changes, *c)
		case services.addChain(c):
		case len(c.Elements) > 0 && c.Verb == ruleset.Add:
			shared = append(shared, whole(c))
		case len(c.Elements) > 0:
			last = append(last, whole(c))
		case c.Object != nil:
			last = append(last, whole(c))
		case c.Verb == ruleset.Delete && (c.Set == nil || !compile.Separate(c.Set.Name)):
			return nil, s.Big // the services of this table or set would be missing until the last batch
		default:
			fixed.changes = append(fixed.changes, *c)
		}
	}
	return s.pack(slices.Concat([]component{fixed}, shared, services.components(), last))
}

// whole returns a component of one change, whose elements do not depend on each
// other.
func whole(c *ruleset.Change) component {
	what := "table " + c.Table
	switch {
	case c.Set != nil:
		what = "set " + c.Set.Name
	case c.Chain != nil:
		what = "chain " + c.Chain.Name
	case c.Object != nil:
		what = c.Object.Kind.String() + " " + c.Object.Name
	}
	return component{what: what, changes: []ruleset.Change{*c}, divisible: len(c.Elements) > 1}
}

// object identifies a chain or set of a table; the zero value stands for none.
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

// freshObjects returns the chains and sets that are added.
func freshObjects(changes []ruleset.Change) map[object]bool {
	out := map[object]bool{}
	for i := range changes {
		c := &changes[i]
		if c.Verb == ruleset.Add && c.Rule == nil && len(c.Elements) == 0 {
			out[objectOf(c)] = true
		}
	}
	return out
}

// unused reports whether no packet can reach a new chain or set before services
// lead there.
func unused(c *ruleset.Change) bool {
	if c.Chain != nil {
		return !compile.OfSkeleton(c.Chain)
	}
	return c.Set != nil && compile.Shared(c.Set.Name)
}

// deletedObjects returns the chains and sets of prefixes that are deleted. They
// may be in use until the last service has changed.
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

// pieces cuts a component into pieces of about limit bytes.
func (c component) pieces(limit int) []component {
	const most = 128 // bytes of an element without a comment
	var out []component
	for i := range c.changes {
		for elements := range slices.Chunk(c.changes[i].Elements, max(1, limit/most)) {
			piece := c.changes[i]
			piece.Elements = elements
			out = append(out, component{what: c.what, changes: []ruleset.Change{piece}})
		}
	}
	return out
}

// pack joins components into batches, each as full as possible.
func (s *Splitter) pack(components []component) ([][]ruleset.Change, error) {
	var out [][]ruleset.Change
	room := 0
	for i := 0; i < len(components); i++ {
		c := components[i]
		if len(c.changes) == 0 {
			continue
		}
		size, err := s.Size(c.changes)
		switch {
		case err != nil:
			return nil, err
		case size > s.Big.Limit && c.divisible: // half of the limit leaves room for the headers around elements
			components = slices.Replace(components, i, i+1, c.pieces(s.Big.Limit/2)...)
			i--
			continue
		case size > s.Big.Limit:
			return nil, &ruleset.TooBigError{What: c.what, Service: c.service, Size: size, Limit: s.Big.Limit, Errno: s.Big.Errno}
		case size > room:
			out = append(out, nil)
			room = s.Big.Limit
		}
		room -= size
		out[len(out)-1] = append(out[len(out)-1], c.changes...)
	}
	return out, nil
}

// groups groups elements by service.
type groups struct {
	owner   map[compile.Key]string // by the elements of the frontends maps
	ownerOf func(compile.Key) string
	merged  map[string]string // services that have to be in one batch
	order   []string
	byName  map[string][]ruleset.Change
}

// newGroups reads from the frontends which service an element belongs to. If a
// frontend, or some ports of a range, moves from one service to another, both
// have to be in one batch.
func (s *Splitter) newGroups(changes []ruleset.Change) *groups {
	g := &groups{
		owner: map[compile.Key]string{}, ownerOf: s.Owner, merged: map[string]string{}, byName: map[string][]ruleset.Change{},
	}
	ranges := map[compile.Key][]owned{} // by key without port
	for i := range changes {
		c := &changes[i]
		for j := range c.Elements {
			e := &c.Elements[j]
			k, ok := compile.KeyOf(c, e)
			if !ok || !compile.SetNamed(c.Set.Name).Frontends() {
				continue
			}
			if other, ok := g.owner[k]; ok {
				g.merge(other, e.Comment)
			}
			g.owner[k] = e.Comment
			if k.Ranged {
				at := k.WithoutPort()
				ranges[at] = append(ranges[at], owned{k.Port, compile.LastPort(e), e.Comment})
			}
		}
	}
	for _, at := range ranges {
		g.mergeOverlapping(at)
	}
	return g
}

// owned is a range of ports that a service claims or has claimed.
type owned struct {
	first, last uint16
	name        string
}

// mergeOverlapping merges the services whose ranges overlap. All ranges have the
// same address and protocol.
func (g *groups) mergeOverlapping(ranges []owned) {
	slices.SortFunc(ranges, func(x, y owned) int { return cmp.Compare(x.first, y.first) })
	var furthest owned // the range with the highest last port so far
	for i, r := range ranges {
		if i > 0 && r.first <= furthest.last {
			g.merge(furthest.name, r.name)
		}
		if r.last >= furthest.last {
			furthest = r
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

// add adds the elements of a change to the groups of their services.
func (g *groups) add(c *ruleset.Change) {
	for i := range c.Elements {
		k, _ := compile.KeyOf(c, &c.Elements[i])
		name := g.group(k)
		g.byName[name] = appendElement(g.byName[name], c, &c.Elements[i])
	}
}

// addChain adds a change of the chain of one frontend to the group of its service.
func (g *groups) addChain(c *ruleset.Change) bool {
	if c.Chain == nil {
		return false
	}
	k, ok := compile.OwnerOfChain(c.Family, c.Chain.Name)
	if ok {
		name := g.group(k)
		g.byName[name] = append(g.byName[name], *c)
	}
	return ok
}

// group returns the name of the group that a frontend belongs to.
func (g *groups) group(k compile.Key) string {
	name, ok := g.owner[k]
	if !ok {
		name = g.ownerOf(k)
	}
	name = g.find(name)
	if _, ok := g.byName[name]; !ok {
		g.order = append(g.order, name)
	}
	return name
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

func (g *groups) components() []component {
	out := make([]component, 0, len(g.order))
	for _, name := range g.order {
		out = append(out, component{what: fmt.Sprintf("service %q", name), service: name, changes: g.byName[name]})
	}
	return out
}
