package docs_test

import (
	"bytes"
	"fmt"
	"go/ast"
	"go/parser"
	"go/printer"
	"go/token"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// apiFile has the exported API that users can rely on, a line for each name, field
// and method.
const apiFile = "testdata/api.txt"

// publicPackages are those that users import, by their directories.
var publicPackages = []string{"nftdp", "nftdp/health", "nftdp/kube", "nftdp/metrics", "nftdp/nftdptest"}

// TestAPI compares the exported API of all public packages with what is promised.
// What was promised and is not there any more, or not as it was, breaks the programs
// of users. What was added breaks nobody, and is promised from the next release on.
func TestAPI(t *testing.T) {
	var have []string
	for _, dir := range publicPackages {
		have = append(have, apiOf(t, dir)...)
	}
	if *update {
		if err := os.WriteFile(apiFile, []byte(strings.Join(have, "\n")+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	promised := strings.Split(strings.TrimSpace(readFile(t, apiFile)), "\n")
	for _, line := range broken(promised, have) {
		t.Errorf("gone, or not as it was: %s\nIf that has to be, say under Changed in CHANGELOG.md what to do instead, and run go test ./docs -run TestAPI -update", line)
	}
}

// TestAPIForEmbedders: whatever a Dataplane does can be cancelled, and no package has
// state of its own: its variables are errors.
func TestAPIForEmbedders(t *testing.T) {
	for _, dir := range publicPackages {
		for _, line := range apiOf(t, dir) {
			name, isMethod := strings.CutPrefix(line, "nftdp: func (*Dataplane) ")
			switch {
			case strings.HasPrefix(line, dir+": var ") && !strings.HasPrefix(line, dir+": var Err"):
				t.Errorf("%s is global state", line)
			case !isMethod, strings.HasPrefix(name, "Close("), strings.HasPrefix(name, "Observe("):
			case !strings.Contains(name, "(context.Context"):
				t.Errorf("%s takes no context", line)
			}
		}
	}
}

// TestBrokenAPI: what breaks users, and what does not.
func TestBrokenAPI(t *testing.T) {
	const before = `
		type T struct { A int; b int }
		type I interface { M() }
		type W uint8
		const ( X W = iota; Y )
		func F(n int) error { return nil }
		func (t *T) M() {}
		func (h hidden) M() {}`
	tests := []struct{ name, old, new, want string }{
		{"a body, and what is not exported", "b int", "b, c string", "[]"},
		{"a name of a parameter", "n int", "m int", "[]"},
		{"a field more", "b int", "b int; C int", "[]"},
		{"a field of another type", "A int", "A string", "[p: field T.A int]"},
		{"a word of JSON", "A int", "A int `json:\"a\"`", "[p: field T.A int]"},
		{"a method of an interface more", "M() }", "M(); N() }", "[p: type I interface{ M() }]"},
		{"a constant before others", "X W = iota;", "Z W = iota; X;", "[p: const X W = iota, 0 p: const Y W = iota, 1]"},
		{"a method of what is not exported", "func (h hidden) M() {}", "", "[]"},
		{"another result", ") error {", ") bool {", "[p: func F(int) error]"},
		{"a method less", "func (t *T) M() {}", "", "[p: func (*T) M()]"},
	}
	for _, test := range tests {
		after := strings.Replace(before, test.old, test.new, 1)
		if got := fmt.Sprint(broken(linesOf(t, "p", parse(t, before)), linesOf(t, "p", parse(t, after)))); got != test.want {
			t.Errorf("%s: %s, want %s", test.name, got, test.want)
		}
	}
}

// broken lists what is promised and not there.
func broken(promised, have []string) []string {
	return slices.DeleteFunc(slices.Clone(promised), func(line string) bool { return slices.Contains(have, line) })
}

func parse(t *testing.T, text string) *ast.File {
	t.Helper()
	f, err := parser.ParseFile(token.NewFileSet(), "", "package p\n"+text, parser.SkipObjectResolution)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// apiOf lists the exported API of a package, sorted. It reads the source of all
// systems and compiles nothing, so that modules with many dependencies cost no more.
func apiOf(t *testing.T, dir string) (out []string) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(root, dir, "*.go"))
	if err != nil || len(files) == 0 {
		t.Fatal(dir, err)
	}
	for _, name := range files {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		f, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, linesOf(t, dir, f)...)
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// linesOf lists what a file exports: a struct with a line for each field, since more
// of them can be added, and an interface in one line, since they cannot.
func linesOf(t *testing.T, dir string, f *ast.File) (out []string) {
	t.Helper()
	ast.FileExports(f)
	line := func(format string, args ...any) {
		out = append(out, dir+": "+fmt.Sprintf(format, args...))
	}
	for _, d := range f.Decls {
		switch d := d.(type) {
		case *ast.FuncDecl:
			receiver := ""
			if d.Recv != nil {
				of := text(t, d.Recv.List[0].Type)
				if !ast.IsExported(strings.TrimLeft(of, "*")) {
					continue
				}
				receiver = "(" + of + ") "
			}
			line("func %s%s%s", receiver, d.Name.Name, strings.TrimPrefix(text(t, unnamed(d.Type)), "func"))
		case *ast.GenDecl:
			var last ast.ValueSpec
			for i, s := range d.Specs {
				switch s := s.(type) {
				case *ast.TypeSpec:
					typeLines(t, s, line)
				case *ast.ValueSpec:
					if d.Tok == token.CONST && len(s.Values) == 0 {
						s.Type, s.Values = last.Type, last.Values
					}
					last = *s
					valueLines(t, d.Tok, i, s, line)
				}
			}
		}
	}
	return out
}

func typeLines(t *testing.T, s *ast.TypeSpec, line func(string, ...any)) {
	t.Helper()
	fields, ok := s.Type.(*ast.StructType)
	if !ok {
		assign := ""
		if s.Assign.IsValid() {
			assign = "= "
		}
		line("type %s %s%s", s.Name.Name, assign, text(t, s.Type))
		return
	}
	line("type %s struct", s.Name.Name)
	for _, f := range fields.Fields.List {
		what := text(t, f.Type)
		if f.Tag != nil {
			what += " " + f.Tag.Value
		}
		for _, n := range f.Names {
			line("field %s.%s %s", s.Name.Name, n.Name, what)
		}
		if len(f.Names) == 0 {
			line("field %s embeds %s", s.Name.Name, what)
		}
	}
}

// valueLines describes constants, whose place counts where they are numbered, and
// variables, whose value is not promised.
func valueLines(t *testing.T, tok token.Token, place int, s *ast.ValueSpec, line func(string, ...any)) {
	t.Helper()
	for i, n := range s.Names {
		if !n.IsExported() {
			continue
		}
		out := fmt.Sprintf("%s %s", tok, n.Name)
		if s.Type != nil {
			out += " " + text(t, s.Type)
		}
		if tok == token.CONST && i < len(s.Values) {
			value := text(t, s.Values[i])
			if out += " = " + value; strings.Contains(value, "iota") {
				out += fmt.Sprintf(", %d", place)
			}
		}
		line("%s", out)
	}
}

// unnamed is a function's type without the names of parameters and results.
func unnamed(f *ast.FuncType) *ast.FuncType {
	without := func(l *ast.FieldList) *ast.FieldList {
		if l == nil {
			return nil
		}
		var out ast.FieldList
		for _, f := range l.List {
			for range max(1, len(f.Names)) {
				out.List = append(out.List, &ast.Field{Type: f.Type})
			}
		}
		return &out
	}
	return &ast.FuncType{TypeParams: f.TypeParams, Params: without(f.Params), Results: without(f.Results)}
}

// text is a piece of source in one line.
func text(t *testing.T, node ast.Node) string {
	t.Helper()
	var b bytes.Buffer
	if err := printer.Fprint(&b, token.NewFileSet(), node); err != nil {
		t.Fatal(err)
	}
	return strings.Join(strings.Fields(b.String()), " ")
}
