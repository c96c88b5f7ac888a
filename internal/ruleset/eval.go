package ruleset

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"sync"
)

// Packet is the first packet of a connection: for TCP a SYN, for SCTP an INIT.
type Packet struct {
	Proto    uint8
	Src, Dst netip.AddrPort
	Sent     bool   // by a process on this node; otherwise it arrives from outside
	Loopback bool   // it arrives at the loopback interface
	In       string // the name of the interface by which it arrives; empty: one that no rule names
}

// Family is the family of the packet's addresses.
func (p *Packet) Family() Family {
	if p.Src.Addr().Is4() {
		return IPv4
	}
	return IPv6
}

// Fate is how a packet ends.
type Fate uint8

// The fates.
const (
	Passed      Fate = iota // it goes to Outcome.Dst
	Dropped                 // silently
	Reset                   // it is answered with a TCP reset
	Unreachable             // it is answered with ICMP port-unreachable
)

// Outcome is one possible end of a packet.
type Outcome struct {
	Fate       Fate
	Dst        netip.AddrPort // the final destination
	Masquerade bool           // the source is rewritten to the outgoing interface's address,
	SNAT       netip.Addr     // or to this one, if it is set
}

// String is the outcome in words.
func (o Outcome) String() string {
	switch {
	case o.Fate != Passed:
		return [...]string{Dropped: "dropped", Reset: "reset", Unreachable: "unreachable"}[o.Fate]
	case o.Masquerade:
		return fmt.Sprintf("to %v, masqueraded", o.Dst)
	case o.SNAT.IsValid():
		return fmt.Sprintf("to %v from %v", o.Dst, o.SNAT)
	}
	return fmt.Sprintf("to %v", o.Dst)
}

// Path is the way of a packet to an outcome.
type Path struct {
	Outcome
	Learned []Learned
	Trace   []Step
}

// Learned is an element that a rule adds to a dynamic map. Key and Data are laid
// out as in a Tuple, which is too small for some of them.
type Learned struct {
	Map       string
	Key, Data []byte
}

// Step is a rule whose statements all matched.
type Step struct {
	Chain string
	Rule  Rule
	Found *Element // the last element that the rule found in a set or map
}

// Evaluator computes what the kernel would do to packets by the rules of a
// ruleset. It is immutable and safe for concurrent use.
//
// Where the kernel draws a number (numgen), the evaluator tries every number. It
// assumes that no limit on connections (ct count) is exceeded, that no dynamic map
// is full, and that the sysctl route_localnet is off. It ignores other tables,
// routes, and whether anything accepts the packet at its destination.
type Evaluator struct {
	tables map[Family]*Table
	sets   map[*Set]map[Tuple]*Element // those without intervals
	ranges map[*Set][]*Element         // the intervals of single fields, sorted
	slots  map[*Set]func() slotIndex   // of maps of backends, built when they are needed
	local  func(netip.Addr) bool
}

// NewEvaluator evaluates the rules on a node that holds the addresses for which
// local returns true.
func NewEvaluator(r *Ruleset, local func(netip.Addr) bool) *Evaluator {
	e := &Evaluator{
		tables: map[Family]*Table{}, sets: map[*Set]map[Tuple]*Element{}, ranges: map[*Set][]*Element{},
		slots: map[*Set]func() slotIndex{}, local: local,
	}
	for _, t := range r.Tables {
		e.tables[t.Family] = t
		for _, s := range t.Sets {
			e.add(t, s)
		}
	}
	return e
}

// add indexes the elements of a set.
func (e *Evaluator) add(t *Table, s *Set) {
	if s.Interval {
		if len(s.Key) == 1 {
			e.ranges[s] = sorted(s.Elements)
		}
		return
	}
	index := make(map[Tuple]*Element, len(s.Elements))
	for i := range s.Elements {
		index[s.Elements[i].Key] = &s.Elements[i]
	}
	e.sets[s] = index
	if n := len(s.Key); n > 0 && s.Key[n-1] == Slot {
		e.slots[s] = sync.OnceValue(func() slotIndex { return t.slotsOf(s) })
	}
}

func sorted(elements []Element) []*Element {
	out := make([]*Element, len(elements))
	for i := range elements {
		out[i] = &elements[i]
	}
	slices.SortFunc(out, func(x, y *Element) int { return x.Key.Compare(&y.Key) })
	return out
}

// Inputs returns the names of interfaces, or of those whose names begin so, which rules
// of a family tell from others, each once.
func (e *Evaluator) Inputs(f Family) (out []string) {
	t := e.tables[f]
	if t == nil {
		return nil
	}
	for _, c := range t.Chains {
		for _, r := range c.Rules {
			for _, s := range r {
				if m, ok := s.(MatchInput); ok && !slices.Contains(out, m.Pattern) {
					out = append(out, m.Pattern)
				}
			}
		}
	}
	return out
}

// Eval returns all possible outcomes for a packet, each with one path that leads
// to it. The dynamic maps hold what was learned. It fails on rules that cannot
// be understood, and on rules that the kernel would refuse.
func (e *Evaluator) Eval(p Packet, learned []Learned) ([]Path, error) {
	var out []Path
	seen := map[Outcome]bool{}
	for draws := (&draws{}); ; {
		w := walk{Evaluator: e, table: e.tables[p.Family()], packet: p, src: p.Src, dst: p.Dst, learned: learned, draws: draws}
		w.path.Dst = p.Dst
		w.run()
		if w.err != nil {
			return nil, w.err
		}
		if !seen[w.path.Outcome] {
			seen[w.path.Outcome] = true
			out = append(out, w.path)
		}
		if !draws.next() {
			return out, nil
		}
	}
}

// draws are the numbers that were drawn on a walk, in order. The next walk
// draws the next combination of them.
type draws struct {
	numbers []draw
	at      int
}

type draw struct{ value, mod uint32 }

func (d *draws) draw(mod uint32) uint32 {
	if d.at == len(d.numbers) {
		d.numbers = append(d.numbers, draw{0, mod})
	}
	d.at++
	return d.numbers[d.at-1].value
}

// next moves to the next combination, if there is one more. When an earlier
// number changes, other numbers may be drawn later, so those start over.
func (d *draws) next() bool {
	d.at = 0
	for n := len(d.numbers); n > 0; n-- {
		last := &d.numbers[n-1]
		if last.value++; last.value < last.mod {
			return true
		}
		d.numbers = d.numbers[:n-1]
	}
	return false
}

// walk is one way of a packet through the hooks.
type walk struct {
	*Evaluator
	table   *Table // nil: no table of the family
	packet  Packet
	learned []Learned
	draws   *draws
	aim     *Aim // nil: every draw is tried
	kin     *kin // nil: nobody wants to know about other sources

	hook       HookNum
	src, dst   netip.AddrPort // in the packet now
	translated bool           // the connection has another destination than the packet had
	bound      bool           // in this hook, nat has been decided
	ended      bool           // the packet goes no further
	jumps      int
	path       Path
	err        error
}

// run sends the packet through the hooks. A packet to this node that a process
// on it sends comes in again by the loopback interface, but by then conntrack
// knows the connection, so nat chains do not see it.
func (w *walk) run() {
	first, last := Prerouting, Postrouting
	if w.packet.Sent {
		first = Output
	}
	w.traverse(first)
	if !w.packet.Sent && !w.ended {
		w.route()
		if w.local(w.dst.Addr()) || w.dst.Addr().IsUnspecified() { // by a Redirect
			last = Input
		} else {
			w.traverse(Forward)
		}
	}
	w.traverse(last)
	w.path.Dst = w.dst
}

// traverse runs the base chains of a hook in the order of their priorities.
// When one nat chain has rewritten the connection, the others of the hook are
// passed over (nf_nat_inet_fn in net/netfilter/nf_nat_core.c).
func (w *walk) traverse(hook HookNum) {
	if w.table == nil || w.ended {
		return
	}
	w.hook, w.bound = hook, false
	var chains []*Chain
	for _, c := range w.table.Chains {
		if c.Hook != nil && c.Hook.Num == hook {
			chains = append(chains, c)
		}
	}
	slices.SortStableFunc(chains, func(x, y *Chain) int { return cmp.Compare(x.Hook.Priority, y.Hook.Priority) })
	for _, c := range chains {
		if w.ended || w.err != nil {
			return
		}
		if c.Hook.Filter || !w.bound {
			w.chain(c)
			w.reroute(c)
		}
	}
}

// route drops packets from outside with a loopback address, as the kernel does
// (ip_route_input_slow, ip6_rcv_core).
func (w *walk) route() {
	fromLoopback := func(w *walk) answer { return answer{yes: w.packet.Src.Addr().IsLoopback()} }
	if w.packet.Loopback {
		return
	}
	w.loopbackSource(OrigSaddr)
	if w.asked([]Operand{{Field: OrigSaddr}}, fromLoopback); fromLoopback(w).yes || w.dst.Addr().IsLoopback() {
		w.ended, w.path.Fate = true, Dropped
	}
}

// reroute drops packets from an IPv4 loopback address which a chain at output has
// translated to an address of another machine. The kernel finds no route for them,
// unless route_localnet is set (nf_nat_ipv4_local_fn, __mkroute_output).
func (w *walk) reroute(c *Chain) {
	to := w.dst.Addr()
	if w.hook != Output || c.Hook.Filter || !w.translated || !to.Is4() || to.IsLoopback() || w.local(to) {
		return
	}
	w.loopbackSource(Saddr)
	fromLoopback := func(w *walk) answer { return answer{yes: w.src.Addr().IsLoopback()} }
	if w.asked([]Operand{{Field: Saddr}}, fromLoopback); fromLoopback(w).yes {
		w.ended, w.path.Fate = true, Dropped
	}
}

// maxJumps is a bound on the chains on the way through one base chain. The
// kernel refuses loops, and more than 16 jumps (NFT_JUMP_STACK_SIZE).
const maxJumps = 64

// chain runs a chain and reports whether the base chain is done with the
// packet; if not, the caller's next rule follows.
func (w *walk) chain(c *Chain) (done bool) {
	if c.Opaque != "" {
		return w.fail("chain %s: %s", c.Name, c.Opaque)
	}
	if w.jumps++; w.jumps > maxJumps {
		return w.fail("chain %s: too many jumps", c.Name)
	}
	defer func() { w.jumps-- }()
	for _, r := range c.Rules {
		v := w.rule(c, r)
		switch v.Kind {
		case Accept, Drop:
			return true
		case Return:
			return false
		case Jump, Goto:
			next := w.table.Chain(v.Chain)
			if next == nil {
				return w.fail("chain %s: no chain %s", c.Name, v.Chain)
			}
			if done := w.chain(next); done || v.Kind == Goto {
				return done
			}
		}
		if w.err != nil {
			return true
		}
	}
	return false
}

// fail ends the walk with an error.
func (w *walk) fail(format string, args ...any) (done bool) {
	if w.err == nil {
		w.err = fmt.Errorf("evaluate rules: "+format, args...)
	}
	return true
}
