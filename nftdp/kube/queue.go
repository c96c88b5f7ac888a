package kube

import (
	"context"
	"maps"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

// work is what has changed since the last synchronization.
type work struct {
	services map[types.NamespacedName]bool // whose own object or one of whose slices has changed
	objects  map[types.NamespacedName]bool // whose own object has changed
	changes  int                           // of Services
	slices   int                           // changes of EndpointSlices
	triggers map[v1.IPFamily][]time.Time
	around   bool // the Node or the ServiceCIDRs
	since    time.Time
}

// queue collects changes until somebody has time for them.
type queue struct {
	mu     sync.Mutex
	work   *work
	filled chan struct{} // holds a token while there is work
	progress
}

func (q *queue) init() {
	q.work, q.filled, q.began = newWork(), make(chan struct{}, 1), time.Now()
}

func newWork() *work {
	return &work{services: map[types.NamespacedName]bool{}, objects: map[types.NamespacedName]bool{}, triggers: map[v1.IPFamily][]time.Time{}}
}

func (q *queue) add(change func(*work)) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.queued = time.Now()
	if q.work.since.IsZero() {
		q.work.since = q.queued
	}
	change(q.work)
	select {
	case q.filled <- struct{}{}:
	default:
	}
}

func (q *queue) surroundings() { q.add(func(w *work) { w.around = true }) }

// again puts work back that was not done.
func (q *queue) again(undone *work) {
	q.add(func(w *work) {
		maps.Copy(w.services, undone.services)
		maps.Copy(w.objects, undone.objects)
		w.changes += undone.changes
		w.slices += undone.slices
		w.around = w.around || undone.around
		w.since, q.inFlight = undone.since, time.Time{}
		for family, times := range undone.triggers {
			w.triggers[family] = append(w.triggers[family], times...)
		}
	})
}

// next waits for work and takes all of it. Without any it returns when a timer fires.
func (q *queue) next(ctx context.Context, timer <-chan time.Time) (*work, error) {
	select {
	case <-q.filled:
	case <-timer:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	w := q.work
	q.work = newWork()
	if w.since.IsZero() {
		w.since = time.Now()
	}
	q.inFlight = w.since
	return w, nil
}
