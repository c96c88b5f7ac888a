package compile

import (
	"iter"
	"net/netip"
	"strconv"

	"github.com/nftdp/go-nftdp/internal/ruleset"
)

// class describes the path of a packet from its frontend to the pools, and is
// shared by all frontends whose packets take the same path. It is a chain,
// which may lead on to the chains of simpler classes:
//
//	clients-…   drops packets of clients that are not allowed
//	split-…     sends internal clients to a pool of their own
//	affinity-…  sends clients to the backend they had before
//	random-3    chooses one of three backends
//
// A client is sent back to its backend last, when it is known which pool serves
// it: a pool that is empty refuses also those that are remembered.
type class struct {
	node     bool // for node-wide frontends
	clients  Clients
	affinity bool
	split    bool // internal clients have a pool of their own
	internal int  // the size of that pool
	pool
}

// pool describes how a backend is chosen. Pools of one size share a chain, with
// two exceptions: round-robin has a chain for each frontend, as the kernel keeps
// the position of the rotation in the rule, and so have ranges of ports, as one
// map holds the slots of several of them. Such a chain keeps its name when the size
// of the pool changes: the frontend's element, which leads to it, stays.
type pool struct {
	scheduler Scheduler
	size      int
	empty     Action // if size is 0, what happens to packets
	loopback  bool   // the frontend has an IPv4 loopback address
	limited   bool   // backends have chains: they limit connections, or lead to a port of the node
	ranged    bool   // the frontend is a range of ports
	reserved  bool   // the pool is that of internal clients
	owner     owner
}

// owner is the frontend that a chain belongs to.
type owner struct {
	addr  netip.Addr // unset for node-wide frontends
	proto uint8
	port  uint16
}

// The slots of the pool of internal clients follow those of the other pool.
const (
	internalSlots      = 1 << 16
	rangeSlotBits      = 16
	internalRangeSlots = 1 << 15
	// MaxRangeSlots bounds the slots in a pool of a range of ports.
	MaxRangeSlots = internalRangeSlots
)

func (p *pool) internalSlots() uint32 {
	if p.ranged {
		return internalRangeSlots
	}
	return internalSlots
}

// class returns the class of a frontend.
func (s *Service) class(f *Frontend) class {
	c := class{node: f.Addr.IsUnspecified(), clients: f.Clients}
	c.pool = pool{size: len(f.Pool)}
	c.split = f.Internal != nil
	c.internal = len(f.Internal)
	if c.size == 0 {
		c.empty = f.Empty
	}
	if c.size+c.internal == 0 {
		c.split = false
		return c
	}
	c.scheduler = s.Scheduler
	c.loopback = f.Addr.Is4() && f.Addr.IsLoopback()
	c.ranged = f.End > 0
	c.limited = len(s.Limits) > 0 || s.ToNode
	c.affinity = s.Affinity > 0
	if schedulers[c.scheduler].own || c.ranged {
		c.owner = owner{proto: s.Proto, port: f.Port}
		if !c.node {
			c.owner.addr = f.Addr
		}
	}
	return c
}

// next returns the class that the chain leads to, unless the chain only chooses
// a backend.
func (c class) next() (class, bool) {
	switch {
	case c.clients != Clients{}:
		c.clients = Clients{}
	case c.split:
		c.split, c.internal = false, 0
		if c.size == 0 {
			c.affinity, c.pool = false, pool{empty: c.empty}
		}
	case c.affinity:
		c.affinity = false
	default:
		return c, false
	}
	return c, true
}

// reservedClass returns the class that internal clients are sent to.
func (c class) reservedClass() class {
	out := class{node: c.node, affinity: c.affinity && c.internal > 0, pool: c.pool}
	out.size, out.empty, out.reserved = c.internal, Reject, true
	return out
}

// units iterates over the chains that the class consists of, and the sets that
// they look up.
func (c class) units() iter.Seq[unit] {
	return func(yield func(unit) bool) { c.eachUnit(yield) }
}

func (c class) eachUnit(yield func(unit) bool) bool {
	for more := true; more; c, more = c.next() {
		if c.plain() && c.size == 0 {
			return true // such a class has no chain of its own
		}
		if !yield(c) || c.plain() && c.slots().Shard() && !yield(shard(c.slots())) {
			return false
		}
		switch {
		case c.clients != Clients{}:
			more = c.clients.units(yield)
		case c.split:
			more = c.reservedClass().eachUnit(yield)
		}
		if !more {
			return false
		}
	}
	return true
}

// owned reports whether a unit is the chain of one frontend.
func owned(u unit) bool {
	c, ok := u.(class)
	return ok && c.owner != owner{}
}

// plain reports whether the chain only chooses a backend.
func (c class) plain() bool { return c.clients == Clients{} && !c.affinity && !c.split }

// verdict returns the verdict of the class's frontends.
func (c class) verdict() ruleset.Verdict {
	switch {
	case !c.plain() || c.size > 0:
		return gotoChain(c)
	case c.empty == Drop:
		return ruleset.Verdict{Kind: ruleset.Drop}
	case c.empty == Pass:
		return ruleset.Verdict{Kind: ruleset.Accept}
	}
	return ruleset.Verdict{Kind: ruleset.Goto, Chain: noBackendChain}
}

func (c class) name() string {
	if c.node {
		return "node-" + c.path()
	}
	return c.path()
}

func (c class) path() string {
	next, _ := c.next()
	switch {
	case c.clients != Clients{}:
		return "clients-" + c.clients.hash() + "-" + next.path()
	case c.split:
		return "split-" + c.reservedClass().path() + "-" + next.path()
	case c.affinity:
		return "affinity-" + next.path()
	case c.size == 0:
		return [...]string{Reject: noBackendChain, Drop: "drop", Pass: "accept"}[c.empty]
	}
	return c.pool.name()
}

func (p *pool) name() string {
	name := ""
	for _, w := range []struct {
		is   bool
		word string
	}{{p.loopback, "loopback-"}, {p.reserved, "internal-"}, {p.limited, "limited-"}, {p.ranged, "range-"}} {
		if w.is {
			name += w.word
		}
	}
	name += schedulers[p.scheduler].name
	if p.owner == (owner{}) {
		return name + "-" + strconv.Itoa(p.size)
	}
	name += "-" + ruleset.ProtoName(p.owner.proto)
	if p.owner.addr.IsValid() {
		name += "-" + inName(p.owner.addr)
	}
	return name + "-" + strconv.Itoa(int(p.owner.port))
}

func (class) set() *ruleset.Set { return nil }

func (c class) chain() *ruleset.Chain {
	next, _ := c.next()
	onward := ruleset.Rule{next.verdict()}
	out := &ruleset.Chain{Name: c.name()}
	switch {
	case c.clients != Clients{}:
		out.Rules = append(c.clients.rules(), onward)
	case c.split:
		out.Rules = splitRules(c.reservedClass().verdict(), next.verdict())
	case c.affinity:
		out.Rules = []ruleset.Rule{{
			ruleset.Lookup{Key: ops(ruleset.L4proto), Set: protocolsSet},
			c.remembered(),
		}, onward}
	default:
		out.Rules = c.choose()
	}
	return out
}

// choose returns the rules that send a packet to one of the pool's slots. The
// protocols are matched first because nft accepts a port mapping only where the
// transport protocol is known.
//
// A packet is not evaluated within one generation: nft_do_chain reads the
// generation once for the rules, but every set lookup reads it again. So the
// pool may have shrunk, and its slot may be missing, since the packet was sent
// here. Then the first slot serves. If the whole pool is missing, the packet is
// dropped: it has no confirmed conntrack entry yet, so the client's next packet
// is evaluated afresh.
func (c class) choose() []ruleset.Rule {
	number := schedulers[c.scheduler].number
	number.Mod = uint32(c.size)
	rules := []ruleset.Rule{c.slot(number)}
	if c.size > 1 {
		rules = append(rules, c.slot(firstSlot()))
	}
	return append(rules, ruleset.Rule{ruleset.Verdict{Kind: ruleset.Drop}})
}

// firstSlot returns the slot that every pool has.
func firstSlot() ruleset.Operand { return ruleset.Operand{Field: ruleset.Random, Mod: 1} }

// slot returns the rule that sends a packet to a slot of its frontend's pool.
func (c class) slot(slot ruleset.Operand) ruleset.Rule {
	if c.reserved {
		slot.Offset = c.internalSlots()
	}
	known := ruleset.Lookup{Key: ops(ruleset.L4proto), Set: protocolsSet}
	key, in := c.key(), c.slots().name()
	switch {
	case c.ranged:
		slot.Offset += uint32(c.owner.port) << rangeSlotBits
		key = key[:len(key)-1] // without the port
		return ruleset.Rule{ruleset.DNAT{Key: append(key, slot), Map: in, AddrOnly: true}}
	case c.limited:
		return ruleset.Rule{known, ruleset.VMap{Key: append(key, slot), Map: in}}
	}
	return ruleset.Rule{known, ruleset.DNAT{Key: append(key, slot), Map: in}}
}

// slots returns the map of the pool's slots.
func (c *class) slots() SetID {
	shared, own := Backends, OwnBackends
	switch {
	case c.ranged:
		own = RangeBackends
	case c.limited:
		shared, own = LimitedBackends, OwnLimitedBackends
	}
	if c.owner == (owner{}) {
		return shared.of(c.node)
	}
	return own.shard(c.owner).of(c.node)
}

// shard is one of the maps of slots that exist only while services use them.
type shard SetID

func (s shard) name() string        { return SetID(s).name() }
func (shard) chain() *ruleset.Chain { return nil }
func (s shard) set() *ruleset.Set   { return Declaration(SetID(s)) }

// key returns the key by which the class's frontends are looked up.
func (c class) key() []ruleset.Operand {
	if c.node {
		return ops(ruleset.L4proto, ruleset.Dport)
	}
	return ops(ruleset.Daddr, ruleset.L4proto, ruleset.Dport)
}

// OfNode reports whether a backend is a port of the node, whose address the kernel
// chooses.
func OfNode(b netip.AddrPort) bool { return b.Addr().IsUnspecified() }

// nodeWord stands for the address of a port of the node in the names of chains.
const nodeWord = "node"

// limit is a backend with a chain of its own: one with a limited number of connections,
// and what stands beside it in a pool, or a port of the node. The rule in its
// chain counts the connections that reach it: it keeps them in a list, and
// removes those whose conntrack entries no longer exist (nf_conncount). A
// connection over the limit never gets a confirmed entry, so it is not counted
// for long: the list is cleaned at most once a jiffy, and keeps what another CPU
// has added for two. If first packets with the same addresses and ports are refused
// more than once in that time, and the next one is let in, all of them stand in the
// list for its connection (__nf_conncount_add in net/netfilter/nf_conncount.c, Linux
// 6.18).
type limit struct {
	most    uint32 // 0: no limit
	drop    bool
	proto   uint8
	backend netip.AddrPort
}

func (l limit) name() string {
	name := backendPrefix
	if l.most > 0 {
		name = limitPrefix + strconv.FormatUint(uint64(l.most), 10) + "-"
		if l.drop {
			name += "drop-"
		}
	}
	addr := inName(l.backend.Addr())
	if OfNode(l.backend) {
		addr = nodeWord
	}
	return name + ruleset.ProtoName(l.proto) + "-" + addr + "-" + strconv.Itoa(int(l.backend.Port()))
}

func (limit) set() *ruleset.Set { return nil }

func (l limit) chain() *ruleset.Chain {
	out := &ruleset.Chain{Name: l.name()}
	if l.most > 0 {
		over := pool{}
		if l.drop {
			over.empty = Drop
		}
		out.Rules = append(out.Rules, ruleset.Rule{ruleset.ConnCount{Over: l.most}, class{pool: over}.verdict()})
	}
	var translate ruleset.Statement = ruleset.DNATTo{Addr: l.backend}
	if OfNode(l.backend) {
		translate = ruleset.Redirect{Port: l.backend.Port()}
	}
	out.Rules = append(out.Rules, ruleset.Rule{ruleset.Match{Field: ruleset.L4proto, Value: uint32(l.proto)}, translate})
	return out
}
