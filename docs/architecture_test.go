package docs_test

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// packageDir is where a package of the table of ARCHITECTURE.md is.
func packageDir(name string) string {
	if name == "nftdp" {
		return filepath.Join(root, name)
	}
	return filepath.Join(root, "internal", name)
}

// TestArchitecturePackages wants the table to list every internal package, and
// no other.
func TestArchitecturePackages(t *testing.T) {
	dirs, err := os.ReadDir(filepath.Join(root, "internal"))
	if err != nil {
		t.Fatal(err)
	}
	var want, got []string
	for _, d := range dirs {
		want = append(want, d.Name())
	}
	for _, m := range regexp.MustCompile("(?m)^\\| `internal/(\\w+)` ").FindAllStringSubmatch(readFile(t, root+"/ARCHITECTURE.md"), -1) {
		got = append(got, m[1])
	}
	slices.Sort(got)
	if !slices.Equal(want, got) {
		t.Errorf("internal packages are %v, ARCHITECTURE.md lists %v", want, got)
	}
}

// TestArchitectureNames looks for the functions and types on a service's way.
func TestArchitectureNames(t *testing.T) {
	_, way, _ := strings.Cut(readFile(t, root+"/ARCHITECTURE.md"), "## A service's way")
	way, _, _ = strings.Cut(way, "\n## ")
	names := regexp.MustCompile("`(\\w+)((?:\\.\\w+)+)`").FindAllStringSubmatch(way, -1)
	if len(names) == 0 {
		t.Error("there are no names")
	}
	for _, m := range names {
		if !declares(t, packageDir(m[1]), strings.Split(m[2][1:], ".")) {
			t.Errorf("%s: there is no %s in %s", m[0], m[2][1:], packageDir(m[1]))
		}
	}
}

// declares reports whether a package has a function or type, or a type's method
// or field.
func declares(t *testing.T, dir string, name []string) bool {
	t.Helper()
	declared := regexp.MustCompile(`(?m)^(func|type) ` + name[0] + `\b`)
	if len(name) > 1 {
		declared = regexp.MustCompile(`(?m)^func \(\w+ \*?` + name[0] + `\) ` + name[1] + `\(|` +
			`(?s)^type ` + name[0] + ` struct \{[^}]*\n\t` + name[1] + `\b`)
	}
	files, err := filepath.Glob(filepath.Join(dir, "*.go"))
	if err != nil {
		t.Fatal(err)
	}
	return slices.ContainsFunc(files, func(f string) bool { return declared.MatchString(readFile(t, f)) })
}
