package nftdp

// claimCases returns cases about services "a", "b", … with these frontends.
func claimCases() []problemCase {
	var cases []problemCase
	for _, c := range []struct {
		name   string
		fronts [][]string
		want   []FieldError
	}{
		{"an address and a port", [][]string{{"10.96.0.1:80"}, {"10.96.0.1:81", "10.96.0.1:80"}}, []FieldError{
			{Service: "b", Field: "frontends[1]", Reason: `tcp 10.96.0.1:80 is already a frontend of service "a"`},
		}},
		{"an IPv4-mapped address", [][]string{{"10.96.0.1:80"}, {"[::ffff:10.96.0.1]:80"}}, []FieldError{
			{Service: "b", Field: "frontends[0]", Reason: `tcp 10.96.0.1:80 is already a frontend of service "a"`},
		}},
		{"one service twice", [][]string{{"[fd00::1]:80", ":80", "[fd00::1]:80", ":80"}}, []FieldError{
			{Service: "a", Field: "frontends[2]", Reason: `tcp [fd00::1]:80 is already a frontend of service "a"`},
			{Service: "a", Field: "frontends[3]", Reason: `tcp node-wide port 80 is already a frontend of service "a"`},
		}},
		{"node-wide of one family", [][]string{{":80"}, {"0.0.0.0:80", "[::]:80", "[::ffff:0.0.0.0]:80"}}, []FieldError{
			{Service: "b", Field: "frontends[0]", Reason: `tcp node-wide port 80 (ip) is already a frontend of service "a"`},
			{Service: "b", Field: "frontends[1]", Reason: `tcp node-wide port 80 (ip6) is already a frontend of service "a"`},
			{Service: "b", Field: "frontends[2]", Reason: `tcp node-wide port 80 (ip) is already a frontend of service "a"`},
		}},
		{"node-wide against two owners", [][]string{{"0.0.0.0:80"}, {"[::]:80"}, {":80"}}, []FieldError{
			{Service: "c", Field: "frontends[0]", Reason: `tcp node-wide port 80 (ip) is already a frontend of service "a"`},
			{Service: "c", Field: "frontends[0]", Reason: `tcp node-wide port 80 (ip6) is already a frontend of service "b"`},
		}},
		{"node-wide half taken", [][]string{{"[::]:80"}, {":80"}, {"0.0.0.0:80"}}, []FieldError{
			{Service: "b", Field: "frontends[0]", Reason: `tcp node-wide port 80 (ip6) is already a frontend of service "a"`},
			{Service: "c", Field: "frontends[0]", Reason: `tcp node-wide port 80 (ip) is already a frontend of service "b"`},
		}},
		{"the addressed frontend wins over the node-wide", [][]string{{":80"}, {"10.96.0.1:80", "[fd00::1]:80"}}, nil},
		{"node-wide of different families", [][]string{{"0.0.0.0:80"}, {"[::]:80"}}, nil},
		{"wrong frontends claim nothing", [][]string{{"10.96.0.1:0"}, {"10.96.0.1:0"}}, []FieldError{
			{Service: "a", Field: "frontends[0].port", Reason: "is 0: give a port from 1 to 65535"},
			{Service: "b", Field: "frontends[0].port", Reason: "is 0: give a port from 1 to 65535"},
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
		{Service: "services[0]", Field: "name", Reason: "is empty: give every service a name of its own"},
		{Service: "services[1]", Field: "name", Reason: "is empty: give every service a name of its own"},
		{Service: "services[1]", Field: "frontends[0]", Reason: "tcp node-wide port 80 (ip) is already a frontend of a service without a name"},
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
			{Service: "b", Field: "frontends[0]", Reason: `tcp 10.96.0.1:90-99 has ports in common with a frontend of service "a"`},
			{Service: "b", Field: "frontends[1]", Reason: `tcp 10.96.0.1:1-80 has ports in common with a frontend of service "a"`},
		}},
		{"ranges inside each other", is{ranged("10.96.0.1:80", 90), ranged("10.96.0.1:85", 86)}, is{ranged("10.96.0.1:1", 65535)}, []FieldError{
			{Service: "a", Field: "frontends[1]", Reason: `tcp 10.96.0.1:85-86 has ports in common with a frontend of service "a"`},
			{Service: "b", Field: "frontends[0]", Reason: `tcp 10.96.0.1:1-65535 has ports in common with a frontend of service "a"`},
		}},
		{"node-wide ranges of one family", is{ranged(":80", 90)}, is{ranged("[::]:80", 81)}, []FieldError{
			{Service: "b", Field: "frontends[0]", Reason: `tcp node-wide port 80-81 (ip6) has ports in common with a frontend of service "a"`},
		}},
		{"a wrong range claims nothing", is{ranged("10.96.0.1:80", 79)}, is{ranged("10.96.0.1:70", 90)}, []FieldError{
			{Service: "a", Field: "frontends[0].endPort", Reason: "79 is below port 80: give the last port of the range"},
		}},
	} {
		cases = append(cases, problemCase{
			name: c.name, services: []Service{{Name: "a", Frontends: c.a}, {Name: "b", Frontends: c.b}}, want: c.want,
		})
	}
	return cases
}
