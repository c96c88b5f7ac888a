package nftdptest

import (
	"slices"
	"syscall"

	"github.com/nftdp/go-nftdp/internal/ruleset"
)

// tables are those of one name.
type tables struct {
	name      string
	rules     *ruleset.Ruleset
	evaluator *ruleset.Evaluator // nil until the first packet
}

// named returns the place of the tables of a name, or -1.
func named(list []*tables, name string) int {
	return slices.IndexFunc(list, func(t *tables) bool { return t.name == name })
}

// set finds a set, or nil.
func (n *Node) set(at place) *ruleset.Set {
	i := named(n.tables, at.table)
	if i < 0 || n.tables[i].rules.Table(at.family) == nil {
		return nil
	}
	return n.tables[i].rules.Table(at.family).Set(at.set)
}

// stale fails if the rules are not of a generation; 0 is any.
func (n *Node) stale(generation uint32) error {
	if generation != 0 && generation != n.generation {
		return ruleset.ErrStale
	}
	return nil
}

// commit applies the changes of a netlink port, all or none.
func (n *Node) commit(port uint32, changes []ruleset.Change) error {
	next := slices.Clone(n.tables)
	for i := range changes {
		c := &changes[i]
		at := named(next, c.Table)
		if at < 0 {
			next, at = slices.Insert(next, 0, &tables{name: c.Table, rules: &ruleset.Ruleset{}}), 0
		}
		if element, errno := refuse(next[at].rules.Table(c.Family), c, port); errno != 0 {
			return &ruleset.RefusedError{Change: c, Element: element, Errno: errno}
		}
		rules := ruleset.Apply(next[at].rules, changes[i:i+1])
		if c.Flags&ruleset.Owner != 0 {
			rules.Table(c.Family).Port = port
		}
		next[at] = &tables{name: c.Table, rules: rules}
	}
	n.tables = slices.DeleteFunc(next, func(t *tables) bool { return len(t.rules.Tables) == 0 })
	for i := range changes {
		n.forget(&changes[i])
	}
	n.publish(port, changes)
	return nil
}

// forget deletes the entries of maps that a change deletes.
func (n *Node) forget(c *ruleset.Change) {
	for at := range n.entries {
		if c.Verb == ruleset.Delete && at.table == c.Table && at.family == c.Family &&
			(c.OfTable() || c.Set != nil && len(c.Elements) == 0 && c.Set.Name == at.set) {
			delete(n.entries, at)
		}
	}
}

// refuse returns the errno with which the kernel refuses a change of a table,
// which is nil if there is none, and the element that is to blame, or -1. With 0
// it takes the change. What others cannot be the cause of is not looked for.
func refuse(t *ruleset.Table, c *ruleset.Change, port uint32) (element int, errno syscall.Errno) {
	there := t != nil
	switch {
	case there && t.Port != 0 && t.Port != port:
		return -1, syscall.EPERM
	case !there && !c.OfTable():
		return -1, syscall.ENOENT
	case len(c.Elements) > 0:
		return refuseElements(t, c)
	case c.Set != nil:
		there = t.Set(c.Set.Name) != nil
	case c.Chain != nil:
		there = t.Chain(c.Chain.Name) != nil
	case c.Object != nil:
		there = slices.Contains(t.Objects, *c.Object)
	}
	switch add := c.Verb == ruleset.Add && c.Rule == nil; {
	case add && there:
		return -1, syscall.EEXIST
	case !add && !there:
		return -1, syscall.ENOENT
	case c.Verb == ruleset.Delete && c.Chain != nil && leads(t, c.Chain.Name):
		return -1, syscall.EBUSY
	}
	return -1, 0
}

func refuseElements(t *ruleset.Table, c *ruleset.Change) (element int, errno syscall.Errno) {
	s := t.Set(c.Set.Name)
	if s == nil {
		return -1, syscall.ENOENT
	}
	held := index(s)
	for i := range c.Elements {
		e := &c.Elements[i]
		_, there := held[e.Key]
		switch {
		case c.Verb == ruleset.Delete && !there:
			return i, syscall.ENOENT
		case c.Verb == ruleset.Delete:
			delete(held, e.Key)
			continue
		case there && s.Repeatable:
			continue
		case there:
			return i, syscall.EEXIST
		case e.Verdict.Chain != "" && t.Chain(e.Verdict.Chain) == nil:
			return i, syscall.ENOENT
		case s.Size > 0 && len(held) >= int(s.Size):
			return i, syscall.ENFILE
		}
		held[e.Key] = e
	}
	return -1, 0
}

// index has the elements of a set by their keys.
func index(s *ruleset.Set) map[ruleset.Tuple]*ruleset.Element {
	out := make(map[ruleset.Tuple]*ruleset.Element, len(s.Elements))
	for i := range s.Elements {
		out[s.Elements[i].Key] = &s.Elements[i]
	}
	return out
}

// leads reports whether anything in a table leads to a chain.
func leads(t *ruleset.Table, chain string) bool {
	for _, s := range t.Sets {
		if slices.ContainsFunc(s.Elements, func(e ruleset.Element) bool { return e.Verdict.Chain == chain }) {
			return true
		}
	}
	for _, c := range t.Chains {
		for _, r := range c.Rules {
			if v, ok := r[len(r)-1].(ruleset.Verdict); ok && v.Chain == chain {
				return true
			}
		}
	}
	return false
}
