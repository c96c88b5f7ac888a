package metrics

import (
	"context"
	"errors"
	"io/fs"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/nftdp/go-nftdp/nftdp"
)

// done are the metrics of what a Dataplane does.
type done struct {
	changes      *prometheus.HistogramVec
	errors       *prometheus.CounterVec
	transactions prometheus.Histogram
	objects      prometheus.Counter
	retries      prometheus.Counter
	splits       prometheus.Counter
	reads        prometheus.Histogram
	repairs      prometheus.Counter
	flows        prometheus.Counter
}

func newDone() *done {
	d := &done{
		changes: prometheus.NewHistogramVec(histogram("nftdp_change_duration_seconds",
			"How long methods that change something took, failed ones included."), []string{"method"}),
		errors: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "nftdp_errors_total", Help: "Changes and repairs that failed, by the kind of error.",
		}, []string{"kind"}),
		transactions: prometheus.NewHistogram(histogram("nftdp_transaction_duration_seconds", "How long the kernel took for a transaction.")),
		objects:      count("nftdp_transaction_objects_total", "Objects, mostly elements, that transactions have added or deleted."),
		retries:      count("nftdp_retries_total", "Attempts that began again because others had changed rules first."),
		splits:       count("nftdp_splits_total", "Transactions that were too large for one message."),
		reads:        prometheus.NewHistogram(histogram("nftdp_read_duration_seconds", "How long readings of the whole tables before a change took.")),
		repairs:      count("nftdp_repairs_total", "Repairs of what others had done to the tables."),
		flows:        count("nftdp_reconciled_flows_total", "Stale flows that were deleted after changes."),
	}
	for _, kind := range kinds {
		d.errors.WithLabelValues(kind.name)
	}
	d.errors.WithLabelValues(otherKind)
	return d
}

func count(name, help string) prometheus.Counter {
	return prometheus.NewCounter(prometheus.CounterOpts{Name: name, Help: help})
}

// histogram has buckets from half a millisecond, which an Update takes, to 8 seconds,
// more than the load of hundreds of thousands of elements takes.
func histogram(name, help string) prometheus.HistogramOpts {
	return prometheus.HistogramOpts{Name: name, Help: help, Buckets: prometheus.ExponentialBuckets(0.0005, 2, 15)}
}

func (d *done) each(do func(prometheus.Collector)) {
	for _, m := range []prometheus.Collector{
		d.changes, d.errors, d.transactions, d.objects, d.retries, d.splits, d.reads, d.repairs, d.flows,
	} {
		do(m)
	}
}

// observe counts an event of the Dataplane.
func (d *done) observe(e nftdp.Event) {
	if e.Err != nil {
		d.errors.WithLabelValues(kindOf(e.Err)).Inc()
	}
	switch e.Kind {
	case nftdp.EventChange:
		d.changes.WithLabelValues(e.Method).Observe(e.Duration.Seconds())
	case nftdp.EventTransaction:
		d.transactions.Observe(e.Duration.Seconds())
		d.objects.Add(float64(e.Count))
	case nftdp.EventRetry:
		d.retries.Inc()
	case nftdp.EventSplit:
		d.splits.Inc()
	case nftdp.EventRead:
		d.reads.Observe(e.Duration.Seconds())
	case nftdp.EventRepair:
		if e.Count > 0 {
			d.repairs.Inc()
		}
	case nftdp.EventFlows:
		d.flows.Add(float64(e.Count))
	}
}

// otherKind is the kind of errors that kinds does not have.
const otherKind = "other"

// kinds are the kinds of errors. Of those that match an error, the first is meant.
var kinds = []struct {
	name    string
	matches func(error) bool
}{
	{"invalid", as[*nftdp.FieldError]},
	{"conflict", is(nftdp.ErrConflict)},
	{"protected", is(nftdp.ErrProtected)},
	{"not_owned", is(nftdp.ErrNotOwned)},
	{"other_config", is(nftdp.ErrOtherConfig)},
	{"outdated", is(nftdp.ErrOutdated)},
	{"not_supported", is(nftdp.ErrNotSupported)},
	{"permission", is(fs.ErrPermission)},
	{"closed", is(nftdp.ErrClosed)},
	{"canceled", is(context.Canceled)},
	{"timeout", is(context.DeadlineExceeded)},
	{"refused", as[*nftdp.ApplyError]},
}

func is(target error) func(error) bool {
	return func(err error) bool { return errors.Is(err, target) }
}

func as[E error](err error) bool {
	_, ok := errors.AsType[E](err)
	return ok
}

func kindOf(err error) string {
	for _, kind := range kinds {
		if kind.matches(err) {
			return kind.name
		}
	}
	return otherKind
}
