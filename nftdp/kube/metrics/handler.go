package metrics

import (
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	dto "github.com/prometheus/client_model/go"
)

// Handler serves metrics as kube-proxy does, in Prometheus' text format, and in
// OpenMetrics to clients that do not accept that. Prometheus accepts both and prefers
// OpenMetrics, where the label le of a bucket is "20.0" instead of "20": queries that are
// written for kube-proxy would miss it.
//
// The header Process-Start-Time-Unix, from which counters are said to count, has the time
// at which Handler was called.
func Handler(from prometheus.Gatherer) http.Handler {
	began := time.Now()
	text := promhttp.HandlerFor(from, promhttp.HandlerOpts{ProcessStartTime: began})
	openMetrics := promhttp.HandlerFor(distinct{from}, promhttp.HandlerOpts{ProcessStartTime: began, EnableOpenMetrics: true})
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if accept := strings.Join(r.Header.Values("Accept"), ","); accept == "" || strings.Contains(accept, "text/") || strings.Contains(accept, "*/*") {
			text.ServeHTTP(w, r)
		} else {
			openMetrics.ServeHTTP(w, r)
		}
	})
}

// distinct leaves out counters that OpenMetrics has no name for: it calls a counter
// x_total x, and Go's collector has go_memstats_alloc_bytes beside
// go_memstats_alloc_bytes_total (https://github.com/prometheus/client_golang/issues/829).
type distinct struct{ prometheus.Gatherer }

// Gather implements prometheus.Gatherer.
func (d distinct) Gather() ([]*dto.MetricFamily, error) {
	all, err := d.Gatherer.Gather()
	names := map[string]bool{}
	for _, f := range all {
		names[f.GetName()] = true
	}
	return slices.DeleteFunc(all, func(f *dto.MetricFamily) bool {
		name, total := strings.CutSuffix(f.GetName(), "_total")
		return total && f.GetType() == dto.MetricType_COUNTER && names[name]
	}), err
}
