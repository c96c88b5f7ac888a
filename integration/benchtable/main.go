// Benchtable reads the output of the benchmarks and prints the table of the
// README: the median of all runs of each benchmark, and the ratios between them.
// It copies its input to standard error.
//
//	go test ./integration -run '^$' -bench . -count 5 -timeout 1h | go run ./integration/benchtable
package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
)

func main() {
	if err := run(os.Stdin, os.Stdout, os.Stderr); err != nil {
		fmt.Fprintln(os.Stderr, "benchtable:", err)
		os.Exit(1) //nolint:forbidigo // A program says by its exit code that it failed.
	}
}

// row is a line of the table. Its values are a metric of one benchmark, or the
// quotient of that and the metric of another row.
type row struct {
	label, bench, unit string
	format             func(float64) string
	over               *row // the divisor; nil: none
	overSize           int  // the number of services for the divisor; 0: the same
}

func rows() []row {
	const p50 = "p50-ns"
	load := row{"load all: `Open` and `Apply`", "Load/services=%d/by=library", p50, duration, nil, 0}
	raw := row{"the same bytes, made beforehand", "Load/services=%d/by=raw", p50, duration, nil, 0}
	endpoints := row{"`nft -f`, a chain per service and endpoint", "Load/services=%d/by=nft-endpoint-chains", p50, duration, nil, 0}
	chains := row{"`nft -f`, a chain and a map per service", "Load/services=%d/by=nft-service-chains", p50, duration, nil, 0}
	update := row{"`Update`: replace a backend", "UpdateBackend/services=%d", p50, duration, nil, 0}
	return []row{
		load, raw, load.dividedBy(raw, "… library : raw"),
		endpoints, endpoints.dividedBy(load, "… `nft` : library"),
		chains, chains.dividedBy(load, "… `nft` : library"),
		update, update.dividedByFirst("… : with 100 services", 100),
		{"… allocations", update.bench, "allocs/op", count, nil, 0},
		{"`Update`: add a service", "UpdateService/services=%d", "add-p50-ns", duration, nil, 0},
		{"`Update`: remove a service", "UpdateService/services=%d", "remove-p50-ns", duration, nil, 0},
		{"`Apply`: all services, one backend replaced", "ApplyOneChange/services=%d", p50, duration, nil, 0},
		{"restart: `Open` and `Apply` of what is there", "Adopt/services=%d", p50, duration, nil, 0},
		{"`Keep`: others delete an element", "Repair/services=%d/of=element", p50, duration, nil, 0},
		{"`Keep`: others empty the chain of services", "Repair/services=%d/of=chain", p50, duration, nil, 0},
		{"`Keep`: others delete all tables", "Repair/services=%d/of=tables", p50, duration, nil, 0},
	}
}

func (r row) dividedBy(over row, label string) row {
	r.label, r.format, r.over = label, ratio, &over
	return r
}

func (r row) dividedByFirst(label string, services int) row {
	over := r
	r = r.dividedBy(over, label)
	r.overSize = services
	return r
}

// value is the row's value for n services, if it was measured.
func (r row) value(res *results, n int) (float64, bool) {
	v, ok := res.median(fmt.Sprintf(r.bench, n), r.unit)
	if r.over == nil || !ok {
		return v, ok
	}
	if r.overSize > 0 {
		n = r.overSize
	}
	by, ok := r.over.value(res, n)
	return v / by, ok
}

// write writes the row's line if it has any value.
func (r row) write(b *strings.Builder, res *results, sizes []int) {
	line, found := "| "+r.label+" |", false
	for _, n := range sizes {
		cell := "–"
		if v, ok := r.value(res, n); ok {
			cell, found = r.format(v), true
		}
		line += " " + cell + " |"
	}
	if found {
		b.WriteString(line + "\n")
	}
}

func duration(ns float64) string {
	unit, name := 1e6, "ms"
	if ns >= 1e9 {
		unit, name = 1e9, "s"
	}
	return threeDigits(ns/unit) + " " + name
}

func ratio(v float64) string { return threeDigits(v) + "×" }
func count(v float64) string { return strconv.FormatFloat(v, 'f', 0, 64) }

// threeDigits formats a number with three significant digits.
func threeDigits(v float64) string {
	decimals := 0
	for limit := 100.0; v < limit && decimals < 3; limit /= 10 {
		decimals++
	}
	return strconv.FormatFloat(v, 'f', decimals, 64)
}

// run turns benchmark output into a table.
func run(in io.Reader, out, echo io.Writer) error {
	res, err := read(io.TeeReader(in, echo))
	if err != nil {
		return err
	}
	sizes := res.sizes()
	if len(sizes) == 0 {
		return errors.New("no results")
	}
	var b strings.Builder
	head, line := "| services × 10 backends |", "| --- |"
	for _, n := range sizes {
		head += " " + thousands(n) + " |"
		line += " ---: |"
	}
	fmt.Fprintf(&b, "%s\n%s\n", head, line)
	for _, r := range rows() {
		r.write(&b, res, sizes)
	}
	fmt.Fprintf(&b, "\nMedian of %d runs; %s.\n", res.runs(), strings.Join(res.machine, ", "))
	_, err = io.WriteString(out, b.String())
	return err
}

func thousands(n int) string {
	if n < 1_000 {
		return strconv.Itoa(n)
	}
	return fmt.Sprintf("%d,%03d", n/1_000, n%1_000)
}

// results are the values of all runs, by benchmark and unit.
type results struct {
	values  map[[2]string][]float64
	machine []string
}

// read parses the output of `go test -bench`, as documented in
// https://go.dev/design/14313-benchmark-format.
func read(in io.Reader) (*results, error) {
	res := &results{values: map[[2]string][]float64{}}
	lines := bufio.NewScanner(in)
	for lines.Scan() {
		line := lines.Text()
		fields := strings.Fields(line)
		key, value, _ := strings.Cut(line, ": ")
		switch {
		case strings.HasPrefix(line, "--- FAIL") || strings.HasPrefix(line, "FAIL"):
			return nil, fmt.Errorf("a benchmark failed: %s", line)
		case key == "goarch" || key == "cpu":
			if !slices.Contains(res.machine, value) {
				res.machine = append(res.machine, value)
			}
		case len(fields) >= 4 && strings.HasPrefix(line, "Benchmark"):
			if err := res.add(fields); err != nil {
				return nil, fmt.Errorf("%q: %w", line, err)
			}
		}
	}
	return res, lines.Err()
}

// add adds a result line: the benchmark's name, the number of iterations, and
// values with their units.
func (res *results) add(fields []string) error {
	name := strings.TrimPrefix(fields[0], "Benchmark")
	if i := strings.LastIndexByte(name, '-'); i > 0 {
		if _, err := strconv.Atoi(name[i+1:]); err == nil {
			name = name[:i] // the number of processors
		}
	}
	for pairs := fields[2:]; len(pairs) >= 2; pairs = pairs[2:] {
		v, err := strconv.ParseFloat(pairs[0], 64)
		if err != nil {
			return err
		}
		key := [2]string{name, pairs[1]}
		res.values[key] = append(res.values[key], v)
	}
	return nil
}

func (res *results) median(bench, unit string) (float64, bool) {
	values := slices.Sorted(slices.Values(res.values[[2]string{bench, unit}]))
	if len(values) == 0 {
		return 0, false
	}
	return values[len(values)/2], true
}

// sizes are the numbers of services that were measured.
func (res *results) sizes() []int {
	found := map[int]bool{}
	for key := range res.values {
		_, rest, _ := strings.Cut(key[0], "/services=")
		digits, _, _ := strings.Cut(rest, "/")
		if n, err := strconv.Atoi(digits); err == nil {
			found[n] = true
		}
	}
	return slices.Sorted(maps.Keys(found))
}

// runs is the number of runs of each benchmark.
func (res *results) runs() int {
	n := 0
	for _, v := range res.values {
		n = max(n, len(v))
	}
	return n
}
