package metrics

import (
	"context"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/nftdp/go-nftdp/nftdp"
)

// Options bound what a Collector collects. The zero value has reasonable ones.
type Options struct {
	// Services is the most services with metrics of their own, the first by name; 0
	// means 1000, and a negative number none. How many more there are is
	// nftdp_services_omitted. Each has two time series.
	Services int
	// Backends is the most pairs of a service and a backend with metrics of their
	// own, those of the first services by name; 0, the default, means none. Each has
	// one time series, and backends that come and go leave theirs behind in
	// Prometheus: 100 new pods an hour are 72,000 in a month.
	Backends int
	// Timeout bounds the time in which a scrape reads the kernel; 0 means 5 s. After
	// it, a scrape has everything but the metrics of services, and nftdp_up is 0.
	Timeout time.Duration
}

// Collector is a prometheus.Collector over one Dataplane. To register several, of
// different tables or namespaces, distinguish them with
// prometheus.WrapRegistererWith.
type Collector struct {
	dataplane *nftdp.Dataplane
	options   Options
	done      *done
	stop      func()

	mu       sync.Mutex // held by the scrape that reads
	services totals
	backends totals
}

// New returns a Collector, which observes the Dataplane from now on, until Close.
func New(d *nftdp.Dataplane, o Options) *Collector {
	if o.Services == 0 {
		o.Services = 1000
	}
	if o.Timeout == 0 {
		o.Timeout = 5 * time.Second
	}
	c := &Collector{dataplane: d, options: o, done: newDone()}
	c.stop = d.Observe(c.done.observe)
	return c
}

// Close ends the observation. The Dataplane stays open.
func (c *Collector) Close() { c.stop() }

var (
	upDesc       = prometheus.NewDesc("nftdp_up", "Whether the services could be read from the kernel: 1, or 0.", nil, nil)
	servicesDesc = prometheus.NewDesc("nftdp_services", "Services that the kernel holds.", nil, nil)
	omittedDesc  = prometheus.NewDesc("nftdp_services_omitted",
		"Services that the kernel holds and that have no metrics of their own, because there are more than Options.Services.", nil, nil)
	usableDesc = prometheus.NewDesc("nftdp_service_backends",
		"Usable backends of the service; 0: clients are refused, or left to the host.", []string{"service"}, nil)
	connectionsDesc = prometheus.NewDesc("nftdp_service_connections_total",
		"Connections that began at the service's frontends, or were rejected or dropped there.", []string{"service"}, nil)
	backendDesc = prometheus.NewDesc("nftdp_backend_connections_total",
		"Connections of the service that began and were sent to the backend.", []string{"service", "backend"}, nil)
)

// Describe implements prometheus.Collector.
func (c *Collector) Describe(to chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{upDesc, servicesDesc, omittedDesc, usableDesc, connectionsDesc, backendDesc} {
		to <- d
	}
	c.done.each(func(m prometheus.Collector) { m.Describe(to) })
}

// Collect implements prometheus.Collector.
func (c *Collector) Collect(to chan<- prometheus.Metric) {
	c.done.each(func(m prometheus.Collector) { m.Collect(to) })
	c.mu.Lock()
	defer c.mu.Unlock()
	ctx, cancel := context.WithTimeout(context.Background(), c.options.Timeout)
	defer cancel()
	held, err := c.dataplane.Inspect(ctx)
	if err != nil {
		to <- gauge(upDesc, 0)
		return
	}
	own := held[:min(len(held), max(c.options.Services, 0))]
	to <- gauge(upDesc, 1)
	to <- gauge(servicesDesc, len(held))
	to <- gauge(omittedDesc, len(held)-len(own))
	c.collectServices(to, own)
	c.collectBackends(to, own)
}

func gauge(d *prometheus.Desc, value int, labels ...string) prometheus.Metric {
	return prometheus.MustNewConstMetric(d, prometheus.GaugeValue, float64(value), labels...)
}

func counter(d *prometheus.Desc, value uint64, labels ...string) prometheus.Metric {
	return prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(value), labels...)
}
