package flows

import (
	"net/netip"

	"github.com/nftdp/go-nftdp/internal/compile"
	"github.com/nftdp/go-nftdp/internal/conntrack"
)

// stale applies the rule: a flow that concerns a frontend or backend of ours, of
// now or before, is stale if a first packet like its own would now be treated in
// none of the ways in which it is treated. Then a UDP flow goes, and any other one
// that is not established, or whose service asks for it. What others have
// translated, to where no frontend of ours has ever led, is none of our business.
func (r *reconciliation) stale(f *conntrack.Flow) (bool, error) {
	if f.Proto != compile.TCP && f.Proto != compile.UDP && f.Proto != compile.SCTP {
		return false, nil
	}
	established := f.Proto != compile.UDP && f.Phase == conntrack.Established
	if established && !r.cuts {
		return false, nil
	}
	var cut *compile.Service
	var err error
	if !r.foreign(f.Proto, f.Dst) {
		cut, err = r.begunByClient(f)
	}
	if cut == nil && err == nil && !r.foreign(f.Proto, f.ReplyDst) {
		cut, err = r.begunByBackend(f)
	}
	return cut != nil && (!established || cut.CutStale), err
}

// alike reports whether all flows of a protocol to an address and port that lead where a
// stale one leads are stale, whoever has begun them: what they lead to was a backend of
// the frontend, and is none of it any more. A commit that makes it one while they are
// deleted may have one begin again that has just begun.
func (r *reconciliation) alike(f *conntrack.Flow) bool {
	touch := r.marks.of(f.Proto, f.Dst, f.ReplySrc, r.own)
	s, wide := r.now.find(compile.Key{Addr: f.Dst.Addr(), Port: f.Dst.Port(), Proto: f.Proto})
	led := touch.led || touch.ledWide && (s == nil || wide) && r.node.contains(f.Dst.Addr())
	return led && f.Dst != f.ReplySrc && !r.foreign(f.Proto, f.Dst) &&
		(s == nil || !s.Adopted && !usable(s).has(f.ReplySrc, r.own))
}

// foreign reports whether another owner in shared tables takes packets to an address
// and port.
func (r *reconciliation) foreign(proto uint8, dst netip.AddrPort) bool {
	return r.current.Load().Foreign(compile.Key{Addr: dst.Addr(), Port: dst.Port(), Proto: proto}, r.node.contains(dst.Addr()))
}

// noService stands for the service of a stale flow if there is none.
var noService = &compile.Service{}

// begunByClient returns the service whose flow is stale, or nil if it is not, for
// a flow that a client has begun.
func (r *reconciliation) begunByClient(f *conntrack.Flow) (*compile.Service, error) {
	touch := r.marks.of(f.Proto, f.Dst, f.ReplySrc, r.own)
	if !touch.can && !r.marks.addrs.has(f.ReplyDst.Addr()) {
		return nil, nil
	}
	now, err := r.now.treat(f)
	switch {
	case err != nil:
		return nil, err
	case now.same() && now.masquerade: // which address that yields is not known
		s, err := r.treatedBefore(f, func(t *treatment) bool { return t.same() && t.snat })
		if s != nil {
			s = now.service
		}
		return s, err
	case now.same():
		return nil, nil
	}
	untranslated := f.ReplySrc == f.Dst
	switch {
	case !now.taken:
		// Where it leads shows whether it began at a frontend of before.
		switch {
		case untranslated && now.refused: // in one of the service CIDRs, which it did not belong to
			return noService, nil
		case untranslated:
			return nil, nil
		}
		if touch.led || touch.ledWide && (r.node.contains(f.Dst.Addr()) || r.left(f.Dst.Addr())) {
			return r.ofBefore(f), nil
		}
		return r.treatedBefore(f, func(t *treatment) bool { return t.destination || r.adopted && t.taken })
	case now.service != nil && now.service.Adopted && !now.destination && !untranslated && !usable(now.service).has(f.ReplySrc, r.own):
		return nil, nil // the process before may have made the backend draining
	case untranslated, touch.fresh && !now.wide, touch.freshWide && now.wide:
		return now.service, nil
	case now.destination:
		// Others may have rewritten the source, unless our rules did so before.
		s, err := r.treatedBefore(f, (*treatment).same)
		if s != nil {
			s = now.service
		}
		return s, err
	case touch.led, touch.ledWide && now.wide, usable(now.service).has(f.ReplySrc, r.own), r.ofBefore(f) != noService:
		return now.service, nil
	}
	return nil, nil
}

// begunByBackend is the same for a flow that a backend may have begun, through
// the address and port of a frontend: replies belong to it as long as it lasts,
// whoever the frontend leads to now. It is stale if the backend has been one of
// the frontend's and is no more. What a process on the node has begun goes on when
// its port is published: for its peers that is one conversation.
func (r *reconciliation) begunByBackend(f *conntrack.Flow) (*compile.Service, error) {
	if f.Src == f.ReplyDst {
		return nil, nil
	}
	back := conntrack.Flow{Proto: f.Proto, Src: f.ReplySrc, Dst: f.ReplyDst, ReplySrc: f.Src, ReplyDst: f.Dst, Phase: f.Phase}
	if touch := r.marks.of(back.Proto, back.Dst, back.ReplySrc, r.own); !touch.can {
		return nil, nil
	}
	now, err := r.now.treat(&back)
	if err != nil || now.destination {
		return nil, err
	}
	if now.service != nil && now.service.Adopted && !usable(now.service).has(f.Src, r.own) {
		return nil, nil
	}
	s, err := r.treatedBefore(&back, func(t *treatment) bool { return t.destination })
	if s != nil && now.service != nil {
		s = now.service
	}
	return s, err
}

// treatedBefore returns the service of before whose rules treated a flow so, or
// nil.
func (r *reconciliation) treatedBefore(f *conntrack.Flow, so func(*treatment) bool) (*compile.Service, error) {
	for _, rules := range r.before {
		t, err := rules.treat(f)
		if err != nil {
			return nil, err
		}
		if so(&t) {
			if t.service == nil {
				return noService, nil
			}
			return t.service, nil
		}
	}
	return nil, nil
}

// ofBefore returns the service of before whose frontend had the backend that a flow
// leads to, for whichever clients, or noService.
func (r *reconciliation) ofBefore(f *conntrack.Flow) *compile.Service {
	k := compile.Key{Addr: f.Dst.Addr(), Port: f.Dst.Port(), Proto: f.Proto}
	for _, rules := range r.before {
		if s, _ := rules.find(k); s != nil && usable(s).has(f.ReplySrc, r.own) {
			return s
		}
	}
	return noService
}
