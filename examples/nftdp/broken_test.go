//go:build linux

package main

import (
	"net/netip"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/nftdp/go-nftdp/internal/nstest"
)

// fault is one of a node: what makes it, and how the tool names it.
type fault struct {
	name  string
	files string // services and configuration; webYAML, if empty
	shell string // what breaks the node afterwards

	to      string   // where a client outside does not get through
	by      string   // the interface by which it comes, if its route leads elsewhere
	finding string   // of doctor: severity, code and subject; empty: there is none
	remedy  []string // what doctor says to do
	explain []string // what explain says: code and reason
	mend    func(t *testing.T, n *node)
}

// TestBrokenNodes: each fault is diagnosed by doctor alone, without a packet, and explain
// agrees, or by explain, if it is one of certain packets; and what is said to do lets the
// client through.
func TestBrokenNodes(t *testing.T) {
	for _, f := range []fault{
		{
			name:    "forwarding is off on the interface of clients",
			shell:   "sysctl -qw net.ipv4.conf.uplink.forwarding=0",
			to:      "10.96.0.10:80",
			finding: "warning FORWARDING_OFF: net.ipv4.conf.uplink.forwarding",
			remedy:  []string{"Turn forwarding on for the interface", "run: nftdp doctor --fix FORWARDING_OFF"},
			explain: []string{"FORWARDING_OFF", "uplink"},
			mend: func(_ *testing.T, n *node) {
				n.says(n.nftdp(0, "doctor", "--fix", "FORWARDING_OFF"), "fixed FORWARDING_OFF")
			},
		},
		{
			name:    "forwarding is off on the interface of a backend",
			shell:   "sysctl -qw net.ipv4.conf.pod1.forwarding=0 net.ipv4.conf.pod2.forwarding=0",
			to:      "10.96.0.10:80",
			finding: "error FORWARDING_OFF: net.ipv4.conf.pod1.forwarding",
			remedy:  []string{"error FORWARDING_OFF: net.ipv4.conf.pod2.forwarding", "run: nftdp doctor --fix FORWARDING_OFF"},
			explain: []string{"FORWARDING_OFF", "pod1"},
			mend: func(_ *testing.T, n *node) {
				n.says(n.nftdp(0, "doctor", "--fix", "FORWARDING_OFF"), "fixed FORWARDING_OFF")
			},
		},
		{
			name: "a firewall drops what is forwarded",
			shell: `nft 'table inet firewalld {
				chain filter_FORWARD {
					type filter hook forward priority filter + 10; policy accept;
					ct state { established, related } accept
					iifname "lo" accept
					ct state invalid drop
					reject with icmpx admin-prohibited
				}
			}'`,
			to:      "10.96.0.10:80",
			finding: "error FORWARD_DROPPED_BY: table inet firewalld, chain filter_FORWARD",
			remedy:  []string{"Accept connections that were translated", "run: nft insert rule inet firewalld filter_FORWARD ct status dnat accept"},
			explain: []string{"FORWARD_DROPPED_BY", "firewalld", "filter_FORWARD"},
		},
		{
			name:    "node-wide frontends are limited by NodeAddrs",
			files:   "config: {nodeAddrs: [10.0.0.0/24]}\n" + webYAML,
			to:      "192.168.0.2:80",
			finding: "notice NODE_ADDRS_LIMIT: nodeAddrs ip\n",
			remedy:  []string{"limited to 10.0.0.0/24", "192.168.0.2", "Add these addresses to Config.NodeAddrs"},
			explain: []string{"NO_SERVICE", "hint:", "demo/web", "10.0.0.0/24"},
			mend:    apply(webYAML),
		},
		{
			name:    "nobody is at a backend's address",
			files:   strings.ReplaceAll(webYAML, "  - addr: 10.180.0.1:8080\n  - addr: 10.180.0.2:8080\n", "  - addr: 203.0.113.200:8080\n"),
			to:      "10.96.0.10:80",
			finding: "error NEIGHBOUR_FAILED: 203.0.113.200\n",
			remedy:  []string{"the backend of demo/web does not answer on uplink", "set its backends down or remove them"},
			explain: []string{"NEIGHBOUR_FAILED", "203.0.113.200"},
			mend:    apply(webYAML),
		},
		{
			name:    "the policy wants a backend on this node, and there is none",
			files:   strings.ReplaceAll(webYAML, "port: 80}", "port: 80, policy: external-local-only}"),
			to:      "10.96.0.10:80",
			finding: "warning LOCAL_ONLY_NONE: demo/web\n",
			remedy:  []string{"tcp 10.96.0.10:80", "no usable backend is on this node", "start one here and mark it local"},
			explain: []string{"LOCAL_ONLY_NONE", "demo/web"},
			mend:    apply(strings.ReplaceAll(strings.ReplaceAll(webYAML, "port: 80}", "port: 80, policy: external-local-only}"), "0.1:8080", "0.1:8080\n    local: true")),
		},
		{
			name:    "forwarding of IPv6 is off",
			files:   web6,
			shell:   "sysctl -qw net.ipv6.conf.all.forwarding=0",
			to:      "[fd00:10:96::10]:80",
			finding: "error FORWARDING_OFF: net.ipv6.conf.all.forwarding",
			remedy:  []string{"run: nftdp doctor --fix FORWARDING_OFF"},
			explain: []string{"FORWARDING_OFF"},
			mend: func(_ *testing.T, n *node) {
				n.says(n.nftdp(0, "doctor", "--fix", "FORWARDING_OFF"), "fixed FORWARDING_OFF")
			},
		},
		{
			name:    "iptables drops behind two jumps",
			shell:   "iptables -N before; iptables -N last; iptables -A FORWARD -j before; iptables -A FORWARD -j last; iptables -A before -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT; iptables -A before -p udp -j RETURN; iptables -A last -m addrtype --dst-type LOCAL -j RETURN; iptables -A last -m limit --limit 3/min -j LOG; iptables -A last -j DROP",
			to:      "10.96.0.10:80",
			finding: "error FORWARD_DROPPED_BY: table ip filter, chain FORWARD",
			remedy:  []string{"chain last", "run: iptables -I FORWARD"},
			explain: []string{"FORWARD_DROPPED_BY", "chain last"},
		},
		{
			name:    "all backends are draining",
			files:   strings.ReplaceAll(webYAML, ":8080\n", ":8080\n    state: draining\n"),
			to:      "10.96.0.10:80",
			finding: "warning NO_BACKEND: demo/web",
			remedy:  []string{"set one active"},
			explain: []string{"NO_BACKEND"},
			mend:    apply(webYAML),
		},
		{
			name:    "routes that refuse",
			shell:   "ip route replace unreachable 10.180.0.1; ip route replace blackhole 10.180.0.2",
			to:      "10.96.0.10:80",
			finding: "error NO_ROUTE_TO_BACKEND: 10.180.0.2",
			remedy:  []string{"error NO_ROUTE_TO_BACKEND: 10.180.0.1", "correct the rule or the route that refuses it (ip route get 10.180.0.1)"},
			explain: []string{"10.180.0.1:8080, 50%, NO_ROUTE_TO_BACKEND", "10.180.0.2:8080, 50%, NO_ROUTE_TO_BACKEND"},
			mend: func(_ *testing.T, n *node) {
				n.shell("ip route replace 10.180.0.1 dev pod1 src 10.0.0.1; ip route replace 10.180.0.2 dev pod2 src 10.0.0.1")
			},
		},
		{
			name:    "a rule refuses what comes by an interface",
			shell:   "ip rule add iif uplink to 10.180.0.0/16 prohibit pref 10",
			to:      "10.96.0.10:80",
			explain: []string{"NO_ROUTE_TO_BACKEND", "ip route get 10.180.0.1 from 203.0.113.122 iif uplink"},
			mend:    func(_ *testing.T, n *node) { n.shell("ip rule del pref 10") },
		},
		{
			name:    "a rule leads to a table that refuses",
			shell:   "ip rule add iif uplink lookup 77 pref 10; ip route add unreachable default table 77",
			to:      "10.96.0.10:80",
			explain: []string{"NO_ROUTE_TO_BACKEND", "ip route get 10.180.0.1 from 203.0.113.122 iif uplink"},
			mend:    func(_ *testing.T, n *node) { n.shell("ip rule del pref 10") },
		},
		{
			name:    "rp_filter of all interfaces",
			shell:   "sysctl -qw net.ipv4.conf.all.rp_filter=1; ip route add 203.0.113.122 dev pod2",
			to:      "10.96.0.10:80",
			by:      "uplink",
			explain: []string{"RP_FILTER", "route 203.0.113.122 by uplink, or set net.ipv4.conf.all.rp_filter"},
			mend:    func(_ *testing.T, n *node) { n.shell("ip route del 203.0.113.122 dev pod2") },
		},
	} {
		t.Run(f.name, func(t *testing.T) { f.test(t) })
	}
}

// apply applies a file, as who corrects it would.
func apply(yaml string) func(*testing.T, *node) {
	return func(_ *testing.T, n *node) { n.fed(yaml, 0, "apply", "-f", "-") }
}

func (f *fault) test(t *testing.T) {
	t.Helper()
	n := newNode(t)
	if f.files == "" {
		f.files = webYAML
	}
	n.fed(f.files, 0, "apply", "-f", "-")
	if f.shell != "" {
		n.says(n.nftdp(0, "doctor"), "nothing is wrong with this node")
		n.shell(f.shell)
	}
	to := netip.MustParseAddrPort(f.to)
	client := nstest.IPv4().Client
	if to.Addr().Is6() {
		client = nstest.IPv6().Client
	}
	explain := []string{"explain", client.String(), f.to}
	if f.by != "" {
		explain = append(explain, "--in", f.by)
	}

	found := ""
	if f.finding != "" {
		found = n.nftdp(3, "doctor")
		n.says(found, append(f.remedy, f.finding)...)
	} else {
		n.says(n.nftdp(0, "doctor"), "nothing is wrong with this node")
	}
	n.says(n.nftdp(3, explain...), f.explain...)
	if a, err := nstest.Dial(n.Client, "tcp", netip.Addr{}, to, 300*time.Millisecond); err == nil {
		t.Errorf("the node is not broken: %v answers", a)
	}

	if f.mend != nil {
		f.mend(t, n)
	} else {
		_, command, _ := strings.Cut(found, "run: ")
		n.shell(command)
	}
	n.says(n.nftdp(0, "doctor"), "nothing is wrong with this node")
	n.says(n.nftdp(0, explain...), "DELIVERED")
	if _, err := nstest.Dial(n.Client, "tcp", netip.Addr{}, to, 5*time.Second); err != nil {
		t.Error(err)
	}
}

// shell runs a command on the node, and returns what it prints.
func (n *node) shell(command string) string {
	n.Helper()
	cmd := exec.CommandContext(n.Context(), "sh", "-c", command)
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &out
	err := n.Node.Do(cmd.Start)
	if err == nil {
		err = cmd.Wait()
	}
	if err != nil {
		n.Fatalf("%s: %v\n%s", command, err, &out)
	}
	return out.String()
}

const web6 = `services:
- name: demo/web
  frontends:
  - {addr: "fd00:10:96::10", port: 80}
  backends:
  - addr: "[fd00:10:180::1]:8080"
`
