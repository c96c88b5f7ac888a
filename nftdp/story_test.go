package nftdp

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/tools/txtar"

	"github.com/nftdp/go-nftdp/internal/ruleset"
)

var update = flag.Bool("update", false, "write what the stories in testdata expect")

// story is a file of testdata: services, and what they compile to.
//
//	config.json       the Config; without it, the zero value
//	services.json     the services
//	next-config.json  the next Config; without it, the same
//	next.json         the next services
//
// The other files are expected results; a story has those that show its idea:
//
//	ruleset.nft  the ruleset of services.json
//	parts.nft    its sets and chains that a ruleset without configuration
//	             and services lacks, or that differ there
//	plan.nft     the plan that leads to next.json
//	errors.txt   the problems of services.json
type story struct {
	file    string
	archive *txtar.Archive

	config, nextConfig Config
	services, next     []Service
}

func stories(t *testing.T) []*story {
	t.Helper()
	files, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatal("no stories:", err)
	}
	all := make([]*story, len(files))
	for i, file := range files {
		all[i] = readStory(t, file)
	}
	return all
}

func readStory(t *testing.T, file string) *story {
	t.Helper()
	archive, err := txtar.ParseFile(file)
	if err != nil {
		t.Fatal(err)
	}
	s := &story{file: file, archive: archive}
	if len(bytes.TrimSpace(archive.Comment)) == 0 {
		t.Errorf("%s does not begin with a description", file)
	}
	s.read(t, "config.json", &s.config)
	if !s.read(t, "next-config.json", &s.nextConfig) {
		s.nextConfig = s.config
	}
	s.read(t, "services.json", &s.services)
	if !s.read(t, "next.json", &s.next) {
		s.next = s.services
	}
	return s
}

// read decodes one file of the story, if it has it.
func (s *story) read(t *testing.T, name string, into any) bool {
	t.Helper()
	f := s.find(name)
	if f == nil {
		return false
	}
	d := json.NewDecoder(bytes.NewReader(f.Data))
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		t.Fatalf("%s: %s: %v", s.file, name, err)
	}
	return true
}

func (s *story) find(name string) *txtar.File {
	i := slices.IndexFunc(s.archive.Files, func(f txtar.File) bool { return f.Name == name })
	if i < 0 {
		return nil
	}
	return &s.archive.Files[i]
}

func (s *story) name() string { return strings.TrimSuffix(filepath.Base(s.file), ".txtar") }

// invalid reports whether the story is about services that are refused.
func (s *story) invalid() bool { return s.find("errors.txt") != nil }

// TestStories compiles the services of each story. With -update it writes the
// expected files that the story has.
func TestStories(t *testing.T) {
	for _, s := range stories(t) {
		t.Run(s.name(), func(t *testing.T) {
			got := s.results(t)
			expects := 0
			for name, text := range got {
				if f := s.find(name); f != nil {
					expects++
					s.expect(t, f, text)
				}
			}
			if expects == 0 {
				t.Errorf("the story expects no results: ruleset.nft, parts.nft, plan.nft or errors.txt")
			}
			if *update {
				if err := os.WriteFile(s.file, txtar.Format(s.archive), 0o644); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}

func (s *story) expect(t *testing.T, f *txtar.File, got string) {
	t.Helper()
	if *update {
		f.Data = []byte(got)
		return
	}
	if diff := cmp.Diff(strings.Split(string(f.Data), "\n"), strings.Split(got, "\n")); diff != "" {
		t.Errorf("%s (-want +got):\n%s", f.Name, diff)
	}
}

// results returns everything that a story can expect, by the name of the file.
func (s *story) results(t *testing.T) map[string]string {
	t.Helper()
	current, err := s.config.Compile(s.services)
	if err != nil {
		return map[string]string{"errors.txt": err.Error() + "\n"}
	}
	next := mustCompile(t, s.nextConfig, s.next)
	none := mustCompile(t, Config{Table: s.config.Table}, nil)
	return map[string]string{
		"ruleset.nft": current.String(),
		"parts.nft":   beyond(none, current).String(),
		"plan.nft":    current.PlanTo(next).String(),
	}
}

func mustCompile(t *testing.T, c Config, services []Service) *Ruleset {
	t.Helper()
	r, err := c.Compile(services)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// beyond returns the sets and chains of r that base lacks, or that differ
// there.
func beyond(base, r *Ruleset) *Ruleset {
	out := &ruleset.Ruleset{}
	for i, t := range r.rules.Tables {
		from := base.rules.Tables[i]
		part := &ruleset.Table{Family: t.Family, Name: t.Name}
		for _, s := range t.Sets {
			if !cmp.Equal(from.Set(s.Name), s, exact()) {
				part.Sets = append(part.Sets, s)
			}
		}
		for _, c := range t.Chains {
			if !cmp.Equal(from.Chain(c.Name), c, exact()) {
				part.Chains = append(part.Chains, c)
			}
		}
		if len(part.Sets)+len(part.Chains) > 0 {
			out.Tables = append(out.Tables, part)
		}
	}
	return &Ruleset{rules: out}
}

// exact lets cmp compare the values of rulesets that can be compared with ==.
func exact() cmp.Option {
	return cmp.Options{
		cmp.AllowUnexported(ruleset.Tuple{}),
		cmp.Comparer(func(a, b netip.Prefix) bool { return a == b }),
	}
}

// TestGrowingSet: a map with room for 1,024 elements is replaced when more are
// needed, in the same transaction, together with the rules and elements that
// refer to it. The output is too long for a story.
func TestGrowingSet(t *testing.T) {
	services := []Service{{Name: "small", Frontends: fronts("10.96.0.1:80"), Backends: backs("10.0.0.1:8080")}}
	current := mustCompile(t, Config{}, services)
	big := Service{Name: "big", Frontends: fronts("10.96.0.2:80"), Backends: manyBackends(1024)}
	next := mustCompile(t, Config{}, append(services, big))

	plan := current.PlanTo(next).String()
	for _, line := range []string{
		"flush chain ip nftdp random-1",
		"delete map ip nftdp backends",
		"add map ip nftdp backends { typeof ip daddr . meta l4proto . th dport . numgen random mod 65535 : " +
			"ip daddr . th dport; size 4096; counter; }",
		"add rule ip nftdp random-1 meta l4proto @protocols dnat ip to " +
			"ip daddr . meta l4proto . th dport . numgen random mod 1 map @backends",
		"add element ip nftdp backends { 10.96.0.1 . tcp . 80 . 0 : 10.0.0.1 . 8080 }",
		"add element ip nftdp backends { 10.96.0.2 . tcp . 80 . 1023 : 10.0.3.255 . 80 }",
	} {
		if !strings.Contains(plan, line+"\n") {
			t.Errorf("the plan lacks %q", line)
		}
	}
	if strings.Contains(plan, "delete element") {
		t.Error("the plan deletes elements of a map that it deletes as a whole")
	}
	// The map does not shrink again, which would only cost time.
	if back := next.PlanTo(current).String(); strings.Contains(back, "map ip nftdp backends {") {
		t.Errorf("the plan back replaces the map:\n%s", firstLines(back, 5))
	}
}

func firstLines(s string, n int) string {
	lines := strings.SplitN(s, "\n", n+1)
	return fmt.Sprintln(strings.Join(lines[:min(n, len(lines))], "\n"))
}
