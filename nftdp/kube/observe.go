package kube

import (
	"time"

	v1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/types"
)

// Sync is what one synchronization did, for metrics and health.
type Sync struct {
	Full         bool // everything was applied
	Began, Ended time.Time
	// Queued is when the first of the changes was noticed. Without a change, when
	// refused services are tried again, it is about Began.
	Queued time.Time
	// Services and Slices count changes of Services and of EndpointSlices, as the API
	// server has sent them. Of an object that was changed twice, both count.
	Services, Slices int
	// Triggers are the times of what caused changes of EndpointSlices, by the family of
	// the slice, as their annotation endpoints.kubernetes.io/last-change-trigger-time has
	// them.
	Triggers map[v1.IPFamily][]time.Time
	// States are those of the Services that were looked at; nil: the Service is gone.
	States map[types.NamespacedName]*ServiceState
	// Refused is the number of Services that the Dataplane has refused, wholly or some
	// ports of them, and that are tried again. For each there is a Problem.
	Refused int
	// Behind is why something was not done that has to follow the change, which is
	// itself in the kernel: stale flows and unused chains may be left.
	Behind error
	Err    error // why the change is not in the kernel; nil: it is
}

// Status is what a Controller is doing, for health and metrics. It can be asked for at
// any time.
type Status struct {
	// Synced: the objects of the API server were read completely.
	Synced bool
	// Updated is when the Dataplane had what the objects said, the last time; before
	// the first time, when Run began.
	Updated time.Time
	// Pending is since when a change waits, or is being programmed; zero: none does,
	// or not all objects were read yet.
	Pending time.Time
	// Queued is when the last change was noticed.
	Queued time.Time
	// Services and Slices are how many Services, and changes of EndpointSlices, wait
	// for the next synchronization.
	Services, Slices int
	// ServiceChanges and SliceChanges are how many changes there were.
	ServiceChanges, SliceChanges uint64
}

// Status returns what the Controller is doing.
func (k *Controller) Status() Status { return k.queue.status() }

// Node returns this node's Node object, or nil if there is none. It is not ok as long
// as that is unknown.
func (k *Controller) Node() (node *v1.Node, ok bool) {
	if !k.queue.status().Synced {
		return nil, false
	}
	if node, err := k.sources.nodes.Get(k.options.NodeName); err == nil {
		return node, true
	}
	return nil, true
}

// progress is what the queue remembers for Status.
type progress struct {
	began, updated, queued, inFlight time.Time
	synced                           bool
	services, slices                 uint64
}

func (q *queue) status() Status {
	q.mu.Lock()
	defer q.mu.Unlock()
	s := Status{
		Synced: q.synced, Updated: q.updated, Queued: q.queued,
		Services: len(q.work.objects), Slices: q.work.slices, ServiceChanges: q.services, SliceChanges: q.slices,
	}
	if !q.synced {
		return s
	}
	s.Pending = q.inFlight
	if s.Pending.IsZero() {
		s.Pending = q.work.since
	}
	return s
}

// begin notes that Run has begun, or that all objects were read.
func (q *queue) begin(synced bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	now := time.Now()
	if synced && !q.work.since.IsZero() {
		q.work.since = now
	}
	if !synced {
		q.updated, q.queued = now, now
	}
	q.synced = synced
}

// done notes that the work in flight is in the kernel.
func (q *queue) done(at time.Time) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.updated, q.inFlight = at, time.Time{}
}

// service notes a change of a Service.
func (q *queue) service(name types.NamespacedName) {
	q.add(func(w *work) {
		q.services++
		w.changes++
		w.services[name], w.objects[name] = true, true
	})
}

// slice notes a change of an EndpointSlice, of which before is nil if it is new, and
// after if it is deleted.
func (q *queue) slice(before, after *discoveryv1.EndpointSlice) {
	q.add(func(w *work) {
		q.slices++
		w.slices++
		for _, s := range []*discoveryv1.EndpointSlice{before, after} {
			if s == nil {
				continue
			}
			if name, ok := serviceOf(s); ok {
				w.services[name] = true
			}
		}
		if at, ok := triggerOf(before, after); ok && at.After(q.began) {
			family := v1.IPFamily(after.AddressType)
			w.triggers[family] = append(w.triggers[family], at)
		}
	})
}

// triggerOf returns the time of what caused a change of an EndpointSlice. A deletion has
// none, and a change without a new one neither.
func triggerOf(before, after *discoveryv1.EndpointSlice) (time.Time, bool) {
	if after == nil {
		return time.Time{}, false
	}
	text := after.Annotations[v1.EndpointsLastChangeTriggerTime]
	if before != nil && before.Annotations[v1.EndpointsLastChangeTriggerTime] == text {
		return time.Time{}, false
	}
	at, err := time.Parse(time.RFC3339Nano, text)
	return at, err == nil
}
