package main

import (
	"io"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestTable(t *testing.T) {
	const input = `goos: linux
goarch: amd64
pkg: github.com/nftdp/go-nftdp/integration
cpu: AMD EPYC
BenchmarkLoad/services=100/by=library-2         274  4437626 ns/op  5000000 p50-ns  865934 B/op  2467 allocs/op
BenchmarkLoad/services=100/by=library-2         274  4437626 ns/op  1000000 p50-ns  865934 B/op  2467 allocs/op
BenchmarkLoad/services=100/by=library-2         274  4437626 ns/op  4000000 p50-ns  865934 B/op  2467 allocs/op
BenchmarkLoad/services=100/by=raw-2             336  3815643 ns/op  3200000 p50-ns
BenchmarkLoad/services=50000/by=library-2       1    4437626 ns/op  2.0245e+09 p50-ns
BenchmarkUpdateBackend/services=100             10   148609 ns/op  70000 p50-ns  27144 B/op  179 allocs/op
BenchmarkUpdateBackend/services=50000           10   148609 ns/op  84000 p50-ns  27144 B/op  179 allocs/op
PASS
ok  	github.com/nftdp/go-nftdp/integration	121.746s
`
	const want = "| services × 10 backends | 100 | 50,000 |\n" +
		"| --- | ---: | ---: |\n" +
		"| load all: `Open` and `Apply` | 4.00 ms | 2.02 s |\n" +
		"| the same bytes, made beforehand | 3.20 ms | – |\n" +
		"| … library : raw | 1.25× | – |\n" +
		"| `Update`: replace a backend | 0.070 ms | 0.084 ms |\n" +
		"| … : with 100 services | 1.00× | 1.20× |\n" +
		"| … allocations | 179 | 179 |\n" +
		"\nMedian of 3 runs; amd64, AMD EPYC.\n"
	var got, echo strings.Builder
	if err := run(strings.NewReader(input), &got, &echo); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got.String()); diff != "" {
		t.Errorf("table (-want +got):\n%s", diff)
	}
	if echo.String() != input {
		t.Errorf("echo: %q", &echo)
	}
}

// TestNoTable: an incomplete input is an error and leads to no table.
func TestNoTable(t *testing.T) {
	for name, input := range map[string]string{
		"nothing": "PASS\n",
		"failure": "BenchmarkLoad/services=100/by=raw-2  336  3815643 ns/op  3718206 p50-ns\n--- FAIL: BenchmarkAdopt\n",
		"damage":  "BenchmarkLoad/services=100/by=raw-2  336  fast ns/op\n",
	} {
		var out strings.Builder
		if err := run(strings.NewReader(input), &out, io.Discard); err == nil || out.Len() > 0 {
			t.Errorf("%s: error %v, table %q", name, err, &out)
		}
	}
}
