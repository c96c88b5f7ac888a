package metrics

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/nftdp/go-nftdp/nftdp"
	"github.com/nftdp/go-nftdp/nftdp/nftdptest"
)

func addrPort(s string) netip.AddrPort { return netip.MustParseAddrPort(s) }

// service is one on some ports of the node.
func service(name string, backends []string, ports ...uint16) nftdp.Service {
	s := nftdp.Service{Name: name}
	for _, p := range ports {
		s.Frontends = append(s.Frontends, nftdp.Frontend{Addr: netip.IPv4Unspecified(), Port: p})
	}
	for _, b := range backends {
		s.Backends = append(s.Backends, nftdp.Backend{Addr: addrPort(b)})
	}
	return s
}

// node is one in memory, with a Dataplane and its Collector.
type node struct {
	*nftdptest.Node
	plane     *nftdp.Dataplane
	collector *Collector
	clients   uint16
}

func newNode(t *testing.T, o Options) *node {
	t.Helper()
	n := &node{Node: nftdptest.NewNode(netip.MustParseAddr("192.0.2.1"))}
	d, err := n.Open(t.Context(), nftdp.Config{})
	if err != nil {
		t.Fatal(err)
	}
	n.plane, n.collector = d, New(d, o)
	t.Cleanup(func() {
		n.collector.Close()
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	})
	return n
}

func (n *node) apply(t *testing.T, services ...nftdp.Service) {
	t.Helper()
	if _, err := n.plane.Apply(t.Context(), services); err != nil {
		t.Fatal(err)
	}
}

func (n *node) connect(port uint16, times int) {
	for range times {
		n.clients++
		n.Send(nftdptest.Packet{
			Source:      netip.AddrPortFrom(netip.MustParseAddr("203.0.113.7"), 10000+n.clients),
			Destination: netip.AddrPortFrom(netip.MustParseAddr("192.0.2.1"), port),
		})
	}
}

// want compares metrics with those that are named in the text. Their help is not.
func (n *node) want(t *testing.T, want string) {
	t.Helper()
	var names []string
	for line := range strings.Lines(want) {
		name, _, _ := strings.Cut(strings.Fields(line)[0], "{")
		names = append(names, name)
	}
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(n.collector)
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	var got strings.Builder
	for _, f := range families {
		if !slices.Contains(names, f.GetName()) {
			continue
		}
		for _, m := range f.GetMetric() {
			var labels []string
			for _, l := range m.GetLabel() {
				labels = append(labels, fmt.Sprintf("%s=%q", l.GetName(), l.GetValue()))
			}
			fmt.Fprintf(&got, "%s{%s} %v\n", f.GetName(), strings.Join(labels, ","), m.GetCounter().GetValue()+m.GetGauge().GetValue())
		}
	}
	if got.String() != want {
		t.Errorf("metrics\n%swant\n%s", got.String(), want)
	}
}

// TestLint: names, units and help are as Prometheus' conventions want them.
func TestLint(t *testing.T) {
	n := newNode(t, Options{Backends: 10})
	n.apply(t, service("web", []string{"10.180.0.1:8080"}, 80))
	problems, err := testutil.CollectAndLint(n.collector)
	if err != nil || len(problems) > 0 {
		t.Error(problems, err)
	}
}

// TestServices: connections by service and backend, over all frontends, and those that
// were refused.
func TestServices(t *testing.T) {
	n := newNode(t, Options{Backends: 10})
	n.apply(t, service("dns", nil, 53), service("web", []string{"10.180.0.1:8080"}, 80, 81))
	n.connect(53, 2)
	n.connect(80, 3)
	n.connect(81, 4)
	n.want(t, `nftdp_backend_connections_total{backend="10.180.0.1:8080",service="web"} 7
nftdp_service_backends{service="dns"} 0
nftdp_service_backends{service="web"} 1
nftdp_service_connections_total{service="dns"} 2
nftdp_service_connections_total{service="web"} 7
nftdp_services{} 2
nftdp_services_omitted{} 0
nftdp_up{} 1
`)
}

// TestNeverFalls: a counter that ends with its frontend, or begins again, does not make
// the service's fall, which Prometheus would take for a restart.
func TestNeverFalls(t *testing.T) {
	n := newNode(t, Options{Backends: 10})
	both, one := service("web", []string{"10.180.0.1:8080"}, 80, 81), service("web", []string{"10.180.0.1:8080"}, 80)
	n.apply(t, both)
	n.connect(80, 3)
	n.connect(81, 4)
	want := func(connections int) {
		t.Helper()
		n.want(t, fmt.Sprintf(`nftdp_backend_connections_total{backend="10.180.0.1:8080",service="web"} %d
nftdp_service_connections_total{service="web"} %[1]d
`, connections))
	}
	want(7)
	n.apply(t, one)
	want(7)
	n.connect(80, 1)
	want(8)
	n.apply(t, both)
	n.connect(81, 2)
	want(10)
	n.FlushRuleset()
	n.apply(t, both)
	n.connect(80, 1)
	want(10) // they have begun again, or were read while the service changed
	want(11)
}

// TestSeenLower: a counter that is seen lower once is not counted twice.
func TestSeenLower(t *testing.T) {
	var all totals
	for _, value := range []uint64{5, 3, 7, 7} {
		next := all.scrape()
		next.add(series{}, frontend{}, value)
		all = next.now
	}
	if got := all[series{}].sum; got != 7 {
		t.Errorf("%d connections, want 7", got)
	}
}

// TestBounded: the number of services and backends with metrics of their own is bounded,
// and backends have none unless they are asked for.
func TestBounded(t *testing.T) {
	services := []nftdp.Service{
		service("a", []string{"10.180.0.1:1", "10.180.0.2:1"}, 1, 2), service("b", []string{"10.180.0.3:1", "10.180.0.4:1"}, 3), service("c", nil, 4),
	}
	for name, c := range map[string]struct {
		options           Options
		services, omitted int
		backends          int
	}{
		"default":             {Options{}, 3, 0, 0},
		"no services":         {Options{Services: -1, Backends: 9}, 0, 3, 0},
		"two services":        {Options{Services: 2}, 2, 1, 0},
		"three backends":      {Options{Backends: 3}, 3, 0, 3},
		"of the first only":   {Options{Services: 1, Backends: 9}, 1, 2, 2},
		"more than there are": {Options{Services: 9, Backends: 9}, 3, 0, 4},
	} {
		t.Run(name, func(t *testing.T) {
			n := newNode(t, c.options)
			n.apply(t, services...)
			count := func(name string) int { return testutil.CollectAndCount(n.collector, name) }
			if got := count("nftdp_service_connections_total"); got != c.services {
				t.Errorf("%d services, want %d", got, c.services)
			}
			if got := count("nftdp_backend_connections_total"); got != c.backends {
				t.Errorf("%d backends, want %d", got, c.backends)
			}
			n.want(t, fmt.Sprintf("nftdp_services{} 3\nnftdp_services_omitted{} %d\n", c.omitted))
		})
	}
}

// TestDone counts what the Dataplane does, and errors by kind.
func TestDone(t *testing.T) {
	n := newNode(t, Options{})
	n.apply(t, service("web", []string{"10.180.0.1:8080"}, 80))
	if _, err := n.plane.Apply(t.Context(), []nftdp.Service{{}}); err == nil {
		t.Error("no error")
	}
	n.want(t, `nftdp_errors_total{kind="canceled"} 0
nftdp_errors_total{kind="closed"} 0
nftdp_errors_total{kind="conflict"} 0
nftdp_errors_total{kind="invalid"} 1
nftdp_errors_total{kind="not_owned"} 0
nftdp_errors_total{kind="not_supported"} 0
nftdp_errors_total{kind="other"} 0
nftdp_errors_total{kind="other_config"} 0
nftdp_errors_total{kind="outdated"} 0
nftdp_errors_total{kind="permission"} 0
nftdp_errors_total{kind="protected"} 0
nftdp_errors_total{kind="refused"} 0
nftdp_errors_total{kind="timeout"} 0
`)
	done := n.collector.done
	for _, e := range []nftdp.Event{
		{Kind: nftdp.EventRetry, Count: 1},
		{Kind: nftdp.EventSplit, Count: 3},
		{Kind: nftdp.EventRepair, Count: 5},
		{Kind: nftdp.EventRepair, Err: errors.New("not repaired")},
		{Kind: nftdp.EventFlows, Count: 7},
		{Kind: "of a later version"},
	} {
		done.observe(e)
	}
	n.want(t, `nftdp_reconciled_flows_total{} 7
nftdp_repairs_total{} 1
nftdp_retries_total{} 1
nftdp_splits_total{} 1
`)
	n.collector.Close()
	objects := testutil.ToFloat64(done.objects)
	n.apply(t)
	if now := testutil.ToFloat64(done.objects); objects == 0 || now != objects {
		t.Errorf("%v objects, and %v after Close", objects, now)
	}
}

// TestDown: a scrape that cannot read the kernel has all other metrics.
func TestDown(t *testing.T) {
	n := newNode(t, Options{})
	n.apply(t, service("web", []string{"10.180.0.1:8080"}, 80))
	if err := n.plane.Close(); err != nil {
		t.Fatal(err)
	}
	n.want(t, "nftdp_retries_total{} 0\nnftdp_up{} 0\n")
	if got := testutil.CollectAndCount(n.collector, "nftdp_services", "nftdp_service_connections_total"); got != 0 {
		t.Error(got, "metrics of services that are not known")
	}
}

// names lists the metrics that a Collector has, as its descriptions say.
func names(t *testing.T) (out []string) {
	t.Helper()
	n := newNode(t, Options{})
	to := make(chan *prometheus.Desc, 100)
	n.collector.Describe(to)
	close(to)
	for d := range to {
		out = append(out, regexp.MustCompile(`fqName: "(\w+)"`).FindStringSubmatch(d.String())[1])
	}
	return out
}

// TestDocumented: the document lists every metric, and no others.
func TestDocumented(t *testing.T) {
	text, err := os.ReadFile("../../docs/metrics.md")
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, found := range regexp.MustCompile("(?m)^\\| `(nftdp_\\w+)[^|]*` \\| (?:gauge|counter|histogram) \\|").FindAllStringSubmatch(string(text), -1) {
		got = append(got, found[1])
	}
	want := names(t)
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("documented are\n%v, want\n%v", got, want)
	}
}
