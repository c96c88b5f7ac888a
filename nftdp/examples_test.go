package nftdp_test

import (
	"go/ast"
	"go/doc"
	"go/parser"
	"go/token"
	"path"
	"path/filepath"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestExamples: every exported function and method has an Example that runs. It
// is one of its own, or one of the method's type that calls it; fmt, errors and
// encoding/json call some.
func TestExamples(t *testing.T) {
	for directory, want := range map[string][]string{
		// The first two program the running kernel, which takes root. Package
		// nftdptest calls the third. The last asks the conntrack of this machine.
		".":         {"Config.Open", "Config.OpenIn", "Config.OpenKernel", "OriginalDst"},
		"nftdptest": nil,
	} {
		if diff := cmp.Diff(want, withoutExample(documentation(t, directory))); diff != "" {
			t.Errorf("%s: without an Example that runs (+):\n%s", directory, diff)
		}
	}
}

// withoutExample lists functions and methods, sorted.
func withoutExample(p *doc.Package) (names []string) {
	check := func(name string, f *doc.Func, ofType []*doc.Example) {
		calls := func(e *doc.Example) bool { return runs(e) && callsMethod(e.Code, f.Name) }
		if !slices.ContainsFunc(f.Examples, runs) && !slices.ContainsFunc(ofType, calls) {
			names = append(names, name)
		}
	}
	for _, f := range p.Funcs {
		check(f.Name, f, nil)
	}
	for _, typ := range p.Types {
		for _, f := range typ.Funcs {
			check(f.Name, f, typ.Examples)
		}
		for _, m := range typ.Methods {
			check(typ.Name+"."+m.Name, m, typ.Examples)
		}
	}
	slices.Sort(names)
	return names
}

// documentation returns the documentation of a package, including tests.
func documentation(t *testing.T, directory string) *doc.Package {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(directory, "*.go"))
	if err != nil {
		t.Fatal(err)
	}
	set := token.NewFileSet()
	files := make([]*ast.File, len(names))
	for i, name := range names {
		if files[i], err = parser.ParseFile(set, name, nil, parser.ParseComments); err != nil {
			t.Fatal(err)
		}
	}
	p, err := doc.NewFromFiles(set, files, path.Join("github.com/nftdp/go-nftdp/nftdp", directory))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// runs reports whether go test runs an Example, which it does if there is an
// output.
func runs(e *doc.Example) bool { return e.Output != "" || e.EmptyOutput }

// callsMethod reports whether code calls a method, by name or through fmt, errors
// or encoding/json.
func callsMethod(code ast.Node, name string) (found bool) {
	through := map[string][]string{
		"String": {"Println", "Printf"}, "Error": {"Println", "Printf"}, "Unwrap": {"Is", "As"},
		"MarshalText": {"Marshal", "TextVar"}, "UnmarshalText": {"Unmarshal", "TextVar"},
		"MarshalJSON": {"Marshal"}, "UnmarshalJSON": {"Unmarshal"},
	}
	ast.Inspect(code, func(n ast.Node) bool {
		if s, ok := n.(*ast.SelectorExpr); ok {
			found = found || s.Sel.Name == name || slices.Contains(through[name], s.Sel.Name)
		}
		return !found
	})
	return found
}
