//go:build linux

package main

import (
	"errors"
	"net/netip"
	"os"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/nftdp/go-nftdp/internal/nstest"
)

// neighbourYAML are services beside a firewall: with backends in pods, with one on the
// node itself, and on a port that Docker publishes, too.
const neighbourYAML = `services:
- name: demo/web
  frontends: [{addr: 10.96.0.10, port: 80}, {addr: "fd00:10:96::10", port: 80}]
  backends: [{addr: "10.180.0.1:8080"}, {addr: "[fd00:10:180::1]:8080"}]
- name: demo/local
  frontends: [{addr: 10.96.0.10, port: 81}, {addr: "fd00:10:96::10", port: 81}]
  backends: [{addr: "192.168.0.2:8080"}, {addr: "[fd00:192:168::2]:8080"}]
`

// firewall is one beside our tables.
type firewall struct {
	name string
	load []string // shell commands, run in testdata
	want outcomes // of a client outside

	doctor []string // its findings, each with severity, code and subject
	rule   []string // shell commands: the rules that let everything pass
}

// outcomes are those of connections in IPv4 and IPv6: to the service with backends in
// pods, and to the one on the node.
type outcomes struct{ Pod4, Pod6, Local4, Local6 string }

// passes is what a client meets where nothing is in its way.
var passes = outcomes{"passes", "passes", "passes", "passes"}

// TestCoexistence loads what firewalls write beside services, and sends real packets:
// which of them pass, what doctor says of it, and which rules are needed. What it shows
// is in docs/coexistence.md.
func TestCoexistence(t *testing.T) {
	for _, f := range []firewall{
		{
			name: "firewalld",
			load: []string{"nft -f firewalld.nft"},
			want: passes, // both chains accept `ct status dnat`
		},
		{
			name:   "firewalld with StrictForwardPorts",
			load:   []string{"sed '/ct status dnat accept/d' firewalld.nft | nft -f -"},
			want:   outcomes{"refused", "refused", "refused", "refused"},
			doctor: []string{"error INPUT_DROPPED_BY: table inet firewalld, chain filter_INPUT", "error FORWARD_DROPPED_BY: table inet firewalld, chain filter_FORWARD"},
			rule:   []string{"nft insert rule inet firewalld filter_INPUT ct status dnat accept", "nft insert rule inet firewalld filter_FORWARD ct status dnat accept"},
		},
		{
			name: "ufw",
			load: []string{"iptables-restore ufw.v4", "ip6tables-restore ufw.v6"},
			want: outcomes{"silence", "silence", "silence", "silence"},
			doctor: []string{
				"error INPUT_DROPPED_BY: table ip filter, chain INPUT", "error INPUT_DROPPED_BY: table ip6 filter, chain INPUT",
				"error FORWARD_DROPPED_BY: table ip filter, chain FORWARD", "error FORWARD_DROPPED_BY: table ip6 filter, chain FORWARD",
			},
			rule: []string{
				"iptables -A ufw-before-forward -m conntrack --ctstate DNAT -j ACCEPT", "ip6tables -A ufw6-before-forward -m conntrack --ctstate DNAT -j ACCEPT",
				"iptables -A ufw-before-input -m conntrack --ctstate DNAT -j ACCEPT", "ip6tables -A ufw6-before-input -m conntrack --ctstate DNAT -j ACCEPT",
			},
		},
		{
			name:   "Docker",
			load:   []string{"iptables-restore docker.v4"},
			want:   outcomes{"silence", "passes", "passes", "passes"},
			doctor: []string{"error FORWARD_DROPPED_BY: table ip filter, chain FORWARD"},
			rule:   []string{"iptables -I DOCKER-USER -m conntrack --ctstate DNAT -j ACCEPT"},
		},
		{
			name: "iptables",
			load: []string{"iptables-restore iptables.v4", "ip6tables-restore iptables.v4"},
			want: outcomes{"silence", "silence", "silence", "silence"},
			doctor: []string{
				"error INPUT_DROPPED_BY: table ip filter, chain INPUT", "error INPUT_DROPPED_BY: table ip6 filter, chain INPUT",
				"error FORWARD_DROPPED_BY: table ip filter, chain FORWARD", "error FORWARD_DROPPED_BY: table ip6 filter, chain FORWARD",
			},
			rule: []string{
				"iptables -A FORWARD -m conntrack --ctstate DNAT -j ACCEPT", "ip6tables -A FORWARD -m conntrack --ctstate DNAT -j ACCEPT",
				"iptables -A INPUT -m conntrack --ctstate DNAT -j ACCEPT", "ip6tables -A INPUT -m conntrack --ctstate DNAT -j ACCEPT",
			},
		},
	} {
		t.Run(f.name, func(t *testing.T) { f.test(t) })
	}
}

func (f *firewall) test(t *testing.T) {
	t.Helper()
	n := newNode(t)
	n.serveOnNode()
	n.fed(neighbourYAML, 0, "apply", "-f", "-")
	n.wantOutcomes(passes)
	for _, command := range f.load {
		n.shell("cd " + testdata(t) + " && " + command)
	}
	theirs := n.others()

	n.wantOutcomes(f.want)
	n.wantFindings(f.doctor...)
	n.agrees(f.want)
	n.says(n.fed(neighbourYAML, 0, "apply", "-f", "-"), "unchanged")
	if diff := cmp.Diff(theirs, n.others()); diff != "" {
		t.Errorf("their rules (-before +after):\n%s", diff)
	}

	for _, command := range f.rule {
		n.shell(command)
	}
	n.wantOutcomes(passes)
	n.wantFindings()
	n.agrees(passes)
}

// TestDockerPublishesTheSame: of two translations at one priority the chain that was
// made last is the first to see a packet, which doctor reports.
func TestDockerPublishesTheSame(t *testing.T) {
	n := newNode(t)
	n.fed("services:\n- name: demo/web\n  frontends: [{port: 8081}]\n  backends: [{addr: \"10.180.0.1:8080\"}]\n", 0, "apply", "-f", "-")
	n.shell("cd " + testdata(t) + " && iptables-restore docker.v4 && iptables -I DOCKER-USER -m conntrack --ctstate DNAT -j ACCEPT")
	n.wantFindings("warning FOREIGN_DNAT_FIRST: table ip nat, chain DOCKER")
}

// TestFirewallSeesBackendPort: a rule that allows the frontend's port lets nothing
// through, one that allows the backend's does.
func TestFirewallSeesBackendPort(t *testing.T) {
	n := newNode(t)
	n.serveOnNode()
	n.fed(neighbourYAML, 0, "apply", "-f", "-")
	n.shell("cd " + testdata(t) + " && iptables-restore ufw.v4")
	for _, c := range []struct {
		ports, want string
	}{{"80:81", "silence"}, {"8080", "passes"}} {
		n.shell("iptables -A ufw-user-input -p tcp --dport " + c.ports + " -j ACCEPT") // ufw allow
		n.shell("iptables -A ufw-user-forward -d 10.180.0.0/16 -p tcp --dport " + c.ports + " -j ACCEPT")
		n.wantOutcomes(outcomes{c.want, "passes", c.want, "passes"})
	}
	n.wantFindings()
}

func testdata(t *testing.T) string {
	t.Helper()
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	return "'" + dir + "/testdata'"
}

// serveOnNode starts a server on the node itself.
func (n *node) serveOnNode() {
	n.Helper()
	server, err := nstest.Serve(n.Node, "node", 8080, "tcp")
	if err != nil {
		n.Fatal(err)
	}
	n.Cleanup(func() { _ = server.Close() })
}

// others lists the rules of others, without counters.
func (n *node) others() string {
	n.Helper()
	out := n.shell("nft -s list ruleset")
	for _, family := range []string{"ip", "ip6"} {
		ours := n.shell("nft -s list table " + family + " nftdp")
		out = strings.ReplaceAll(out, ours, "")
	}
	return out
}

// eachWay calls do for each of the frontends, with the outcome that is expected.
func (o *outcomes) eachWay(do func(client netip.Addr, to netip.AddrPort, outcome *string)) {
	for i, a := range nstest.Families() {
		for j, port := range []uint16{80, 81} {
			do(a.Client, netip.AddrPortFrom(a.ClusterIP, port), []*string{&o.Pod4, &o.Local4, &o.Pod6, &o.Local6}[2*i+j])
		}
	}
}

// wantOutcomes fails unless connections of a client outside end so.
func (n *node) wantOutcomes(want outcomes) {
	n.Helper()
	var got outcomes
	got.eachWay(func(_ netip.Addr, to netip.AddrPort, outcome *string) {
		limit := 5 * time.Second
		want.eachWay(func(_ netip.Addr, same netip.AddrPort, expected *string) {
			if same == to && *expected == "silence" {
				limit = 300 * time.Millisecond
			}
		})
		switch _, err := nstest.Dial(n.Client, "tcp", netip.Addr{}, to, limit); {
		case err == nil:
			*outcome = "passes"
		case nstest.IsTimeout(err):
			*outcome = "silence"
		case errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, syscall.EACCES), errors.Is(err, syscall.ECONNREFUSED):
			*outcome = "refused" // admin-prohibited is EHOSTUNREACH in IPv4, EACCES in IPv6
		default:
			*outcome = err.Error()
		}
	})
	if diff := cmp.Diff(want, got); diff != "" {
		n.Errorf("connections (-want +got):\n%s", diff)
	}
}

// agrees fails unless explain says of each connection whether it passes.
func (n *node) agrees(want outcomes) {
	n.Helper()
	want.eachWay(func(client netip.Addr, to netip.AddrPort, outcome *string) {
		if *outcome == "passes" {
			n.says(n.nftdp(0, "explain", client.String(), to.String()), "DELIVERED")
		} else {
			n.says(n.nftdp(3, "explain", client.String(), to.String()), "_DROPPED_BY")
		}
	})
}

var findingLine = regexp.MustCompile(`(?m)^(error|warning|notice) [A-Z_]+: .*$`)

// wantFindings fails unless doctor finds exactly this.
func (n *node) wantFindings(want ...string) {
	n.Helper()
	code := 3
	if len(want) == 0 {
		code = 0
	}
	out := n.nftdp(code, "doctor")
	got := findingLine.FindAllString(out, -1)
	slices.Sort(got)
	want = slices.Sorted(slices.Values(want))
	if !slices.Equal(want, got) {
		n.Errorf("findings (-want +got):\n%s\n%s", cmp.Diff(want, got), out)
	}
}
