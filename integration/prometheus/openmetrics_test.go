// Package prometheus_test holds the metrics and the dashboard against Prometheus' own
// parsers. It is a module of its own, since those come with a module graph that no user of
// package nftdp/metrics needs.
package prometheus_test

import (
	"errors"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/textparse"

	"github.com/nftdp/go-nftdp/nftdp"
	"github.com/nftdp/go-nftdp/nftdp/kube"
	kubemetrics "github.com/nftdp/go-nftdp/nftdp/kube/metrics"
	"github.com/nftdp/go-nftdp/nftdp/metrics"
	"github.com/nftdp/go-nftdp/nftdp/nftdptest"
)

// newRegistry returns all metrics of a node's agent, after a change of the node, one that
// failed, a connection and a synchronization.
func newRegistry(t *testing.T) *prometheus.Registry {
	t.Helper()
	node := nftdptest.NewNode(netip.MustParseAddr("192.0.2.1"))
	plane, err := node.Open(t.Context(), nftdp.Config{})
	if err != nil {
		t.Fatal(err)
	}
	ours, proxy := metrics.New(plane, metrics.Options{Backends: 10}), kubemetrics.New()
	t.Cleanup(func() {
		ours.Close()
		if err := plane.Close(); err != nil {
			t.Error(err)
		}
	})
	web := nftdp.Service{
		Name: `default\web:http`, Frontends: []nftdp.Frontend{{Port: 80}},
		Backends: []nftdp.Backend{{Addr: netip.MustParseAddrPort("10.180.0.1:8080")}},
	}
	if _, err := plane.Apply(t.Context(), []nftdp.Service{web}); err != nil {
		t.Fatal(err)
	}
	if _, err := plane.Apply(t.Context(), []nftdp.Service{{}}); err == nil {
		t.Fatal("a service without a name is accepted")
	}
	node.Send(nftdptest.Packet{Source: netip.MustParseAddrPort("203.0.113.7:40000"), Destination: netip.MustParseAddrPort("192.0.2.1:80")})
	at := time.Now()
	for _, full := range []bool{true, false} {
		proxy.Observe(kube.Sync{Full: full, Began: at, Ended: at.Add(time.Millisecond)})
	}
	proxy.Answered("/healthz", http.StatusOK)
	proxy.Answered("/livez", http.StatusOK)
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}), ours, proxy, kubemetrics.AllRequests())
	return registry
}

// get returns what a handler serves to a client that accepts some formats.
func get(t *testing.T, h http.Handler, accept string) (contentType, body string) {
	t.Helper()
	w, r := httptest.NewRecorder(), httptest.NewRequest(http.MethodGet, "/metrics", nil)
	if accept != "" {
		r.Header.Set("Accept", accept)
	}
	h.ServeHTTP(w, r)
	if w.Code != http.StatusOK {
		t.Fatalf("%d: %s", w.Code, w.Body)
	}
	contentType, _, _ = strings.Cut(w.Header().Get("Content-Type"), ";")
	return contentType, w.Body.String()
}

// scrape is what Prometheus reads: the types of families, and their series, with the names
// of the labels of those with one name.
type scrape struct {
	types  map[string]model.MetricType
	series map[string]bool
	labels map[string][]string
}

func parse(t *testing.T, contentType, body string) scrape {
	t.Helper()
	parser, err := textparse.New([]byte(body), contentType, labels.NewSymbolTable(), textparse.ParserOptions{})
	if err != nil {
		t.Fatal(err)
	}
	out := scrape{map[string]model.MetricType{}, map[string]bool{}, map[string][]string{}}
	for {
		switch entry, err := parser.Next(); {
		case errors.Is(err, io.EOF):
			return out
		case err != nil:
			t.Fatalf("%s: %v", contentType, err)
		case entry == textparse.EntryType:
			name, typ := parser.Type()
			if _, twice := out.types[string(name)]; twice {
				t.Errorf("%s: the family %s is there twice", contentType, name)
			}
			out.types[string(name)] = typ
		case entry == textparse.EntrySeries:
			var l labels.Labels
			parser.Labels(&l)
			if out.series[l.String()] {
				t.Errorf("%s: %s is there twice", contentType, l)
			}
			out.series[l.String()] = true
			out.labels[l.Get(model.MetricNameLabel)] = slices.Collect(maps.Keys(l.Map()))
		}
	}
}

const (
	text        = "text/plain"
	openMetrics = "application/openmetrics-text"
)

// TestNegotiation: who accepts kube-proxy's format gets it, Prometheus above all, and who
// accepts OpenMetrics alone gets that.
func TestNegotiation(t *testing.T) {
	h := kubemetrics.Handler(newRegistry(t))
	for accept, want := range map[string]string{
		"":    text,
		"*/*": text,
		"application/openmetrics-text;version=1.0.0;q=0.5,application/openmetrics-text;version=0.0.1;q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.2": text,
		"application/openmetrics-text":               openMetrics,
		"application/openmetrics-text;version=1.0.0": openMetrics,
	} {
		if got, _ := get(t, h, accept); got != want {
			t.Errorf("%q: %s, want %s", accept, got, want)
		}
	}
}

// TestOpenMetrics: it is valid, and says what the text says, but for a counter of Go's that
// it has no name for.
func TestOpenMetrics(t *testing.T) {
	h := kubemetrics.Handler(newRegistry(t))
	contentType, body := get(t, h, openMetrics)
	if !strings.HasSuffix(body, "\n# EOF\n") {
		t.Errorf("no end: %q", body[max(0, len(body)-100):])
	}
	got := parse(t, contentType, body)
	want := parse(t, text, second(get(t, h, "")))
	delete(want.types, "go_memstats_alloc_bytes_total")
	delete(want.series, `{__name__="go_memstats_alloc_bytes_total"}`)
	for name, typ := range want.types {
		if short, total := strings.CutSuffix(name, "_total"); total && typ == model.MetricTypeCounter {
			delete(want.types, name)
			want.types[short] = typ
		}
	}
	if diff := cmp.Diff(want.types, got.types); diff != "" {
		t.Errorf("types in text and OpenMetrics (-, +):\n%s", diff)
	}
	if diff := cmp.Diff(want.series, got.series); diff != "" {
		t.Errorf("series in text and OpenMetrics (-, +):\n%s", diff)
	}
}

func second(_, body string) string { return body }

// TestLint: what Prometheus' conventions object to is kube-proxy's, and stays as it is.
func TestLint(t *testing.T) {
	_, body := get(t, kubemetrics.Handler(newRegistry(t)), "")
	problems, err := promlint.New(strings.NewReader(body)).Lint()
	if err != nil {
		t.Fatal(err)
	}
	want := []promlint.Problem{{
		Metric: "kubeproxy_sync_proxy_rules_no_local_endpoints_total",
		Text:   `non-counter metrics should not have "_total" suffix`,
	}}
	if diff := cmp.Diff(want, problems); diff != "" {
		t.Errorf("problems (-want, +got):\n%s", diff)
	}
}
