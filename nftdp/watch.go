package nftdp

import (
	"context"
	"iter"

	"github.com/nftdp/go-nftdp/internal/engine"
)

// Drift is what others have made of our tables.
type Drift struct {
	*Plan // repairs it
	// By is who did it, as far as the kernel told: nobody for what happened
	// before Watch or Keep listened.
	By []Process `json:"by,omitempty"`
}

// Process is one that has changed rules, as the kernel names it: by the thread
// that did.
type Process struct {
	PID  int    `json:"pid"`  // of the thread, in the initial PID namespace
	Name string `json:"name"` // of at most 15 bytes, such as "nft"
}

// Watch waits for others to change our tables and yields, each time, the plan
// that would repair all that is wrong then: what Apply of the wanted services
// would do. It changes nothing. What is wanted is what this Dataplane last
// applied; before that, and after Remove, nothing is wanted and nothing
// yielded. What happened before Watch began is noticed at once.
//
// While Watch or Keep runs, the Dataplane listens to the namespace's nf_tables
// events. Whoever listens makes transactions dearer, in every namespace of the
// machine: the kernel holds 8 kB for each element until the transaction ends.
// Up to 4 MiB of events wait in the kernel; in a user namespace
// net.core.rmem_max bounds that. What does not fit is found out by reading
// everything.
//
// The Dataplane's own methods may be called meanwhile, also by the body of the
// loop; what they do is no drift, and what they repair is no longer yielded.
// Several may watch.
//
// An error is yielded and does not end it: Watch tries again after a while, of
// at most a second, unless the loop is left. The last error is the context's,
// or ErrClosed after Close.
func (d *Dataplane) Watch(ctx context.Context) iter.Seq2[*Drift, error] { return d.follow(ctx, false) }

// Keep repairs whatever others do to our tables, as soon as they have done it,
// until the context ends: it returns the context's error then, or ErrClosed
// after Close. It runs in the caller's goroutine. What is wanted, when, and
// what listening costs is as for Watch.
//
// It calls report, unless that is nil, after each repair, and for each error,
// after which it tries again; with both, the repair was made but UDP flows were
// not reconciled (see Apply). Should somebody else insist on another state,
// repairs that follow each other within two seconds become rarer, down to one
// each second.
//
// While our rules are gone, new connections are refused or go astray, and if
// there is no other nat chain in the namespace, the kernel stops translating
// established connections, too: those that send just then break. Config.Protect
// avoids that.
func (d *Dataplane) Keep(ctx context.Context, report func(*Drift, error)) error {
	var last error
	for drift, err := range d.follow(ctx, true) {
		if last = err; report != nil && !engine.Ended(ctx, err) {
			report(drift, err)
		}
	}
	return last
}

func (d *Dataplane) follow(ctx context.Context, repair bool) iter.Seq2[*Drift, error] {
	return func(yield func(*Drift, error) bool) {
		for found, err := range d.engine.Follow(ctx, repair) {
			if err != nil {
				err = publicError(err, nil)
			}
			if !yield(driftOf(found), err) {
				return
			}
		}
	}
}

func driftOf(d *engine.Drift) *Drift {
	if d == nil {
		return nil
	}
	out := &Drift{Plan: &Plan{d.Changes}}
	for _, p := range d.By {
		out.By = append(out.By, Process(p))
	}
	return out
}
