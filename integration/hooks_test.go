//go:build linux

package integration

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/nftdp/go-nftdp/internal/nstest"
	"github.com/nftdp/go-nftdp/nftdp"
)

// These tests pin down the hooks that the package documentation promises: nat
// chains at priorities -100 and 100. The chains of others have priorities one
// lower, the same, or one higher.

// TestFilterElsewhere: a firewall that drops forwarded packets by default also
// drops those to our backends, since no rule of ours could overrule it. One rule
// of the firewall accepts what we have translated, and nothing else.
func TestFilterElsewhere(t *testing.T) {
	t.Parallel()
	needTool(t, "nft")
	w := newWorld(t, nftdp.Config{}, 2)
	w.apply(t, forwardedServices()...)
	outcomes := func(want string) {
		t.Helper()
		timeout := askTimeout
		if want == "silence" {
			timeout = silence
		}
		for _, a := range nstest.Families() {
			for _, p := range protocols() {
				for _, from := range []*nstest.Namespace{w.Client, w.Backends[1]} {
					for _, dst := range []netip.AddrPort{netip.AddrPortFrom(a.Node, 80), netip.AddrPortFrom(a.ClusterIP, 80)} {
						if got := attempt(from, p.name, dst, timeout); got != want {
							t.Errorf("%s from %s to %v: %s, want %s", p.name, from.Name, dst, got, want)
						}
					}
				}
				// Packets of local processes are not forwarded.
				askFor(t, "backend-1", w.Node, p.name, netip.AddrPortFrom(a.ClusterIP, 80))
			}
		}
	}
	outcomes("backend-1")
	nftLoad(t, w.Node, `
		table inet firewall {
			chain forward {
				type filter hook forward priority filter; policy drop;
			}
		}`)
	outcomes("silence")
	tool(t, w.Node, "nft", "add rule inet firewall forward ct status dnat accept")
	outcomes("backend-1")
	for _, a := range nstest.Families() {
		dst := netip.AddrPortFrom(a.Backend(0), backendPort)
		if got := attempt(w.Client, "tcp", dst, silence); got != "silence" {
			t.Errorf("past the frontends to %v: %s, want silence", dst, got)
		}
	}
}

// forwardedServices lead to backend-1, with one service for each protocol.
func forwardedServices() []nftdp.Service {
	return perProtocol(append(nodeWide(80), on(clusterIP, 80)...), backends(0))
}

// TestDNATElsewhere: if others translate the same destination, the chain with the
// lower priority value wins. If the values are equal, as are those of iptables and
// Docker, the chain that was added last wins (nf_hook_entries_grow in
// net/netfilter/core.c puts it before the others). Either way destinations that
// only one side translates work.
func TestDNATElsewhere(t *testing.T) {
	t.Parallel()
	needTool(t, "nft")
	for _, c := range []struct {
		name     string
		priority int
		first    bool // the others' table is there first
		winner   string
	}{
		{"before ours", -101, false, "backend-2"},
		{"before ours, added first", -101, true, "backend-2"},
		{"after ours", -99, false, "backend-1"},
		{"after ours, added first", -99, true, "backend-1"},
		{"same priority, added last", -100, false, "backend-2"},
		{"same priority, added first", -100, true, "backend-1"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, nftdp.Config{}, 2)
			ours := nftdp.Service{Name: "web", Frontends: append(on(clusterIP, 80), on(clusterIP, 81)...), Backends: backends(0)}
			wide := nftdp.Service{Name: "wide", Frontends: append(nodeWide(80), nodeWide(81)...), Backends: backends(0)}
			if c.first {
				nftLoad(t, w.Node, dnatTable(c.priority))
			}
			w.apply(t, ours, wide)
			if !c.first {
				nftLoad(t, w.Node, dnatTable(c.priority))
			}
			for _, a := range nstest.Families() {
				for _, from := range []*nstest.Namespace{w.Client, w.Node} {
					for _, addr := range []netip.Addr{a.ClusterIP, a.Node} {
						askFor(t, c.winner, from, "tcp", netip.AddrPortFrom(addr, 80))
						askFor(t, "backend-1", from, "tcp", netip.AddrPortFrom(addr, 81))
						askFor(t, "backend-2", from, "tcp", netip.AddrPortFrom(addr, 82))
					}
				}
			}
		})
	}
}

// dnatTable is a table of others that leads TCP ports 80 and 82 of the cluster IP
// and the node to backend-2.
func dnatTable(priority int) string {
	var rules strings.Builder
	for _, a := range nstest.Families() {
		fmt.Fprintf(&rules, "%s daddr { %v, %v } tcp dport { 80, 82 } dnat %s to %v\n",
			nftFamily(a), a.ClusterIP, a.Node, nftFamily(a), nftAddrPort(a.Backend(1), backendPort))
	}
	return fmt.Sprintf(`
		table inet theirs {
			chain prerouting {
				type nat hook prerouting priority %[1]d;
				%[2]s
			}
			chain output {
				type nat hook output priority %[1]d;
				%[2]s
			}
		}`, priority, &rules)
}

func nftFamily(a nstest.Addrs) string {
	if a.Client.Is4() {
		return "ip"
	}
	return "ip6"
}

func nftAddrPort(addr netip.Addr, port uint16) string { return netip.AddrPortFrom(addr, port).String() }

// TestSNATElsewhere: if others translate the same source, the chain with the lower
// priority value wins. Sources that only one side translates work.
func TestSNATElsewhere(t *testing.T) {
	t.Parallel()
	needTool(t, "nft")
	for _, c := range []struct {
		name     string
		priority int
		wins     func(nstest.Addrs) netip.Addr
	}{
		{"before ours", 99, uplink},
		{"after ours", 101, podGW},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, nftdp.Config{Internal: podNets()}, 2)
			w.apply(t, forwardedServices()...)
			nftLoad(t, w.Node, snatTable(c.priority))
			inFamilies(t, func(t *testing.T, a nstest.Addrs) {
				vip := netip.AddrPortFrom(a.ClusterIP, 80)
				source := func(from *nstest.Namespace, protocol string, dst netip.AddrPort, want netip.Addr) {
					t.Helper()
					if saw := askFor(t, "backend-1", from, protocol, dst).Client.Addr(); saw != want {
						t.Errorf("%s from %s to %v: the backend saw %v, want %v", protocol, from.Name, dst, saw, want)
					}
				}
				source(w.Client, "tcp", vip, c.wins(a))
				source(w.Client, "udp", vip, a.PodGW)                                            // only we translate it
				source(w.Backends[1], "tcp", vip, a.Uplink)                                      // only they translate it
				source(w.Client, "tcp", netip.AddrPortFrom(a.Backend(0), backendPort), a.Uplink) // past our frontends
				source(w.Backends[1], "udp", vip, a.Backend(1))                                  // nobody translates it
			})
		})
	}
}

// snatTable is a table of others. Connections to the TCP port of backends get the
// source address of the node's uplink.
func snatTable(priority int) string {
	var rules strings.Builder
	for _, a := range nstest.Families() {
		fmt.Fprintf(&rules, "%s daddr %v tcp dport %d snat %s to %v\n",
			nftFamily(a), a.PodNet, backendPort, nftFamily(a), a.Uplink)
	}
	return fmt.Sprintf(`
		table inet theirs {
			chain postrouting {
				type nat hook postrouting priority %d;
				%s
			}
		}`, priority, &rules)
}
