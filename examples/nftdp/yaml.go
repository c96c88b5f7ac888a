//go:build linux

package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"strings"

	"go.yaml.in/yaml/v4"

	"github.com/nftdp/go-nftdp/nftdp"
)

// yamlSections splits a YAML file, which may consist of several documents.
func yamlSections(data []byte) (parts, error) {
	found := parts{}
	for decoder := yaml.NewDecoder(bytes.NewReader(data)); ; {
		var document yaml.Node
		err := decoder.Decode(&document)
		switch {
		case errors.Is(err, io.EOF):
			return found, nil
		case err != nil:
			return nil, yamlError(err)
		}
		if err := yamlDocument(&document, found); err != nil {
			return nil, err
		}
	}
}

// yamlError is an error of the YAML parser as one of ours, with its line.
func yamlError(err error) error {
	text := strings.TrimPrefix(err.Error(), "yaml: ")
	var line int
	if _, wrong := fmt.Sscanf(text, "line %d:", &line); wrong != nil {
		return err
	}
	_, reason, _ := strings.Cut(text, ": ")
	return &nftdp.FieldError{Reason: reason, Line: line}
}

func yamlDocument(document *yaml.Node, found parts) error {
	root := document
	if root.Kind == yaml.DocumentNode {
		root = root.Content[0]
	}
	switch {
	case root.Kind == yaml.ScalarNode && root.Tag == "!!null":
		return nil // an empty document
	case root.Kind == yaml.SequenceNode:
		return yamlSection("services", root, root.Line, found)
	case root.Kind != yaml.MappingNode:
		return &nftdp.FieldError{Reason: topLevel, Line: root.Line}
	}
	seen := map[string]bool{}
	for i := 0; i+1 < len(root.Content); i += 2 {
		key := root.Content[i]
		if seen[key.Value] {
			return &nftdp.FieldError{Reason: key.Value + " occurs twice: remove one", Line: key.Line}
		}
		seen[key.Value] = true
		if err := yamlSection(key.Value, root.Content[i+1], key.Line, found); err != nil {
			return err
		}
	}
	return nil
}

func yamlSection(name string, value *yaml.Node, line int, found parts) error {
	w := &jsonWriter{line: 1}
	if err := w.value(value, 0); err != nil {
		return err
	}
	return found.add(name, w.text.String(), line)
}

// jsonWriter writes YAML as JSON, and each value on the line that it has in the YAML:
// the loader of services then reports lines of the YAML. What an alias stands for is on
// the line of the alias.
type jsonWriter struct {
	text   bytes.Buffer
	line   int
	values int
}

// Aliases of aliases, or of what contains them, could become more than any memory
// holds.
const (
	maxYAMLValues = 10_000_000
	maxYAMLDepth  = 100
)

// at moves on to a line.
func (w *jsonWriter) at(n *yaml.Node) {
	for ; w.line < n.Line; w.line++ {
		w.text.WriteByte('\n')
	}
}

func (w *jsonWriter) refuse(reason string) error {
	return &nftdp.FieldError{Reason: reason, Line: w.line}
}

func (w *jsonWriter) value(n *yaml.Node, depth int) error {
	if w.values++; w.values > maxYAMLValues || depth > maxYAMLDepth {
		return w.refuse("has too many values, or values too deep in each other")
	}
	w.at(n)
	switch n.Kind {
	case yaml.AliasNode:
		return w.value(n.Alias, depth+1)
	case yaml.MappingNode:
		return w.list("{}", n.Content, 2, depth)
	case yaml.SequenceNode:
		return w.list("[]", n.Content, 1, depth)
	case yaml.ScalarNode:
		return w.scalar(n)
	default:
		return w.refuse("is nothing that JSON has, too")
	}
}

// list writes the values of a list, or the fields and values of an object, in turn.
func (w *jsonWriter) list(brackets string, values []*yaml.Node, each, depth int) error {
	w.text.WriteByte(brackets[0])
	for i, n := range values {
		switch {
		case i%each == 1:
			w.text.WriteByte(':')
		case i > 0:
			w.text.WriteByte(',')
		}
		if each == 2 && i%2 == 0 {
			if n.Kind != yaml.ScalarNode {
				return w.refuse("the name of a field is no text")
			}
			w.at(n)
			w.string(n.Value)
		} else if err := w.value(n, depth+1); err != nil {
			return err
		}
	}
	w.text.WriteByte(brackets[1])
	return nil
}

func (w *jsonWriter) scalar(n *yaml.Node) error {
	var value any
	switch tag := n.ShortTag(); tag {
	case "!!str", "!!timestamp":
		w.string(n.Value)
		return nil
	case "!!null", "!!bool", "!!int", "!!float":
		if err := n.Decode(&value); err != nil {
			return yamlError(err)
		}
	default:
		return w.refuse(fmt.Sprintf("the tag %s is unknown: remove it", tag))
	}
	if f, ok := value.(float64); ok && (math.IsNaN(f) || math.IsInf(f, 0)) {
		return w.refuse(n.Value + " is no value of a field")
	}
	text, err := json.Marshal(value)
	w.text.Write(text)
	return err
}

func (w *jsonWriter) string(s string) {
	text, _ := json.Marshal(s) // which fails for no string
	w.text.Write(text)
}
