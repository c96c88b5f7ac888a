//go:build linux

package nftdp

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// rememberingServices are services with affinity that rules lead to other backends
// for each of their clients.
func rememberingServices() []Service {
	return []Service{{
		Name: "web", Affinity: 600 * aSecond,
		Frontends: []Frontend{
			{Addr: netip.MustParseAddr("10.96.0.1"), Port: 80, Policy: PolicyExternalLocalOnly},
			{Addr: netip.MustParseAddr("fd00:96::1"), Port: 80, Policy: PolicyExternalLocalOnly},
			{Port: 30080, Deny: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24"), netip.MustParsePrefix("2001:db8::/32")}},
		},
		Backends: []Backend{
			{Addr: netip.MustParseAddrPort("10.180.0.1:80"), Local: true},
			{Addr: netip.MustParseAddrPort("10.180.2.1:80")},
			{Addr: netip.MustParseAddrPort("[fd00:180::1]:80"), Local: true},
			{Addr: netip.MustParseAddrPort("[fd00:180:2::1]:80")},
		},
	}, {
		Name: "plain", Frontends: fronts("10.96.0.2:80", "[fd00:96::2]:80"),
		Backends: []Backend{{Addr: netip.MustParseAddrPort("10.180.0.1:80")}, {Addr: netip.MustParseAddrPort("[fd00:180::1]:80")}},
	}}
}

// rememberedCases are entries of the affinity maps, and whether rules can have made
// them. The names stand for addresses of one family.
func rememberedCases() map[string]bool {
	return map[string]bool{
		"OUTSIDE . VIP . tcp . 80 timeout 10m : LOCAL . 80":                    true,
		"OUTSIDE . VIP . tcp . 80 timeout 10m expires 1m : LOCAL . 80":         true,
		"INSIDE . VIP . tcp . 80 timeout 10m : REMOTE . 80":                    true,
		"NODE . VIP . tcp . 80 timeout 10m : REMOTE . 80":                      true,
		"OUTSIDE . tcp . 30080 timeout 10m : REMOTE . 80":                      true,
		"NODE . tcp . 30080 timeout 10m : LOCAL . 80":                          true,
		"OUTSIDE . VIP . tcp . 80 timeout 10m : REMOTE . 80":                   false, // not of this client's pool
		"OUTSIDE . VIP . tcp . 80 timeout 1h : ELSEWHERE . 9999":               false,
		"OUTSIDE . VIP . tcp . 80 timeout 10m : LOCAL . 81":                    false,
		"OUTSIDE . VIP . udp . 80 timeout 10m : LOCAL . 80":                    false,
		"OUTSIDE . VIP . tcp . 81 timeout 10m : LOCAL . 80":                    false,
		"DENIED . tcp . 30080 timeout 10m : LOCAL . 80":                        false,
		"OUTSIDE . tcp . 30080 timeout 10m : ELSEWHERE . 80":                   false,
		"OUTSIDE . tcp . 30080 timeout 1h : ELSEWHERE . 9999":                  false,
		"OUTSIDE . udp . 30080 timeout 10m : LOCAL . 80":                       false,
		"OUTSIDE . tcp . 80 timeout 10m : LOCAL . 80":                          false, // of no node-wide frontend
		"OUTSIDE . NODE . tcp . 30080 timeout 10m : LOCAL . 80":                false, // in the map of other frontends
		"OUTSIDE . ELSEWHERE . tcp . 30080 timeout 10m : LOCAL . 80":           false,
		"OUTSIDE . PLAIN . tcp . 80 timeout 10m : LOCAL . 80":                  false, // without affinity
		"OUTSIDE . VIP . tcp . 80 timeout 10m comment \"c\" : LOCAL . 80":      false,
		"OUTSIDE . PLAIN . tcp . 80 : LOCAL . 80":                              false,
		"OUTSIDE . VIP . tcp . 80 timeout 10m : LOCAL . 80, * : ELSEWHERE . 9": false,
	}
}

// mapOf names the map that an entry belongs to.
func mapOf(entry string) string {
	if _, second, _ := strings.Cut(entry, " . "); strings.HasPrefix(second, "tcp") || strings.HasPrefix(second, "udp") {
		return "node_affinity"
	}
	return "affinity"
}

func inFamily(family, text string) string {
	if family == "ip" {
		return strings.NewReplacer("OUTSIDE", "203.0.113.7", "INSIDE", "10.180.9.9", "DENIED", "192.0.2.9", "VIP", "10.96.0.1", "PLAIN", "10.96.0.2",
			"NODE", "172.31.0.1", "LOCAL", "10.180.0.1", "REMOTE", "10.180.2.1", "ELSEWHERE", "10.3.9.9").Replace(text)
	}
	return strings.NewReplacer("OUTSIDE", "2001:db9::7", "INSIDE", "fd00:180:9::9", "DENIED", "2001:db8::9", "VIP", "fd00:96::1", "PLAIN", "fd00:96::2",
		"NODE", "fd31::1", "LOCAL", "fd00:180::1", "REMOTE", "fd00:180:2::1", "ELSEWHERE", "fd03::9").Replace(text)
}

// rememberingNode has addresses of its own.
func rememberingNode(t *testing.T) *node {
	t.Helper()
	n := newNode(t)
	for _, a := range []string{"172.31.0.1/32", "fd31::1/128"} {
		if err := n.AddAddr("lo", netip.MustParsePrefix(a)); err != nil {
			t.Fatal(err)
		}
	}
	return n
}

// TestBogusClients: entries of the affinity maps that rules cannot have made are
// shown by Plan, not listed, and removed by Apply, by the empty Update and by Keep,
// which names who added them. Others stay.
func TestBogusClients(t *testing.T) {
	services := rememberingServices()
	for _, family := range []string{"ip", "ip6"} {
		for entry, valid := range rememberedCases() {
			t.Run(family+"/"+entry, func(t *testing.T) {
				n := rememberingNode(t)
				d, spy := n.spied(t, keptConfig())
				apply(t, d, services)
				at := family + " nftdp " + mapOf(entry)
				add := "add element " + at + " { " + inFamily(family, entry) + " }"
				remembered := func() string { return n.nft(t, "", append([]string{"list", "map"}, strings.Fields(at)...)...) }
				empty := remembered()
				check := func(how string, changes fmt.Stringer, empty bool) {
					t.Helper()
					listed, err := d.Affinities(t.Context())
					switch {
					case err != nil:
						t.Error(err)
					case valid && (!empty || len(listed) != 1):
						t.Errorf("%s: %v\n%v, want the entry to stay", how, changes, listed)
					case !valid && (empty || !strings.HasPrefix(changes.String(), "delete element "+at+" { ") || how == "plan" && len(listed) > 1):
						t.Errorf("%s: %q\n%v", how, changes, listed)
					}
				}
				for how, repair := range map[string]func() *Plan{
					"apply":           func() *Plan { return apply(t, d, services) },
					"empty update":    func() *Plan { return updateWith(t, d, Change{}) },
					"another process": func() *Plan { return apply(t, n.open(t, keptConfig()), services) },
				} {
					n.nft(t, add, "-f", "-")
					plan, err := d.Plan(t.Context(), services)
					if err != nil {
						t.Fatal(err)
					}
					check("plan", plan, plan.Empty())
					done := repair()
					check(how, done, done.Empty())
					n.nft(t, "flush map "+at, "-f", "-")
				}
				apply(t, d, services)
				repaired := kept(t, d)
				spy.watched(t, d, 1)
				n.nft(t, add, "-f", "-")
				if valid {
					again := updateWith(t, d, Change{})
					check("keep", again, again.Empty())
					return
				}
				drift := receive(t, repaired)
				check("keep", drift, drift.Empty())
				if len(drift.By) != 1 || drift.By[0].Name != "nft" {
					t.Errorf("by %v", drift.By)
				}
				if read := spy.reset(); read != readNothing {
					t.Errorf("Keep read %d of the tables", read)
				}
				if strings.Contains(entry, "*") {
					n.nft(t, "flush map "+at, "-f", "-")
				}
				if diff := cmp.Diff(empty, remembered()); diff != "" {
					t.Errorf("(-before +after):\n%s", diff)
				}
			})
		}
	}
}

// TestOtherTimeout: a client that others remember for another time, or for ever, is
// remembered for that of its service; a client stays when the service changes it.
func TestOtherTimeout(t *testing.T) {
	n := rememberingNode(t)
	d := n.open(t, keptConfig())
	services := rememberingServices()
	apply(t, d, services)
	want := func(most time.Duration) {
		t.Helper()
		list, err := d.Affinities(t.Context())
		if err != nil || len(list) != 2 || slices.ContainsFunc(list, func(a Affinity) bool {
			return time.Duration(a.Expires) > most || time.Duration(a.Expires) < most-time.Minute
		}) {
			t.Errorf("%+v, %v, want two for %v", list, err, most)
		}
		for _, f := range []string{"ip", "ip6"} {
			if text := n.nft(t, "", "list", "map", f, "nftdp", "affinity"); !strings.Contains(text, fmt.Sprintf("timeout %s expires", strings.TrimSuffix(most.String(), "0s"))) {
				t.Errorf("not for %v:\n%s", most, text)
			}
		}
	}
	for _, timeout := range []string{"", "timeout 2h"} {
		for _, f := range []string{"ip", "ip6"} {
			n.nft(t, "add element "+f+" nftdp affinity { "+inFamily(f, "OUTSIDE . VIP . tcp . 80 "+timeout+" : LOCAL . 80")+" }", "-f", "-")
		}
		if plan := apply(t, d, services); plan.Len() != 4 {
			t.Errorf("repaired\n%v", plan)
		}
		want(10 * time.Minute)
		n.nft(t, "flush map ip nftdp affinity\nflush map ip6 nftdp affinity\n", "-f", "-")
	}
	for _, f := range []string{"ip", "ip6"} {
		n.nft(t, "add element "+f+" nftdp affinity { "+inFamily(f, "OUTSIDE . VIP . tcp . 80 timeout 10m : LOCAL . 80")+" }", "-f", "-")
	}
	services[0].Affinity = 120 * aSecond
	updateWith(t, d, Change{Set: services[:1]})
	want(2 * time.Minute)
}
