//go:build linux

package main

import (
	"bytes"
	"flag"
	"net/netip"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/nftdp/go-nftdp/internal/nstest"
)

var update = flag.Bool("update", false, "rewrite the sessions in docs/tool.md")

const toolDocument = "../../docs/tool.md"

// varying matches what differs from run to run: ports that the kernel chooses, the
// backend that it does, and counts of changes.
var varying = []struct {
	what *regexp.Regexp
	as   string
}{
	{regexp.MustCompile(`(203\.0\.113\.122|10\.0\.0\.1):\d+`), "$1:PORT"},
	{regexp.MustCompile(`10\.180\.0\.[12]:8080`), "10.180.0.N:8080"},
	{regexp.MustCompile(`(?m)(%\s+)[01]\b( +[01])?`), "${1}N"},
	{regexp.MustCompile(`\d+ changes`), "N changes"}, // as the layout of the tables changes
	{regexp.MustCompile(`(?m) +$`), ""},
	{regexp.MustCompile(` {2,}`), "  "},
}

func normal(s string) string {
	for _, v := range varying {
		s = v.what.ReplaceAllString(s, v.as)
	}
	return s
}

// The sessions in the document are what the tool prints. Comments in it say what a
// client does in between, and which blocks are files.
func TestDocumentedSessions(t *testing.T) {
	text, err := os.ReadFile(toolDocument)
	if err != nil {
		t.Fatal(err)
	}
	n := newNode(t)
	var out strings.Builder
	blocks := regexp.MustCompile("(?s)<!-- (\\w+) (\\S+) -->(?:\n```yaml\n(.*?)```)?|```console\n(.*?)```\n")
	rest := string(text)
	for at := blocks.FindStringSubmatchIndex(rest); at != nil; at = blocks.FindStringSubmatchIndex(rest) {
		match := blocks.FindStringSubmatch(rest)
		out.WriteString(rest[:at[0]])
		rest = rest[at[1]:]
		switch match[1] {
		case "":
			out.WriteString("```console\n" + n.session(match[4]) + "```\n")
			continue
		case "file":
			n.write(match[2], match[3])
		case "connect":
			n.connect()
		case "hold":
			conn, err := nstest.DialTCP(n.Client, netip.Addr{}, netip.MustParseAddrPort(match[2]), 5*time.Second)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
		default:
			t.Fatalf("unknown comment %q", match[0])
		}
		out.WriteString(match[0])
	}
	out.WriteString(rest)
	if diff := cmp.Diff(normal(string(text)), normal(out.String())); diff != "" && !*update {
		t.Error("go test ./examples/nftdp -run TestDocumentedSessions -update rewrites docs/tool.md:\n" + diff)
	}
	if *update {
		write(t, toolDocument, out.String())
	}
}

// session runs the commands of a block, and returns them with what they print.
func (n *node) session(block string) string {
	n.Helper()
	var out bytes.Buffer
	for line := range strings.Lines(block) {
		command, ok := strings.CutPrefix(strings.TrimSuffix(line, "\n"), "node# nftdp ")
		if !ok {
			continue // what was printed then
		}
		out.WriteString(line)
		cmd := n.command(strings.Fields(command)...)
		cmd.Stdout, cmd.Stderr = &out, &out
		if err := n.Node.Do(cmd.Start); err != nil {
			n.Fatal(err)
		}
		_ = cmd.Wait() // the output says what is wrong
	}
	return out.String()
}
