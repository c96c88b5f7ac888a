package main

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/pprof"
	"net/netip"
	"os"
	"runtime/debug"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"golang.org/x/sync/errgroup"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/tools/events"

	"github.com/nftdp/go-nftdp/nftdp"
	"github.com/nftdp/go-nftdp/nftdp/kube"
	"github.com/nftdp/go-nftdp/nftdp/kube/health"
	kubemetrics "github.com/nftdp/go-nftdp/nftdp/kube/metrics"
	"github.com/nftdp/go-nftdp/nftdp/metrics"
)

const (
	bindRetry     = 5 * time.Second // as kube-proxy, for health check ports as well
	headerTimeout = 10 * time.Second
)

// monitor is what others learn of the program: health, metrics and Events.
type monitor struct {
	flags    *flags
	log      *slog.Logger
	events   events.EventRecorder
	metrics  *kubemetrics.Collector
	proxy    *health.Proxy
	services *health.Services
	node     func() *v1.Node
	broken   atomic.Int64 // when repairs began to fail, in ns since 1970; 0: they do not
}

// newMonitor returns a monitor, which observes a Controller that use names.
func newMonitor(f *flags, log *slog.Logger, recorder events.EventRecorder) *monitor {
	m := &monitor{flags: f, log: log, events: recorder, metrics: kubemetrics.New()}
	m.services = health.NewServices(health.ServicesConfig{
		Healthy: func() bool { return m.proxy.Health().Healthy }, Addrs: m.addrs, Failed: m.failed,
	})
	return m
}

// use connects the monitor with a Controller, before it runs.
func (m *monitor) use(controller *kube.Controller) {
	m.node = func() *v1.Node {
		node, _ := controller.Node()
		return node
	}
	m.proxy = &health.Proxy{
		Timeout: 2 * m.flags.syncPeriod, Status: controller.Status, Node: m.node, Broken: m.brokenSince, Answered: m.metrics.Answered,
	}
	m.metrics.Serve(controller.Status)
}

// observe follows the Controller.
func (m *monitor) observe(s kube.Sync) {
	m.metrics.Observe(s)
	if s.Err != nil {
		return
	}
	m.services.Update(s.States)
	if s.Full {
		go debug.FreeOSMemory() // A full Apply needs a multiple, for a moment.
	}
}

// repaired notes how a repair of the tables went.
func (m *monitor) repaired(err error) {
	if err == nil {
		m.broken.Store(0)
	} else {
		m.broken.CompareAndSwap(0, time.Now().UnixNano())
	}
}

func (m *monitor) brokenSince() time.Time {
	if at := m.broken.Load(); at != 0 {
		return time.Unix(0, at)
	}
	return time.Time{}
}

// addrs returns where health check ports are bound.
func (m *monitor) addrs(family v1.IPFamily) []netip.Addr {
	interfaces, err := health.InterfaceAddrs()
	if err != nil {
		m.log.Error("health check ports are not bound", "err", err)
		return nil
	}
	return m.flags.options.HealthCheckAddrs(family, m.node(), interfaces)
}

// failed makes the Event that kube-proxy makes.
func (m *monitor) failed(service types.NamespacedName, port uint16, err error) {
	m.log.Error("a health check port is not bound", "service", service.String(), "port", port, "err", err)
	m.events.Eventf(&v1.ObjectReference{APIVersion: "v1", Kind: "Service", Namespace: service.Namespace, Name: service.Name}, nil,
		v1.EventTypeWarning, "FailedToStartServiceHealthcheck", "Listen",
		"node %s failed to start healthcheck %q on port %d: %v", m.flags.options.NodeName, service, port, err)
}

// serve serves health and metrics until the context ends. An error is one that flags
// declare fatal.
func (m *monitor) serve(ctx context.Context, registry *prometheus.Registry) error {
	all, ctx := errgroup.WithContext(ctx)
	all.Go(func() error { m.services.Run(ctx, bindRetry); return nil })
	all.Go(func() error {
		return m.listen(ctx, m.flags.healthz, m.proxy.Handler(), "FailedToStartProxierHealthcheck")
	})
	all.Go(func() error {
		return m.listen(ctx, m.flags.metrics, m.metricsHandler(registry), "FailedToStartMetricServer")
	})
	return all.Wait()
}

// listen serves an address until the context ends. One that cannot be bound is tried
// again, or fails.
func (m *monitor) listen(ctx context.Context, address string, handler http.Handler, reason string) error {
	if address == "" {
		return nil
	}
	server := &http.Server{Handler: handler, ReadHeaderTimeout: headerTimeout}
	defer context.AfterFunc(ctx, func() { _ = server.Close() })()
	for ctx.Err() == nil {
		l, err := new(net.ListenConfig).Listen(ctx, "tcp", address)
		if err == nil {
			err = server.Serve(l)
		}
		if ctx.Err() != nil {
			return nil
		}
		m.log.Error("an address is not served", "address", address, "err", err)
		if m.flags.bindHardFail {
			m.events.Eventf(m.nodeRef(), nil, v1.EventTypeWarning, reason, startAction, "%v", err)
			return fmt.Errorf("serve %s: %w", address, err)
		}
		select {
		case <-time.After(bindRetry):
		case <-ctx.Done():
		}
	}
	return nil
}

// startAction is what an Event of the Node is about.
const startAction = "StartKubeProxy"

// nodeRef is the Node that Events are about.
func (m *monitor) nodeRef() *v1.ObjectReference {
	return &v1.ObjectReference{APIVersion: "v1", Kind: "Node", Name: m.flags.options.NodeName}
}

// register registers all metrics.
func (m *monitor) register(plane *nftdp.Dataplane) (registry *prometheus.Registry, stop func()) {
	registry = prometheus.NewRegistry()
	ours := metrics.New(plane, metrics.Options{})
	registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		m.metrics, kubemetrics.AllRequests(), ours)
	return registry, ours.Close
}

// metricsHandler serves what kube-proxy serves beside its metrics.
func (m *monitor) metricsHandler(registry *prometheus.Registry) http.Handler {
	mux := http.NewServeMux()
	text := func(path, body string) {
		mux.HandleFunc(path, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "text/plain; charset=utf-8")
			w.Header().Set("X-Content-Type-Options", "nosniff")
			_, _ = w.Write([]byte(body)) // the client may have gone
		})
	}
	text("/healthz", "ok")
	text("/proxyMode", "nftables")
	mux.Handle("/metrics", kubemetrics.Handler(registry))
	if m.flags.profiled {
		mux.HandleFunc("/debug/pprof/", pprof.Index)
		mux.HandleFunc("/debug/pprof/cmdline", pprof.Cmdline)
		mux.HandleFunc("/debug/pprof/profile", pprof.Profile)
		mux.HandleFunc("/debug/pprof/symbol", pprof.Symbol)
		mux.HandleFunc("/debug/pprof/trace", pprof.Trace)
	}
	return mux
}

// adjustOOMScore makes the kernel spare the process, as kube-proxy does.
func adjustOOMScore(f *flags, log *slog.Logger) {
	if !f.setOOMScoreAdj {
		return
	}
	if err := os.WriteFile("/proc/self/oom_score_adj", []byte(strconv.Itoa(f.oomScoreAdj)), 0); err != nil {
		log.Warn("oom_score_adj stays", "err", err)
	}
}

// newRecorder returns what records Events at the API server until the context ends.
func newRecorder(ctx context.Context, sink events.EventSink) (events.EventRecorder, func(), error) {
	b := events.NewBroadcaster(sink)
	if err := b.StartRecordingToSinkWithContext(ctx); err != nil {
		return nil, nil, fmt.Errorf("events: %w", err)
	}
	return b.NewRecorder(scheme.Scheme, "nftdp-kubeproxy"), b.Shutdown, nil
}
