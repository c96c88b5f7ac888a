package metrics

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/metrics"

	"github.com/nftdp/go-nftdp/nftdp/kube"
)

// scrape gets metrics over HTTP, and lints them.
func scrape(t *testing.T, collectors ...prometheus.Collector) map[string]*dto.MetricFamily {
	t.Helper()
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(collectors...)
	server := httptest.NewServer(promhttp.HandlerFor(registry, promhttp.HandlerOpts{ErrorHandling: promhttp.HTTPErrorOnError}))
	defer server.Close()
	r, err := http.Get(server.URL)
	if err != nil {
		t.Fatal(err)
	}
	text, err := io.ReadAll(r.Body)
	if err := errors.Join(err, r.Body.Close()); err != nil || r.StatusCode != http.StatusOK {
		t.Fatalf("%s: %v\n%s", r.Status, err, text)
	}
	parser := expfmt.NewTextParser(model.LegacyValidation)
	got, err := parser.TextToMetricFamilies(strings.NewReader(string(text)))
	if err != nil {
		t.Fatal(err)
	}
	problems, err := promlint.New(strings.NewReader(string(text))).Lint()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		// kube-proxy names a gauge like a counter.
		if p.Metric != "kubeproxy_sync_proxy_rules_no_local_endpoints_total" || !strings.Contains(p.Text, `should not have "_total" suffix`) {
			t.Errorf("lint: %s: %s", p.Metric, p.Text)
		}
	}
	return got
}

// valueOf returns the value of a counter or gauge, or the count of a histogram.
func valueOf(t *testing.T, all map[string]*dto.MetricFamily, name string, labels ...string) float64 {
	t.Helper()
	for _, m := range all[name].GetMetric() {
		var got []string
		for _, l := range m.GetLabel() {
			got = append(got, l.GetName()+"="+l.GetValue())
		}
		if slices.Equal(got, labels) {
			return m.GetCounter().GetValue() + m.GetGauge().GetValue() + float64(m.GetHistogram().GetSampleCount())
		}
	}
	t.Errorf("%s%v is missing: %v", name, labels, all[name])
	return 0
}

// kubeProxys are kube-proxy's metrics in nftables mode that are here, with their type
// and labels, as its 1.37 describes them.
var kubeProxys = map[string]string{
	"kubeproxy_sync_proxy_rules_duration_seconds":                "HISTOGRAM ip_family",
	"kubeproxy_sync_full_proxy_rules_duration_seconds":           "HISTOGRAM ip_family",
	"kubeproxy_sync_partial_proxy_rules_duration_seconds":        "HISTOGRAM ip_family",
	"kubeproxy_sync_proxy_rules_last_timestamp_seconds":          "GAUGE ip_family",
	"kubeproxy_sync_proxy_rules_last_queued_timestamp_seconds":   "GAUGE ip_family",
	"kubeproxy_network_programming_duration_seconds":             "HISTOGRAM ip_family",
	"kubeproxy_sync_proxy_rules_endpoint_changes_pending":        "GAUGE",
	"kubeproxy_sync_proxy_rules_endpoint_changes_total":          "COUNTER",
	"kubeproxy_sync_proxy_rules_service_changes_pending":         "GAUGE",
	"kubeproxy_sync_proxy_rules_service_changes_total":           "COUNTER",
	"kubeproxy_sync_proxy_rules_no_local_endpoints_total":        "GAUGE ip_family traffic_policy",
	"kubeproxy_sync_proxy_rules_nftables_sync_failures_total":    "COUNTER ip_family",
	"kubeproxy_sync_proxy_rules_nftables_cleanup_failures_total": "COUNTER ip_family",
	"kubeproxy_proxy_healthz_total":                              "COUNTER code",
	"kubeproxy_proxy_livez_total":                                "COUNTER code",
}

// TestCollector: names, types and labels are kube-proxy's, and the values what happened.
func TestCollector(t *testing.T) {
	at := time.Unix(1_800_000_000, 0)
	c := New()
	c.Serve(func() kube.Status {
		return kube.Status{Queued: at, Services: 2, Slices: 3, ServiceChanges: 20, SliceChanges: 30}
	})
	web, db := types.NamespacedName{Name: "web"}, types.NamespacedName{Name: "db"}
	sync := kube.Sync{Full: true, Began: at, Ended: at.Add(3 * time.Millisecond), States: map[types.NamespacedName]*kube.ServiceState{
		web: {NoLocal: map[kube.Traffic]int{{External: true, Family: v1.IPv4Protocol}: 2}},
		db:  {NoLocal: map[kube.Traffic]int{{External: true, Family: v1.IPv4Protocol}: 1, {Family: v1.IPv6Protocol}: 1}},
	}}
	c.Observe(sync)
	sync.Full, sync.States = false, map[types.NamespacedName]*kube.ServiceState{web: nil}
	sync.Triggers = map[v1.IPFamily][]time.Time{v1.IPv6Protocol: {at.Add(-time.Second), at.Add(-2 * time.Second)}}
	sync.Behind = errors.New("stale flows are left")
	c.Observe(sync)
	sync.Behind = nil
	c.Observe(sync)
	c.Observe(kube.Sync{Began: at, Ended: at.Add(time.Hour), Err: errors.New("refused"), Triggers: sync.Triggers})
	c.Answered("/healthz", 503)
	c.Answered("/livez", 200)

	got := scrape(t, c)
	for name, want := range kubeProxys {
		var labels []string
		for _, l := range got[name].GetMetric()[0].GetLabel() {
			labels = append(labels, l.GetName())
		}
		if is := strings.Join(append([]string{got[name].GetType().String()}, labels...), " "); is != want {
			t.Errorf("%s is %s, want %s", name, is, want)
		}
	}
	if len(got) != len(kubeProxys) {
		t.Errorf("%d metrics, want %d", len(got), len(kubeProxys))
	}
	for _, want := range []struct {
		value  float64
		metric string
	}{
		{4, "sync_proxy_rules_duration_seconds ip_family=IPv4"},
		{1, "sync_full_proxy_rules_duration_seconds ip_family=IPv6"},
		{3, "sync_partial_proxy_rules_duration_seconds ip_family=IPv4"},
		{4, "network_programming_duration_seconds ip_family=IPv6"},
		{float64(sync.Ended.UnixNano()) / 1e9, "sync_proxy_rules_last_timestamp_seconds ip_family=IPv4"},
		{float64(at.Unix()), "sync_proxy_rules_last_queued_timestamp_seconds ip_family=IPv6"},
		{3, "sync_proxy_rules_endpoint_changes_pending"},
		{30, "sync_proxy_rules_endpoint_changes_total"},
		{2, "sync_proxy_rules_service_changes_pending"},
		{20, "sync_proxy_rules_service_changes_total"},
		{1, "sync_proxy_rules_no_local_endpoints_total ip_family=IPv4 traffic_policy=external"},
		{1, "sync_proxy_rules_no_local_endpoints_total ip_family=IPv6 traffic_policy=internal"},
		{0, "sync_proxy_rules_no_local_endpoints_total ip_family=IPv4 traffic_policy=internal"},
		{1, "sync_proxy_rules_nftables_sync_failures_total ip_family=IPv4"},
		{1, "sync_proxy_rules_nftables_cleanup_failures_total ip_family=IPv6"},
		{1, "proxy_healthz_total code=503"},
		{1, "proxy_livez_total code=200"},
	} {
		words := strings.Fields(want.metric)
		if got := valueOf(t, got, "kubeproxy_"+words[0], words[1:]...); got != want.value {
			t.Errorf("%s: %v, want %v", want.metric, got, want.value)
		}
	}
}

// TestProgrammingBuckets: alerts name kube-proxy's buckets.
func TestProgrammingBuckets(t *testing.T) {
	b := programmingBuckets()
	if got := fmt.Sprint(len(b), b[:4], b[60:63], b[72:]); got != "80 [0.25 0.5 1 2] [59 60 65] [115 120 150 180 210 240 270 300]" {
		t.Error(got)
	}
	if !slices.IsSorted(b) {
		t.Error("not sorted")
	}
}

// TestRequests: client-go counts its requests here.
func TestRequests(t *testing.T) {
	r := AllRequests()
	labels := map[string][]string{
		"rest_client_requests_total":           {"code=200", "host=192.0.2.1:6443", "method=GET"},
		"rest_client_request_duration_seconds": {"host=192.0.2.1:6443", "verb=GET"},
	}
	request := func() map[string]*dto.MetricFamily {
		metrics.RequestResult.Increment(t.Context(), "200", "GET", "192.0.2.1:6443")
		metrics.RequestLatency.Observe(t.Context(), "GET", url.URL{Host: "192.0.2.1:6443"}, time.Second)
		return scrape(t, r)
	}
	before, after := request(), request()
	for name, of := range labels {
		if was, is := valueOf(t, before, name, of...), valueOf(t, after, name, of...); is != was+1 {
			t.Errorf("%s: %v, then %v, want one more", name, was, is)
		}
	}
}
