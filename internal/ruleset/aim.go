package ruleset

import (
	"net/netip"
	"slices"
)

// Aim evaluates first packets that differ in their source only. Where rules draw
// a number or compute a hash, it takes one that leads to a given destination, if
// there is one: so it decides whether packets can be led there, at a cost that
// does not grow with the number of backends. Dynamic maps are taken as empty.
//
// Rules ask little about a source: whether it is in a few sets, and whether it is
// local. The Aim keeps their questions in a tree, so that a further source costs
// no more than the answers, and the rules are evaluated once for each class of
// sources. It is not safe for concurrent use.
type Aim struct {
	eval   *Evaluator
	packet Packet
	to     netip.AddrPort
	root   *question
	path   []*question // of the evaluation that is running
	by     []answer
}

// Aimed is what becomes of a packet.
type Aimed struct {
	Outcome
	// Comment is that of the first element with one that the packet met: the
	// service that took it.
	Comment string
}

// question is something that a rule asks about the source of a packet, or the end
// of the packet's way.
type question struct {
	at   *walk // the packet where the question is asked
	ask  func(*walk) answer
	next map[answer]*question
	end  Aimed // if ask is nil
}

// answer is an element that was found, or whether something is so.
type answer struct {
	found *Element
	yes   bool
}

// Aim returns an Aim for packets like p, whatever their source, to a destination.
func (e *Evaluator) Aim(p Packet, to netip.AddrPort) *Aim { return &Aim{eval: e, packet: p, to: to} }

// Outcome evaluates a packet from a source. It fails as Eval does.
func (a *Aim) Outcome(src netip.AddrPort) (Aimed, error) {
	for q := a.root; q != nil; {
		if q.ask == nil {
			return q.end, nil
		}
		q.at.src, q.at.packet.Src = src, src
		q = q.next[q.ask(q.at)]
	}
	return a.evaluate(src)
}

// evaluate evaluates the rules and adds the questions that they ask to the tree.
func (a *Aim) evaluate(src netip.AddrPort) (Aimed, error) {
	a.path, a.by = nil, nil
	p := a.packet
	p.Src = src
	w := walk{Evaluator: a.eval, table: a.eval.tables[p.Family()], packet: p, src: src, dst: p.Dst, draws: &draws{}, aim: a}
	w.path.Dst = p.Dst
	w.run()
	if w.err != nil {
		return Aimed{}, w.err
	}
	end := &question{end: Aimed{Outcome: w.path.Outcome}}
	for _, step := range w.path.Trace {
		if step.Found != nil && end.end.Comment == "" {
			end.end.Comment = step.Found.Comment
		}
	}
	a.insert(end)
	return end.end, nil
}

// insert adds the questions of an evaluation to the tree, and its end.
func (a *Aim) insert(end *question) {
	at, put := a.root, func(q *question) { a.root = q }
	for i, q := range a.path {
		if at == nil {
			at = q
			put(q)
		}
		from, by := at, a.by[i]
		at, put = from.next[by], func(q *question) { from.next[by] = q }
	}
	if at == nil {
		put(end)
	}
}

// asked records a question about the fields of a packet, unless it is not about
// the source, or nobody wants to know.
func (w *walk) asked(fields []Operand, ask func(*walk) answer) {
	if w.aim == nil || w.err != nil || !slices.ContainsFunc(fields, Operand.ofSource) {
		return
	}
	at := *w
	at.aim, at.path = nil, Path{}
	w.aim.path = append(w.aim.path, &question{at: &at, ask: ask, next: map[answer]*question{}})
	w.aim.by = append(w.aim.by, ask(&at))
}

// ofSource reports whether the value depends on the source of a first packet. A
// hash does not, as an Aim treats it like a draw.
func (o Operand) ofSource() bool {
	return slices.Contains([]Field{Saddr, Sport, OrigSaddr, ReplyDaddr, FibSaddr}, o.Field)
}

// slotIndex lists the slots that lead to a destination, by what precedes the slot
// in their keys.
type slotIndex map[slotsTo][]uint32

type slotsTo struct {
	prefix Tuple
	to     netip.AddrPort // the port is 0 if the packet keeps its own; the address is unspecified for a port of the node
}

// slotsOf indexes the slots of a map, which leads to destinations directly or by
// chains that translate.
func (t *Table) slotsOf(s *Set) slotIndex {
	out, names := slotIndex{}, t.Names()
	for i := range s.Elements {
		e := &s.Elements[i]
		if n := e.Key.Len() - Slot.Len(t.Family); n >= 0 && !e.Opaque {
			at := slotsTo{e.Key.Prefix(n), t.destination(e, names)}
			out[at] = append(out[at], e.Key.SlotAt(n))
		}
	}
	return out
}

// destination returns where an element of a map of slots leads.
func (t *Table) destination(e *Element, names *Names) (to netip.AddrPort) {
	switch n := e.Data.Len() - t.Family.AddrLen(); {
	case n == 0:
		return netip.AddrPortFrom(e.Data.AddrAt(0, t.Family), 0)
	case n > 0:
		return netip.AddrPortFrom(e.Data.AddrAt(0, t.Family), e.Data.PortAt(t.Family.AddrLen()))
	}
	c := names.Chain(e.Verdict.Chain)
	if c == nil {
		return to
	}
	for _, r := range c.Rules {
		for _, s := range r {
			switch s := s.(type) {
			case DNATTo:
				return s.Addr
			case Redirect:
				return netip.AddrPortFrom(t.Family.Unspecified(), s.Port)
			}
		}
	}
	return to
}

// aimed returns the element of a slot that leads to the destination of the Aim,
// if there is one in the range of the draw; otherwise that of the first slot.
func (w *walk) aimed(s *Set, ops []Operand) *Element {
	last := len(ops) - 1
	prefix, ok := TupleOf(w.load(ops[:last]))
	if !ok || w.slots[s] == nil {
		w.fail("set %s has other keys", s.Name)
		return nil
	}
	first, end := ops[last].Offset, uint64(ops[last].Offset)+uint64(ops[last].Mod)
	index, slot := w.slots[s](), first
	tos := []netip.AddrPort{w.aim.to}
	if w.aim.to.Port() == w.dst.Port() {
		tos = append(tos, netip.AddrPortFrom(w.aim.to.Addr(), 0))
	}
	if w.local(w.aim.to.Addr()) {
		tos = append(tos, netip.AddrPortFrom(w.table.Family.Unspecified(), w.aim.to.Port()))
	}
	for _, to := range tos {
		for _, n := range index[slotsTo{prefix, to}] {
			if n >= first && uint64(n) < end {
				slot = n
			}
		}
	}
	return w.sets[s][prefix.Slot(slot)]
}
