package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/client-go/tools/events"

	"github.com/nftdp/go-nftdp/nftdp/kube"
)

func newTestMonitor(t *testing.T, f *flags) (*monitor, *events.FakeRecorder) {
	t.Helper()
	recorder := events.NewFakeRecorder(10)
	m := newMonitor(f, slog.New(slog.NewTextHandler(t.Output(), nil)), recorder)
	controller, err := kube.NewController(kube.Options{NodeName: "here"}, kube.ControllerConfig{Client: fake.NewClientset()})
	if err != nil {
		t.Fatal(err)
	}
	m.use(controller)
	return m, recorder
}

// TestMetricsPort: what is beside /metrics, and that profiles are there on request only.
func TestMetricsPort(t *testing.T) {
	for _, profiled := range []bool{false, true} {
		m, _ := newTestMonitor(t, &flags{profiled: profiled, syncPeriod: time.Second})
		registry := prometheus.NewRegistry()
		registry.MustRegister(m.metrics)
		h := m.metricsHandler(registry)
		for path, want := range map[string]string{
			"/healthz": "^ok$", "/proxyMode": "^nftables$", "/metrics": "kubeproxy_", "/debug/pprof/": "goroutine", "/debug/pprof/cmdline": "test",
		} {
			w := httptest.NewRecorder()
			h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil))
			code := http.StatusOK
			if strings.HasPrefix(path, "/debug") && !profiled {
				code, want = http.StatusNotFound, ""
			}
			if w.Code != code || !regexp.MustCompile(want).MatchString(w.Body.String()) {
				t.Errorf("%s: %d %.200s, want %d %s", path, w.Code, w.Body, code, want)
			}
		}
	}
}

// TestHealthz: load balancers wait until the Controller knows the Node, where kube-proxy
// does not serve yet, and a repair that fails makes the program unhealthy.
func TestHealthz(t *testing.T) {
	m, _ := newTestMonitor(t, &flags{syncPeriod: time.Nanosecond})
	code := func(path string) int {
		w := httptest.NewRecorder()
		m.proxy.Handler().ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil))
		return w.Code
	}
	if healthz, livez := code("/healthz"), code("/livez"); healthz != http.StatusServiceUnavailable || livez != http.StatusOK {
		t.Errorf("at the start: %d, %d", healthz, livez)
	}
	known := m.node
	m.proxy.Node = func() *v1.Node { return &v1.Node{} }
	if got := code("/healthz"); got != http.StatusOK || known() != nil {
		t.Errorf("with a Node: %d", got)
	}
	m.repaired(errors.New("refused"))
	since := m.brokenSince()
	m.repaired(errors.New("refused again"))
	if got := code("/livez"); got != http.StatusServiceUnavailable || m.brokenSince() != since {
		t.Errorf("with repairs that fail: %d, since %v, want %v", got, m.brokenSince(), since)
	}
	m.repaired(nil)
	if got := code("/livez"); got != http.StatusOK {
		t.Errorf("repaired: %d", got)
	}
}

// TestServe: the ports are served until the end, and one that cannot be bound is fatal
// if flags want that, and reported as kube-proxy reports it.
func TestServe(t *testing.T) {
	taken := httptest.NewServer(http.NotFoundHandler())
	defer taken.Close()
	m, recorder := newTestMonitor(t, &flags{metrics: strings.TrimPrefix(taken.URL, "http://"), bindHardFail: true, syncPeriod: time.Second})
	if err := m.serve(t.Context(), prometheus.NewRegistry()); err == nil || !strings.Contains(err.Error(), m.flags.metrics) {
		t.Errorf("serve: %v", err)
	}
	if got := <-recorder.Events; !strings.HasPrefix(got, "Warning FailedToStartMetricServer") {
		t.Error(got)
	}
	m, _ = newTestMonitor(t, &flags{metrics: m.flags.metrics, syncPeriod: time.Second})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := m.serve(ctx, prometheus.NewRegistry()); err != nil {
		t.Error(err)
	}
}

// TestHealthCheckPortTaken: a health check port that another proxy leaves is bound soon,
// whatever flags say about synchronizations.
func TestHealthCheckPortTaken(t *testing.T) {
	other, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := netip.MustParseAddrPort(other.Addr().String()).Port()
	m, _ := newTestMonitor(t, &flags{syncPeriod: time.Hour, options: kube.Options{NodePortAddresses: []string{"127.0.0.1/32"}}})
	web := types.NamespacedName{Namespace: "default", Name: "web"}
	m.services.Update(map[types.NamespacedName]*kube.ServiceState{web: {HealthCheckPort: port, Local: map[v1.IPFamily]int{v1.IPv4Protocol: 1}}})
	if bound := m.services.Ports()[web]; len(bound) > 0 {
		t.Errorf("bound at %v, which is taken", bound)
	}
	if err := other.Close(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 4*bindRetry)
	defer cancel()
	served := make(chan error)
	go func() { served <- m.serve(ctx, prometheus.NewRegistry()) }()
	for poll := time.Tick(50 * time.Millisecond); len(m.services.Ports()[web]) == 0; <-poll {
		if ctx.Err() != nil {
			t.Fatal("the port is not bound")
		}
	}
	cancel()
	if err := <-served; err != nil {
		t.Error(err)
	}
}

// TestLogText: lines are klog's.
func TestLogText(t *testing.T) {
	var out bytes.Buffer
	log, err := newLogger(&out, "text", 0)
	if err != nil {
		t.Fatal(err)
	}
	log.Info("services programmed", "set", 3)
	log.Warn("careful")
	log.Error("not yet", "err", errors.New("no memory"))
	log.Debug("details")
	want := []string{
		`^I\d{4} \d\d:\d\d:\d\d\.\d{6} +\d+ serve_test.go:\d+\] "services programmed" set=3$`,
		`^W.*\] "careful"$`,
		`^E.*\] "not yet" err="no memory"$`,
	}
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	if len(lines) != len(want) {
		t.Fatalf("%d lines, want %d:\n%s", len(lines), len(want), &out)
	}
	for i, w := range want {
		if !regexp.MustCompile(w).MatchString(lines[i]) {
			t.Errorf("%q, want %s", lines[i], w)
		}
	}
}

// TestLogJSON: lines have the fields that Kubernetes' JSON has.
func TestLogJSON(t *testing.T) {
	var out bytes.Buffer
	log, err := newLogger(&out, "json", 4)
	if err != nil {
		t.Fatal(err)
	}
	log.Debug("details", "set", 3)
	log.Error("not yet", "err", errors.New("no memory"))
	decoder := json.NewDecoder(&out)
	var first, second map[string]any
	if err := errors.Join(decoder.Decode(&first), decoder.Decode(&second)); err != nil {
		t.Fatal(err)
	}
	if ts, ok := first["ts"].(float64); !ok || time.Since(time.UnixMilli(int64(ts))) > time.Hour || first["v"] != 4.0 || first["msg"] != "details" || first["set"] != 3.0 {
		t.Errorf("info: %v", first)
	}
	if caller, ok := first["caller"].(string); !ok || !strings.HasPrefix(caller, "kubeproxy/serve_test.go:") {
		t.Errorf("caller: %v", first["caller"])
	}
	if _, ok := second["v"]; ok || second["err"] != "no memory" {
		t.Errorf("error: %v", second)
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		t.Error("more lines than two")
	}
}
