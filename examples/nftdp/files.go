//go:build linux

package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/nftdp/go-nftdp/nftdp"
)

// wanted is what files say.
type wanted struct {
	config   nftdp.Config
	services []nftdp.Service
}

// section is one list of services, or one configuration, as JSON in which every
// value is on the line that it has in its file.
type section struct {
	file string
	text string
}

// read reads files, directories and, for "-", standard input. It reports everything
// that is wrong with any of them, with file and line.
func read(paths []string, stdin io.Reader) (*wanted, error) {
	files, err := expand(paths)
	if err != nil {
		return nil, err
	}
	var configs, lists []section
	var errs []error
	for _, file := range files {
		data, err := contents(file, stdin)
		if err != nil {
			return nil, err
		}
		c, l, err := sections(file, data)
		configs, lists = append(configs, c...), append(lists, l...)
		errs = append(errs, err)
	}
	w := &wanted{}
	if len(configs) > 1 {
		errs = append(errs, fmt.Errorf("%s and %s: both have a config: keep one", configs[0].file, configs[1].file))
	} else if len(configs) == 1 {
		w.config, err = nftdp.ParseConfig([]byte(configs[0].text))
		errs = append(errs, placed(err, configs[0].place))
	}
	joined := join(lists)
	w.services, err = nftdp.ParseServices(joined.text.Bytes())
	errs = append(errs, placed(err, joined.place))
	return w, errors.Join(errs...)
}

// contents reads a file, or standard input for "-".
func contents(file string, stdin io.Reader) ([]byte, error) {
	if file == "-" {
		return io.ReadAll(stdin)
	}
	return os.ReadFile(file)
}

// expand replaces directories by the files in them that have a known ending, sorted
// by name, without those in directories below.
func expand(paths []string) ([]string, error) {
	var files []string
	for _, path := range paths {
		if path == "-" {
			if slices.Contains(files, "-") {
				return nil, errors.New("-f - is standard input, which can be read only once")
			}
			files = append(files, path)
			continue
		}
		entries, err := os.ReadDir(path)
		switch info, statErr := os.Stat(path); {
		case statErr != nil:
			return nil, statErr
		case !info.IsDir():
			files = append(files, path)
			continue
		case err != nil:
			return nil, err
		}
		before := len(files)
		for _, e := range entries {
			if isServiceFile(e) {
				files = append(files, filepath.Join(path, e.Name()))
			}
		}
		if len(files) == before {
			return nil, fmt.Errorf("%s: no file in this directory ends in .yaml, .yml or .json", path)
		}
	}
	return files, nil
}

func isServiceFile(e fs.DirEntry) bool {
	return !e.IsDir() && !strings.HasPrefix(e.Name(), ".") && slices.Contains([]string{".yaml", ".yml", ".json"}, filepath.Ext(e.Name()))
}

// sections splits a file into what it has of configurations and of services.
func sections(file string, data []byte) (configs, lists []section, err error) {
	split := yamlSections
	first := bytes.TrimLeft(data, " \t\r\n")
	switch ext := filepath.Ext(file); {
	case ext == ".json", ext != ".yaml" && ext != ".yml" && len(first) > 0 && (first[0] == '[' || first[0] == '{'):
		split = jsonSections
	}
	found, err := split(data)
	for name, texts := range found {
		for _, text := range texts {
			s := section{file, text}
			if name == "config" {
				configs = append(configs, s)
			} else {
				lists = append(lists, s)
			}
		}
	}
	return configs, lists, placed(err, section{file: file}.place)
}

// parts are the texts of the sections of a file by their names: "config" and
// "services".
type parts map[string][]string

// topLevel says what a file may consist of.
const topLevel = "a file is a list of services, or has the fields services and config"

// add adds a section, unless a file cannot have it.
func (p parts) add(name, text string, line int) error {
	switch {
	case name != "config" && name != "services":
		return &nftdp.FieldError{Reason: fmt.Sprintf("%q is unknown: %s", name, topLevel), Line: line}
	case name == "services" && !strings.HasPrefix(strings.TrimLeft(text, " \t\r\n"), "["):
		return &nftdp.FieldError{Reason: "services is not a list", Line: line}
	}
	p[name] = append(p[name], text)
	return nil
}

func (s section) place(line int) (string, int) { return s.file, line }

// joined is one list of the services of all files.
type joined struct {
	text  bytes.Buffer
	parts []section
	begin []int // the number of lines before each part
}

// join makes one list of several, so that services of different files are checked
// against each other.
func join(lists []section) *joined {
	j := &joined{}
	j.text.WriteString("[")
	line, first := 0, true
	for _, s := range lists {
		open, end := strings.Index(s.text, "["), strings.LastIndex(s.text, "]")
		inside := s.text[open+1 : end]
		if strings.TrimSpace(inside) == "" {
			continue
		}
		if !first {
			j.text.WriteString(",")
		}
		first = false
		j.text.WriteString("\n")
		line++
		j.parts, j.begin = append(j.parts, s), append(j.begin, line)
		text := s.text[:open] + " " + inside
		j.text.WriteString(text)
		line += strings.Count(text, "\n")
	}
	j.text.WriteString("]")
	return j
}

// place returns the file and the line there of a line of the joined text.
func (j *joined) place(line int) (string, int) {
	i, _ := slices.BinarySearch(j.begin, line)
	if i = min(i, len(j.parts)) - 1; i < 0 {
		return "", line
	}
	return j.parts[i].file, line - j.begin[i]
}

// placed puts file and line in front of each problem of an error.
func placed(err error, place func(line int) (string, int)) error {
	if err == nil {
		return nil
	}
	all := []error{err}
	if several, ok := err.(interface{ Unwrap() []error }); ok {
		all = several.Unwrap()
	}
	out := make([]error, len(all))
	for i, err := range all {
		var problem *nftdp.FieldError
		if !errors.As(err, &problem) {
			file, _ := place(1)
			out[i] = fmt.Errorf("%s: %w", name(file), err)
			continue
		}
		file, line := place(problem.Line)
		bare := *problem
		bare.Line = 0
		out[i] = fmt.Errorf("%s:%d: %w", name(file), line, &bare)
	}
	return errors.Join(out...)
}

// name is how messages call a file.
func name(file string) string {
	if file == "-" {
		return "standard input"
	}
	return file
}
