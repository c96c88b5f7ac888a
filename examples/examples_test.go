// Package examples_test keeps the examples what they are said to be.
package examples_test

import (
	"bytes"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// module is the path of the main module.
const module = "github.com/nftdp/go-nftdp/"

// public are the packages of the main module that examples import.
var public = []string{module + "nftdp", module + "nftdp/health"}

// twoScreens is the most lines of a program to copy, and of a file of a demonstration.
const twoScreens = 150

// programs lists the directories of all examples in the main module: programs to
// copy, and demonstrations, which build a network and say so by importing the lab.
func programs(t *testing.T) (toCopy, demonstrations []string) {
	t.Helper()
	mains, err := filepath.Glob("*/main.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, main := range mains {
		dir := filepath.Dir(main)
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			continue // as large as a program has to be
		}
		if slices.Contains(imports(t, main), module+"examples/internal/lab") {
			demonstrations = append(demonstrations, dir)
		} else {
			toCopy = append(toCopy, dir)
		}
	}
	return toCopy, demonstrations
}

// TestProgramsToCopy: each is one file of two screens that works wherever it is
// copied to, since it imports nothing of this module but the API.
func TestProgramsToCopy(t *testing.T) {
	toCopy, _ := programs(t)
	if len(toCopy) < 5 {
		t.Errorf("programs to copy: %q", toCopy)
	}
	for _, dir := range toCopy {
		files := sources(t, dir)
		if len(files) != 1 {
			t.Errorf("%s has several files: %q", dir, files)
		}
		for _, file := range files {
			checkLength(t, file)
			for _, path := range imports(t, file) {
				if strings.HasPrefix(path, module) && !slices.Contains(public, path) {
					t.Errorf("%s imports %s, which nobody can who copies it", file, path)
				}
			}
		}
	}
}

// TestDemonstrations: of what is not public they import the network alone, and each
// has files to copy, which import the API and nothing else of this module.
func TestDemonstrations(t *testing.T) {
	_, demonstrations := programs(t)
	allowed := append([]string{module + "examples/internal/lab", module + "internal/nstest"}, public...)
	for _, dir := range demonstrations {
		toCopy := 0
		for _, file := range sources(t, dir) {
			var ours []string
			for _, path := range imports(t, file) {
				if strings.HasPrefix(path, module) {
					ours = append(ours, path)
				}
			}
			for _, path := range ours {
				if !slices.Contains(allowed, path) {
					t.Errorf("%s imports %s", file, path)
				}
			}
			if len(ours) > 0 && !slices.ContainsFunc(ours, func(path string) bool { return !slices.Contains(public, path) }) {
				toCopy++
			}
			if dir != "ingress" { // a longer story, whose own test names its files to copy
				checkLength(t, file)
			}
		}
		if toCopy == 0 {
			t.Errorf("%s has no file that imports the API alone", dir)
		}
	}
}

// TestLab: the lab knows nothing of the library, so that all that a demonstration
// does with it is in the demonstration.
func TestLab(t *testing.T) {
	for _, file := range sources(t, "internal/lab") {
		for _, path := range imports(t, file) {
			if strings.HasPrefix(path, module) && path != module+"internal/nstest" {
				t.Errorf("%s imports %s", file, path)
			}
		}
	}
}

// sources lists the files of a directory's package, without its tests.
func sources(t *testing.T, dir string) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*.go"))
	if err != nil || len(files) == 0 {
		t.Fatal(dir, err)
	}
	return slices.DeleteFunc(files, func(name string) bool { return strings.HasSuffix(name, "_test.go") })
}

func imports(t *testing.T, file string) (out []string) {
	t.Helper()
	f, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.ImportsOnly)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range f.Imports {
		path, err := strconv.Unquote(s.Path.Value)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, path)
	}
	return out
}

func checkLength(t *testing.T, file string) {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if n := bytes.Count(text, []byte("\n")); n > twoScreens {
		t.Errorf("%s has %d lines, more than two screens of %d", file, n, twoScreens/2)
	}
}
