package ruleset

// lateSuffix names the second of two base chains (see replaceTable).
const lateSuffix = "-late"

// replaceTable replaces a by b in one batch.
//
// For each packet the kernel chooses the rules of a base chain by the generation
// at which the packet enters it, but looks up elements by the generation at the
// time of the lookup. It registers the hooks of b's base chains at once, ahead of
// those of a (nf_hook_entries_grow in net/netfilter/core.c inserts a new hook
// before others of its priority), and their rules take effect with the commit.
// So a packet in flight during the commit may have passed b's chains while they
// were empty, then enter a's rules and find a's sets empty. It would not be
// translated, and conntrack would keep it so: with ten busy clients that
// happened to one connection in some seventy replacements.
//
// Therefore each base chain of b gets a copy one priority later, where such a
// packet passes b's rules. The copies are deleted in the batch behind.
func replaceTable(a, b *Table) Transaction {
	both := *b
	var late []*Chain
	for _, c := range b.Chains {
		if c.Hook != nil {
			late = append(late, c.late())
		}
	}
	both.Chains = append(append([]*Chain{}, b.Chains...), late...)
	out := tableDiff{Table: &both, old: &Table{}, counts: a}.transaction()
	out.Now = append([]Change{{Verb: Delete, Family: a.Family, Table: a.Name}, addTable(b)}, out.Now...)
	for _, v := range [...]Verb{Flush, Delete} {
		for _, c := range late {
			out.Behind = append(out.Behind, tableDiff{Table: b}.change(v, nil, c))
		}
	}
	return out
}

// late returns the same chain with the next priority.
func (c *Chain) late() *Chain {
	hook := *c.Hook
	hook.Priority++
	return &Chain{Name: c.Name + lateSuffix, Hook: &hook, Rules: c.Rules}
}
