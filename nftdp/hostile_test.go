//go:build linux

package nftdp

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"github.com/nftdp/go-nftdp/internal/compile"
	"github.com/nftdp/go-nftdp/internal/ruleset"
)

// hostile returns names that would affect a terminal, a reader of lines, or
// nft.
func hostile() []string {
	return []string{
		"\x1b[2J\x1b]0;title\a", "\u009b2J", "web\nservice \"other\": is fine", "web\r", "\u202egnp.exe", "\u2028", "\x00",
		`web" ; flush ruleset ; add element ip nftdp masq { "`, "\xff\xfe", strings.Repeat("x", 10_000), "\x7f",
	}
}

// wantOneLine checks that a text is one line that does not affect a terminal.
func wantOneLine(t *testing.T, what, text string) {
	t.Helper()
	if bad := strings.IndexFunc(text, func(r rune) bool { return !unicode.IsPrint(r) }); bad >= 0 || !utf8.ValidString(text) {
		t.Errorf("%s: byte %d of %.300q", what, bad, text)
	}
}

// TestHostileInput: hostile names in the fields of a service or a configuration are
// refused with errors that are safe to print.
func TestHostileInput(t *testing.T) {
	for _, h := range hostile() {
		refused := func(field string, c Config, services ...Service) {
			t.Helper()
			err := c.Validate(services)
			if err == nil {
				t.Errorf("%s: %q is valid", field, h)
				return
			}
			for _, e := range err.(interface{ Unwrap() []error }).Unwrap() {
				wantOneLine(t, field, e.Error())
			}
		}
		refused("table", Config{Table: h})
		refused("table behind a letter", Config{Table: "t" + h})
		refused("name", Config{}, Service{Name: h})
		both := Service{Name: h, Frontends: fronts("10.96.0.1:80")}
		refused("name, twice", Config{}, both, both)
		refused("name of who has a frontend", Config{}, both, renamed(both, "other"))
		for _, field := range []string{"protocol", "scheduler"} {
			refusedJSON(t, field, h, map[string]any{field: h})
		}
		refusedJSON(t, "state", h, map[string]any{"backends": []any{map[string]any{"state": h}}})
		refusedJSON(t, "backend", h, map[string]any{"backends": []any{map[string]any{"addr": h}}})
		refusedJSON(t, "frontend", h, map[string]any{"frontends": []any{map[string]any{"addr": h}}})
		wantOneLine(t, "apply error", (&ApplyError{Service: h, Change: h, Err: errors.ErrUnsupported}).Error())
		wantOneLine(t, "field error", (&FieldError{Service: h, Field: "name", Reason: "is wrong"}).Error())
	}
}

func refusedJSON(t *testing.T, field, h string, object map[string]any) {
	t.Helper()
	text, err := json.Marshal(object)
	if err != nil {
		t.Fatal(err)
	}
	var s Service
	if err := json.Unmarshal(text, &s); err == nil {
		t.Errorf("%s: %q decodes", field, h)
	} else {
		wantOneLine(t, field, err.Error())
	}
}

// TestHostileNeighbour: another privileged process puts such names into our
// tables. Rulesets, plans and errors are safe to print, and the next Apply removes
// the names.
func TestHostileNeighbour(t *testing.T) {
	for _, h := range hostile() {
		if strings.ContainsRune(h, 0) || len(h) > 100 {
			continue // the kernel does not accept such names
		}
		n := newNode(t)
		d := n.open(t, Config{})
		apply(t, d, someServices())
		held := n.read(t, DefaultTable)
		spoilt := ruleset.Apply(held.rules, nil)
		for _, table := range spoilt.Tables {
			table.Chains = append(table.Chains, &ruleset.Chain{Name: h})
			table.Sets = append(table.Sets, &ruleset.Set{Name: h, Key: []ruleset.Type{ruleset.Port}})
			comment(table.Set("frontends"), h)
		}
		n.load(t, held, &Ruleset{rules: spoilt})
		for line := range strings.Lines(n.read(t, DefaultTable).String()) {
			wantOneLine(t, "ruleset", strings.Trim(line, "\t\n"))
		}
		for line := range strings.Lines(apply(t, d, someServices()).String()) {
			wantOneLine(t, "plan", strings.Trim(line, "\t\n"))
		}
		n.wantServices(t, Config{}, someServices())

		n.change(t, ruleset.Change{Verb: ruleset.Add, Family: ruleset.IPv4, Table: "theirs", Comment: compile.SchemaPrefix + h})
		_, err := Config{Table: "theirs"}.OpenIn(t.Context(), n.Handle())
		if !errors.Is(err, ErrNotOwned) {
			t.Errorf("a table with the comment %q: %v", h, err)
		} else {
			wantOneLine(t, "comment of a table", err.Error())
		}
	}
}
