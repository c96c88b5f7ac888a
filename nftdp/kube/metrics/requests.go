package metrics

import (
	"context"
	"net/url"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/client-go/tools/metrics"
)

// Requests are the metrics of the process's requests to API servers, under the names
// that programs of Kubernetes give them.
type Requests struct {
	results *prometheus.CounterVec
	latency *prometheus.HistogramVec
}

// AllRequests returns the prometheus.Collector of all requests by client-go since the
// first call. It is always the same one: client-go reports to one of a process alone.
func AllRequests() *Requests { return allRequests() }

var allRequests = sync.OnceValue(newRequests)

func newRequests() *Requests {
	r := &Requests{
		results: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "rest_client_requests_total", Help: "Requests to API servers, by HTTP status, method and host.",
		}, []string{"code", "method", "host"}),
		latency: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "rest_client_request_duration_seconds", Help: "How long requests to API servers took, by verb and host.",
			Buckets: []float64{0.005, 0.025, 0.1, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0, 60.0},
		}, []string{"verb", "host"}),
	}
	metrics.Register(metrics.RegisterOpts{RequestResult: results{r}, RequestLatency: latency{r}})
	return r
}

// Describe implements prometheus.Collector.
func (r *Requests) Describe(to chan<- *prometheus.Desc) {
	r.results.Describe(to)
	r.latency.Describe(to)
}

// Collect implements prometheus.Collector.
func (r *Requests) Collect(to chan<- prometheus.Metric) { r.results.Collect(to); r.latency.Collect(to) }

type results struct{ *Requests }

// Increment implements metrics.ResultMetric.
func (r results) Increment(_ context.Context, code, method, host string) {
	r.results.WithLabelValues(code, method, host).Inc()
}

type latency struct{ *Requests }

// Observe implements metrics.LatencyMetric.
func (l latency) Observe(_ context.Context, verb string, u url.URL, took time.Duration) {
	l.latency.WithLabelValues(verb, u.Host).Observe(took.Seconds())
}
