package nftdp_test

import (
	"go/ast"
	"go/doc"
	"go/parser"
	"go/token"
	"path/filepath"
	"slices"
	"testing"
)

// TestExamples: every exported function and method has an Example that runs:
// its own, or an Example of the method's type that calls it, directly or
// through fmt, errors or encoding/json.
func TestExamples(t *testing.T) {
	for _, name := range withoutExample(t) {
		// Open and OpenIn take a running kernel, and OpenKernel is for package
		// nftdptest.
		if !slices.Contains([]string{"Config.Open", "Config.OpenIn", "Config.OpenKernel"}, name) {
			t.Errorf("%s has no Example that runs", name)
		}
	}
}

func withoutExample(t *testing.T) (names []string) {
	t.Helper()
	p := documentation(t)
	for _, f := range p.Funcs {
		if !slices.ContainsFunc(f.Examples, runs) {
			names = append(names, f.Name)
		}
	}
	for _, typ := range p.Types {
		for _, f := range typ.Funcs {
			if !slices.ContainsFunc(f.Examples, runs) {
				names = append(names, f.Name)
			}
		}
		for _, m := range typ.Methods {
			calls := func(e *doc.Example) bool { return runs(e) && callsMethod(e.Code, m.Name) }
			if !slices.ContainsFunc(m.Examples, runs) && !slices.ContainsFunc(typ.Examples, calls) {
				names = append(names, typ.Name+"."+m.Name)
			}
		}
	}
	return names
}

// documentation returns the documentation of the package, including tests.
func documentation(t *testing.T) *doc.Package {
	t.Helper()
	names, err := filepath.Glob("*.go")
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
	p, err := doc.NewFromFiles(set, files, "github.com/nftdp/go-nftdp/nftdp")
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
