package nftdp

import (
	"context"
	"fmt"
	"net/netip"
	"slices"

	"github.com/nftdp/go-nftdp/internal/compile"
	"github.com/nftdp/go-nftdp/internal/engine"
	"github.com/nftdp/go-nftdp/internal/ruleset"
)

// SetState sets the state of some backends of a service, in one transaction, and
// leaves everything else about the service as it was last set. It is for health
// checks and for whoever drains a backend, who need not know the whole service.
//
// The service has to be one that this Dataplane has applied or updated. The state
// holds until the next Apply or Update of the service, which sets the states that it
// names: what comes last wins, and calls at the same time take turns. Whoever updates
// services while others set states (see package health) has to agree with them.
//
// Its cost follows the number of the service's backends, as that of Update does, and
// the change in the kernel that of the backends named. Errors are those of Update; an
// unknown service, backend or state is a *FieldError, and then nothing is changed. A
// port of the node (Backend.NodePort) is named with 0.0.0.0 or ::, as for Cut.
func (d *Dataplane) SetState(ctx context.Context, service string, state State, backends ...netip.AddrPort) (*Plan, error) {
	set := func(wanted func(name string) *compile.Service) ([]*compile.Service, error) {
		s, err := modelOf(service, wanted(service))
		if err != nil {
			return nil, err
		}
		if err := s.setState(state, backends); err != nil {
			return nil, err
		}
		return lowerAll([]Service{*s}), nil
	}
	return d.change("SetState", func() (*Plan, error) {
		return planOf(nil)(d.engine.Commit(ctx, &engine.Edit{Derive: set}))
	})
}

// modelOf returns a copy of what a service was lowered from.
func modelOf(name string, lowered *compile.Service) (*Service, error) {
	if lowered != nil {
		if model, ok := lowered.Model.(*model); ok {
			return model.service(), nil
		}
	}
	return nil, &FieldError{Service: name, Field: "name", Reason: "is not a service that this Dataplane has set: Apply or Update it first"}
}

// setState sets the state of some backends.
func (s *Service) setState(state State, backends []netip.AddrPort) error {
	if !state.word().known() {
		return &FieldError{Service: s.Name, Field: "backends.state", Reason: state.word().flaw()}
	}
	found := make(map[netip.AddrPort]bool, len(backends))
	for _, addr := range backends {
		found[unmapped(addr)] = false
	}
	for i := range s.Backends {
		for _, family := range ruleset.Families {
			addr, ok := s.Backends[i].in(family)
			if _, named := found[addr]; ok && named {
				s.Backends[i].State = state
				found[addr] = true
			}
		}
	}
	for _, addr := range backends {
		if !found[unmapped(addr)] {
			return &FieldError{Service: s.Name, Field: "backends", Reason: fmt.Sprintf("%v is not one of them", addr)}
		}
	}
	return joinProblems(s.problems(0))
}

// service returns a service of which the model is a copy.
func (m *model) service() *Service {
	out := m.clone()
	out.Frontends = make([]Frontend, len(m.frontends))
	for i, f := range m.frontends {
		out.Frontends[i] = f.clone()
	}
	return out
}

// clone returns a copy that has nothing in common with the original.
func (s *Service) clone() *Service {
	out := *s
	out.Backends, out.SNAT = slices.Clone(s.Backends), slices.Clone(s.SNAT)
	out.Frontends = slices.Clone(s.Frontends)
	for i := range out.Frontends {
		out.Frontends[i] = out.Frontends[i].clone()
	}
	return &out
}

func (f *Frontend) clone() Frontend {
	out := *f
	out.MasqueradeClients, out.Allow, out.Deny = slices.Clone(f.MasqueradeClients), slices.Clone(f.Allow), slices.Clone(f.Deny)
	return out
}
