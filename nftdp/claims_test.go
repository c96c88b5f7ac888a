package nftdp

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// claimCases are about services "a", "b", … with these frontends.
func claimCases() []problemCase {
	var cases []problemCase
	for _, c := range []struct {
		name   string
		fronts [][]string
		want   []FieldError
	}{
		{"an address and a port", [][]string{{"10.96.0.1:80"}, {"10.96.0.1:81", "10.96.0.1:80"}}, []FieldError{
			{"b", "frontends[1]", `tcp 10.96.0.1:80 is already a frontend of service "a"`},
		}},
		{"an IPv4-mapped address", [][]string{{"10.96.0.1:80"}, {"[::ffff:10.96.0.1]:80"}}, []FieldError{
			{"b", "frontends[0]", `tcp 10.96.0.1:80 is already a frontend of service "a"`},
		}},
		{"one service twice", [][]string{{"[fd00::1]:80", ":80", "[fd00::1]:80", ":80"}}, []FieldError{
			{"a", "frontends[2]", `tcp [fd00::1]:80 is already a frontend of service "a"`},
			{"a", "frontends[3]", `tcp node-wide port 80 is already a frontend of service "a"`},
		}},
		{"node-wide of one family", [][]string{{":80"}, {"0.0.0.0:80", "[::]:80", "[::ffff:0.0.0.0]:80"}}, []FieldError{
			{"b", "frontends[0]", `tcp node-wide port 80 (ip) is already a frontend of service "a"`},
			{"b", "frontends[1]", `tcp node-wide port 80 (ip6) is already a frontend of service "a"`},
			{"b", "frontends[2]", `tcp node-wide port 80 (ip) is already a frontend of service "a"`},
		}},
		{"node-wide against two owners", [][]string{{"0.0.0.0:80"}, {"[::]:80"}, {":80"}}, []FieldError{
			{"c", "frontends[0]", `tcp node-wide port 80 (ip) is already a frontend of service "a"`},
			{"c", "frontends[0]", `tcp node-wide port 80 (ip6) is already a frontend of service "b"`},
		}},
		{"node-wide half taken", [][]string{{"[::]:80"}, {":80"}, {"0.0.0.0:80"}}, []FieldError{
			{"b", "frontends[0]", `tcp node-wide port 80 (ip6) is already a frontend of service "a"`},
			{"c", "frontends[0]", `tcp node-wide port 80 (ip) is already a frontend of service "b"`},
		}},
		{"the addressed frontend wins over the node-wide", [][]string{{":80"}, {"10.96.0.1:80", "[fd00::1]:80"}}, nil},
		{"node-wide of different families", [][]string{{"0.0.0.0:80"}, {"[::]:80"}}, nil},
		{"wrong frontends claim nothing", [][]string{{"10.96.0.1:0"}, {"10.96.0.1:0"}}, []FieldError{
			{"a", "frontends[0].port", "is 0: give a port from 1 to 65535"},
			{"b", "frontends[0].port", "is 0: give a port from 1 to 65535"},
		}},
	} {
		one := problemCase{name: c.name, want: c.want}
		for i, f := range c.fronts {
			one.services = append(one.services, Service{Name: string(rune('a' + i)), Frontends: fronts(f...)})
		}
		cases = append(cases, one)
	}
	cases = append(cases, rangeClaimCases()...)
	nameless := []Service{{Frontends: fronts(":80")}, {Frontends: fronts("0.0.0.0:80")}}
	cases = append(cases, problemCase{name: "services without names", services: nameless, want: []FieldError{
		{"services[0]", "name", "is empty: give every service a name of its own"},
		{"services[1]", "name", "is empty: give every service a name of its own"},
		{"services[1]", "frontends[0]", "tcp node-wide port 80 (ip) is already a frontend of a service without a name"},
	}})
	return append(cases, problemCase{
		name: "the same frontend for three protocols",
		services: []Service{
			{Name: "a", Frontends: fronts(":80")},
			{Name: "b", Frontends: fronts(":80"), Protocol: ProtocolUDP},
			{Name: "c", Frontends: fronts(":80"), Protocol: ProtocolSCTP},
		},
	})
}

func rangeClaimCases() []problemCase {
	var cases []problemCase
	type is = []Frontend
	for _, c := range []struct {
		name string
		a, b []Frontend
		want []FieldError
	}{
		{"ranges side by side", is{ranged("10.96.0.1:80", 89)}, is{ranged("10.96.0.1:90", 99), ranged("10.96.0.1:70", 79)}, nil},
		{"ranges on other addresses", is{ranged("10.96.0.1:80", 89)}, is{ranged("10.96.0.2:80", 89), ranged(":80", 89)}, nil},
		{"a port in a range", is{ranged("10.96.0.1:80", 90)}, is{front("10.96.0.1:80"), ranged("10.96.0.1:85", 85), front("10.96.0.1:90")}, nil},
		{"ranges with a port in common", is{ranged("10.96.0.1:80", 90)}, is{ranged("10.96.0.1:90", 99), ranged("[::ffff:10.96.0.1]:1", 80)}, []FieldError{
			{"b", "frontends[0]", `tcp 10.96.0.1:90-99 has ports in common with a frontend of service "a"`},
			{"b", "frontends[1]", `tcp 10.96.0.1:1-80 has ports in common with a frontend of service "a"`},
		}},
		{"ranges inside each other", is{ranged("10.96.0.1:80", 90), ranged("10.96.0.1:85", 86)}, is{ranged("10.96.0.1:1", 65535)}, []FieldError{
			{"a", "frontends[1]", `tcp 10.96.0.1:85-86 has ports in common with a frontend of service "a"`},
			{"b", "frontends[0]", `tcp 10.96.0.1:1-65535 has ports in common with a frontend of service "a"`},
		}},
		{"node-wide ranges of one family", is{ranged(":80", 90)}, is{ranged("[::]:80", 81)}, []FieldError{
			{"b", "frontends[0]", `tcp node-wide port 80-81 (ip6) has ports in common with a frontend of service "a"`},
		}},
		{"a wrong range claims nothing", is{ranged("10.96.0.1:80", 79)}, is{ranged("10.96.0.1:70", 90)}, []FieldError{
			{"a", "frontends[0].endPort", "79 is below port 80: give the last port of the range"},
		}},
	} {
		cases = append(cases, problemCase{
			name: c.name, services: []Service{{Name: "a", Frontends: c.a}, {Name: "b", Frontends: c.b}}, want: c.want,
		})
	}
	return cases
}

// TestRangeClaims: a range that shrinks or goes makes room, and one that was
// refused has taken nothing.
func TestRangeClaims(t *testing.T) {
	taken := newClaims(0)
	wide := Service{Name: "a", Frontends: []Frontend{ranged(":80", 90)}}
	narrow := Service{Name: "a", Frontends: []Frontend{ranged(":80", 85)}}
	other := Service{Name: "b", Frontends: []Frontend{ranged("[::]:86", 95), ranged("10.96.0.1:80", 90)}}
	admit := func(want int, services ...Service) {
		t.Helper()
		if found := taken.admit(services); len(found) != want {
			t.Fatalf("%d problems, want %d: %v", len(found), want, found)
		}
	}
	admit(0, wide)
	admit(1, other)
	taken.remove(&wide)
	admit(0, narrow)
	admit(0, other)
	for port, want := range map[uint16]string{80: "a", 85: "a", 86: "b", 95: "b"} {
		c, ok := taken.taking(claim{addr: netip.IPv6Unspecified(), port: port})
		if got := taken.owner[c]; !ok || got != want {
			t.Errorf("port %d is taken by %q, want %q", port, got, want)
		}
	}
	if _, ok := taken.taking(claim{addr: netip.IPv4Unspecified(), port: 86}); ok {
		t.Error("port 86 of IPv4 is taken")
	}
	taken.remove(&narrow)
	taken.remove(&other)
	if len(taken.owner)+len(taken.ranges) != 0 {
		t.Errorf("claims without services: %v", taken)
	}
}

// TestClaims replaces services step by step, as an update does.
func TestClaims(t *testing.T) {
	a := Service{Name: "a", Frontends: fronts("10.96.0.1:80", ":80")}
	b := Service{Name: "b", Frontends: fronts("10.96.0.2:80")}
	taken := newClaims(0)
	if found := taken.admit([]Service{a, b}); found != nil {
		t.Fatal(found[0])
	}
	before := fmt.Sprint(taken)

	greedy := Service{Name: "b", Frontends: fronts("10.96.0.3:80", "10.96.0.1:80")}
	nameless := Service{Frontends: fronts("10.96.0.4:80")}
	taken.remove(&b)
	if found := taken.admit([]Service{greedy, nameless}); len(found) != 2 {
		t.Errorf("got %d problems, want that of frontends[1] and that of the name", len(found))
	}
	if found := taken.admit([]Service{b}); found != nil {
		t.Error("after a refusal:", found[0])
	}
	if diff := cmp.Diff(before, fmt.Sprint(taken)); diff != "" {
		t.Errorf("a refused update left its mark (-want +got):\n%s", diff)
	}

	taken.remove(&a)
	taken.remove(&b)
	if found := taken.admit([]Service{greedy}); found != nil {
		t.Error("after the conflict was removed:", found[0])
	}
	taken.remove(&greedy)
	if len(taken.owner) != 0 {
		t.Errorf("claims without services: %v", taken)
	}
}
