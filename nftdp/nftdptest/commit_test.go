package nftdptest

import (
	"errors"
	"net/netip"
	"syscall"
	"testing"

	"github.com/nftdp/go-nftdp/internal/ruleset"
	"github.com/nftdp/go-nftdp/nftdp"
)

// nodeWithTable has a table with a map that leads to a chain, which is full with
// one more element, and another set and chain.
func nodeWithTable(t *testing.T) *Node {
	t.Helper()
	n := NewNode()
	m := &ruleset.Set{Name: "m", Key: []ruleset.Type{ruleset.Port}, Verdict: true, Size: 2}
	to := ruleset.Verdict{Kind: ruleset.Goto, Chain: "used"}
	if err := n.commit(0, []ruleset.Change{
		change(ruleset.Add),
		{Verb: ruleset.Add, Family: ruleset.IPv4, Table: "t", Set: m},
		{Verb: ruleset.Add, Family: ruleset.IPv4, Table: "t", Chain: &ruleset.Chain{Name: "used"}},
		{Verb: ruleset.Add, Family: ruleset.IPv4, Table: "t", Chain: &ruleset.Chain{Name: "leading"}},
		{Verb: ruleset.Add, Family: ruleset.IPv4, Table: "t", Chain: &ruleset.Chain{Name: "led to"}},
		{Verb: ruleset.Add, Family: ruleset.IPv4, Table: "t", Chain: &ruleset.Chain{Name: "leading"}, Rule: ruleset.Rule{ruleset.Verdict{Kind: ruleset.Jump, Chain: "led to"}}},
		{Verb: ruleset.Add, Family: ruleset.IPv4, Table: "t", Set: m, Elements: []ruleset.Element{{Key: ruleset.Tuple{}.Port(1), Verdict: to}}},
	}); err != nil {
		t.Fatal(err)
	}
	return n
}

func change(v ruleset.Verb) ruleset.Change {
	return ruleset.Change{Verb: v, Family: ruleset.IPv4, Table: "t"}
}

// TestRefused: the node refuses what the kernel does, with the same errno, and
// nothing of the batch is applied.
func TestRefused(t *testing.T) {
	set := func(v ruleset.Verb, name string) ruleset.Change {
		c := change(v)
		c.Set = &ruleset.Set{Name: name}
		return c
	}
	elements := func(v ruleset.Verb, name, chain string, ports ...uint16) ruleset.Change {
		c := set(v, name)
		for _, p := range ports {
			c.Elements = append(c.Elements, ruleset.Element{
				Key: ruleset.Tuple{}.Port(p), Verdict: ruleset.Verdict{Kind: ruleset.Goto, Chain: chain},
			})
		}
		return c
	}
	chain := func(v ruleset.Verb, name string, rule ...ruleset.Statement) ruleset.Change {
		c := change(v)
		c.Chain, c.Rule = &ruleset.Chain{Name: name}, rule
		return c
	}
	other := func(c ruleset.Change) ruleset.Change {
		c.Family = ruleset.IPv6
		return c
	}
	for name, c := range map[string]struct {
		change  ruleset.Change
		errno   syscall.Errno
		element int
	}{
		"table that is there":         {change(ruleset.Add), syscall.EEXIST, -1},
		"missing table":               {other(change(ruleset.Delete)), syscall.ENOENT, -1},
		"adopted missing table":       {other(change(ruleset.Adopt)), syscall.ENOENT, -1},
		"set of missing table":        {other(set(ruleset.Add, "m")), syscall.ENOENT, -1},
		"set that is there":           {set(ruleset.Add, "m"), syscall.EEXIST, -1},
		"missing set":                 {set(ruleset.Delete, "other"), syscall.ENOENT, -1},
		"chain that is there":         {chain(ruleset.Add, "used"), syscall.EEXIST, -1},
		"missing chain":               {chain(ruleset.Delete, "other"), syscall.ENOENT, -1},
		"missing chain flushed":       {chain(ruleset.Flush, "other"), syscall.ENOENT, -1},
		"rule of missing chain":       {chain(ruleset.Add, "other", ruleset.Verdict{Kind: ruleset.Drop}), syscall.ENOENT, -1},
		"chain that an element uses":  {chain(ruleset.Delete, "used"), syscall.EBUSY, -1},
		"chain that a rule uses":      {chain(ruleset.Delete, "led to"), syscall.EBUSY, -1},
		"element of missing set":      {elements(ruleset.Add, "other", "used", 1), syscall.ENOENT, -1},
		"element that is there":       {elements(ruleset.Add, "m", "used", 2, 1), syscall.EEXIST, 1},
		"element twice":               {elements(ruleset.Add, "m", "used", 2, 2), syscall.EEXIST, 1},
		"missing element":             {elements(ruleset.Delete, "m", "used", 1, 2), syscall.ENOENT, 1},
		"element of a missing chain":  {elements(ruleset.Add, "m", "other", 2), syscall.ENOENT, 0},
		"too many elements":           {elements(ruleset.Add, "m", "used", 2, 3), syscall.ENFILE, 1},
		"element, and fits (allowed)": {elements(ruleset.Add, "m", "used", 2), 0, 0},
	} {
		t.Run(name, func(t *testing.T) {
			n := nodeWithTable(t)
			before, generation := n.tables[0].rules.String(), n.generation
			err := n.commit(0, []ruleset.Change{set(ruleset.Add, "applied before"), c.change})
			if c.errno == 0 {
				if err != nil || n.generation == generation {
					t.Error(err)
				}
				return
			}
			var refused *ruleset.RefusedError
			if !errors.As(err, &refused) || !errors.Is(err, c.errno) || refused.Element != c.element {
				t.Errorf("%v, element %d, want %v, element %d", err, refused.Element, c.errno, c.element)
			}
			if after := n.tables[0].rules.String(); after != before || n.generation != generation {
				t.Errorf("something was applied:\n%s", after)
			}
		})
	}
}

// TestOwner: nobody else changes a table that somebody owns.
func TestOwner(t *testing.T) {
	n := NewNode()
	add := change(ruleset.Add)
	add.Flags = ruleset.Protected
	if err := n.commit(7, []ruleset.Change{add}); err != nil {
		t.Fatal(err)
	}
	for port, want := range map[uint32]error{0: syscall.EPERM, 8: syscall.EPERM, 7: syscall.EEXIST} {
		if err := n.commit(port, []ruleset.Change{change(ruleset.Add)}); !errors.Is(err, want) {
			t.Errorf("port %d: %v, want %v", port, err, want)
		}
	}
}

// TestGenerations: what is computed for another generation is stale.
func TestGenerations(t *testing.T) {
	n := nodeWithTable(t)
	k := &kernel{node: n, port: 7}
	now, err := k.Generation(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	del := []ruleset.Change{change(ruleset.Delete)}
	entries := &ruleset.EntryChange{Verb: ruleset.Add, Family: ruleset.IPv4, Table: "t", Set: &ruleset.Set{Name: "m"}}
	if _, err := k.Commit(t.Context(), now-1, del); !errors.Is(err, ruleset.ErrStale) {
		t.Error(err)
	}
	if _, _, err := k.CommitEntries(t.Context(), now-1, entries); !errors.Is(err, ruleset.ErrStale) {
		t.Error(err)
	}
	if _, next, err := k.CommitEntries(t.Context(), now, entries); next != now+1 || err != nil {
		t.Error(next, err)
	}
	if next, err := k.Commit(t.Context(), 0, del); next != now+2 || err != nil {
		t.Error(next, err)
	}
	n.generation = 1<<32 - 1
	if n.publish(0, nil); n.generation != 1 {
		t.Error("after the last generation:", n.generation)
	}
}

// TestNotOwned: a table of somebody else is left alone.
func TestNotOwned(t *testing.T) {
	if _, err := nodeWithTable(t).Open(t.Context(), nftdp.Config{Table: "t"}); !errors.Is(err, nftdp.ErrNotOwned) {
		t.Error(err)
	}
}

// TestMissed: a monitor that was not there for a transaction says so.
func TestMissed(t *testing.T) {
	n := NewNode(netip.MustParseAddr("192.0.2.1"))
	m := &monitor{node: n, port: 1}
	m.Known(n.generation)
	n.publish(2, nil)
	if err := m.Join(); err != nil {
		t.Fatal(err)
	}
	ignore := func(*ruleset.Event) {}
	if _, err := m.CatchUp(t.Context(), n.generation, ignore); !errors.Is(err, ruleset.ErrMissed) {
		t.Error("before Join:", err)
	}
	n.publish(2, nil)
	if _, err := m.CatchUp(t.Context(), n.generation, ignore); !errors.Is(err, ruleset.ErrMissed) {
		t.Error("gap:", err)
	}
	m.Known(n.generation)
	n.publish(2, []ruleset.Change{change(ruleset.Add)})
	n.publish(1, []ruleset.Change{change(ruleset.Add)})
	var received []ruleset.Event
	at, err := m.CatchUp(t.Context(), n.generation, func(e *ruleset.Event) { received = append(received, *e) })
	if at != n.generation || err != nil || len(received) != 2 || received[1].Kind != ruleset.KindEnd {
		t.Error(at, err, received)
	}
}
