package around

import (
	"testing"

	"github.com/nftdp/go-nftdp/internal/ruleset"
)

func rule(a Answer, e Effect) Rule {
	return Rule{Eval: func(*Packet) (Answer, Effect) { return a, e }}
}

func verdict(k ruleset.VerdictKind, chain string) Effect {
	return Effect{Verdict: ruleset.Verdict{Kind: k, Chain: chain}}
}

// TestWalk: how the way through a base chain ends, and whether that is certain.
func TestWalk(t *testing.T) {
	drop, accept := verdict(ruleset.Drop, ""), verdict(ruleset.Accept, "")
	for name, c := range map[string]struct {
		base     Chain
		other    []Rule
		kind     FateKind
		doubtful bool
	}{
		"no rules":               {Chain{}, nil, Accepted, false},
		"policy":                 {Chain{Drops: true}, nil, Dropped, false},
		"another packet":         {Chain{Rules: []Rule{rule(No, drop)}}, nil, Accepted, false},
		"drop":                   {Chain{Rules: []Rule{rule(Yes, drop)}}, nil, Dropped, false},
		"accept before policy":   {Chain{Drops: true, Rules: []Rule{rule(Yes, accept)}}, nil, Accepted, false},
		"reject":                 {Chain{Rules: []Rule{rule(Yes, Effect{Reject: true})}}, nil, Rejected, false},
		"dnat":                   {Chain{Rules: []Rule{rule(Yes, Effect{Translates: true})}}, nil, Translated, false},
		"maybe accepted":         {Chain{Drops: true, Rules: []Rule{rule(Maybe, accept)}}, nil, Dropped, true},
		"maybe a counter":        {Chain{Drops: true, Rules: []Rule{rule(Maybe, Effect{})}}, nil, Dropped, false},
		"jump and drop":          {Chain{Rules: []Rule{rule(Yes, verdict(ruleset.Jump, "other"))}}, []Rule{rule(Yes, drop)}, Dropped, false},
		"jump and return":        {Chain{Rules: []Rule{rule(Yes, verdict(ruleset.Jump, "other")), rule(Yes, drop)}}, []Rule{rule(Yes, verdict(ruleset.Return, ""))}, Dropped, false},
		"goto does not return":   {Chain{Rules: []Rule{rule(Yes, verdict(ruleset.Goto, "other")), rule(Yes, drop)}}, nil, Accepted, false},
		"a loop ends":            {Chain{Rules: []Rule{rule(Yes, verdict(ruleset.Jump, "other"))}}, []Rule{rule(Yes, verdict(ruleset.Jump, "other"))}, Accepted, false},
		"a chain that is missed": {Chain{Rules: []Rule{rule(Yes, verdict(ruleset.Jump, "none"))}}, nil, Accepted, false},
	} {
		all := map[string]*Chain{"other": {Name: "other", Rules: c.other}}
		if got := Walk(&c.base, all, &Packet{}); got.Kind != c.kind || got.Doubtful != c.doubtful {
			t.Errorf("%s: %d, doubtful %v, want %d, %v", name, got.Kind, got.Doubtful, c.kind, c.doubtful)
		}
	}
}
