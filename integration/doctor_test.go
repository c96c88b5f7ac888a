//go:build linux

package integration

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/nftdp/go-nftdp/internal/nstest"
	"github.com/nftdp/go-nftdp/nftdp"
)

// healthy is a world whose services work, and that Doctor finds nothing in.
func healthy(t *testing.T, config nftdp.Config, services ...nftdp.Service) *world {
	t.Helper()
	w := newWorld(t, config, 2)
	if _, err := w.dataplane.MeetRequirements(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.apply(t, services...)
	wantFindings(t, w)
	return w
}

func examine(t *testing.T, w *world) []nftdp.Finding {
	t.Helper()
	found, err := w.dataplane.Doctor(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// wantFindings fails unless Doctor finds exactly these codes with these subjects.
func wantFindings(t *testing.T, w *world, want ...string) []nftdp.Finding {
	t.Helper()
	found := examine(t, w)
	var got []string
	for _, f := range found {
		got = append(got, fmt.Sprintf("%v %s %s", f.Severity, f.Code, f.Subject))
		if f.Evidence == "" || f.Remedy == "" {
			t.Errorf("%v lacks evidence or remedy", f)
		}
	}
	slices.Sort(got)
	slices.Sort(want)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("findings (-want +got):\n%s", diff)
	}
	return found
}

// commands runs the commands of findings as their reader would.
func commands(t *testing.T, w *world, found []nftdp.Finding) {
	t.Helper()
	for _, f := range found {
		if f.Command == "" {
			t.Fatalf("%v has no command", f)
		}
		w.shell(t, f.Command)
	}
}

// shell runs a command on the node.
func (w *world) shell(t *testing.T, command string) {
	t.Helper()
	if out, err := runTool(t, w.Node, "", "sh", "-c", command); err != nil {
		t.Fatalf("%s: %v\n%s", command, err, out)
	}
}

func fix(t *testing.T, w *world, found []nftdp.Finding) {
	t.Helper()
	for _, f := range found {
		if err := w.dataplane.Fix(t.Context(), f); err != nil {
			t.Fatalf("fix %v: %v", f, err)
		}
	}
}

// outcomes makes a connection to an address in each family.
func outcomes(w *world, addr func(nstest.Addrs) netip.Addr, port uint16) (all []string) {
	for _, a := range nstest.Families() {
		limit := silence
		if a.Family == "v6" {
			limit = 2 * silence
		}
		all = append(all, attempt(w.Client, "tcp", netip.AddrPortFrom(addr(a), port), limit))
	}
	return all
}

// wantOutcomes fails unless connections of the client to the node end so.
func wantOutcomes(t *testing.T, w *world, want ...string) {
	t.Helper()
	if got := outcomes(w, nodeAddr, 80); !slices.Equal(got, want) {
		t.Errorf("connections to the node: %q, want %q", got, want)
	}
}

func webOf(frontends []nftdp.Frontend) nftdp.Service {
	return nftdp.Service{Name: "web", Frontends: frontends, Backends: backends(0)}
}

// TestDoctorParameters breaks parameters of the node: each fault is found alone, what
// Doctor says mends it, and packets fail before and pass afterwards.
func TestDoctorParameters(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name     string
		sysctls  []string // paths and values
		findings []string
		outcomes []string // before, in IPv4 and IPv6
	}{
		{
			"forwarding",
			[]string{"net/ipv4/ip_forward=0"},
			[]string{"error FORWARDING_OFF net.ipv4.ip_forward"},
			[]string{"silence", "backend-1"},
		},
		{
			"forwarding of IPv6",
			[]string{"net/ipv6/conf/all/forwarding=0"},
			[]string{"error FORWARDING_OFF net.ipv6.conf.all.forwarding"},
			[]string{"backend-1", "silence"},
		},
		{
			"forwarding on the way in",
			[]string{"net/ipv4/conf/uplink/forwarding=0"},
			[]string{"warning FORWARDING_OFF net.ipv4.conf.uplink.forwarding"},
			[]string{"silence", "backend-1"},
		},
		{
			"forwarding on the way back",
			[]string{"net/ipv4/conf/pod1/forwarding=0"},
			[]string{"error FORWARDING_OFF net.ipv4.conf.pod1.forwarding"},
			[]string{"silence", "backend-1"},
		},
		{
			"tcp_be_liberal",
			[]string{"net/netfilter/nf_conntrack_tcp_be_liberal=0"},
			[]string{"warning TCP_BE_LIBERAL_OFF net.netfilter.nf_conntrack_tcp_be_liberal"},
			[]string{"backend-1", "backend-1"},
		},
	} {
		for _, how := range []struct {
			name string
			do   func(*testing.T, *world, []nftdp.Finding)
		}{{"command", commands}, {"fix", fix}} {
			t.Run(c.name+", "+how.name, func(t *testing.T) {
				t.Parallel()
				w := healthy(t, nftdp.Config{}, webOf(nodeWide(80)))
				wantOutcomes(t, w, "backend-1", "backend-1")
				for _, s := range c.sysctls {
					path, value, _ := strings.Cut(s, "=")
					if err := w.Node.Sysctl(path, value); err != nil {
						t.Fatal(err)
					}
				}
				found := wantFindings(t, w, c.findings...)
				wantOutcomes(t, w, c.outcomes...)
				how.do(t, w, found)
				wantFindings(t, w)
				wantOutcomes(t, w, "backend-1", "backend-1")
			})
		}
	}
}

// TestDoctorRPFilter: packets of the client come by an interface to which the best
// route to the client does not lead.
func TestDoctorRPFilter(t *testing.T) {
	t.Parallel()
	w := healthy(t, nftdp.Config{}, webOf(nodeWide(80)))
	if err := w.Node.Sysctl("net/ipv4/conf/all/rp_filter", "1"); err != nil {
		t.Fatal(err)
	}
	wantFindings(t, w)                           // it is strict, and hurts nobody
	wantOutcomes(t, w, "backend-1", "backend-1") // rp_filter is about ARP requests, too, but does not count them
	a := nstest.IPv4()
	if err := w.Node.AddRoute(nstest.PodLink(1), single(a.Client), netip.Addr{}, netip.Addr{}); err != nil {
		t.Fatal(err)
	}
	// Replies go back the way that requests come, by a mark, which rp_filter does not
	// look at.
	nftLoad(t, w.Node, "table ip marks { chain pre { type filter hook prerouting priority mangle; iifname pod1 meta mark set 1; }; }")
	w.shell(t, fmt.Sprintf("ip rule add fwmark 1 lookup 100 && ip route add %v dev uplink table 100", a.Client))
	wantOutcomes(t, w, "silence", "backend-1")
	found := wantFindings(t, w, "warning RP_FILTER net.ipv4.conf.all.rp_filter")
	fix(t, w, found)
	wantFindings(t, w)
	wantOutcomes(t, w, "backend-1", "backend-1")
}

// TestDoctorFirewall: a chain of others that drops what is forwarded, whatever it is
// called, is found; one that lets connections to services, or some clients, through
// is not.
func TestDoctorFirewall(t *testing.T) {
	t.Parallel()
	const firewalld = `table inet firewalld {
		chain filter_FORWARD {
			type filter hook forward priority filter + 10; policy accept;
			ct state { established, related } accept
			%s
			iifname "lo" accept
			jump filter_FORWARD_POLICIES
			ct state { invalid } drop
			reject with icmpx type admin-prohibited
		}
		chain filter_FORWARD_POLICIES {
			iifname "uplink" oifname "other" jump other
			iifname "other" jump other
		}
		chain other { accept; }
	}`
	for _, c := range []struct{ name, rules, finding, outcome string }{
		{"firewalld", fmt.Sprintf(firewalld, ""), "error FORWARD_DROPPED_BY table inet firewalld, chain filter_FORWARD", "dropped"},
		{"firewalld as it is", fmt.Sprintf(firewalld, "ct status dnat accept"), "", "backend-1"},
		{"policy", "table inet f { chain forwarding { type filter hook forward priority 0; policy drop; ct state vmap { established : accept, related : accept, invalid : drop }; }; }", "error FORWARD_DROPPED_BY table inet f, chain forwarding", "silence"},
		{"policy, and the port accepted", "table inet f { chain forwarding { type filter hook forward priority 0; policy drop; ct state established,related accept; tcp dport { 8000-8100 } accept; }; }", "", "backend-1"},
		{"policy, and a client accepted", "table inet f { chain forwarding { type filter hook forward priority 0; policy drop; ct state established,related accept; ip saddr 203.0.113.0/24 accept; ip6 saddr fd00:203:0:113::/64 accept; }; }", "", "backend-1"},
		{"policy, and an interface accepted", "table inet f { chain forwarding { type filter hook forward priority 0; policy drop; ct state established,related accept; iifname uplink accept; }; }", "", "backend-1"},
		{"before the translation", "table inet f { chain raw { type filter hook prerouting priority raw; tcp dport 80 drop; }; }", "error PREROUTING_DROPPED_BY table inet f, chain raw", "silence"},
		{"to the node's own addresses before the translation", "table inet f { chain raw { type filter hook prerouting priority raw; fib daddr type local tcp dport 80 drop; }; }", "error PREROUTING_DROPPED_BY table inet f, chain raw", "silence"},
		{"to other addresses before the translation", "table inet f { chain raw { type filter hook prerouting priority raw; fib daddr type != local tcp dport 80 drop; }; }", "", "backend-1"},
		{"at ingress", "table netdev f { chain in { type filter hook ingress device uplink priority 0; tcp dport 80 drop; }; }", "warning INGRESS_DROPPED_BY table netdev f, chain in", "silence"},
		{"at ingress, before conntrack", "table inet f { chain in { type filter hook ingress device uplink priority 0; ct state invalid tcp dport 80 drop; }; }", "warning INGRESS_DROPPED_BY table inet f, chain in", "silence"},
		{"at ingress of family inet", "table inet f { set ports { type inet_service; elements = { 80 }; }; chain in { type filter hook ingress devices = { pod1, uplink } priority 0; jump more; }; chain more { tcp dport @ports drop; }; }", "warning INGRESS_DROPPED_BY table inet f, chain in", "silence"},
		{"at ingress, another device", "table netdev f { chain in { type filter hook ingress device pod2 priority 0; tcp sport 9999 drop; }; }", "", "backend-1"},
		{"at ingress, the backend's port, and new connections", "table inet f { chain in { type filter hook ingress device uplink priority 0; tcp dport 8080 drop; ct state new drop; ct status dnat drop; ct direction original drop; }; }", "", "backend-1"},
		{"at egress", "table netdev f { chain out { type filter hook egress device pod1 priority 0; tcp dport 8080 drop; }; }", "error EGRESS_DROPPED_BY table netdev f, chain out", "silence"},
		{"at egress, the frontend's port", "table netdev f { chain out { type filter hook egress device pod1 priority 0; tcp dport 80 drop; }; }", "", "backend-1"},
		{"another port before the translation", "table inet f { chain raw { type filter hook prerouting priority raw; tcp dport 81 drop; }; }", "", "backend-1"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			w := healthy(t, nftdp.Config{}, webOf(nodeWide(80)))
			nftLoad(t, w.Node, c.rules)
			if c.outcome == "backend-1" {
				wantOutcomes(t, w, c.outcome, c.outcome)
			} else if got := outcomes(w, nodeAddr, 80); slices.Contains(got, "backend-1") {
				t.Errorf("connections to the node: %q", got)
			}
			if c.finding == "" {
				wantFindings(t, w)
				return
			}
			found := wantFindings(t, w, c.finding)
			if found[0].Command == "" {
				return
			}
			commands(t, w, found)
			wantFindings(t, w)
			wantOutcomes(t, w, "backend-1", "backend-1")
		})
	}
}

// TestDoctorLocalProcesses: chains of others at output and postrouting, which packets of
// the node's own processes meet, too.
func TestDoctorLocalProcesses(t *testing.T) {
	t.Parallel()
	const chain = "table inet f { chain c { type %s hook %s priority %s; %s; }; }"
	for _, c := range []struct {
		name, rules, finding string
		client, node         string // outcomes; empty: no answer
	}{
		{"a translation is dropped", fmt.Sprintf(chain, "filter", "output", "0", "tcp dport 8080 reject"), "warning OUTPUT_DROPPED_BY table inet f, chain c", "backend-1", ""},
		{"policy", fmt.Sprintf(chain, "filter", "output", "0", "policy drop; ct state established,related accept; oifname lo tcp dport 22 accept"), "warning OUTPUT_DROPPED_BY table inet f, chain c", "backend-1", ""},
		{"before the translation", fmt.Sprintf(chain, "filter", "output", "-150", "tcp dport 80 drop"), "warning OUTPUT_DROPPED_BY table inet f, chain c", "backend-1", ""},
		{"a link accepted", fmt.Sprintf(chain, "filter", "output", "0", "policy drop; ct state established,related accept; oifname lo accept"), "", "backend-1", "backend-1"},
		{"the frontend's port after the translation", fmt.Sprintf(chain, "filter", "output", "0", "tcp dport 80 drop"), "", "backend-1", "backend-1"},
		{"postrouting", fmt.Sprintf(chain, "filter", "postrouting", "0", "tcp dport 8080 drop"), "error POSTROUTING_DROPPED_BY table inet f, chain c", "", ""},
		{"postrouting to another port", fmt.Sprintf(chain, "filter", "postrouting", "0", "tcp dport 80 drop"), "", "backend-1", "backend-1"},
		{"another translation", "table ip f { chain c { type nat hook output priority -110; tcp dport 80 dnat to 10.180.0.2:8080; }; }", "warning FOREIGN_DNAT_FIRST table ip f, chain c", "backend-1", "backend-2"},
		{"another translation, later", "table ip f { chain c { type nat hook output priority -90; tcp dport 80 dnat to 10.180.0.2:8080; }; }", "", "backend-1", "backend-1"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			w := healthy(t, nftdp.Config{}, webOf(nodeWide(80)))
			nftLoad(t, w.Node, c.rules)
			check := func(of string, from *nstest.Namespace, want string) {
				t.Helper()
				limit := askTimeout
				if want == "" {
					limit = silence
				}
				if got := attempt(from, "tcp", netip.AddrPortFrom(nstest.IPv4().Node, 80), limit); got != want && (want != "" || strings.HasPrefix(got, "backend-")) {
					t.Errorf("connection of %s: %s, want %q", of, got, want)
				}
			}
			check("the client", w.Client, c.client)
			check("the node", w.Node, c.node)
			if c.finding == "" {
				wantFindings(t, w)
				return
			}
			found := wantFindings(t, w, c.finding)
			if len(found) == 0 || found[0].Command == "" {
				return
			}
			commands(t, w, found)
			wantFindings(t, w)
			check("the client", w.Client, "backend-1")
			check("the node", w.Node, "backend-1")
		})
	}
}

// TestDoctorIptables: rules of iptables are looked at, too.
func TestDoctorIptables(t *testing.T) {
	t.Parallel()
	w := healthy(t, nftdp.Config{}, webOf(nodeWide(80)))
	for _, tool := range []string{"iptables", "ip6tables"} {
		w.shell(t, tool+" -P FORWARD DROP && "+tool+" -A FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT && "+
			tool+" -A FORWARD -i docker0 -o docker0 -j ACCEPT")
	}
	wantOutcomes(t, w, "silence", "silence")
	found := wantFindings(t, w,
		"error FORWARD_DROPPED_BY table ip filter, chain FORWARD", "error FORWARD_DROPPED_BY table ip6 filter, chain FORWARD")
	commands(t, w, found)
	wantFindings(t, w)
	wantOutcomes(t, w, "backend-1", "backend-1")
}

// TestDoctorTranslations: rules that translate packets to a frontend before ours.
func TestDoctorTranslations(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ name, rules string }{
		{"nft", "table ip other { chain pre { type nat hook prerouting priority -110; iifname uplink tcp dport 80 dnat to 10.180.0.2:8080; }; }"},
		{"as Docker does", "table ip other { chain pre { type nat hook prerouting priority -100; fib daddr type local jump more; }; chain more { iifname != docker0 tcp dport 80 dnat to 10.180.0.2:8080; }; }"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			w := healthy(t, nftdp.Config{}, webOf(nodeWide(80)))
			nftLoad(t, w.Node, c.rules)
			wantOutcomes(t, w, "backend-2", "backend-1")
			found := examine(t, w)
			if len(found) != 1 || found[0].Code != nftdp.CodeForeignDNATFirst || !strings.HasPrefix(found[0].Subject, "table ip other, chain ") {
				t.Fatalf("findings: %v", found)
			}
			commands(t, w, found)
			wantFindings(t, w)
			wantOutcomes(t, w, "backend-1", "backend-1")
		})
	}
	t.Run("another port", func(t *testing.T) {
		t.Parallel()
		w := healthy(t, nftdp.Config{}, webOf(nodeWide(80)))
		nftLoad(t, w.Node, "table ip other { chain pre { type nat hook prerouting priority -110; tcp dport 81 dnat to 10.180.0.2:8080; }; }")
		wantFindings(t, w)
	})
}
