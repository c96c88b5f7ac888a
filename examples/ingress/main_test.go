//go:build linux

package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"go/parser"
	"go/token"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/nftdp/go-nftdp/internal/nstest"
)

func TestMain(m *testing.M) { nstest.Main(m) }

var update = flag.Bool("update", false, "rewrite the output in docs/ingress.md")

// Every step checks what it claims.
func tell(t *testing.T, nginx string) string {
	t.Helper()
	var out bytes.Buffer
	if err := run(t.Context(), &out, nginx); err != nil {
		t.Fatalf("%v, after:\n%s", err, &out)
	}
	return out.String()
}

const document = "../../docs/ingress.md"

// TestStory: docs/ingress.md has what the program prints, but for numbers that vary.
func TestStory(t *testing.T) {
	nginx := findNginx()
	if nginx == "" && os.Getenv("CI") == "" {
		t.Skip("there is no nginx")
	}
	got := tell(t, nginx)
	text, err := os.ReadFile(document)
	if err != nil {
		t.Fatal(err)
	}
	const begin, end = "```console\n", "```\n"
	before, rest, _ := strings.Cut(string(text), begin)
	documented, after, _ := strings.Cut(rest, end)
	if *update {
		if err := os.WriteFile(document, []byte(before+begin+got+end+after), 0o600); err != nil {
			t.Fatal(err)
		}
		return
	}
	if diff := cmp.Diff(steady(documented), steady(got)); diff != "" {
		t.Error("go test ./examples/ingress -run TestStory -update rewrites docs/ingress.md:\n" + diff)
	}
}

// varying is what differs from run to run: how many objects and connections there are,
// ports that the kernel chooses, and which ingress got a request.
var varying = []struct {
	what *regexp.Regexp
	as   string
}{
	{regexp.MustCompile(`\d\d+ objects`), "N objects"},
	{regexp.MustCompile(`\d+, 0 failed`), "N, 0 failed"},
	{regexp.MustCompile(`through ingress-[ab]`), "through ingress-N"},
	{regexp.MustCompile(`(refused|ingress-a) \d+, (ingress-[ab]) \d+`), "$1 N, $2 N"},
	{regexp.MustCompile(` counter packets \d+ bytes \d+`), ""},
	{regexp.MustCompile(`(198\.51\.100\.7|10\.244\.1\.2):\d+ >`), "$1:PORT >"},
}

func steady(s string) string {
	for _, v := range varying {
		s = v.what.ReplaceAllString(s, v.as)
	}
	return s
}

// TestPicture: the picture of the README is the one that the program prints.
func TestPicture(t *testing.T) {
	readme, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(readme), "```\n"+picture+"```\n") {
		t.Error("the README does not have picture.txt")
	}
}

// TestProxy: without nginx it is the same story, and says so.
func TestProxy(t *testing.T) {
	if out := tell(t, ""); !strings.Contains(out, "a Go reverse proxy") || !strings.Contains(out, "\n11. ") {
		t.Error(out)
	}
}

// writer is called with what is printed.
type writer func(text []byte) (int, error)

func (w writer) Write(text []byte) (int, error) { return w(text) }

func TestCancel(t *testing.T) {
	for _, step := range []string{"1", "3", "4", "5", "11"} {
		ctx, cancel := context.WithCancel(t.Context())
		err := run(ctx, writer(func(text []byte) (int, error) {
			if bytes.HasPrefix(text, []byte("\n"+step+". ")) {
				cancel()
			}
			return len(text), nil
		}), "")
		if cancel(); !errors.Is(err, context.Canceled) {
			t.Errorf("after cancellation at step %s: %v", step, err)
		}
	}
}

// TestToCopy: what is there to be copied fits two screens and imports nothing internal.
func TestToCopy(t *testing.T) {
	for _, name := range []string{"plan.go", "node.go", "balancer.go"} {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if n := bytes.Count(text, []byte("\n")); n > 120 {
			t.Errorf("%s has %d lines", name, n)
		}
		file, err := parser.ParseFile(token.NewFileSet(), name, text, parser.ImportsOnly)
		if err != nil {
			t.Fatal(err)
		}
		for _, i := range file.Imports {
			if strings.Contains(i.Path.Value, "/internal/") {
				t.Errorf("%s imports %s", name, i.Path.Value)
			}
		}
	}
}
