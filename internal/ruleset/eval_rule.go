package ruleset

import (
	"bytes"
	"net/netip"
)

// rule runs the statements of a rule until one does not match or gives a
// verdict. A zero verdict goes on with the next rule.
func (w *walk) rule(c *Chain, r Rule) Verdict {
	var found *Element
	for _, s := range r {
		v, e, matches := w.statement(s)
		if !matches || w.err != nil {
			return Verdict{}
		}
		if e != nil {
			found = e
		}
		if v != (Verdict{}) {
			w.path.Trace = append(w.path.Trace, Step{c.Name, r, found})
			return v
		}
	}
	w.path.Trace = append(w.path.Trace, Step{c.Name, r, found})
	return Verdict{}
}

// statement runs one statement. It gives what it found in a set, if anything.
func (w *walk) statement(s Statement) (v Verdict, found *Element, matches bool) {
	switch s := s.(type) {
	case Match:
		return v, nil, w.match(s)
	case MatchAddr:
		return v, nil, s.Prefix.Contains(w.addr(s.Field)) != s.Not
	case Lookup:
		found = w.find(s.Set, s.Key)
		return v, found, (found != nil) != s.Not
	case VMap:
		if found = w.find(s.Map, s.Key); found != nil {
			return w.end(found.Verdict), found, true
		}
		return v, nil, false
	case DNAT:
		if found = w.find(s.Map, s.Key); found == nil {
			return v, nil, false
		}
		return w.dnat(w.target(s, found)), found, true
	case DNATTo:
		return w.dnat(s.Addr), nil, true
	case SNATTo:
		w.path.SNAT = s.Addr
		return w.bind(), nil, true
	case Masquerade:
		w.path.Masquerade = true
		return w.bind(), nil, true
	case Update:
		return v, nil, w.learn(s)
	case ConnCount:
		return v, nil, false
	case SetDaddr:
		w.dst = netip.AddrPortFrom(w.addr(s.To), w.dst.Port())
		return v, nil, true
	case Reject:
		return w.reject(s), nil, true
	case Verdict:
		return w.end(s), nil, true
	case Opaque:
		w.fail("statement not understood: %s", s.What)
	default:
		w.fail("no meaning of %T", s)
	}
	return v, nil, false
}

// match compares a field with a value. Values of the first packet are those
// that the kernel gives it (nft_meta_get_eval, nft_ct_get_eval, nft_fib).
func (w *walk) match(m Match) bool {
	const ether, unicast = 1, 1 // ARPHRD_ETHER, RTN_UNICAST
	var value uint32
	switch m.Field {
	case L4proto:
		value = uint32(w.packet.Proto)
	case CtStatus:
		if w.translated {
			value = StatusDNAT
		}
		return value&m.Value != 0
	case CtDirection: // that of the first packet is original, 0
	case FibDaddr, FibSaddr:
		addr := w.dst.Addr()
		if m.Field == FibSaddr {
			addr = w.src.Addr()
		}
		if value = unicast; w.local(addr) {
			value = FibLocal
		}
	case IifType:
		if w.hook == Output || w.hook == Postrouting && w.packet.Sent {
			return false // without an interface there is nothing to compare with
		}
		if value = ether; w.packet.Loopback {
			value = IifLoopback
		}
	default:
		w.fail("no value of field %s", Operand{Field: m.Field}.text(w.table.Family))
	}
	return (value == m.Value) != m.Not
}

// addr is the value of a field that is an address.
func (w *walk) addr(f Field) netip.Addr {
	switch f {
	case Saddr:
		return w.src.Addr()
	case Daddr:
		return w.dst.Addr()
	case OrigSaddr, ReplyDaddr: // the source is rewritten at the very end
		return w.packet.Src.Addr()
	case OrigDaddr:
		return w.packet.Dst.Addr()
	case ReplySaddr:
		return w.dst.Addr()
	default:
		w.fail("no address in field %s", Operand{Field: f}.text(w.table.Family))
		return netip.Addr{}
	}
}

// load loads operands one after the other, as in the registers of the kernel.
func (w *walk) load(ops []Operand) (b []byte) {
	for _, o := range ops {
		var t Tuple
		switch o.Field {
		case L4proto:
			t = t.Proto(w.packet.Proto)
		case Dport, ReplySport:
			t = t.Port(w.dst.Port())
		case OrigDport:
			t = t.Port(w.packet.Dst.Port())
		case Random, Increment:
			t = t.Slot(w.draws.draw(o.Mod) + o.Offset)
		case Hash:
			t = t.Slot(scale(jhash(w.src.Addr().AsSlice(), HashSeed), o.Mod) + o.Offset)
		default:
			t, _ = TupleOf(w.addr(o.Field).AsSlice())
		}
		b = append(b, t.Bytes()...)
	}
	return b
}

// find is the element of a set that has the key, or nil.
func (w *walk) find(name string, ops []Operand) *Element {
	s, b := w.table.Set(name), w.load(ops)
	if s == nil || s.Opaque != "" {
		w.fail("set %s is missing or not understood", name)
		return nil
	}
	if s.Dynamic {
		if l := w.recall(name, b); l != nil {
			data, _ := TupleOf(l.Data)
			return &Element{Data: data}
		}
		return nil
	}
	key, ok := TupleOf(b)
	if !ok || key.Len() != lenOf(s.Key, w.table.Family) {
		w.fail("set %s has other keys", name)
		return nil
	}
	if s.Interval {
		return s.containing(&key, w.table.Family)
	}
	return w.sets[s][key]
}

func lenOf(types []Type, f Family) (n int) {
	for _, t := range types {
		n += t.Len(f)
	}
	return n
}

// containing is the interval that the key is in.
func (s *Set) containing(key *Tuple, f Family) *Element {
	for i := range s.Elements {
		if s.Elements[i].contains(key, s.Key, f) {
			return &s.Elements[i]
		}
	}
	return nil
}

// contains compares field by field, as each has a range of its own.
func (e *Element) contains(key *Tuple, types []Type, f Family) bool {
	first, last := e.Key.Bytes(), e.End.Bytes()
	if e.End.IsZero() {
		last = first
	}
	at := 0
	for _, typ := range types {
		next := at + typ.Len(f)
		if k := key.Bytes()[at:next]; bytes.Compare(k, first[at:next]) < 0 || bytes.Compare(k, last[at:next]) > 0 {
			return false
		}
		at = next
	}
	return true
}

// recall is what a dynamic map has learned for the key, or nil.
func (w *walk) recall(name string, key []byte) *Learned {
	for i := range w.learned {
		if l := &w.learned[i]; l.Map == name && bytes.Equal(l.Key, key) {
			return l
		}
	}
	return nil
}

// learn adds an element, unless there is one with the key: that one stays.
func (w *walk) learn(u Update) bool {
	l := Learned{u.Map, w.load(u.Key), w.load(u.Data)}
	if w.recall(l.Map, l.Key) == nil {
		w.path.Learned = append(w.path.Learned, l)
	}
	return w.err == nil
}

// target reads an element's data as a destination.
func (w *walk) target(d DNAT, e *Element) netip.AddrPort {
	f := w.table.Family
	if d.AddrOnly {
		return netip.AddrPortFrom(e.Data.AddrAt(0, f), 0)
	}
	return netip.AddrPortFrom(e.Data.AddrAt(0, f), e.Data.PortAt(f.AddrLen()))
}

// dnat rewrites the destination. The connection counts as translated only if
// that makes a difference (nf_nat_setup_info in net/netfilter/nf_nat_core.c).
func (w *walk) dnat(to netip.AddrPort) Verdict {
	if to.Port() == 0 {
		to = netip.AddrPortFrom(to.Addr(), w.dst.Port())
	}
	w.translated = to != w.dst
	w.dst = to
	return w.bind()
}

// bind ends the decision about the hook's nat.
func (w *walk) bind() Verdict {
	w.bound = true
	return Verdict{Kind: Accept}
}

func (w *walk) reject(r Reject) Verdict {
	w.ended, w.path.Fate = true, Unreachable
	if r.Reset {
		w.path.Fate = Reset
	}
	return Verdict{Kind: Drop}
}

// end notes a verdict that ends the packet.
func (w *walk) end(v Verdict) Verdict {
	if v.Kind == Drop {
		w.ended, w.path.Fate = true, Dropped
	}
	return v
}
