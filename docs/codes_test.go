package docs_test

import (
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestCodes wants codes.md to have a paragraph for every code, in the order of their
// declaration, and for no other.
func TestCodes(t *testing.T) {
	find := func(pattern, text string) (codes []string) {
		for _, m := range regexp.MustCompile(pattern).FindAllStringSubmatch(text, -1) {
			codes = append(codes, m[1])
		}
		return codes
	}
	want := find(`Code = "([A-Z_]+)"`, readFile(t, root+"/nftdp/codes.go"))
	got := find("(?m)^### `([A-Z_]+)`\n\n[\\w`]", readFile(t, root+"/docs/codes.md"))
	if diff := cmp.Diff(want, got); diff != "" || len(want) == 0 {
		t.Errorf("codes (-declared +in codes.md):\n%s", diff)
	}
}

// TestSymptoms wants every row of the table of symptoms in operations.md to end in a
// command of the tool and a code, and the table to lead to every code.
func TestSymptoms(t *testing.T) {
	_, text, _ := strings.Cut(readFile(t, root+"/docs/operations.md"), "| symptom | run | code |\n| --- | --- | --- |\n")
	table, _, _ := strings.Cut(text, "\n\n")
	row := regexp.MustCompile("^\\| .* \\| `nftdp (doctor|explain|trace)\\b.* \\| .*\\[`[A-Z_]+`\\]\\(codes\\.md#[a-z_]+\\).* \\|$")
	for line := range strings.Lines(table) {
		if !row.MatchString(strings.TrimSpace(line)) {
			t.Errorf("no command or no code: %s", line)
		}
	}
	for _, m := range regexp.MustCompile(`Code = "([A-Z_]+)"`).FindAllStringSubmatch(readFile(t, root+"/nftdp/codes.go"), -1) {
		if !strings.Contains(table, "[`"+m[1]+"`](codes.md#"+strings.ToLower(m[1])+")") {
			t.Errorf("no symptom of %s", m[1])
		}
	}
}
