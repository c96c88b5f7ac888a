// Package metrics makes Prometheus metrics of a Dataplane: the connections of its
// services, as the kernel counts them, and what the Dataplane does.
//
//	registry.MustRegister(metrics.New(dataplane, metrics.Options{}))
//
// A scrape reads the kernel's counters beside the Dataplane's changes: no Update waits
// for it. How many services and backends have metrics of their own is bounded.
//
// It is a module of its own, so that the core needs no metrics library. The file
// dashboard.json is a dashboard for Grafana, and docs/metrics.md lists all metrics.
package metrics
