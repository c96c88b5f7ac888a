package ruleset

import (
	"net/netip"
	"slices"
)

// Ways are all ways that a packet can go, and the sources for which they are the
// same.
type Ways struct {
	// Ways has one for each outcome, in the order in which the numbers that the
	// kernel draws lead there.
	Ways []Way
	// Hashed says that no number is drawn but a hash of the source is computed.
	// Then Chosen is the index of the way that it leads to.
	Hashed bool
	Chosen int
	// Sources are the source addresses of packets that can go the same ways,
	// whatever their source ports are. Which one a hash leads to differs.
	// They are those in Within and in none of Except; all three are sorted and
	// disjoint.
	Sources, Within, Except []AddrRange
}

// Way is an outcome, a path that leads to it, and its share of all draws.
type Way struct {
	Path
	Share float64
}

// AddrRange is a range of addresses of one family, both ends included.
type AddrRange struct{ First, Last netip.Addr }

// RangeOf returns the addresses of a prefix.
func RangeOf(p netip.Prefix) AddrRange {
	p = p.Masked()
	last := p.Addr().AsSlice()
	for i := p.Bits(); i < 8*len(last); i++ {
		last[i/8] |= 0x80 >> (i % 8)
	}
	end, _ := netip.AddrFromSlice(last)
	return AddrRange{p.Addr(), end}
}

// Contains reports whether an address is in the range.
func (r AddrRange) Contains(a netip.Addr) bool {
	return r.First.Compare(a) <= 0 && a.Compare(r.Last) <= 0
}

// Ways returns all ways of a packet on a node that holds the addresses of these
// prefixes, which are those for which the Evaluator's function returns true. It
// fails as Eval does.
//
// Rules ask little about the source of a packet: whether it is in a set or a
// prefix, and whether it is local. All sources for which the answers are the same on
// each way are treated alike.
func (e *Evaluator) Ways(p Packet, learned []Learned, local []netip.Prefix) (*Ways, error) {
	out, index := &Ways{}, map[Outcome]int{}
	k := newKin(&p, local)
	for d := (&draws{}); ; {
		w := walk{Evaluator: e, table: e.tables[p.Family()], packet: p, src: p.Src, dst: p.Dst, learned: learned, draws: d, kin: k}
		w.path.Dst = p.Dst
		w.run()
		if w.err != nil {
			return nil, w.err
		}
		i, ok := index[w.path.Outcome]
		if !ok {
			i = len(out.Ways)
			index[w.path.Outcome] = i
			out.Ways = append(out.Ways, Way{Path: w.path})
		}
		out.Ways[i].Share += d.share()
		if !d.next() {
			break
		}
	}
	out.Within, out.Except = k.within, intersect(k.within, merge(k.except))
	out.Sources, out.Hashed = intersect(k.within, outside(k.family, k.except)), k.hashed
	if !out.Hashed {
		return out, nil
	}
	paths, err := e.Eval(p, learned)
	if err != nil {
		return nil, err
	}
	out.Chosen = index[paths[0].Outcome]
	return out, nil
}

// share is the probability of the numbers that were drawn.
func (d *draws) share() float64 {
	out := 1.0
	for _, n := range d.numbers {
		out /= float64(max(n.mod, 1))
	}
	return out
}

// kin collects which sources get the answers that a packet got.
type kin struct {
	family Family
	source netip.Addr
	local  []netip.Prefix
	within []AddrRange // sorted and disjoint
	except []AddrRange
	asked  map[asked]bool
	others map[*Set]map[Tuple][]netip.Addr // of exact sets: the sources, by the rest of the key
	hashed bool
}

// asked is a question with its answer.
type asked struct {
	what string
	rest Tuple
	yes  bool
}

func newKin(p *Packet, local []netip.Prefix) *kin {
	f := p.Family()
	k := &kin{
		family: f, source: p.Src.Addr(), local: local, asked: map[asked]bool{}, others: map[*Set]map[Tuple][]netip.Addr{},
		within: []AddrRange{RangeOf(netip.PrefixFrom(f.Unspecified(), 0))},
	}
	return k
}

// answer notes that the source is in some ranges, or in none of them.
func (k *kin) answer(q asked, ranges []AddrRange) {
	switch {
	case k.asked[q]:
		return
	case q.yes:
		k.within = intersect(k.within, merge(ranges))
	default:
		k.except = append(k.except, ranges...)
	}
	k.asked[q] = true
}

// alone notes that nothing is known about other sources.
func (k *kin) alone() { k.within = []AddrRange{{k.source, k.source}} }

// lookup notes the answer of a set to a key that has the source in it.
func (w *walk) lookup(s *Set, key []Operand, found bool) {
	if w.kin == nil || s == nil {
		return
	}
	at := slices.IndexFunc(key, w.depends)
	switch {
	case at < 0:
	case key[at].Type() != Addr || slices.ContainsFunc(key[at+1:], w.depends) || s.Interval && len(key) > 1:
		w.kin.alone()
	case s.Interval:
		w.kin.answer(asked{what: s.Name, yes: found}, intervals(s, w.table.Family))
	default:
		w.exact(s, key, at, found)
	}
}

// depends reports whether a value depends on the source that the packet came with.
// It does not if a rule has written another source, whatever that was.
func (w *walk) depends(o Operand) bool {
	return o.ofSource() && (o.Field == OrigSaddr || o.Field == ReplyDaddr || w.src.Addr() == w.packet.Src.Addr())
}

func intervals(s *Set, f Family) (out []AddrRange) {
	for i := range s.Elements {
		e := &s.Elements[i]
		if e.Opaque {
			continue
		}
		r := AddrRange{e.Key.AddrAt(0, f), e.Key.AddrAt(0, f)}
		if !e.End.IsZero() {
			r.Last = e.End.AddrAt(0, f)
		}
		out = append(out, r)
	}
	return out
}

// exact notes the answer of a set without intervals: the key has the source at an
// index, and another source would get another answer if there is an element with it
// and the same rest.
func (w *walk) exact(s *Set, key []Operand, at int, found bool) {
	b, offset := w.load(key), 0
	for _, o := range key[:at] {
		offset += o.Type().Len(w.table.Family)
	}
	if found {
		w.kin.alone()
		return
	}
	n := w.table.Family.AddrLen()
	rest := func(b []byte) Tuple {
		t, _ := TupleOf(slices.Concat(b[:offset], b[offset+n:]))
		return t
	}
	others := w.kin.others[s]
	if others == nil {
		others = map[Tuple][]netip.Addr{}
		add := func(key []byte) {
			if addr, ok := netip.AddrFromSlice(key[offset : offset+n]); ok {
				others[rest(key)] = append(others[rest(key)], addr)
			}
		}
		for i := range s.Elements {
			if e := &s.Elements[i]; !e.Opaque && e.Key.Len() == len(b) {
				add(e.Key.Bytes())
			}
		}
		for i := range w.learned {
			if l := &w.learned[i]; l.Map == s.Name && len(l.Key) == len(b) {
				add(l.Key)
			}
		}
		w.kin.others[s] = others
	}
	var ranges []AddrRange
	for _, a := range others[rest(b)] {
		ranges = append(ranges, AddrRange{a, a})
	}
	w.kin.answer(asked{what: s.Name, rest: rest(b)}, ranges)
}

// inside notes whether a field that may be the source is in some prefixes, which
// have a name.
func (w *walk) inside(f Field, what string, prefixes []netip.Prefix, yes bool) {
	if w.kin == nil || !w.depends(Operand{Field: f}) {
		return
	}
	var ranges []AddrRange
	for _, p := range prefixes {
		if FamilyOf(p.Addr()) == w.kin.family {
			ranges = append(ranges, RangeOf(p))
		}
	}
	w.kin.answer(asked{what: what, yes: yes}, ranges)
}

// localSource notes whether the source is local.
func (w *walk) localSource() {
	if w.kin != nil {
		w.inside(FibSaddr, "local", w.kin.local, w.local(w.src.Addr()))
	}
}

// loopbackSource notes whether a field, which is the source, is a loopback address.
func (w *walk) loopbackSource(f Field) {
	p := netip.PrefixFrom(netip.IPv6Loopback(), 128)
	if w.packet.Family() == IPv4 {
		p = netip.PrefixFrom(netip.AddrFrom4([4]byte{127}), 8)
	}
	addr := w.packet.Src.Addr()
	if f == Saddr {
		addr = w.src.Addr()
	}
	w.inside(f, "loopback", []netip.Prefix{p}, addr.IsLoopback())
}

// merge sorts ranges and joins those that overlap or touch.
func merge(ranges []AddrRange) []AddrRange {
	ranges = slices.Clone(ranges)
	slices.SortFunc(ranges, func(x, y AddrRange) int { return x.First.Compare(y.First) })
	var out []AddrRange
	for _, r := range ranges {
		if n := len(out); n > 0 && (r.First.Compare(out[n-1].Last) <= 0 || r.First == out[n-1].Last.Next()) {
			if out[n-1].Last.Less(r.Last) {
				out[n-1].Last = r.Last
			}
			continue
		}
		out = append(out, r)
	}
	return out
}

// intersect returns what is in both of two sorted lists of disjoint ranges.
func intersect(a, b []AddrRange) (out []AddrRange) {
	for i, j := 0, 0; i < len(a) && j < len(b); {
		r := AddrRange{a[i].First, a[i].Last}
		if r.First.Less(b[j].First) {
			r.First = b[j].First
		}
		if b[j].Last.Less(r.Last) {
			r.Last = b[j].Last
		}
		if r.First.Compare(r.Last) <= 0 {
			out = append(out, r)
		}
		if a[i].Last.Less(b[j].Last) {
			i++
		} else {
			j++
		}
	}
	return out
}

// outside returns the addresses of a family that are in none of the ranges.
func outside(f Family, ranges []AddrRange) (out []AddrRange) {
	all := RangeOf(netip.PrefixFrom(f.Unspecified(), 0))
	at := all.First
	for _, r := range merge(ranges) {
		if at.Less(r.First) {
			out = append(out, AddrRange{at, r.First.Prev()})
		}
		if at = r.Last.Next(); !at.IsValid() {
			return out
		}
	}
	return append(out, AddrRange{at, all.Last})
}

// Prefixes returns the fewest prefixes that make up a range.
func (r AddrRange) Prefixes() (out []netip.Prefix) {
	for at := r.First; at.IsValid() && at.Compare(r.Last) <= 0; {
		bits := at.BitLen()
		for bits > 0 {
			p := netip.PrefixFrom(at, bits-1)
			if p.Masked().Addr() != at || r.Last.Less(RangeOf(p).Last) {
				break
			}
			bits--
		}
		p := netip.PrefixFrom(at, bits)
		out = append(out, p)
		at = RangeOf(p).Last.Next()
	}
	return out
}
