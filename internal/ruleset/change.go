package ruleset

import (
	"slices"
	"strings"
)

// Verb says what a change does.
type Verb uint8

// The verbs.
const (
	Add Verb = iota + 1
	Delete
	Flush // delete all rules of a chain
	Adopt // become the owner of a table whose owner is gone
)

// String is the verb in nft.
func (v Verb) String() string { return [...]string{"?", "add", "delete", "flush", "add"}[v] }

// Change is one nft command on a table or, if one is given, on something in it:
// elements of Set, Set itself, a rule of Chain, Chain itself, or Object, which is
// only deleted.
type Change struct {
	Verb     Verb
	Family   Family
	Table    string
	Comment  string     // of a table that is added
	Flags    TableFlags // of a table that is added or adopted
	Set      *Set
	Elements []Element // of Set; nil: the set itself
	Entries  []Entry   // of Set, which is dynamic, instead of Elements; only to be shown
	Chain    *Chain
	Rule     Rule // appended to Chain; nil: the chain itself
	Object   *Object
}

// OfTable reports whether the change is one of the table itself.
func (c *Change) OfTable() bool { return c.Set == nil && c.Chain == nil && c.Object == nil }

// OfElements appends a change of elements of a set, in c's table, to a list,
// unless there are none.
func (c Change) OfElements(v Verb, s *Set, elements []Element, to []Change) []Change {
	if len(elements) == 0 {
		return to
	}
	c.Verb, c.Set, c.Elements = v, s, elements
	return append(to, c)
}

// Len is the number of objects that the change affects.
func (c *Change) Len() int {
	return max(1, len(c.Elements), len(c.Entries))
}

// String is the change as nft commands, one element per command.
func (c *Change) String() string {
	if len(c.Elements)+len(c.Entries) == 0 {
		return c.line(nil)
	}
	var b strings.Builder
	for i := range c.Entries {
		words := []string{c.Verb.String(), "element", c.Family.String(), c.Table, nameText(c.Set.Name), "{", c.Entries[i].text(c.Set, c.Verb == Delete), "}\n"}
		b.WriteString(strings.Join(words, " "))
	}
	for i := range c.Elements {
		b.WriteString(c.ElementString(i))
		b.WriteByte('\n')
	}
	return strings.TrimSuffix(b.String(), "\n")
}

// ElementString is the command for one element alone.
func (c *Change) ElementString(i int) string { return c.line(&c.Elements[i]) }

func (c *Change) line(e *Element) string {
	words := []string{c.Verb.String()}
	where := c.Family.String() + " " + c.Table
	switch {
	case e != nil:
		words = append(words, "element", where, nameText(c.Set.Name), "{ "+c.elementText(e)+" }")
	case c.Set != nil:
		words = append(words, c.Set.kind(), where, nameText(c.Set.Name))
		if c.Verb == Add {
			words = append(words, "{ "+strings.Join(c.Set.declaration(c.Family), "; ")+"; }")
		}
	case c.Rule != nil:
		words = append(words, "rule", where, nameText(c.Chain.Name), c.Rule.Text(c.Family))
	case c.Chain != nil:
		words = append(words, "chain", where, nameText(c.Chain.Name))
		if c.Verb == Add && c.Chain.Hook != nil {
			words = append(words, "{ "+c.Chain.Hook.String()+" }")
		}
	case c.Object != nil:
		words = append(words, c.Object.Kind.String(), where, nameText(c.Object.Name))
	default:
		words = append(words, "table", where)
		words = append(words, c.options()...)
	}
	return strings.Join(words, " ")
}

// options are the words after a table's name.
func (c *Change) options() []string {
	var out []string
	if c.Flags != 0 {
		out = append(out, "flags "+c.Flags.String()+";")
	}
	if c.Comment != "" {
		out = append(out, "comment "+commentText(c.Comment)+";")
	}
	if len(out) == 0 {
		return nil
	}
	return append(append([]string{"{"}, out...), "}")
}

// elementText is the element as the command needs it: its key alone to delete.
func (c *Change) elementText(e *Element) string {
	if c.Verb == Delete {
		return string((&Element{Key: e.Key, End: e.End}).append(nil, c.Family, &Set{Key: c.Set.Key}))
	}
	return string(e.append(nil, c.Family, c.Set))
}

// Apply returns what the changes make of a, which stays as it is.
func Apply(a *Ruleset, changes []Change) *Ruleset {
	out := a.clone()
	for i := range changes {
		out.apply(&changes[i])
	}
	return out
}

func (r *Ruleset) clone() *Ruleset {
	out := &Ruleset{}
	for _, t := range r.Tables {
		n := *t
		n.Sets, n.Chains, n.Objects = nil, nil, slices.Clone(t.Objects)
		for _, s := range t.Sets {
			n.Sets = append(n.Sets, s.clone(s.Elements))
		}
		for _, c := range t.Chains {
			n.Chains = append(n.Chains, c.clone(c.Rules))
		}
		out.Tables = append(out.Tables, &n)
	}
	return out
}

func (s *Set) clone(elements []Element) *Set {
	n := *s
	n.Elements = slices.Clone(elements)
	return &n
}

func (c *Chain) clone(rules []Rule) *Chain {
	n := *c
	n.Rules = slices.Clone(rules)
	return &n
}

func (r *Ruleset) apply(c *Change) {
	if c.OfTable() {
		r.applyTable(c)
		return
	}
	t := r.Table(c.Family)
	switch {
	case c.Object != nil:
		t.Objects = slices.DeleteFunc(t.Objects, func(o Object) bool { return o == *c.Object })
	case c.Elements != nil:
		t.Set(c.Set.Name).apply(c)
	case c.Set != nil && c.Verb == Add:
		t.Sets = append(t.Sets, c.Set.clone(nil))
	case c.Set != nil:
		t.Sets = slices.DeleteFunc(t.Sets, func(s *Set) bool { return s.Name == c.Set.Name })
	case c.Rule != nil:
		chain := t.Chain(c.Chain.Name)
		chain.Rules = append(chain.Rules, c.Rule)
	case c.Verb == Flush:
		t.Chain(c.Chain.Name).Rules = nil
	case c.Verb == Add:
		t.Chains = append(t.Chains, c.Chain.clone(nil))
	default:
		t.Chains = slices.DeleteFunc(t.Chains, func(x *Chain) bool { return x.Name == c.Chain.Name })
	}
}

func (r *Ruleset) applyTable(c *Change) {
	switch c.Verb {
	case Delete:
		r.Tables = slices.DeleteFunc(r.Tables, func(t *Table) bool { return t.Family == c.Family })
	case Adopt:
		r.Table(c.Family).Flags = c.Flags
	default:
		r.Tables = append(r.Tables, &Table{Family: c.Family, Name: c.Table, Comment: c.Comment, Flags: c.Flags})
		slices.SortFunc(r.Tables, func(x, y *Table) int { return int(x.Family) - int(y.Family) })
	}
}

func (s *Set) apply(c *Change) {
	if c.Verb == Add {
		s.add(c.Elements)
		return
	}
	gone := make(map[Tuple]bool, len(c.Elements))
	for i := range c.Elements {
		gone[c.Elements[i].Key] = true
	}
	s.Elements = slices.DeleteFunc(s.Elements, func(e Element) bool { return gone[e.Key] })
}

func (s *Set) add(elements []Element) {
	if !s.Repeatable {
		s.Elements = append(s.Elements, elements...)
		return
	}
	there := make(map[Tuple]bool, len(s.Elements))
	for i := range s.Elements {
		there[s.Elements[i].Key] = true
	}
	for i := range elements {
		if !there[elements[i].Key] {
			s.Elements = append(s.Elements, elements[i])
		}
	}
}
