package prometheus_test

import (
	"encoding/json"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/prometheus/promql/parser"

	kubemetrics "github.com/nftdp/go-nftdp/nftdp/kube/metrics"
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

// TestDashboard: the file is what Grafana imports; every panel has queries of metrics
// and labels that a scrape has.
func TestDashboard(t *testing.T) {
	text, err := os.ReadFile("../../nftdp/metrics/dashboard.json")
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
	q := newQueries(t)
	for _, v := range d.Templating.List {
		q.variables = append(q.variables, "$"+v.Name)
		if v.Type == "datasource" {
			if v.Name != "datasource" || v.Query != "prometheus" {
				t.Errorf("data source %+v", v)
			}
			continue
		}
		found := regexp.MustCompile(`^label_values\((\w+), (\w+)\)$`).FindStringSubmatch(v.Query)
		if v.Type != "query" || v.Datasource != here || found == nil || q.labels[found[1]] == nil || !q.has(found[1], found[2]) {
			t.Errorf("variable %+v", v)
		}
	}
	if !slices.Contains(q.variables, "$datasource") {
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
			for _, problem := range q.problems(target.Expr) {
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
	q := newQueries(t, "$instance")
	for query, right := range map[string]bool{
		`nftdp_up == 0`: true,
		`sum by (le, method) (rate(nftdp_change_duration_seconds_bucket{instance=~"$instance"}[$__rate_interval]))`: true,
		`nftdp_down == 0`:                                 false,
		`rate(nftdp_services_bucket[5m])`:                 false, // no histogram
		`sum by (method) (rate(nftdp_retries_total[5m]))`: false, // no such label
		`nftdp_up{service="a"}`:                           false,
		`nftdp_up{instance=~"$node"}`:                     false, // no such variable
		`rate(nftdp_retries_total)`:                       false,
		`nftdp_retries_total[5m]`:                         false,
	} {
		if got := q.problems(query); right != (len(got) == 0) {
			t.Errorf("%s: %v", query, got)
		}
	}
}

// queries is what queries may use.
type queries struct {
	labels    map[string][]string // of the series with a name
	variables []string            // of Grafana, "$instance"
}

func newQueries(t *testing.T, variables ...string) queries {
	t.Helper()
	contentType, body := get(t, kubemetrics.Handler(newRegistry(t)), text)
	return queries{parse(t, contentType, body).labels, variables}
}

// has reports whether the series with a name have a label, or get it from Prometheus.
func (q queries) has(name, label string) bool {
	return slices.Contains(append(q.labels[name], "instance", "job"), label)
}

// problems says what is wrong with a query: that Prometheus cannot parse it, or that it
// asks for metrics, labels or variables that do not exist.
func (q queries) problems(query string) (out []string) {
	root, err := parser.NewParser(parser.Options{}).ParseExpr(strings.ReplaceAll(query, "$__rate_interval", "5m"))
	if err != nil {
		return []string{err.Error()}
	}
	if root.Type() != parser.ValueTypeVector {
		return []string{"it is a " + string(root.Type())}
	}
	parser.Inspect(root, func(node parser.Node, above []parser.Node) error {
		if selector, ok := node.(*parser.VectorSelector); ok {
			out = append(out, q.selectorProblems(selector, above)...)
		}
		return nil
	})
	return out
}

// selectorProblems says what is wrong with the selection of a metric, in the expressions
// above it.
func (q queries) selectorProblems(s *parser.VectorSelector, above []parser.Node) (out []string) {
	if q.labels[s.Name] == nil {
		return []string{"no metric " + s.Name}
	}
	var asked []string
	for _, m := range s.LabelMatchers {
		asked = append(asked, m.Name)
		if strings.HasPrefix(m.Value, "$") && !slices.Contains(q.variables, m.Value) {
			out = append(out, "no variable "+m.Value)
		}
	}
	for _, node := range above {
		if aggregation, ok := node.(*parser.AggregateExpr); ok {
			asked = append(asked, aggregation.Grouping...)
		}
	}
	for _, label := range asked {
		if !q.has(s.Name, label) {
			out = append(out, s.Name+" has no label "+label)
		}
	}
	return out
}

// TestAlerts: the expressions that the documentation recommends are right.
func TestAlerts(t *testing.T) {
	text, err := os.ReadFile("../../docs/metrics.md")
	if err != nil {
		t.Fatal(err)
	}
	rows := regexp.MustCompile("(?m)^\\| `([^`]*[(=<>][^`]*)` \\|").FindAllSubmatch(text, -1)
	if len(rows) < 5 {
		t.Errorf("%d expressions found", len(rows))
	}
	q := newQueries(t)
	for _, row := range rows {
		query := strings.ReplaceAll(string(row[1]), `\|`, "|") // as Markdown wants it in tables
		for _, problem := range q.problems(query) {
			t.Errorf("%s: %s", query, problem)
		}
	}
}
