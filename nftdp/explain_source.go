package nftdp

import (
	"fmt"
	"slices"

	"github.com/nftdp/go-nftdp/internal/around"
	"github.com/nftdp/go-nftdp/internal/compile"
)

// sources finds out which source the backends see where nat chains of others meet the
// packet, too, and corrects the stage and the reply, which only know our rules.
func (n *network) sources() {
	changed := false
	for i := range n.out.Backends {
		if n.out.Backends[i].Code == CodeDelivered {
			changed = n.source(i) || changed
		}
	}
	if !changed {
		return
	}
	isSource := func(s ExplainedStage) bool { return s.Name == "source" }
	at := slices.IndexFunc(n.out.Stages, isSource)
	after := slices.DeleteFunc(slices.Clone(n.out.Stages[at:]), isSource)
	n.out.Stages = slices.Clip(n.out.Stages[:at])
	n.sourceStage()
	n.out.Stages = append(n.out.Stages, after...)
	n.out.Reply = n.reply()
}

// source evaluates the nat chains of others that may rewrite the source of packets to a
// candidate, and reports whether they do. The first chain that rewrites it decides
// (nf_nat_inet_fn in net/netfilter/nf_nat_core.c), so that those behind ours see the
// packet only if our rules keep its source.
func (n *network) source(i int) bool {
	c, r := &n.out.Backends[i], &n.routes[i]
	p, hook := n.foreign(c.Addr, true), "postrouting"
	if r.Local && !n.packet.Sent {
		hook = "input"
	} else {
		p.Out = r.Out
	}
	ours := c.Masqueraded || c.SNAT.IsValid()
	fate := n.walk(hook, p, func(b *around.Chain) bool {
		return b.Type == "nat" && (!ours || b.Priority <= compile.PrioritySNAT)
	})
	switch {
	case fate == nil || fate.Kind == around.Translated:
		return false
	case fate.Kind != around.Rewritten:
		c.fail(verdictOf(fate), droppedAt(hook), fateText(fate), "let the packet pass there")
		return false
	case ours && fate.Base.Priority == compile.PrioritySNAT:
		if c.SNAT != fate.Source {
			n.note(hook, "that chain has the priority of ours: the one that was made last is the first to rewrite the source")
		}
		return false
	case fate.Doubtful:
		return false
	}
	c.SNAT, c.Masqueraded = fate.Source, !fate.Source.IsValid()
	c.Why = fmt.Sprintf("chain %s of table %s %s rewrites it", fate.Chain.Name, fate.Chain.Family, fate.Chain.Table)
	return true
}
