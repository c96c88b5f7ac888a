package nftdp

import (
	"slices"

	"github.com/nftdp/go-nftdp/internal/compile"
	"github.com/nftdp/go-nftdp/internal/ruleset"
)

// successor is a service beside the valid one that it takes the place of, if both differ
// in frontends alone and no range of ports is among these. Then what both have in common
// is neither checked nor lowered nor compiled again. Without a former service all
// frontends come.
type successor struct {
	*Service
	former *compile.Service
	model  *model // of the service
	gone   []*Frontend
	come   []int // indices of frontends
}

// model is a copy of what a service was lowered from. It never changes, so one that
// follows another one shares the frontends that stay.
type model struct {
	Service   // without its frontends
	frontends []*Frontend
}

// after compares a service with a former one, which can be nil. It returns nil if they
// have too little in common.
func (s *Service) after(former *compile.Service) *successor {
	if former == nil {
		return nil
	}
	model, ok := former.Model.(*model)
	if !ok || !s.alike(&model.Service) {
		return nil
	}
	x := &successor{Service: s, former: former}
	if x.compare(model); !x.simple() {
		return nil
	}
	return x
}

// first returns a service without a former one.
func (s *Service) first() *successor {
	copied := s.clone()
	x := &successor{Service: s, model: &model{*copied, make([]*Frontend, len(s.Frontends))}, come: make([]int, len(s.Frontends))}
	for i := range x.come {
		x.model.frontends[i], x.come[i] = &copied.Frontends[i], i
	}
	x.model.Frontends = nil
	return x
}

// compare finds the frontends that differ: each is compared with the one at its place,
// counted from the beginning and, where both lists end alike, from the end.
func (x *successor) compare(former *model) {
	was, is := former.frontends, x.Frontends
	alike := 0 // at the end
	for alike < min(len(was), len(is)) && was[len(was)-1-alike].equal(&is[len(is)-1-alike]) {
		alike++
	}
	x.model = &model{former.Service, make([]*Frontend, len(is))}
	copy(x.model.frontends[len(is)-alike:], was[len(was)-alike:])
	was, is = was[:len(was)-alike], is[:len(is)-alike]
	for i := range max(len(was), len(is)) {
		if i < len(was) && i < len(is) && was[i].equal(&is[i]) {
			x.model.frontends[i] = was[i]
			continue
		}
		if i < len(was) {
			x.gone = append(x.gone, was[i])
		}
		if i < len(is) {
			x.come = append(x.come, i)
			x.model.frontends[i] = new(is[i].clone())
		}
	}
}

// simple reports whether no range of ports changes.
func (x *successor) simple() bool {
	return !slices.ContainsFunc(x.gone, (*Frontend).ranged) &&
		!slices.ContainsFunc(x.come, func(i int) bool { return x.Frontends[i].EndPort > 0 })
}

// kept returns those frontends of the former service that stay.
func (x *successor) kept() []*compile.Frontend {
	if x.former == nil {
		return nil
	}
	var gone []*compile.Frontend
	for _, f := range x.gone {
		for k := range x.keys(f) {
			gone = append(gone, &compile.Frontend{Addr: k.Addr, Port: k.Port})
		}
	}
	compile.InOrder(gone)
	kept, _ := compile.Spliced(x.former.Frontends, gone, nil)
	return kept
}

// valid returns the lowered service if it is known to be valid by itself, since the
// former one is. Otherwise Validate finds out.
func (x *successor) valid() (lowered *compile.Service, ok bool) {
	if x == nil {
		return nil, false
	}
	if len(x.gone)+len(x.come) == 0 {
		return x.former, true
	}
	r := report{service: x.Service}
	for _, i := range x.come {
		r.checkFrontend(i)
	}
	if len(r.found) > 0 {
		return nil, false
	}
	lowered, ok = x.lower()
	return lowered, ok && familiesOf(lowered) == familiesOf(x.former)
}

// familiesOf returns the families of a service's frontends.
func familiesOf(s *compile.Service) families {
	if len(s.Frontends) == 0 {
		return 0
	}
	return only(ruleset.FamilyOf(s.Frontends[0].Addr)) | only(ruleset.FamilyOf(s.Frontends[len(s.Frontends)-1].Addr))
}
