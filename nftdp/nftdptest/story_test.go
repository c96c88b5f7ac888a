package nftdptest_test

import (
	"encoding/json"
	"errors"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/tools/txtar"

	"github.com/nftdp/go-nftdp/nftdp"
)

// story is a file of nftdp's testdata: services with a configuration, and then
// others.
type story struct {
	name             string
	config, nextConf nftdp.Config
	services, next   []nftdp.Service
}

// stories reads those whose services are valid.
func stories(t *testing.T) (all []story) {
	t.Helper()
	files, err := filepath.Glob("../testdata/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatal("no stories:", err)
	}
	for _, file := range files {
		archive, err := txtar.ParseFile(file)
		if err != nil {
			t.Fatal(err)
		}
		find := func(name string) []byte {
			for _, f := range archive.Files {
				if f.Name == name {
					return f.Data
				}
			}
			return nil
		}
		s := story{name: filepath.Base(file)}
		if data := find("config.json"); data != nil {
			err = json.Unmarshal(data, &s.config)
		}
		s.nextConf = s.config
		if data := find("next-config.json"); data != nil && err == nil {
			err = json.Unmarshal(data, &s.nextConf)
		}
		if err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		if s.services, err = nftdp.ParseServices(find("services.json")); err != nil || find("errors.txt") != nil {
			continue // a story about wrong services
		}
		if s.next = s.services; find("next.json") != nil {
			if s.next, err = nftdp.ParseServices(find("next.json")); err != nil {
				t.Fatalf("%s: %v", file, err)
			}
		}
		all = append(all, s)
	}
	return all
}

// tell programs a story with two Dataplanes, one after the other, and notes what
// they plan and hold. In between somebody else flushes the rules.
func (s *story) tell(t *testing.T, open func(nftdp.Config) (*nftdp.Dataplane, error), flush func()) (told []string) {
	t.Helper()
	must := func(err error) {
		if err != nil {
			t.Fatal(err)
		}
	}
	first, err := open(s.config)
	must(err)
	plan, err := first.Apply(t.Context(), s.services)
	if s.config.Protect && errors.Is(err, nftdp.ErrNotSupported) {
		t.Skip("needs Linux 6.9:", err)
	}
	must(err)
	told = append(told, sorted(plan), rulesOf(t, first))
	must(first.Close())

	next, err := open(s.nextConf)
	must(err)
	plan, err = next.Plan(t.Context(), s.next)
	must(err)
	told = append(told, sorted(plan))
	_, err = next.Apply(t.Context(), s.next)
	must(err)
	status, err := next.Inspect(t.Context())
	must(err)
	text, err := json.MarshalIndent(status, "", "  ")
	must(err)
	told = append(told, rulesOf(t, next), string(text))
	change := nftdp.Change{Set: s.services}
	for _, n := range s.next {
		if !slices.ContainsFunc(s.services, func(o nftdp.Service) bool { return o.Name == n.Name }) {
			change.Delete = append(change.Delete, n.Name)
		}
	}
	plan, err = next.Update(t.Context(), change)
	must(err)
	told = append(told, sorted(plan), rulesOf(t, next))
	flush()
	plan, err = next.Plan(t.Context(), s.next)
	must(err)
	told = append(told, sorted(plan))
	_, err = next.Apply(t.Context(), s.next)
	must(err)
	must(next.Remove(t.Context()))
	told = append(told, rulesOf(t, next))
	must(next.Close())
	return told
}

// sorted is a plan's commands in the order of the alphabet: the kernel lists the
// elements that are to be deleted in none.
func sorted(p *nftdp.Plan) string {
	return strings.Join(slices.Sorted(strings.Lines(p.String())), "")
}

// TestStories programs every story, and finds what the services compile to.
func TestStories(t *testing.T) {
	for _, s := range stories(t) {
		t.Run(s.name, func(t *testing.T) {
			n := newNode()
			told := s.tell(t, func(c nftdp.Config) (*nftdp.Dataplane, error) { return n.Open(t.Context(), c) }, n.FlushRuleset)
			if diff := cmp.Diff(expected(t, s.config, s.services...), told[1]); diff != "" {
				t.Error(diff)
			}
			if diff := cmp.Diff(expected(t, s.nextConf, s.next...), told[3]); diff != "" {
				t.Error(diff)
			}
		})
	}
}
