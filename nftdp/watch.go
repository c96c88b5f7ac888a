package nftdp

import (
	"context"
	"iter"

	"github.com/nftdp/go-nftdp/internal/engine"
)

// Drift is a difference between our tables and the wanted state, caused by others.
type Drift struct {
	*Plan // the repair
	// By lists the processes that caused it. It is empty for changes made
	// before Watch or Keep began, and for missed events.
	By []Process `json:"by,omitempty"`
}

// Process is a process that has changed rules. The kernel names the thread that
// did.
type Process struct {
	PID  int    `json:"pid"`  // of the thread, in the initial PID namespace
	Name string `json:"name"` // of at most 15 bytes, such as "nft"
}

// Watch waits for others to change our tables and yields, each time, the Plan of a
// complete repair: what Apply of the wanted services would do. It changes nothing.
// The wanted services are those that this Dataplane last applied; before that, and
// after Remove, there are none and Watch yields nothing. Changes made before Watch
// began are noticed at once.
//
// While Watch or Keep runs, the Dataplane receives the namespace's nf_tables events.
// That makes transactions more expensive in every namespace of the machine: the
// kernel allocates 8 kB for each element until the transaction ends. Up to 4 MiB of
// events wait in the kernel; in a user namespace net.core.rmem_max bounds that. If
// events do not fit, everything is read.
//
// The Dataplane's own methods may be called meanwhile, even in the body of the loop;
// their changes are no drift, and repaired drift is no longer yielded. Several
// goroutines may watch.
//
// Errors are yielded and do not end the loop: Watch tries again after at most a
// second. Only the last error, the context's, or ErrClosed after Close, ends it.
func (d *Dataplane) Watch(ctx context.Context) iter.Seq2[*Drift, error] { return d.follow(ctx, false) }

// Keep repairs every change that others make to our tables, also what they put into
// them, as soon as they have made it, until the context ends. Then it returns the context's error, or ErrClosed
// after Close. It runs in the caller's goroutine. The wanted services, and the costs
// of receiving events, are those of Watch.
//
// It calls report, unless that is nil, after each repair, and for each error, after
// which it tries again. With both, the repair was made but flows were not
// reconciled (see Apply). If another process insists on another state, repairs that
// follow each other within two seconds become less frequent, down to one each
// second.
//
// Keep also notices when the node gets or loses an address, or a prefix that is local to
// it, and deletes the flows that are stale then (see Apply): a client that has sent to
// an address before the node had it is served by node-wide frontends with its next
// datagram. That is no drift, and only its errors are reported. For this Keep receives
// the namespace's rtnetlink events of addresses and routes.
//
// While our rules are missing, new connections are refused or take a wrong way. If
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
			drift := driftOf(found)
			if repair && !engine.Ended(ctx, err) {
				d.reportRepair(drift, err)
			}
			if !yield(drift, err) {
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
