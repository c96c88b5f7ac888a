package nftdp

import (
	"context"
	"log/slog"
	"time"

	"github.com/nftdp/go-nftdp/internal/engine"
)

// Event is something that a Dataplane has done, for those who observe it.
type Event struct {
	Kind EventKind
	// Method is the method that has returned, of EventChange: "Apply", "Update",
	// "SetState", "SetConfig", "TakeOver" or "Remove".
	Method string
	// Count is how many there were of what the Kind names.
	Count int
	// Duration is how long that took. It is 0 for EventRepair.
	Duration time.Duration
	// By lists the processes that caused the drift, of EventRepair (see Drift.By).
	By []Process
	// Err is why it failed, of EventChange and EventRepair; nil: it did not.
	Err error
}

// EventKind says what an Event is about. The words are stable.
type EventKind string

// The kinds. There may be more in a later version.
const (
	// EventChange: a method that changes services or the configuration has
	// returned, after Duration, of which it has waited some for other methods and
	// for the flows. Count is the number of objects that it has changed, as
	// Plan.Len counts them; 0 for Remove.
	EventChange EventKind = "change"
	// EventTransaction: the kernel has committed a transaction of Count objects, as
	// Plan.Len counts them, in Duration. Count is 0 if tables were deleted as a
	// whole. Changes without a difference have none, others one or several.
	EventTransaction EventKind = "transaction"
	// EventRetry: others have changed rules of the namespace first, so that what
	// was under way began again, after Duration. Count is 1. Many of them together
	// end in ErrConflict.
	EventRetry EventKind = "retry"
	// EventSplit: a transaction was too large for one message (see Apply), and was
	// distributed over Count transactions.
	EventSplit EventKind = "split"
	// EventRead: the tables were read as a whole, Count elements, before a change
	// or by a method that had to wait for changes. Readings beside changes, as
	// those of Inspect are, have no event.
	EventRead EventKind = "read"
	// EventRepair: Keep has repaired drift, with Count objects, or failed to.
	EventRepair EventKind = "repair"
	// EventFlows: Count stale flows were deleted after a change (see Apply).
	EventFlows EventKind = "flows"
)

// Observe makes the Dataplane call a function for each Event from now on, until stop
// is called; a call that is under way then still ends. Without it, nothing is
// reported anywhere. LogEvents returns a function for it.
//
// The function is called by the goroutine that did it, after it has let go of the lock
// on changes: it may call methods of the Dataplane, and others do not wait for it, but
// the method that it is called from does. It may be called concurrently, and then
// not in the order of the events.
func (d *Dataplane) Observe(observe func(Event)) (stop func()) {
	d.observers.Store(&observe, observe)
	return func() { d.observers.Delete(&observe) }
}

// LogEvents returns a function for Observe that logs: repairs as warnings, failures
// as errors, what others caused (EventRetry) and what took longer than usual
// (EventSplit) for information, and everything else for debugging. The message is the
// Kind, and the attributes are the Event's other fields.
func LogEvents(l *slog.Logger) func(Event) {
	return func(e Event) {
		ctx, level := context.Background(), e.level()
		if l.Enabled(ctx, level) {
			l.LogAttrs(ctx, level, "nftdp: "+string(e.Kind), e.attrs()...)
		}
	}
}

func (e *Event) level() slog.Level {
	switch {
	case e.Err != nil:
		return slog.LevelError
	case e.Kind == EventRepair:
		return slog.LevelWarn
	case e.Kind == EventRetry || e.Kind == EventSplit:
		return slog.LevelInfo
	}
	return slog.LevelDebug
}

func (e *Event) attrs() []slog.Attr {
	out := []slog.Attr{slog.Int("count", e.Count)}
	if e.Kind != EventRepair {
		out = append(out, slog.Duration("duration", e.Duration))
	}
	if e.Method != "" {
		out = append(out, slog.String("method", e.Method))
	}
	if len(e.By) > 0 {
		out = append(out, slog.Any("by", e.By))
	}
	if e.Err != nil {
		out = append(out, slog.Any("error", e.Err))
	}
	return out
}

// report calls those who observe.
func (d *Dataplane) report(e Event) {
	d.observers.Range(func(_, observe any) bool {
		observe.(func(Event))(e)
		return true
	})
}

// change runs a method that changes something, and reports it.
func (d *Dataplane) change(method string, do func() (*Plan, error)) (*Plan, error) {
	began := time.Now()
	plan, err := do()
	e := Event{Kind: EventChange, Method: method, Duration: time.Since(began), Err: err}
	if plan != nil {
		e.Count = plan.Len()
	}
	d.report(e)
	return plan, err
}

// reportRepair reports what Keep has done.
func (d *Dataplane) reportRepair(drift *Drift, err error) {
	e := Event{Kind: EventRepair, Err: err}
	if drift != nil {
		e.Count, e.By = drift.Len(), drift.By
	}
	d.report(e)
}

// reportOf reports an event of the engine.
func (d *Dataplane) reportOf(e engine.Event) {
	kind := [...]EventKind{
		engine.Committed: EventTransaction, engine.Overtaken: EventRetry, engine.Split: EventSplit,
		engine.Scanned: EventRead, engine.Reconciled: EventFlows,
	}[e.Kind]
	d.report(Event{Kind: kind, Count: e.Count, Duration: e.Duration})
}
