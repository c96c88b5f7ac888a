package kube

import (
	"time"

	"k8s.io/apimachinery/pkg/types"
)

// refusals are Services of which the Dataplane has refused something. What stands against
// them may be of others, such as a frontend of a program that shares the tables, and go
// without a notice. They are tried again after a while, and at once when a Service of the
// API server gives a frontend up.
type refusals map[types.NamespacedName]*refusal

type refusal struct {
	wait backoff
	at   time.Time // of the next attempt
}

// note remembers what came of a Service.
func (r refusals) note(name types.NamespacedName, problems []Problem) {
	if len(problems) == 0 {
		delete(r, name)
		return
	}
	if r[name] == nil {
		r[name] = &refusal{}
	}
	r[name].at = time.Now().Add(r[name].wait.next())
}

// due returns the Services to try again: all of them, or those whose time has come.
func (r refusals) due(all bool) (out []types.NamespacedName) {
	now := time.Now()
	for name, refused := range r {
		if all || !now.Before(refused.at) {
			out = append(out, name)
		}
	}
	return out
}

// timer fires when the time of a Service has come; it is nil if there is none.
func (r refusals) timer() <-chan time.Time {
	if len(r) == 0 {
		return nil
	}
	first := latest
	for _, refused := range r {
		first = min(first, time.Until(refused.at))
	}
	return time.After(first)
}
