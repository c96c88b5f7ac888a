package nftdp

import (
	"fmt"
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
			{Name: "b", Frontends: fronts(":80"), Protocol: UDP},
			{Name: "c", Frontends: fronts(":80"), Protocol: SCTP},
		},
	})
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
