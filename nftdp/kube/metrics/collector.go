package metrics

import (
	"strconv"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/apimachinery/pkg/types"

	"github.com/nftdp/go-nftdp/nftdp/kube"
)

// Collector is a prometheus.Collector of one kube.Controller.
type Collector struct {
	syncs, full, partial, programming *prometheus.HistogramVec
	last                              *prometheus.GaugeVec
	failures, cleanups                *prometheus.CounterVec
	healthz, livez                    *prometheus.CounterVec

	mu      sync.Mutex
	status  func() kube.Status
	noLocal map[types.NamespacedName]map[kube.Traffic]int // Services that have some
}

// New returns a Collector. Observe has to be called for each Sync, and Serve once.
func New() *Collector {
	c := &Collector{
		syncs:   histogram("sync_proxy_rules_duration_seconds", "How long synchronizations took, failed ones included."),
		full:    histogram("sync_full_proxy_rules_duration_seconds", "How long synchronizations of everything took."),
		partial: histogram("sync_partial_proxy_rules_duration_seconds", "How long synchronizations of what had changed took."),
		programming: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Subsystem: subsystem, Name: "network_programming_duration_seconds",
			Help:    "Time from what caused a change of an EndpointSlice until it was programmed.",
			Buckets: programmingBuckets(),
		}, families),
		last: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Subsystem: subsystem, Name: "sync_proxy_rules_last_timestamp_seconds", Help: "When a synchronization succeeded the last time.",
		}, families),
		failures: counter("sync_proxy_rules_nftables_sync_failures_total", "Synchronizations that failed.", "ip_family"),
		cleanups: counter("sync_proxy_rules_nftables_cleanup_failures_total",
			"Synchronizations after which stale flows or unused chains could not be deleted.", "ip_family"),
		healthz: counter("proxy_healthz_total", "Answers of /healthz, by HTTP status.", "code"),
		livez:   counter("proxy_livez_total", "Answers of /livez, by HTTP status.", "code"),
		status:  func() kube.Status { return kube.Status{} },
		noLocal: map[types.NamespacedName]map[kube.Traffic]int{},
	}
	for _, family := range kube.Families() {
		for _, v := range []*prometheus.CounterVec{c.failures, c.cleanups} {
			v.WithLabelValues(string(family))
		}
	}
	return c
}

const subsystem = "kubeproxy"

var families = []string{"ip_family"}

func histogram(name, help string) *prometheus.HistogramVec {
	return prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Subsystem: subsystem, Name: name, Help: help, Buckets: prometheus.ExponentialBuckets(0.001, 2, 15),
	}, families)
}

func counter(name, help, label string) *prometheus.CounterVec {
	return prometheus.NewCounterVec(prometheus.CounterOpts{Subsystem: subsystem, Name: name, Help: help}, []string{label})
}

// programmingBuckets are kube-proxy's, which alerts name: a quarter and half a second,
// each second of the first minute, then every 5 s to 115 s, and every 30 s to 5 min.
func programmingBuckets() []float64 {
	b := append([]float64{0.25, 0.5}, prometheus.LinearBuckets(1, 1, 59)...)
	b = append(b, prometheus.LinearBuckets(60, 5, 12)...)
	return append(b, prometheus.LinearBuckets(120, 30, 7)...)
}

// Serve makes scrapes ask for a Status, usually that of the Controller.
func (c *Collector) Serve(status func() kube.Status) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.status = status
}

// Observe counts a synchronization. It is for kube.ControllerConfig.Observe.
func (c *Collector) Observe(s kube.Sync) {
	took := s.Ended.Sub(s.Began).Seconds()
	for _, f := range kube.Families() {
		family := string(f)
		c.syncs.WithLabelValues(family).Observe(took)
		if s.Full {
			c.full.WithLabelValues(family).Observe(took)
		} else {
			c.partial.WithLabelValues(family).Observe(took)
		}
		if s.Err != nil {
			c.failures.WithLabelValues(family).Inc()
			continue
		}
		if s.Behind != nil {
			c.cleanups.WithLabelValues(family).Inc()
		}
		c.last.WithLabelValues(family).Set(seconds(s.Ended))
		for _, t := range s.Triggers[f] {
			c.programming.WithLabelValues(family).Observe(s.Ended.Sub(t).Seconds())
		}
	}
	if s.Err == nil {
		c.note(s.States)
	}
}

// note remembers the Services that policies leave without endpoints.
func (c *Collector) note(states map[types.NamespacedName]*kube.ServiceState) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for name, state := range states {
		if state == nil || len(state.NoLocal) == 0 {
			delete(c.noLocal, name)
		} else {
			c.noLocal[name] = state.NoLocal
		}
	}
}

// Answered counts an answer of a health.Proxy.
func (c *Collector) Answered(path string, code int) {
	to := c.livez
	if path == "/healthz" {
		to = c.healthz
	}
	to.WithLabelValues(strconv.Itoa(code)).Inc()
}

func seconds(t time.Time) float64 {
	if t.IsZero() {
		return 0
	}
	return float64(t.UnixNano()) / 1e9
}

func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc(subsystem+"_"+name, help, labels, nil)
}

var (
	queuedDesc = desc("sync_proxy_rules_last_queued_timestamp_seconds", "When a change was noticed the last time.", families...)
	// These have no label.
	endpointsPendingDesc = desc("sync_proxy_rules_endpoint_changes_pending", "Changes of EndpointSlices that wait for the next synchronization.")
	endpointsTotalDesc   = desc("sync_proxy_rules_endpoint_changes_total", "Changes of EndpointSlices.")
	servicesPendingDesc  = desc("sync_proxy_rules_service_changes_pending", "Services whose change waits for the next synchronization.")
	servicesTotalDesc    = desc("sync_proxy_rules_service_changes_total", "Changes of Services.")
	noLocalDesc          = desc("sync_proxy_rules_no_local_endpoints_total",
		"Service ports with a Local policy whose endpoints are all on other nodes.", "traffic_policy", "ip_family")
)

func (c *Collector) vectors() []prometheus.Collector {
	return []prometheus.Collector{
		c.syncs, c.full, c.partial, c.programming, c.last, c.failures, c.cleanups, c.healthz, c.livez,
	}
}

// Describe implements prometheus.Collector.
func (c *Collector) Describe(to chan<- *prometheus.Desc) {
	for _, v := range c.vectors() {
		v.Describe(to)
	}
	for _, d := range []*prometheus.Desc{
		queuedDesc, endpointsPendingDesc, endpointsTotalDesc, servicesPendingDesc, servicesTotalDesc, noLocalDesc,
	} {
		to <- d
	}
}

// Collect implements prometheus.Collector.
func (c *Collector) Collect(to chan<- prometheus.Metric) {
	for _, v := range c.vectors() {
		v.Collect(to)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	send := func(d *prometheus.Desc, typ prometheus.ValueType, value float64, labels ...string) {
		to <- prometheus.MustNewConstMetric(d, typ, value, labels...)
	}
	s := c.status()
	send(endpointsPendingDesc, prometheus.GaugeValue, float64(s.Slices))
	send(endpointsTotalDesc, prometheus.CounterValue, float64(s.SliceChanges))
	send(servicesPendingDesc, prometheus.GaugeValue, float64(s.Services))
	send(servicesTotalDesc, prometheus.CounterValue, float64(s.ServiceChanges))
	sums := map[kube.Traffic]int{}
	for _, of := range c.noLocal {
		for traffic, n := range of {
			sums[traffic] += n
		}
	}
	for _, family := range kube.Families() {
		send(queuedDesc, prometheus.GaugeValue, seconds(s.Queued), string(family))
		for policy, external := range map[string]bool{"internal": false, "external": true} {
			send(noLocalDesc, prometheus.GaugeValue, float64(sums[kube.Traffic{External: external, Family: family}]), policy, string(family))
		}
	}
}
