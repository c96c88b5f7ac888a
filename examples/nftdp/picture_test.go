//go:build linux

package main

import (
	"encoding/json"
	"fmt"
	"html"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/nftdp/go-nftdp/internal/nstest"
	"github.com/nftdp/go-nftdp/nftdp"
)

const picture = "../../docs/packet.svg"

// TestPicture: docs/packet.svg shows the way of a packet that the kernel has reported.
func TestPicture(t *testing.T) {
	n := newNode(t)
	n.fed("services:\n- name: demo/web\n  frontends: [{addr: 10.96.0.10, port: 80}]\n  backends: [{addr: \"10.180.0.1:8080\"}]\n", 0, "apply", "-f", "-")
	n.shell(`nft 'table inet firewall { chain forward { type filter hook forward priority filter; policy drop; ct state established,related accept; ct status dnat accept; }; }'`)
	got := draw(n.firstPacket())
	if *update {
		write(t, picture, got)
	}
	want, err := os.ReadFile(picture)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Error("go test ./examples/nftdp -run TestPicture -update rewrites docs/packet.svg:\n" + diff)
	}
}

// firstPacket returns the trace of the first packet of a connection.
func (n *node) firstPacket() *nftdp.Trace {
	n.Helper()
	load := nstest.StartLoad(n, n.dial)
	out := n.nftdp(0, "trace", "-s", "demo/web", "-o", "json", "-n", "20")
	load.Stop(n)
	for line := range strings.Lines(out) {
		var trace nftdp.Trace
		if err := json.Unmarshal([]byte(line), &trace); err != nil {
			n.Fatal(err)
		}
		if trace.Packet.Info == "syn" && trace.Code == nftdp.CodeDelivered {
			return &trace
		}
	}
	n.Fatalf("no first packet in\n%s", out)
	return nil
}

// drawing is a picture whose lines come one below the other.
type drawing struct {
	strings.Builder
	y int
}

const (
	pictureWidth = 900
	lineHeight   = 20
)

// draw draws the way of a packet: its headers, and between them the base chains that
// it passed, with the rules that it matched.
func draw(trace *nftdp.Trace) string {
	d := &drawing{y: 16}
	d.packet("arrives on "+trace.In, &trace.Packet)
	for steps := trace.Steps; len(steps) > 0; {
		n := 1
		for n < len(steps) && steps[n].Hook == steps[0].Hook && steps[n].Table == steps[0].Table && steps[n].Priority == steps[0].Priority {
			n++
		}
		if steps[0].Packet != nil {
			d.packet("translated", steps[0].Packet)
		}
		d.chain(steps[:n])
		steps = steps[n:]
	}
	d.packet("is "+string(trace.Verdict)+" by "+trace.Out, &trace.Last)
	return fmt.Sprintf(`<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" font-family="monospace" font-size="13">
<title>The way of a packet of service %s, as the kernel reported it</title>
<rect width="100%%" height="100%%" fill="#ffffff"/>
%s</svg>
`, pictureWidth, d.y+16, html.EscapeString(trace.Service), d.String())
}

// clientPort is a port that the kernel has chosen.
var clientPort = regexp.MustCompile(`^(203\.0\.113\.122|10\.0\.0\.1):\d+$`)

// packet draws what the packet's headers say.
func (d *drawing) packet(what string, p *nftdp.Packet) {
	d.arrow()
	source := clientPort.ReplaceAllString(p.Source.String(), "$1:PORT")
	fmt.Fprintf(d, `<rect x="20" y="%d" width="%d" height="30" rx="15" fill="#dbeafe" stroke="#2563eb"/>`+"\n", d.y, pictureWidth-40)
	d.text(40, d.y+20, "#1e3a8a", fmt.Sprintf("%s > %v %s %s", source, p.Destination, p.Protocol, p.Info))
	fmt.Fprintf(d, `<text x="%d" y="%d" fill="#1e3a8a" text-anchor="end">%s</text>`+"\n", pictureWidth-40, d.y+20, html.EscapeString(what))
	d.y += 30
}

// chain draws a base chain with the rules that the packet matched there.
func (d *drawing) chain(steps []nftdp.TraceStep) {
	d.arrow()
	first := &steps[0]
	height := lineHeight*(len(steps)+1) + 12
	fill, stroke := "#f3f4f6", "#6b7280"
	if first.Table == nftdp.DefaultTable {
		fill, stroke = "#dcfce7", "#16a34a"
	}
	fmt.Fprintf(d, `<rect x="20" y="%d" width="%d" height="%d" rx="4" fill="%s" stroke="%s"/>`+"\n", d.y, pictureWidth-40, height, fill, stroke)
	d.text(32, d.y+20, "#111827", fmt.Sprintf("hook %s, priority %d: table %s %s", first.Hook, first.Priority, first.Family, first.Table))
	for i := range steps {
		s := &steps[i]
		y := d.y + 20 + lineHeight*(i+1)
		rule := s.Rule
		if s.Handle == 0 {
			rule = "(end of the chain)"
		}
		d.text(48, y, "#374151", s.Chain)
		d.text(214, y, "#374151", shortened(rule))
		fmt.Fprintf(d, `<text x="%d" y="%d" fill="#111827" text-anchor="end">%s</text>`+"\n", pictureWidth-32, y, html.EscapeString(s.Verdict))
	}
	d.y += height
}

func (d *drawing) text(x, y int, colour, words string) {
	fmt.Fprintf(d, `<text x="%d" y="%d" fill="%s">%s</text>`+"\n", x, y, colour, html.EscapeString(words))
}

// arrow leads to what is drawn next, unless it is the first.
func (d *drawing) arrow() {
	if d.Len() == 0 {
		return
	}
	fmt.Fprintf(d, `<path d="M%d %dv14m-4 -5l4 5l4 -5" fill="none" stroke="#6b7280"/>`+"\n", pictureWidth/2, d.y+1)
	d.y += 16
}

// shortened returns as much of a rule as has room.
func shortened(rule string) string {
	const most = 58
	if len(rule) <= most {
		return rule
	}
	return rule[:most] + "…"
}
