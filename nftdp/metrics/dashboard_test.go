package metrics

import (
	"encoding/json"
	"net/http/httptest"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"github.com/nftdp/go-nftdp/nftdp"
)

// source is a reference to a data source.
type source struct{ Type, UID string }

// dashboard has the fields of Grafana's schema that the file needs.
type dashboard struct {
	UID, Title    string
	SchemaVersion int
	Templating    struct {
		List []struct {
			Name, Type, Query string
			Datasource        source
		}
	}
	Panels []struct {
		ID          int
		Type, Title string
		Description string
		Datasource  source
		GridPos     struct{ H, W, X, Y int }
		Targets     []struct {
			RefID, Expr string
			Datasource  source
		}
	}
}

// scraped is what a scrape has after a change, one that failed, and a connection.
func scraped(t *testing.T) map[string]*dto.MetricFamily {
	t.Helper()
	n := newNode(t, Options{Backends: 10})
	n.apply(t, service("web", []string{"10.180.0.1:8080"}, 80))
	n.connect(80, 1)
	if _, err := n.plane.Apply(t.Context(), []nftdp.Service{{}}); err == nil {
		t.Fatal("a service without a name is accepted")
	}
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(n.collector)
	response := httptest.NewRecorder()
	promhttp.HandlerFor(registry, promhttp.HandlerOpts{}).ServeHTTP(response, httptest.NewRequest("GET", "/metrics", nil))
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return families
}

// TestDashboard: the file is what Grafana imports; every panel has queries of metrics
// and labels that a scrape has.
func TestDashboard(t *testing.T) {
	text, err := os.ReadFile("dashboard.json")
	if err != nil {
		t.Fatal(err)
	}
	var d dashboard
	if err := json.Unmarshal(text, &d); err != nil {
		t.Fatal(err)
	}
	if d.UID == "" || d.Title == "" || d.SchemaVersion == 0 || len(d.Panels) == 0 || len(d.Templating.List) == 0 {
		t.Fatal("not a dashboard")
	}
	here := source{"prometheus", "${datasource}"}
	variables := []string{"$__rate_interval"}
	known := scraped(t)
	for _, v := range d.Templating.List {
		variables = append(variables, "$"+v.Name)
		if v.Type == "datasource" {
			if v.Name != "datasource" || v.Query != "prometheus" {
				t.Errorf("data source %+v", v)
			}
			continue
		}
		found := regexp.MustCompile(`^label_values\((\w+), (\w+)\)$`).FindStringSubmatch(v.Query)
		if v.Type != "query" || v.Datasource != here || found == nil || known[found[1]] == nil || !slices.Contains(labels(known[found[1]]), found[2]) {
			t.Errorf("variable %+v", v)
		}
	}
	if !slices.Contains(variables, "$datasource") {
		t.Error("no variable of the data source")
	}
	ids := map[int]bool{}
	for _, p := range d.Panels {
		if p.Title == "" || p.Type == "" || p.Description == "" || ids[p.ID] || p.GridPos.W == 0 || p.GridPos.H == 0 || p.GridPos.X+p.GridPos.W > 24 || p.Datasource != here {
			t.Errorf("panel %+v", p)
		}
		ids[p.ID] = true
		refs := map[string]bool{}
		for _, target := range p.Targets {
			if target.RefID == "" || refs[target.RefID] || target.Datasource != here {
				t.Errorf("%s: target %+v", p.Title, target)
			}
			refs[target.RefID] = true
			for _, problem := range problemsOf(target.Expr, known, variables) {
				t.Errorf("%s: %s: %s", p.Title, target.Expr, problem)
			}
		}
		if len(refs) == 0 {
			t.Errorf("%s: no query", p.Title)
		}
	}
}

// TestDashboardQueries: the check of queries finds what is wrong.
func TestDashboardQueries(t *testing.T) {
	known := scraped(t)
	for query, right := range map[string]bool{
		`nftdp_up == 0`: true,
		`sum by (le, method) (rate(nftdp_change_duration_seconds_bucket{instance=~"$instance"}[$__rate_interval]))`: true,
		`topk(3, nftdp_services{instance="a"}) > 0.5`:                                                               true,
		`nftdp_down == 0`:                                 false,
		`rate(nftdp_services_bucket[5m])`:                 false, // no histogram
		`sum by (method) (rate(nftdp_retries_total[5m]))`: false, // no such label
		`nftdp_up{service="a"}`:                           false,
		`nftdp_up{instance=~"$node"}`:                     false, // no such variable
		`nftdp_up{instance=~"$instance"`:                  false,
		`rate(nftdp_retries_total[$instance])`:            false,
		`rate(nftdp_retries_total)`:                       false,
		`nftdp_retries_total[5m]`:                         false,
		`raet(nftdp_retries_total[5m])`:                   false,
		`sum by service (nftdp_service_backends)`:         false,
		`nftdp_up ==`:                                     false,
		`nftdp_up 0`:                                      false,
		`histogram_quantile(0.5, rate(nftdp_read_duration_seconds_bucket[5m]))`:  true,
		`histogram_quantile(, rate(nftdp_read_duration_seconds_bucket[5m]))`:     false,
		`histogram_quantile(0.5, rate(nftdp_read_duration_seconds_bucket[5m])))`: false,
		``: false,
	} {
		if got := problemsOf(query, known, []string{"$instance", "$__rate_interval"}); right != (len(got) == 0) {
			t.Errorf("%s: %v", query, got)
		}
	}
}

// labels are those that the metrics of a family have, and that Prometheus adds.
func labels(f *dto.MetricFamily) []string {
	out := []string{"instance"}
	if f.GetType() == dto.MetricType_HISTOGRAM {
		out = append(out, "le")
	}
	for _, l := range f.GetMetric()[0].GetLabel() {
		out = append(out, l.GetName())
	}
	return out
}

var token = regexp.MustCompile(`^(?:\s+|"[^"\\]*"|[0-9]+(?:\.[0-9]+)?[smhd]?|[$A-Za-z_:][\w:]*|=~|!~|==|!=|>=|<=|[=<>{}()\[\],+*/-])`)

// query is a query that is being read.
type query struct {
	tokens    []string
	known     map[string]*dto.MetricFamily
	variables []string
	labels    []string // that all metrics so far have
	problems  []string
}

// problemsOf reads a query of the part of PromQL that a dashboard needs. Prometheus' own
// parser would bring a module graph that is many times that of this module.
func problemsOf(text string, known map[string]*dto.MetricFamily, variables []string) []string {
	q := &query{known: known, variables: variables}
	for text != "" {
		t := token.FindString(text)
		if t == "" {
			return []string{"not understood: " + text}
		}
		if strings.TrimSpace(t) != "" {
			q.tokens = append(q.tokens, t)
		}
		text = text[len(t):]
	}
	q.expression()
	if len(q.tokens) > 0 {
		q.problem("does not end here: " + strings.Join(q.tokens, " "))
	}
	return q.problems
}

func (q *query) problem(text string) {
	q.problems = append(q.problems, text)
	q.tokens = nil
}

func (q *query) peek() string {
	if len(q.tokens) == 0 {
		return ""
	}
	return q.tokens[0]
}

func (q *query) next() string {
	t := q.peek()
	if t != "" {
		q.tokens = q.tokens[1:]
	}
	return t
}

func (q *query) expect(want string) {
	if got := q.next(); got != want && len(q.problems) == 0 {
		q.problem(want + " expected instead of " + got)
	}
}

var (
	name   = regexp.MustCompile(`^[A-Za-z_:][\w:]*$`)
	number = regexp.MustCompile(`^[0-9]+(?:\.[0-9]+)?$`)
	length = regexp.MustCompile(`^[0-9]+[smhd]$`)
)

// expression reads one, with its comparison or arithmetic.
func (q *query) expression() {
	q.operand()
	if slices.Contains([]string{"==", "!=", ">", "<", ">=", "<=", "+", "-", "*", "/"}, q.peek()) {
		q.next()
		q.operand()
	}
}

func (q *query) operand() {
	switch t := q.next(); {
	case number.MatchString(t):
	case t == "sum" || t == "max" || t == "avg":
		q.aggregation()
	case t == "topk" || t == "histogram_quantile":
		q.expect("(")
		if !number.MatchString(q.next()) {
			q.problem(t + " needs a number")
		}
		q.expect(",")
		q.expression()
		q.expect(")")
	case t == "rate" || t == "increase":
		q.expect("(")
		q.selector(q.next())
		q.expect("[")
		if t := q.next(); t != "$__rate_interval" && !length.MatchString(t) {
			q.problem("no duration: " + t)
		}
		q.expect("]")
		q.expect(")")
	default:
		q.selector(t)
	}
}

func (q *query) aggregation() {
	var by []string
	if q.peek() == "by" {
		q.next()
		q.expect("(")
		for by = append(by, q.next()); q.peek() == ","; by = append(by, q.next()) {
			q.next()
		}
		q.expect(")")
	}
	q.expect("(")
	q.expression()
	q.expect(")")
	for _, label := range by {
		if !slices.Contains(q.labels, label) {
			q.problem("no label " + label)
		}
	}
}

// selector reads a metric with conditions on its labels.
func (q *query) selector(metric string) {
	f := q.known[metric]
	for _, suffix := range []string{"_bucket", "_count", "_sum"} {
		if h := q.known[strings.TrimSuffix(metric, suffix)]; f == nil && h.GetType() == dto.MetricType_HISTOGRAM && h != nil {
			f = h
		}
	}
	if !name.MatchString(metric) || f == nil {
		q.problem("no metric " + metric)
		return
	}
	q.labels = labels(f)
	if q.peek() != "{" {
		return
	}
	for more := true; more; more = q.peek() == "," {
		q.next()
		label, operator, value := q.next(), q.next(), q.next()
		word := strings.Trim(value, `"`)
		switch {
		case !slices.Contains(q.labels, label):
			q.problem("no label " + label)
		case !slices.Contains([]string{"=", "!=", "=~", "!~"}, operator) || !strings.HasPrefix(value, `"`):
			q.problem("no condition on " + label)
		case strings.HasPrefix(word, "$") && !slices.Contains(q.variables, word):
			q.problem("no variable " + word)
		}
	}
	q.expect("}")
}
