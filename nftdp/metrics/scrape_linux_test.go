package metrics

import (
	"context"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"github.com/nftdp/go-nftdp/internal/engine"
	"github.com/nftdp/go-nftdp/internal/host"
	"github.com/nftdp/go-nftdp/internal/nstest"
	"github.com/nftdp/go-nftdp/internal/ruleset"
	"github.com/nftdp/go-nftdp/nftdp"
)

// scrapeOf gets the metrics over HTTP, as Prometheus does.
func scrapeOf(t *testing.T, url string) map[string]*dto.MetricFamily {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(response.Body)
	if err != nil || response.StatusCode != http.StatusOK {
		t.Fatal(response.Status, err)
	}
	return families
}

// TestScrape: connections of a client through a real kernel arrive in a scrape.
func TestScrape(t *testing.T) {
	top := nstest.NewTestTopology(t, 2, "tcp")
	d, err := nftdp.Config{}.OpenIn(t.Context(), top.Node.Handle())
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(New(d, Options{Backends: 10}))
	server := httptest.NewServer(promhttp.HandlerFor(registry, promhttp.HandlerOpts{}))
	defer server.Close()

	web := nftdp.Service{Name: "web"}
	const connections = 5
	for _, family := range nstest.Families() {
		web.Frontends = append(web.Frontends, nftdp.Frontend{Addr: family.Node, Port: 80})
		for i := range top.Backends {
			web.Backends = append(web.Backends, nftdp.Backend{Addr: netip.AddrPortFrom(family.Backend(i), 8080)})
		}
	}
	if _, err := d.Apply(t.Context(), []nftdp.Service{web}); err != nil {
		t.Fatal(err)
	}
	for _, family := range nstest.Families() {
		for range connections {
			if _, err := nstest.Dial(top.Client, "tcp", family.Client, netip.AddrPortFrom(family.Node, 80), 10*time.Second); err != nil {
				t.Fatal(err)
			}
		}
	}

	got := scrapeOf(t, server.URL)
	if n := got["nftdp_service_connections_total"].GetMetric()[0].GetCounter().GetValue(); n != 2*connections {
		t.Errorf("%v connections to the service, want %d", n, 2*connections)
	}
	var sum float64
	for _, m := range got["nftdp_backend_connections_total"].GetMetric() {
		sum += m.GetCounter().GetValue()
	}
	if n := len(got["nftdp_backend_connections_total"].GetMetric()); n != 4 || sum != 2*connections {
		t.Errorf("%v connections to %d backends, want %d to 4", sum, n, 2*connections)
	}
	changes := got["nftdp_change_duration_seconds"].GetMetric()[0]
	if n := changes.GetHistogram().GetSampleCount(); n != 1 || changes.GetLabel()[0].GetValue() != "Apply" {
		t.Error("not one Apply:", changes)
	}
	if n := got["nftdp_transaction_objects_total"].GetMetric()[0].GetCounter().GetValue(); n == 0 {
		t.Error("no objects in transactions")
	}
}

// held is a Host whose readings beside changes stop in the middle.
type held struct {
	*host.Host
	reading, goOn chan struct{}
}

func (h *held) Aside() engine.Reader { return &heldReader{h.Host.Aside(), h} }

type heldReader struct {
	engine.Reader
	by *held
}

func (r *heldReader) ReadCounters(ctx context.Context, c *ruleset.Change, elements []ruleset.Element, each func(*ruleset.Element)) error {
	r.by.reading <- struct{}{}
	<-r.by.goOn
	return r.Reader.ReadCounters(ctx, c, elements, each)
}

// TestUpdateDuringScrape: an Update does not wait for a scrape that reads the kernel.
func TestUpdateDuringScrape(t *testing.T) {
	ns, err := nstest.New("node")
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	opened, err := host.Open(int(ns.Handle()), nftdp.DefaultTable, engine.DecodableSet)
	if err != nil {
		t.Fatal(err)
	}
	h := &held{Host: opened, reading: make(chan struct{}), goOn: make(chan struct{})}
	d, err := nftdp.Config{}.OpenKernel(t.Context(), h)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	c := New(d, Options{})
	defer c.Close()
	if _, err := d.Apply(t.Context(), []nftdp.Service{service("web", []string{"10.180.0.1:8080"}, 80)}); err != nil {
		t.Fatal(err)
	}

	scraped := make(chan int)
	go func() {
		to := make(chan prometheus.Metric, 1000)
		c.Collect(to)
		scraped <- len(to)
	}()
	<-h.reading
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if _, err := d.Update(ctx, nftdp.Change{Set: []nftdp.Service{service("dns", []string{"10.180.0.2:53"}, 53)}}); err != nil {
		t.Error("an Update waits for a scrape:", err)
	}
	go func() {
		for range h.reading { // those of the rest of the scrape
			h.goOn <- struct{}{}
		}
	}()
	h.goOn <- struct{}{}
	if n := <-scraped; n == 0 {
		t.Error("nothing was scraped")
	}
	close(h.reading)
}
