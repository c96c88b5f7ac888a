package ruleset

import (
	"bytes"
	"fmt"
	"slices"
	"strconv"
)

// Lookup matches when the key is in a set, or with Not when it is not.
type Lookup struct {
	Key []Operand
	Not bool
	Set string
}

func (l Lookup) set() string { return l.Set }

func (l Lookup) text(f Family) string {
	return keyText(l.Key, f) + operator(l.Not) + "@" + nameText(l.Set)
}

func (l Lookup) eval(w *walk) effect {
	found := w.find(l.Set, l.Key)
	w.lookup(w.table.Set(l.Set), l.Key, found != nil)
	w.asked(l.Key, func(w *walk) answer { return answer{yes: w.find(l.Set, l.Key) != nil} })
	return effect{matched: (found != nil) != l.Not, found: found}
}

// VMap continues with the verdict that a map has for the key, if it has one.
type VMap struct {
	Key []Operand
	Map string
}

func (v VMap) set() string { return v.Map }

func (v VMap) text(f Family) string { return keyText(v.Key, f) + " vmap @" + nameText(v.Map) }

func (v VMap) eval(w *walk) effect {
	found := w.find(v.Map, v.Key)
	w.lookup(w.table.Set(v.Map), v.Key, found != nil)
	w.asked(v.Key, func(w *walk) answer { return answer{found: w.find(v.Map, v.Key)} })
	if found == nil {
		return effect{}
	}
	e := found.Verdict.eval(w)
	e.found = found
	return e
}

// Update adds an element to a dynamic map. If the map has one with the same key,
// that one keeps its data, and its timeout starts over. It does not match when
// the map is full.
type Update struct {
	Map     string
	Key     []Operand
	Seconds uint32 // of the timeout, at least 1
	Data    []Operand
}

func (u Update) set() string { return u.Map }

func (u Update) text(f Family) string {
	return fmt.Sprintf("update @%s { %s timeout %s : %s }",
		nameText(u.Map), keyText(u.Key, f), timeText(u.Seconds), keyText(u.Data, f))
}

func (u Update) eval(w *walk) effect {
	l := Learned{u.Map, w.load(u.Key), w.load(u.Data)}
	if w.recall(l.Map, l.Key) == nil {
		w.path.Learned = append(w.path.Learned, l)
	}
	return effect{matched: true}
}

// timeText writes seconds as nft does: 1d2h3m4s.
func timeText(seconds uint32) string {
	var text []byte
	for _, unit := range []struct {
		name string
		of   uint32
	}{{"d", 24 * 3600}, {"h", 3600}, {"m", 60}, {"s", 1}} {
		if n := seconds / unit.of; n > 0 {
			text = append(strconv.AppendUint(text, uint64(n), 10), unit.name...)
			seconds %= unit.of
		}
	}
	return string(text)
}

// find returns the element of a set that has the key, or nil.
func (w *walk) find(name string, ops []Operand) *Element {
	s := w.table.Set(name)
	if s == nil || s.Opaque != "" {
		w.fail("set %s is missing or not understood", name)
		return nil
	}
	if w.aim != nil && len(ops) > 0 && ops[len(ops)-1].Type() == Slot {
		return w.aimed(s, ops)
	}
	b := w.load(ops)
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
	switch {
	case !s.Interval:
		return w.sets[s][key]
	case len(s.Key) == 1:
		return between(w.ranges[s], &key)
	}
	return s.containing(&key, w.table.Family)
}

// between returns the interval of single fields that a key is in, or nil. The
// intervals are disjoint and sorted.
func between(sorted []*Element, key *Tuple) *Element {
	i, found := slices.BinarySearchFunc(sorted, key, func(e *Element, key *Tuple) int { return e.Key.Compare(key) })
	switch {
	case found:
		return sorted[i]
	case i > 0 && sorted[i-1].End.Compare(key) >= 0:
		return sorted[i-1]
	}
	return nil
}

func lenOf(types []Type, f Family) (n int) {
	for _, t := range types {
		n += t.Len(f)
	}
	return n
}

// containing returns the interval that the key is in, or nil.
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

// recall returns what a dynamic map has learned for the key, or nil.
func (w *walk) recall(name string, key []byte) *Learned {
	for i := range w.learned {
		if l := &w.learned[i]; l.Map == name && bytes.Equal(l.Key, key) {
			return l
		}
	}
	return nil
}
