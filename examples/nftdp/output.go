//go:build linux

package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v4"
	"golang.org/x/term"
)

// colourful reports whether to write colours to a file: to a terminal only, and not
// if NO_COLOR is set (no-color.org).
func colourful(f *os.File) bool {
	return term.IsTerminal(int(f.Fd())) && os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb"
}

// Colours, as terminals number them.
const (
	red    = "31"
	green  = "32"
	yellow = "33"
	bold   = "1"
	faint  = "2"
)

func (t *tool) paint(colour, s string) string {
	if !t.colour {
		return s
	}
	return "\x1b[" + colour + "m" + s + "\x1b[0m"
}

func (t *tool) printf(format string, args ...any) { fmt.Fprintf(t.out, format, args...) }

// warnf prints to standard error.
func (t *tool) warnf(format string, args ...any) { fmt.Fprintf(t.errOut, format, args...) }

// format is the flag -o of a command.
type format struct {
	value   string
	choices []string
}

func (f *format) String() string { return f.value }

// Type is what the help shows for the value.
func (f *format) Type() string { return "format" }

// Set takes one of the choices.
func (f *format) Set(s string) error {
	if !slices.Contains(f.choices, s) {
		return fmt.Errorf("use %s", strings.Join(f.choices, ", "))
	}
	f.value = s
	return nil
}

// formatFlag gives a command the flag -o. The first choice is the default.
func formatFlag(c *cobra.Command, choices ...string) *format {
	f := &format{choices[0], choices}
	c.Flags().VarP(f, "output", "o", "one of "+strings.Join(choices, ", "))
	_ = c.RegisterFlagCompletionFunc("output", cobra.FixedCompletions(choices, cobra.ShellCompDirectiveNoFileComp))
	return f
}

// data prints a value as JSON or YAML.
func (t *tool) data(format string, value any) error {
	text, err := json.MarshalIndent(value, "", "  ")
	if err != nil {
		return err
	}
	if format == "json" {
		t.printf("%s\n", text)
		return nil
	}
	// JSON is YAML, too. Its order stays, and its style does not.
	var node yaml.Node
	if err := yaml.Unmarshal(text, &node); err != nil {
		return err
	}
	blockStyle(&node)
	text, err = yaml.Marshal(&node)
	t.printf("%s", text)
	return err
}

func blockStyle(n *yaml.Node) {
	n.Style &^= yaml.FlowStyle | yaml.DoubleQuotedStyle
	for _, child := range n.Content {
		blockStyle(child)
	}
}

// line prints a value as one line of JSON.
func (t *tool) line(value any) error { return json.NewEncoder(t.out).Encode(value) }

// columns prints aligned columns: a heading, and rows of cells.
func (t *tool) columns(heading []string, rows [][]string) error {
	w := tabwriter.NewWriter(t.out, 0, 0, 2, ' ', 0)
	writeRow(w, heading)
	for _, row := range rows {
		writeRow(w, row)
	}
	return w.Flush()
}

// writeRow ends the line after the last cell that has something.
func writeRow(w io.Writer, row []string) {
	for len(row) > 0 && row[len(row)-1] == "" {
		row = row[:len(row)-1]
	}
	fmt.Fprintln(w, strings.Join(row, "\t"))
}
