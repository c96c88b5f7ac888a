package ruleset

import "net/netip"

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

// bind notes that the NAT of this hook has been decided.
func (w *walk) bind() effect {
	w.bound = true
	return effect{matched: true, verdict: Verdict{Kind: Accept}}
}

// SNATTo rewrites the source address.
type SNATTo struct {
	Addr netip.Addr
}

func (s SNATTo) text(Family) string { return "snat to " + s.Addr.String() }

func (s SNATTo) eval(w *walk) effect {
	w.path.SNAT = s.Addr
	return w.bind()
}

// Masquerade rewrites the source to the outgoing interface's address.
type Masquerade struct{}

func (Masquerade) text(Family) string { return "masquerade" }

func (Masquerade) eval(w *walk) effect {
	w.path.Masquerade = true
	return w.bind()
}

// SetDaddr writes an address of the connection into the packet's destination
// field, which is no translation.
type SetDaddr struct {
	To Field // OrigSaddr or ReplyDaddr
}

func (s SetDaddr) text(f Family) string { return Daddr.text(f) + " set " + s.To.text(f) }

func (s SetDaddr) eval(w *walk) effect {
	w.dst = netip.AddrPortFrom(w.addr(s.To), w.dst.Port())
	return effect{matched: true}
}
