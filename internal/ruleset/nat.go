package ruleset

import (
	"fmt"
	"net/netip"
)

// DNAT rewrites the destination to the address and port, or the address alone,
// that a map has for the key. Without an element the rule does not match.
type DNAT struct {
	Key      []Operand
	Map      string
	AddrOnly bool // the map's data is an address alone: the packet keeps its port
}

func (d DNAT) set() string { return d.Map }

// text names the family where nft does: with a map that has ports.
func (d DNAT) text(f Family) string {
	family := f.String() + " "
	if d.AddrOnly {
		family = ""
	}
	return "dnat " + family + "to " + keyText(d.Key, f) + " map @" + nameText(d.Map)
}

func (d DNAT) eval(w *walk) effect {
	found := w.find(d.Map, d.Key)
	w.lookup(w.table.Set(d.Map), d.Key, found != nil)
	w.asked(d.Key, func(w *walk) answer { return answer{found: w.find(d.Map, d.Key)} })
	if found == nil {
		return effect{}
	}
	f := w.table.Family
	to := netip.AddrPortFrom(found.Data.AddrAt(0, f), 0)
	if !d.AddrOnly {
		to = netip.AddrPortFrom(to.Addr(), found.Data.PortAt(f.AddrLen()))
	}
	e := DNATTo{to}.eval(w)
	e.found = found
	return e
}

// DNATTo rewrites the destination. A port of 0 keeps the packet's.
type DNATTo struct {
	Addr netip.AddrPort
}

func (d DNATTo) text(Family) string {
	if d.Addr.Port() == 0 {
		return "dnat to " + d.Addr.Addr().String()
	}
	return "dnat to " + d.Addr.String()
}

// eval counts the connection as translated only if that makes a difference
// (nf_nat_setup_info in net/netfilter/nf_nat_core.c).
func (d DNATTo) eval(w *walk) effect {
	to := d.Addr
	if to.Port() == 0 {
		to = netip.AddrPortFrom(to.Addr(), w.dst.Port())
	}
	w.translated = to != w.dst
	w.dst = to
	return w.bind()
}

// Redirect leads packets to a port of this node: those of its own processes on the
// loopback address 127.0.0.1 or ::1, and others on an address of the interface by which
// they came in, the first one in IPv4 (nf_nat_redirect_ipv4 and nf_nat_redirect_ipv6 in
// net/netfilter/nf_nat_redirect.c). If there is none, the kernel drops them.
type Redirect struct {
	Port uint16
}

func (r Redirect) text(Family) string { return fmt.Sprintf("redirect to :%d", r.Port) }

// eval leads packets from elsewhere to the unspecified address, as the evaluator knows
// no interfaces. An Aim at the port on one of the node's addresses is taken to be right.
func (r Redirect) eval(w *walk) effect {
	to := w.table.Family.Unspecified()
	switch {
	case w.hook == Output:
		to = w.table.Family.Loopback()
	case w.aim != nil && w.aim.to.Port() == r.Port && w.arrives(w.aim.to.Addr()):
		to = w.aim.to.Addr()
	}
	return DNATTo{netip.AddrPortFrom(to, r.Port)}.eval(w)
}

// arrives reports whether packets from elsewhere can be redirected to an address.
func (w *walk) arrives(a netip.Addr) bool { return w.local(a) && !a.IsLoopback() }

// bind notes that the NAT of this hook has been decided.
func (w *walk) bind() effect {
	w.bound = true
	return effect{matched: true, verdict: Verdict{Kind: Accept}}
}

// SNATTo rewrites the source address, and chooses a source port as Masquerade does.
type SNATTo struct {
	Addr netip.Addr
}

func (s SNATTo) text(Family) string { return "snat to " + s.Addr.String() + " fully-random" }

func (s SNATTo) eval(w *walk) effect {
	w.path.SNAT = s.Addr
	return w.bind()
}

// Masquerade rewrites the source to the outgoing interface's address and a random
// port. Without "fully-random" the kernel keeps the client's port if it can, or
// takes the next free one. Two packets at the same moment then find the same port
// free, and the kernel drops the one whose entry is inserted second
// (nf_nat_l4proto_unique_tuple in net/netfilter/nf_nat_core.c, and
// __nf_conntrack_confirm).
type Masquerade struct{}

func (Masquerade) text(Family) string { return "masquerade fully-random" }

func (Masquerade) eval(w *walk) effect {
	w.path.Masquerade = true
	return w.bind()
}

// SetAddr writes an address into the packet's header, which is no translation.
type SetAddr struct {
	Field Field      // Saddr or Daddr
	From  Field      // an address of the connection: OrigSaddr or ReplyDaddr; 0: Addr
	Addr  netip.Addr // without From
}

func (s SetAddr) text(f Family) string {
	if s.From == 0 {
		return s.Field.text(f) + " set " + s.Addr.String()
	}
	return s.Field.text(f) + " set " + s.From.text(f)
}

func (s SetAddr) eval(w *walk) effect {
	addr := s.Addr
	if s.From != 0 {
		addr = w.addr(s.From)
	}
	switch s.Field {
	case Saddr:
		w.src = netip.AddrPortFrom(addr, w.src.Port())
	case Daddr:
		w.dst = netip.AddrPortFrom(addr, w.dst.Port())
	default:
		w.fail("field %s cannot be written", s.Field.text(w.table.Family))
	}
	return effect{matched: true}
}
