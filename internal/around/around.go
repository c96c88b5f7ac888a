// Package around has what surrounds our rules in a network namespace, as values:
// routes, neighbours, and the base chains of others.
package around

import (
	"net/netip"
	"slices"

	"github.com/nftdp/go-nftdp/internal/ruleset"
)

// Query asks for the route of a packet.
type Query struct {
	Src, Dst netip.Addr // Src may be unset for a packet of this node
	In       string     // the device on which it arrives; empty: this node sends it
}

// Route is what the kernel does with a packet.
type Route struct {
	Local bool       // it is for this node
	Out   Device     // by which it leaves
	Via   netip.Addr // the next hop; unset: the destination itself
	Src   netip.Addr // the source that the node prefers, if it is known
}

// Refusal says why there is no route.
type Refusal uint8

// The refusals.
const (
	Routed      Refusal = iota
	NoRoute             // none leads there, or one that refuses
	ReversePath         // rp_filter refuses the source
	Martian             // an address that must not be in such a packet
)

// Hop is a neighbour to which packets are sent.
type Hop struct {
	Out  Device
	Addr netip.Addr
}

// Neighbour is what the kernel knows of a neighbour's link-layer address.
type Neighbour uint8

// The states.
const (
	Unknown Neighbour = iota // nobody has asked, or the answer is not there yet
	Known
	Failed // it has not answered
)

// Packet is the first packet of a connection as rules of others see it.
type Packet struct {
	Proto      uint8
	Src, Dst   netip.AddrPort // Src may be unset: whoever sends it
	In, Out    Device         // zero: there is none at the hook, or it is not known
	Translated bool           // conntrack has another destination
	Local      bool           // Dst is an address of this node
	Early      bool           // conntrack has not seen it yet
}

// Device is a network device.
type Device struct {
	Index uint32
	Name  string
}

// Answer is whether a packet meets a condition.
type Answer uint8

// The answers.
const (
	Maybe Answer = iota // the condition is not understood
	Yes
	No
)

// Rule is a rule of others.
type Rule struct {
	Handle        uint64
	Text, Comment string // in words close to nft's
	// Eval says whether a packet meets the rule's conditions, and what the rule
	// does then. With Maybe it is what the rule might do.
	Eval func(*Packet) (Answer, Effect)
}

// Effect is what a rule does with a packet; zero: it goes on.
type Effect struct {
	Verdict    ruleset.Verdict
	Reject     bool // the sender is answered, and the packet dropped
	Translates bool // the destination is rewritten
	Rewrites   bool // the source is rewritten: to Source, or if that is unset to one that is not known
	Source     netip.Addr
}

// Chain is a chain of others. Base chains have a Hook.
type Chain struct {
	Family   string // "inet"
	Table    string
	Name     string
	Type     string   // "filter", "nat" or "route"; empty if it is no base chain
	Hook     string   // "forward"
	Devices  []string // of ingress and egress
	Priority int32
	Drops    bool // the policy
	Rules    []Rule
}

// Sees reports whether a base chain sees packets of a device: those of ingress and egress
// see certain devices, of which one with an asterisk stands for several.
func (c *Chain) Sees(d Device) bool {
	return c.Devices == nil || slices.ContainsFunc(c.Devices, func(pattern string) bool {
		return ruleset.MatchInput{Pattern: pattern}.Names(d.Name)
	})
}

// Fate is what a base chain makes of a packet.
type Fate struct {
	Base     *Chain
	Chain    *Chain
	Rule     *Rule // nil: the policy
	Kind     FateKind
	Doubtful bool       // a rule before, which is not understood, may decide otherwise
	Source   netip.Addr // of Rewritten, if it is known
}

// FateKind is how the way through a base chain ends.
type FateKind uint8

// The fates.
const (
	Accepted FateKind = iota
	Dropped
	Rejected
	Translated
	Rewritten // the source
)

// maxJumps bounds the chains on the way through one base chain, as the kernel does.
const maxJumps = 64

// Walk sends a packet through a base chain. All are the chains of its table.
func Walk(base *Chain, all map[string]*Chain, p *Packet) Fate {
	w := walk{all: all, packet: p}
	if !w.chain(base, 0) {
		w.fate = Fate{Chain: base}
		if base.Drops {
			w.fate.Kind = Dropped
		}
	}
	w.fate.Base, w.fate.Doubtful = base, w.doubtful
	return w.fate
}

type walk struct {
	all      map[string]*Chain
	packet   *Packet
	doubtful bool
	fate     Fate
}

// chain reports whether the way through the base chain has ended.
func (w *walk) chain(c *Chain, depth int) (done bool) {
	if depth > maxJumps {
		return false
	}
	for i := range c.Rules {
		r := &c.Rules[i]
		answer, e := r.Eval(w.packet)
		switch answer {
		case No:
			continue
		case Maybe:
			w.doubtful = w.doubtful || e != Effect{}
			continue
		case Yes:
		}
		switch {
		case e.Translates:
			w.fate = Fate{Chain: c, Rule: r, Kind: Translated}
			return true
		case e.Rewrites:
			w.fate = Fate{Chain: c, Rule: r, Kind: Rewritten, Source: e.Source}
			return true
		case e.Reject:
			w.fate = Fate{Chain: c, Rule: r, Kind: Rejected}
			return true
		}
		switch e.Verdict.Kind {
		case ruleset.Accept:
			w.fate = Fate{Chain: c, Rule: r}
			return true
		case ruleset.Drop:
			w.fate = Fate{Chain: c, Rule: r, Kind: Dropped}
			return true
		case ruleset.Return:
			return false
		case ruleset.Jump, ruleset.Goto:
			if next := w.all[e.Verdict.Chain]; next != nil && w.chain(next, depth+1) {
				return true
			}
			if e.Verdict.Kind == ruleset.Goto {
				return false
			}
		}
	}
	return false
}
