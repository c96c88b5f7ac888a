package docs_test

import (
	"regexp"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestCodes wants tracing.md to list every code, in the order of their declaration,
// and no other.
func TestCodes(t *testing.T) {
	find := func(pattern, text string) (codes []string) {
		for _, m := range regexp.MustCompile(pattern).FindAllStringSubmatch(text, -1) {
			codes = append(codes, m[1])
		}
		return codes
	}
	want := find(`Code = "([A-Z_]+)"`, readFile(t, root+"/nftdp/codes.go"))
	rows := find("(?m)^\\| (`[A-Z_`, ]+) \\|", readFile(t, root+"/docs/tracing.md"))
	var got []string
	for _, row := range rows {
		got = slices.Concat(got, find("`([A-Z_]+)`", row))
	}
	if diff := cmp.Diff(want, got); diff != "" || len(want) == 0 {
		t.Errorf("codes (-declared +in tracing.md):\n%s", diff)
	}
}
