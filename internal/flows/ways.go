package flows

import (
	"net/netip"
	"slices"
	"strings"

	"github.com/nftdp/go-nftdp/internal/compile"
	"github.com/nftdp/go-nftdp/internal/conntrack"
	"github.com/nftdp/go-nftdp/internal/ruleset"
)

// ways answers which ways rules leave to first packets: what a flow is compared
// with, and what is remembered for a client. They are read off the rules
// themselves, so there is no second opinion on what services mean. What is
// remembered for clients is no part of them, and a scheduler, also one that
// hashes, is taken to spread: any backend of the pool that it chooses from counts.
//
// It is not safe for concurrent use.
type ways struct {
	rules *ruleset.Evaluator
	local func(netip.Addr) bool
	aims  map[aimed]*ruleset.Aim
	// inputs are, by family, interfaces by which a packet may have arrived: one
	// that no rule names, and one of those that rules name, which they treat alike.
	// An entry of conntrack does not show it.
	inputs [len(ruleset.Families)][]string
}

// aimed names packets that differ in their source only, and where they may go.
type aimed struct {
	proto   uint8
	sent    bool // by a process on this node
	input   string
	dst, to netip.AddrPort
}

// newWays returns those that rules leave on a node with these addresses.
func newWays(rules *ruleset.Ruleset, local func(netip.Addr) bool) *ways {
	w := &ways{rules: ruleset.NewEvaluator(rules, local), local: local, aims: map[aimed]*ruleset.Aim{}}
	for i, f := range ruleset.Families {
		w.inputs[i] = []string{""}
		if named := w.rules.Inputs(f); len(named) > 0 {
			w.inputs[i] = append(w.inputs[i], named[0])
		}
	}
	return w
}

// waysTo returns the ways to the frontends of one service. A packet to one of
// them meets the same rules as if there were no other service, unless another
// one has a frontend that takes precedence.
func waysTo(cfg compile.Config, s *compile.Service, local func(netip.Addr) bool) *ways {
	var services []*compile.Service
	if s != nil {
		services = append(services, s)
	}
	return newWays(compile.New(cfg, services).Ruleset(), local)
}

// toward returns what becomes of a first packet if every choice that the rules
// leave to chance falls so that it goes to a backend: for each interface by which the
// packet may have arrived.
func (w *ways) toward(proto uint8, src, dst, to netip.AddrPort) (out []ruleset.Aimed, err error) {
	at := aimed{proto: proto, sent: w.local(src.Addr()), dst: dst, to: to}
	for i, input := range w.inputs[ruleset.FamilyOf(dst.Addr()).Index()] {
		if i > 0 && at.sent {
			break
		}
		at.input = input
		aim := w.aims[at]
		if aim == nil {
			aim = w.rules.Aim(ruleset.Packet{Proto: proto, Src: src, Dst: dst, Sent: at.sent, In: strings.TrimSuffix(input, "*")}, to)
			w.aims[at] = aim
		}
		end, err := aim.Outcome(src)
		if err != nil {
			return nil, err
		}
		out = append(out, end)
	}
	return out, nil
}

// lead reports whether a client may be led to a backend.
func (w *ways) lead(proto uint8, client, frontend, backend netip.AddrPort) (bool, error) {
	ends, err := w.toward(proto, client, frontend, backend)
	return slices.ContainsFunc(ends, func(end ruleset.Aimed) bool {
		return end.Fate == ruleset.Passed && end.Dst == backend
	}), err
}

// treat reports whether packets are treated as a flow treats them: it returns
// what becomes of the flow's first packet now, and whether that is what the entry
// does, with the destination and with the source. Of several possible interfaces,
// that counts by which it is.
func (w *ways) treat(f *conntrack.Flow) (end ruleset.Aimed, destination, source bool, err error) {
	ends, err := w.toward(f.Proto, f.Src, f.Dst, f.ReplySrc)
	for i, e := range ends {
		passed := e.Fate == ruleset.Passed
		toBackend, fromSource := passed && e.Dst == f.ReplySrc, passed && w.sourceIs(f, &e.Outcome)
		if i == 0 || toBackend && (fromSource || !destination) {
			end, destination, source = e, toBackend, fromSource
		}
		if destination && source {
			break
		}
	}
	return end, destination, source, err
}

// sourceIs compares addresses only: the kernel takes another port if the
// client's is in use. A masqueraded flow has an address of the node.
func (w *ways) sourceIs(f *conntrack.Flow, o *ruleset.Outcome) bool {
	switch seen := f.ReplyDst.Addr(); {
	case o.Masquerade:
		return w.local(seen)
	case o.SNAT.IsValid():
		return seen == o.SNAT
	default:
		return seen == f.Src.Addr()
	}
}

// withKept returns a service of which each pool has every backend once, and also
// those that keep their flows: draining ones, and backups in reserve. It leaves
// packets the same ways, besides those to the latter.
func withKept(s *compile.Service, kept ...netip.AddrPort) *compile.Service {
	out := *s
	out.Frontends = make([]*compile.Frontend, 0, len(s.Frontends))
	out.ToNode = s.ToNode || slices.ContainsFunc(kept, compile.OfNode)
	for i, f := range s.Frontends {
		f = new(*f)
		out.Frontends = append(out.Frontends, f)
		if i > 0 && s.Frontends[i].SamePools(s.Frontends[i-1]) {
			f.Pool, f.Internal = out.Frontends[i-1].Pool, out.Frontends[i-1].Internal
			continue
		}
		f.Pool = once(f, f.Pool, kept)
		if f.Internal != nil {
			f.Internal = once(f, f.Internal, kept)
		}
	}
	return &out
}

// once lists each backend of the frontend's family once.
func once(f *compile.Frontend, lists ...[]netip.AddrPort) []netip.AddrPort {
	out, seen := []netip.AddrPort{}, map[netip.AddrPort]bool{}
	for _, list := range lists {
		for _, b := range list {
			if !seen[b] && ruleset.FamilyOf(b.Addr()) == ruleset.FamilyOf(f.Addr) {
				seen[b] = true
				out = append(out, b)
			}
		}
	}
	return out
}
