package engine

import "time"

// Event is something that an Engine has done.
type Event struct {
	Kind     EventKind
	Count    int // of what the Kind names
	Duration time.Duration
}

// EventKind says what an Event is about.
type EventKind uint8

// The kinds.
const (
	Committed  EventKind = iota // a transaction, of Count objects (0: whole tables were deleted)
	Overtaken                   // others have changed rules first: what was under way begins again
	Split                       // a transaction was too big for one message, and became Count of them
	Scanned                     // our tables were read as a whole: Count elements
	Reconciled                  // Count stale flows were deleted
)

// Observe makes the Engine call a function for each event, after it has released the
// lock. It is to be called before all other methods.
func (e *Engine) Observe(observe func(Event)) { e.observe = observe }

// note records an event, with the lock, until unlock reports it.
func (e *Engine) note(kind EventKind, count int, began time.Time) {
	if e.observe != nil {
		e.events = append(e.events, Event{kind, count, time.Since(began)})
	}
}
