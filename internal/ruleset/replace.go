package ruleset

// lateSuffix names the second of two base chains (see replaceTable).
const lateSuffix = "-late"

// replaceTable puts b in the place of a, in one batch.
//
// While a packet is looked at, the kernel takes the rules of each chain by the
// generation that it sees when it comes to that chain, but looks elements up by
// the generation of that moment. It hooks b's base chains at once, ahead of
// those of a (nf_hook_entries_grow in net/netfilter/core.c: a new hook goes
// before others of its priority), and their rules are in force with the commit.
// So a packet that is under way during the commit may have passed b's chains
// without rules, begin with a's rules, and find nothing in a's sets any more.
// It would leave untranslated, and conntrack would keep it so: with ten busy
// clients that was one connection in some seventy replacements.
//
// Therefore each base chain of b gets a second one behind it, where such a
// packet meets b's rules. They are deleted in the batch behind.
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

// late is the same chain a little later.
func (c *Chain) late() *Chain {
	hook := *c.Hook
	hook.Priority++
	return &Chain{Name: c.Name + lateSuffix, Hook: &hook, Rules: c.Rules}
}
