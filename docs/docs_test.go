// Package docs_test keeps the documents true. It is no test of package nftdp,
// since those also run on other kernels, where there are no documents.
package docs_test

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/nftdp/go-nftdp/nftdp"
)

var update = flag.Bool("update", false, "rewrite the rulesets of the documents")

// root is the directory of the repository.
const root = ".."

// block is a fenced block of code: its info string and its text.
var block = regexp.MustCompile("(?ms)^```([^\n]*)\n(.*?)^```$")

// documents lists all Markdown files of the repository, and their texts.
func documents(t *testing.T) map[string]string {
	t.Helper()
	out := map[string]string{}
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && d.Name() != root && strings.HasPrefix(d.Name(), "."):
			return fs.SkipDir
		case filepath.Ext(path) == ".md":
			out[path] = readFile(t, path)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func readFile(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// TestLinks resolves links between files of the repository, with the headings
// that they name, and footnotes.
func TestLinks(t *testing.T) {
	link := regexp.MustCompile(`\]\(([^)\s]+)\)`)
	for file, text := range documents(t) {
		prose := block.ReplaceAllString(text, "")
		for _, m := range link.FindAllStringSubmatch(prose, -1) {
			if !strings.Contains(m[1], "://") {
				checkLink(t, file, m[1])
			}
		}
		checkFootnotes(t, file, prose)
	}
}

func checkLink(t *testing.T, file, link string) {
	t.Helper()
	path, anchor, _ := strings.Cut(link, "#")
	target := file
	if path != "" {
		target = filepath.Join(filepath.Dir(file), path)
	}
	if _, err := os.Stat(target); err != nil {
		t.Errorf("%s: link to %s: %v", file, link, err)
		return
	}
	if anchor != "" && !slices.Contains(anchors(readFile(t, target)), anchor) {
		t.Errorf("%s: link to %s: there is no such heading", file, link)
	}
}

// anchors are the names that GitHub gives to headings.
func anchors(text string) []string {
	other := regexp.MustCompile(`[^\p{L}\p{N}_ -]`)
	var out []string
	for _, m := range regexp.MustCompile(`(?m)^#+ +(.*)$`).FindAllStringSubmatch(block.ReplaceAllString(text, ""), -1) {
		name := other.ReplaceAllString(strings.ToLower(m[1]), "")
		out = append(out, strings.ReplaceAll(name, " ", "-"))
	}
	return out
}

// checkFootnotes wants each footnote to be defined once and used.
func checkFootnotes(t *testing.T, file, text string) {
	t.Helper()
	defined, used := map[string]int{}, map[string]int{}
	for _, m := range regexp.MustCompile(`(?m)(^?)\[\^(\w+)\](:?)`).FindAllStringSubmatch(text, -1) {
		if m[3] == ":" {
			defined[m[2]]++
		} else {
			used[m[2]]++
		}
	}
	for name, n := range defined {
		if n != 1 || used[name] == 0 {
			t.Errorf("%s: footnote %s is defined %d times and used %d times", file, name, n, used[name])
		}
	}
	for name := range used {
		if defined[name] == 0 {
			t.Errorf("%s: footnote %s is not defined", file, name)
		}
	}
}

// TestReadmeLength: everybody reads the README first, and no more than this.
func TestReadmeLength(t *testing.T) {
	const most = 900
	if n := len(strings.Fields(readFile(t, root+"/README.md"))); n > most {
		t.Errorf("the README has %d words, %d at most are wanted", n, most)
	}
}

// TestReadmeComparison wants a source for each cell of the comparison, and a
// date for each source.
func TestReadmeComparison(t *testing.T) {
	readme := readFile(t, root+"/README.md")
	cells := 0
	for _, row := range regexp.MustCompile(`(?m)^\|\w.*\|$`).FindAllString(readme, -1) {
		for i, cell := range strings.Split(strings.Trim(row, "|"), "|") {
			cells++
			if i > 0 && !regexp.MustCompile(`\[\^\w+\]$`).MatchString(cell) {
				t.Errorf("no source for %q in %s", cell, row)
			}
		}
	}
	if cells == 0 {
		t.Error("there is no comparison")
	}
	for _, note := range regexp.MustCompile(`(?m)^\[\^\w+\]: .*$`).FindAllString(readme, -1) {
		if !regexp.MustCompile(`\]\(.+\).*, \d{4}-\d{2}`).MatchString(note) {
			t.Errorf("a source without a link or a date: %s", note)
		}
	}
}

// TestReadmeProgram: the program in the README is Example, which is compiled.
func TestReadmeProgram(t *testing.T) {
	_, program, _ := strings.Cut(readFile(t, "readme_test.go"), "\n\n")
	program = strings.Replace(program, "package docs_test", "package main", 1)
	program = strings.Replace(program, "func Example()", "func main()", 1)
	for _, m := range block.FindAllStringSubmatch(readFile(t, root+"/README.md"), -1) {
		if m[1] == "go" {
			if diff := cmp.Diff(program, m[2]); diff != "" {
				t.Errorf("Example (-) and the README (+) differ:\n%s", diff)
			}
			return
		}
	}
	t.Error("there is no program")
}

// TestErrors: operations.md says of every error what to do about it.
func TestErrors(t *testing.T) {
	exported := regexp.MustCompile(`(?m)^\s*(Err[A-Z]\w+) += |^type (\w+Error) `)
	text, found := readFile(t, "operations.md"), 0
	for _, m := range exported.FindAllStringSubmatch(readFile(t, root+"/nftdp/errors.go"), -1) {
		found++
		if name := m[1] + m[2]; !regexp.MustCompile("(?m)^\\| `\\*?" + name + "`").MatchString(text) {
			t.Errorf("operations.md does not say what to do about %s", name)
		}
	}
	if found == 0 {
		t.Error("there are no errors in nftdp/errors.go")
	}
}

// TestWalks: the files have what CONTRIBUTING.md shows of the commits that made
// them. A block "diff FILE" has excerpts of a difference, with "@@" in between.
func TestWalks(t *testing.T) {
	shown := 0
	for _, m := range block.FindAllStringSubmatch(readFile(t, root+"/CONTRIBUTING.md"), -1) {
		file, ok := strings.CutPrefix(m[1], "diff ")
		if !ok {
			continue
		}
		text := readFile(t, filepath.Join(root, file))
		for excerpt := range strings.SplitSeq(m[2], "@@\n") {
			shown++
			lines := regexp.MustCompile("(?m)^-.*\n").ReplaceAllString(excerpt, "")
			if lines = regexp.MustCompile("(?m)^[ +]").ReplaceAllString(lines, ""); !strings.Contains(text, "\n"+lines) {
				t.Errorf("%s does not have\n%s", file, lines)
			}
		}
	}
	if shown == 0 {
		t.Error("CONTRIBUTING.md shows no commit")
	}
}

// TestRulesets compiles the services in the documents. A block "json services"
// has services, and "json config" before it a Config. The blocks "nft …" that
// follow show objects of the ruleset, such as "nft map frontends, chain
// services", of the table ip or, with "nft ip6 …", of ip6. After a block "json
// next" a block "nft plan" shows what leads there.
func TestRulesets(t *testing.T) {
	shown := 0
	for file, text := range documents(t) {
		var s scene
		got := block.ReplaceAllStringFunc(text, func(b string) string {
			m := block.FindStringSubmatch(b)
			switch kind, what, _ := strings.Cut(m[1], " "); kind {
			case "json":
				s.read(t, file, what, m[2])
			case "nft":
				shown++
				return "```" + m[1] + "\n" + s.show(t, file, what) + "```"
			}
			return b
		})
		if *update && got != text {
			if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
				t.Fatal(err)
			}
		} else if diff := cmp.Diff(strings.Split(text, "\n"), strings.Split(got, "\n")); diff != "" {
			t.Errorf("%s (-want +got):\n%s", file, diff)
		}
	}
	if shown == 0 {
		t.Error("no document shows a ruleset")
	}
}

// scene is what a document has told so far.
type scene struct {
	config         nftdp.Config
	services, next []nftdp.Service
}

func (s *scene) read(t *testing.T, file, what, text string) {
	t.Helper()
	var into any
	switch what {
	case "config":
		s.config, into = nftdp.Config{}, &s.config
	case "services":
		s.services, into = nil, &s.services
	case "next":
		s.next, into = nil, &s.next
	default:
		return
	}
	d := json.NewDecoder(bytes.NewReader([]byte(text)))
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		t.Fatalf("%s: json %s: %v", file, what, err)
	}
}

func (s *scene) show(t *testing.T, file, what string) string {
	t.Helper()
	rules := s.compile(t, file, s.services)
	if what == "plan" {
		return rules.PlanTo(s.compile(t, file, s.next)).String()
	}
	family := "ip"
	if rest, ok := strings.CutPrefix(what, "ip6 "); ok {
		family, what = "ip6", rest
	}
	_, table, _ := strings.Cut(rules.String(), fmt.Sprintf("table %s %s {\n", family, nftdp.DefaultTable))
	var objects []string
	for name := range strings.SplitSeq(what, ", ") {
		_, rest, found := strings.Cut(table, "\t"+name+" {\n")
		body, _, _ := strings.Cut(rest, "\n\t}\n")
		if !found {
			t.Fatalf("%s: there is no %s in table %s", file, name, family)
		}
		body = strings.ReplaceAll("\t"+name+" {\n"+body+"\n\t}\n", "\n\t", "\n")
		objects = append(objects, body[1:])
	}
	return strings.Join(objects, "\n")
}

func (s *scene) compile(t *testing.T, file string, services []nftdp.Service) *nftdp.Ruleset {
	t.Helper()
	r, err := s.config.Compile(services)
	if err != nil {
		t.Fatalf("%s: %v", file, err)
	}
	return r
}
