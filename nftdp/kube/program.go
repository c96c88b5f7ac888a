package kube

import (
	"context"
	"fmt"
	"maps"
	"reflect"
	"slices"

	"k8s.io/apimachinery/pkg/types"

	"github.com/nftdp/go-nftdp/nftdp"
)

// program commits what some Services want. A service that the Dataplane refuses is left
// out, and stays as it was; it is tried again, see refusals. What could not be done behind
// the change is another error.
func (k *Controller) program(ctx context.Context, touched map[types.NamespacedName]bool) (behind, err error) {
	next := map[types.NamespacedName][]nftdp.Service{}
	problems := map[types.NamespacedName][]Problem{}
	want := func(name types.NamespacedName) {
		next[name] = nil
		if w := k.wanted[name]; w != nil {
			next[name], problems[name] = k.granted(w)
		}
	}
	for name := range touched {
		want(name)
	}
	for _, name := range k.refused.due(k.frees(next)) {
		want(name)
	}
	refused, behind, err := k.commitAll(ctx, next)
	if err != nil {
		return nil, err
	}
	k.full = false
	for name, services := range next {
		if len(services) == 0 {
			delete(k.applied, name)
		} else {
			k.applied[name] = services
		}
		if k.refused[name] != nil && len(refused[name]) == 0 {
			k.log.Info("a service that was refused is served now, or is gone", "service", name.String())
		}
		k.refused.note(name, refused[name])
		if w := k.wanted[name]; w != nil {
			k.report(w, slices.Concat(problems[name], refused[name]))
		}
	}
	return behind, nil
}

// granted returns what a Service wants but for what others have, which are problems.
func (k *Controller) granted(w *wanted) ([]nftdp.Service, []Problem) {
	services, lost := k.claims.granted(w.name, w.services)
	var problems []Problem
	for of, owner := range lost {
		problems = append(problems, Problem{
			w.name, "AddressConflict",
			fmt.Sprintf("%s port %d belongs to service %s, which is older", of.addr, of.port, owner),
		})
	}
	return services, problems
}

// frees reports whether a change takes a frontend away from a service, so that one that
// was refused for it may have it.
func (k *Controller) frees(next map[types.NamespacedName][]nftdp.Service) bool {
	if len(k.refused) == 0 {
		return false
	}
	for name, services := range next {
		after := claimsOf(services)
		for of := range claimsOf(k.applied[name]) {
			if !after[of] {
				return true
			}
		}
	}
	return false
}

// commitAll commits what some Services shall have. Of services that are refused, next has
// afterwards what the Dataplane has of them.
func (k *Controller) commitAll(ctx context.Context, next map[types.NamespacedName][]nftdp.Service) (refused map[types.NamespacedName][]Problem, behind, err error) {
	refused = map[types.NamespacedName][]Problem{}
	for {
		change := k.change(next)
		if !k.full && len(change.Set)+len(change.Delete) == 0 {
			return refused, nil, nil
		}
		plan, err := k.commit(ctx, change)
		k.log.Debug("services programmed", "full", k.full, "set", len(change.Set), "deleted", len(change.Delete), "err", err)
		if err == nil {
			return refused, nil, nil
		}
		if plan != nil {
			k.log.Warn("the services are programmed, but not everything behind them is done", "err", err)
			return refused, err, nil
		}
		if !k.leaveOut(next, refused, fieldErrors(err)) {
			return nil, nil, err
		}
	}
}

// leaveOut replaces services that are at fault by what the Dataplane has of them, without
// what has passed to others meanwhile, and reports whether that makes a difference.
func (k *Controller) leaveOut(next map[types.NamespacedName][]nftdp.Service, refused map[types.NamespacedName][]Problem, faults []*nftdp.FieldError) (less bool) {
	byService := map[string][]*nftdp.FieldError{}
	for _, f := range faults {
		byService[f.Service] = append(byService[f.Service], f)
	}
	for name, services := range next {
		var left []nftdp.Service
		for _, s := range services {
			found := byService[s.Name]
			if len(found) == 0 {
				left = append(left, s)
				continue
			}
			less = true
			for _, f := range found {
				refused[name] = append(refused[name], Problem{name, "Refused", f.Error()})
			}
			left = append(left, k.former(name, s)...)
		}
		next[name] = left
	}
	return less
}

// former returns what the Dataplane has of a service and may keep, unless that is what
// was refused.
func (k *Controller) former(name types.NamespacedName, refused nftdp.Service) []nftdp.Service {
	for _, old := range k.applied[name] {
		if old.Name == refused.Name {
			kept, _ := k.claims.granted(name, []nftdp.Service{old})
			if len(kept) > 0 && !reflect.DeepEqual(kept[0], refused) {
				return kept
			}
		}
	}
	return nil
}

// change returns how the Dataplane gets from what it has to what some Services want.
func (k *Controller) change(next map[types.NamespacedName][]nftdp.Service) (c nftdp.Change) {
	for name, services := range next {
		before := map[string]*nftdp.Service{}
		for i := range k.applied[name] {
			before[k.applied[name][i].Name] = &k.applied[name][i]
		}
		for _, s := range services {
			if old := before[s.Name]; k.full || old == nil || !reflect.DeepEqual(*old, s) {
				c.Set = append(c.Set, s)
			}
			delete(before, s.Name)
		}
		c.Delete = slices.AppendSeq(c.Delete, maps.Keys(before))
	}
	slices.SortFunc(c.Set, func(a, b nftdp.Service) int { return compareText(a.Name, b.Name) })
	slices.Sort(c.Delete)
	return c
}

func (k *Controller) commit(ctx context.Context, c nftdp.Change) (*nftdp.Plan, error) {
	if k.full {
		return k.plane.Apply(ctx, c.Set)
	}
	return k.plane.Update(ctx, c)
}

// fieldErrors returns the problems that an error consists of, if it is about services.
func fieldErrors(err error) (out []*nftdp.FieldError) {
	if p, ok := err.(*nftdp.FieldError); ok { //nolint:errorlint // the tree is walked here
		return []*nftdp.FieldError{p}
	}
	switch e := err.(type) { //nolint:errorlint // as above
	case interface{ Unwrap() []error }:
		for _, inner := range e.Unwrap() {
			out = append(out, fieldErrors(inner)...)
		}
	case interface{ Unwrap() error }:
		out = fieldErrors(e.Unwrap())
	}
	return out
}
