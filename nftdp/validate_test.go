package nftdp

import (
	"errors"
	"fmt"
	"math"
	"net/netip"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// front returns a frontend such as "10.96.0.10:80", or node-wide such as ":80".
func front(text string) Frontend {
	if port, ok := strings.CutPrefix(text, ":"); ok {
		return Frontend{Port: netip.MustParseAddrPort("0.0.0.0:" + port).Port()}
	}
	a := netip.MustParseAddrPort(text)
	return Frontend{Addr: a.Addr(), Port: a.Port()}
}

func fronts(texts ...string) []Frontend {
	var all []Frontend
	for _, text := range texts {
		all = append(all, front(text))
	}
	return all
}

func back(text string) Backend { return Backend{Addr: netip.MustParseAddrPort(text)} }

func backs(texts ...string) []Backend {
	var all []Backend
	for _, text := range texts {
		all = append(all, back(text))
	}
	return all
}

// manyBackends returns n active IPv4 backends.
func manyBackends(n int) []Backend {
	all := make([]Backend, n)
	for i := range all {
		addr := netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)})
		all[i] = Backend{Addr: netip.AddrPortFrom(addr, 80)}
	}
	return all
}

func prefixes(texts ...string) []netip.Prefix {
	var all []netip.Prefix
	for _, text := range texts {
		all = append(all, netip.MustParsePrefix(text))
	}
	return all
}

// fieldErrors returns the problems in an error of Validate.
func fieldErrors(t *testing.T, err error) []FieldError {
	t.Helper()
	if err == nil {
		return nil
	}
	joined, ok := err.(interface{ Unwrap() []error })
	if !ok {
		t.Fatalf("%T is not a joined error", err)
	}
	var all []FieldError
	for _, one := range joined.Unwrap() {
		var field *FieldError
		if !errors.As(one, &field) {
			t.Fatalf("%T is not a *FieldError: %v", one, one)
		}
		all = append(all, *field)
	}
	return all
}

type problemCase struct {
	name     string
	config   Config
	services []Service
	want     []FieldError
}

func problemCases() []problemCase {
	return slices.Concat(
		[]problemCase{everythingWrong()},
		configCases(), nameCases(), frontendCases(), schedulerCases(), backendCases(), familyCases(), poolCases(), claimCases(),
		ownerCases(), sourceCases(), clientCases(), rangeCases(), affinityCases(), togetherCases(), policyCases(),
	)
}

// everythingWrong returns a service with at least one problem in every field.
func everythingWrong() problemCase {
	return problemCase{
		name: "everything at once, in the order of the input",
		config: Config{
			Table:     "2nd",
			NodeAddrs: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), {}},
			Internal:  prefixes("::ffff:10.0.0.0/104", "10.0.0.0/8"),

			InternalInterfaces: []string{"cni0", "", "*", "veth*0", "veth0123456789ab", `a"b`, "veth*"},

			ServiceCIDRs: []netip.Prefix{{}}, Unallocated: ActionPass,
		},
		services: []Service{
			{Name: "b", Frontends: fronts(":80", "10.96.0.10:80")},
			{
				Protocol: 9,
				Frontends: []Frontend{
					{Addr: netip.MustParseAddr("224.0.0.1"), NoBackend: 4},
					front("10.96.0.10:80"),
				},
				Backends: []Backend{back("[::1]:80"), back("[fd00::1]:80"), {State: 7}},
			},
			{Name: "a\n", Frontends: fronts("10.96.0.11:80", ":80", "10.96.0.10:80")},
			{Name: "b"},
		},
		want: []FieldError{
			{Field: "table", Reason: `"2nd" has '2' at byte 0: a letter is needed first, then letters, digits and any of "/_.-"`},
			{Field: "unallocated", Reason: "pass is not possible: use default, reject or drop"},
			{Field: "nodeAddrs[1]", Reason: `is missing: give an address and a length, as in "10.0.0.0/8"`},
			{Field: "internal[0]", Reason: "::ffff:10.0.0.0/104 is an IPv4-mapped prefix: write 10.0.0.0/8"},
			{Field: "internalInterfaces[1]", Reason: `is empty: give a name, as "cni0", or the beginning of names, as "veth*"`},
			{Field: "internalInterfaces[2]", Reason: "is every interface: list 0.0.0.0/0 and ::/0 in internal instead"},
			{Field: "internalInterfaces[3]", Reason: `"veth*0" has '*' at byte 4: only letters, digits and any of "_.:@-" are possible, and an asterisk at the end`},
			{Field: "internalInterfaces[4]", Reason: `"veth0123456789ab" has 16 bytes: at most 15 are possible`},
			{Field: "internalInterfaces[5]", Reason: `"a\"b" has '"' at byte 1: only letters, digits and any of "_.:@-" are possible, and an asterisk at the end`},
			{Field: "serviceCIDRs[0]", Reason: `is missing: give an address and a length, as in "10.0.0.0/8"`},
			{Service: "services[1]", Field: "name", Reason: "is empty: give every service a name of its own"},
			{Service: "services[1]", Field: "protocol", Reason: "protocol(9) is unknown: use tcp, udp or sctp"},
			{
				Service: "services[1]", Field: "frontends[0].addr", Reason: "224.0.0.1 is a multicast address: " +
					"give a unicast address that clients can reach, or none for all node addresses",
			},
			{Service: "services[1]", Field: "frontends[0].port", Reason: "is 0: give a port from 1 to 65535"},
			{Service: "services[1]", Field: "frontends[0].noBackend", Reason: "action(4) is unknown: use default, reject, drop or pass"},
			{
				Service: "services[1]", Field: "backends[0].addr", Reason: "::1 is a loopback address: " +
					"give the unicast address at which the node reaches the backend",
			},
			{
				Service: "services[1]", Field: "backends[1].addr", Reason: "[fd00::1]:80 is IPv6, but no frontend of the service is: " +
					"add one, or remove the backend",
			},
			{Service: "services[1]", Field: "backends[2].addr", Reason: `is missing: give an address and a port, as in "10.0.0.1:8080", or nodePort`},
			{Service: "services[1]", Field: "backends[2].state", Reason: "state(7) is unknown: use active, draining or down"},
			{
				Service: "a\n", Field: "name", Reason: `has '\n' at byte 1: ` +
					"only printable characters and spaces are possible, and no double quote",
			},
			{Service: "a\n", Field: "frontends[1]", Reason: `tcp node-wide port 80 is already a frontend of service "b"`},
			{Service: "a\n", Field: "frontends[2]", Reason: `tcp 10.96.0.10:80 is already a frontend of service "b"`},
			{Service: "b", Field: "name", Reason: "services[3] has the name of services[0]: choose another"},
		},
	}
}

func configCases() []problemCase {
	const characters = `: a letter is needed first, then letters, digits and any of "/_.-"`
	cases := []problemCase{
		{name: "zero config"},
		{
			name: "config with all fields, host bits and repetitions",
			config: Config{
				Table:     "Lb/edge_1.a-b",
				NodeAddrs: prefixes("192.168.0.7/24", "192.168.0.0/24", "::/0"),
				Internal:  prefixes("10.0.0.0/8", "10.0.0.0/8", "fd00::1/64"),

				ServiceCIDRs: prefixes("10.96.0.1/12", "10.96.0.0/12", "fd00:96::/112"),
				Localhost:    true,
				AffinitySize: math.MaxUint32,
			},
		},
		{
			name: "link-local node addresses",
			config: Config{
				NodeAddrs: prefixes("169.254.0.0/16", "fe80::/10", "fe80::1/64", "fe00::/8"),
			},
			want: []FieldError{
				{Field: "nodeAddrs[1]", Reason: "fe80::/10 has link-local IPv6 addresses, to which clients send packets that the kernel does not forward: remove it"},
				{Field: "nodeAddrs[2]", Reason: "fe80::1/64 has link-local IPv6 addresses, to which clients send packets that the kernel does not forward: remove it"},
			},
		},
		{
			name: "mapped prefixes",
			config: Config{
				NodeAddrs: prefixes("::ffff:0:0/96", "::ffff:1.2.3.4/64", "::/0"),
				Internal:  prefixes("::ffff:1.2.3.4/128"),
			},
			want: []FieldError{
				{Field: "nodeAddrs[0]", Reason: "::ffff:0.0.0.0/96 is an IPv4-mapped prefix: write 0.0.0.0/0"},
				{Field: "nodeAddrs[1]", Reason: "::ffff:1.2.3.4/64 is an IPv4-mapped prefix: write it as an IPv4 prefix"},
				{Field: "internal[0]", Reason: "::ffff:1.2.3.4/128 is an IPv4-mapped prefix: write 1.2.3.4/32"},
			},
		},
	}
	tables := map[string]string{
		"last":                   "",
		"ips":                    "",
		"IP":                     "",
		strings.Repeat("x", 128): "",
		strings.Repeat("x", 129): "has 129 bytes: at most 128 are possible",
		"a b":                    `"a b" has ' ' at byte 1` + characters,
		"_a":                     `"_a" has '_' at byte 0` + characters,
		"é":                      `"é" has 'é' at byte 0` + characters,
		"a\xff":                  `"a\xff" has '�' at byte 1` + characters,
	}
	for _, word := range []string{"accept", "ip", "ip6", "inet", "table", "set", "map", "gc-interval", "xt", "chains", "tunnels"} {
		tables[word] = fmt.Sprintf("%q is a word of nft's language, so nft could not load its own listing: choose another name", word)
	}
	for table, reason := range tables {
		c := problemCase{name: fmt.Sprintf("table %q", table), config: Config{Table: table}}
		if reason != "" {
			c.want = []FieldError{{Field: "table", Reason: reason}}
		}
		cases = append(cases, c)
	}
	return cases
}

func ownerCases() []problemCase {
	const possible = `: only letters, digits and any of "_.-" are possible`
	cases := []problemCase{
		{
			name:     "services of an owner",
			config:   Config{Owner: "2.a_b-C"},
			services: []Service{{Name: "2.a_b-C/1"}, {Name: "2.a_b-C//"}, {Name: "2.a_b-C/x/y"}},
		},
		{name: "names with slashes without an owner", services: []Service{{Name: "/"}, {Name: "a/b"}, {Name: "/b"}, {Name: "a/"}}},
		{
			name:   "names of others",
			config: Config{Owner: "a"},
			services: []Service{
				{Name: "a"}, {Name: "a/"}, {Name: "/a"}, {Name: "ab/x"}, {Name: "A/x"}, {},
			},
			want: []FieldError{{Service: "services[5]", Field: "name", Reason: "is empty: give every service a name of its own"}},
		},
		{
			name:   "owner and protect",
			config: Config{Owner: "a", Protect: true},
			want: []FieldError{{
				Field: "protect", Reason: "is not possible with owner, since it keeps other owners out: leave one of them out",
			}},
		},
	}
	for i := range cases[2].services[:5] {
		name := cases[2].services[i].Name
		cases[2].want = append(cases[2].want, FieldError{
			Service: name, Field: "name", Reason: fmt.Sprintf(`%q is not of owner "a": begin it with "a/"`, name),
		})
	}
	for owner, reason := range map[string]string{
		strings.Repeat("x", 32): "",
		strings.Repeat("x", 33): "has 33 bytes: at most 32 are possible",
		"a/b":                   `"a/b" has '/' at byte 1` + possible,
		"a b":                   `"a b" has ' ' at byte 1` + possible,
		"é":                     `"é" has 'é' at byte 0` + possible,
	} {
		c := problemCase{name: fmt.Sprintf("owner %q", owner), config: Config{Owner: owner}}
		if reason != "" {
			c.want = []FieldError{{Field: "owner", Reason: reason}}
		}
		cases = append(cases, c)
	}
	return cases
}

func nameCases() []problemCase {
	const possible = ": only printable characters and spaces are possible, and no double quote"
	cases := []problemCase{{
		name:     "a long and wrong name is two problems",
		services: []Service{{Name: strings.Repeat("x", 128) + "\t"}},
		want: []FieldError{
			{Service: strings.Repeat("x", 128) + "\t", Field: "name", Reason: "has 129 bytes: at most 128 fit into a comment"},
			{Service: strings.Repeat("x", 128) + "\t", Field: "name", Reason: `has '\t' at byte 128` + possible},
		},
	}}
	for name, reason := range map[string]string{
		"default/web:http":                      "",
		" a  b ":                                "",
		` !#$%&'()*+,-./:;<=>?@[\]^_{|}~` + "`": "",
		"日本語 é ß 😀":                             "",
		"a\uFFFDb":                              "",
		strings.Repeat("é", 64):                 "",
		strings.Repeat("x", 129):                "has 129 bytes: at most 128 fit into a comment",
		`a"b"`:                                  `has '"' at byte 1` + possible,
		"é\x00":                                 `has '\x00' at byte 2` + possible,
		"a\u200b":                               `has '\u200b' at byte 1` + possible,
		"a\u202eb":                              `has '\u202e' at byte 1` + possible,
		"a\u00a0b":                              `has '\u00a0' at byte 1` + possible,
		"a\xffb\n":                              `has "\xff" at byte 1: it must be UTF-8`,
		"a\xef":                                 `has "\xef" at byte 1: it must be UTF-8`,
	} {
		c := problemCase{name: fmt.Sprintf("name %q", name), services: []Service{{Name: name}}}
		if reason != "" {
			c.want = []FieldError{{Service: name, Field: "name", Reason: reason}}
		}
		cases = append(cases, c)
	}
	return cases
}

func frontendCases() []problemCase {
	cases := []problemCase{}
	const advice = ": give a unicast address that clients can reach, or none for all node addresses"
	for text, reason := range map[string]string{
		"10.96.0.10":       "",
		"::ffff:10.96.0.1": "",
		"fe80::1":          "fe80::1 is a link-local IPv6 address, to which clients send packets that the kernel does not forward" + advice,
		"169.254.20.10":    "",
		"0.0.0.0":          "",
		"::":               "",
		"::ffff:0.0.0.0":   "",
		"fe80::1%eth0":     "fe80::1%eth0 has a zone, which a rule cannot carry" + advice,
		"::1%lo":           "::1%lo has a zone, which a rule cannot carry" + advice,
		"127.8.0.1":        "",
		"::1":              "",
		"::ffff:127.0.0.1": "",
		"224.0.0.251":      "224.0.0.251 is a multicast address" + advice,
		"ff02::1":          "ff02::1 is a multicast address" + advice,
		"::ffff:224.0.0.1": "::ffff:224.0.0.1 is a multicast address" + advice,
		"255.255.255.255":  "255.255.255.255 is the broadcast address" + advice,
	} {
		cases = append(cases, problemCase{
			name:     "frontend " + text,
			services: []Service{{Name: "a", Frontends: []Frontend{{Addr: netip.MustParseAddr(text), Port: 80}}}},
			want:     oneProblem("frontends[0].addr", reason),
		})
	}
	return cases
}

func schedulerCases() []problemCase {
	var cases []problemCase
	pool := manyBackends(252)
	front := fronts("10.96.0.10:80")
	for i, c := range []struct {
		service       Service
		field, reason string
	}{
		{Service{Scheduler: SchedulerRoundRobin}, "", ""},
		{Service{Scheduler: SchedulerSourcePortHash}, "", ""},
		{Service{Scheduler: SchedulerMaglev}, "", ""},
		{Service{Scheduler: SchedulerMaglev, MaglevSize: 65521, Frontends: front, Backends: pool}, "", ""},
		{Service{Scheduler: 99}, "scheduler", "scheduler(99) is unknown: use random, round-robin, source-hash, maglev or source-port-hash"},
		{Service{Scheduler: SchedulerSourcePortHash, MaglevSize: 251}, "maglevSize", "is of no use with scheduler source-port-hash: leave it out, or choose maglev"},
		{Service{MaglevSize: 251}, "maglevSize", "is of no use with scheduler random: leave it out, or choose maglev"},
		{Service{Scheduler: SchedulerMaglev, MaglevSize: 1000}, "maglevSize", "1000 is not a prime up to 65521, as 251, 1021, 4093, 16381 and 65521 are"},
		{Service{Scheduler: SchedulerMaglev, MaglevSize: 65535}, "maglevSize", "65535 is not a prime up to 65521, as 251, 1021, 4093, 16381 and 65521 are"},
		{
			Service{Scheduler: SchedulerMaglev, MaglevSize: 251, Frontends: front, Backends: pool},
			"maglevSize", "a table of 251 slots is too small for 252 active IPv4 backends",
		},
	} {
		c.service.Name = "a"
		cases = append(cases, problemCase{
			name: fmt.Sprintf("balance %d", i), services: []Service{c.service}, want: oneProblem(c.field, c.reason),
		})
	}
	return cases
}

func oneProblem(field, reason string) []FieldError {
	if reason == "" {
		return nil
	}
	return []FieldError{{Service: "a", Field: field, Reason: reason}}
}

func backendCases() []problemCase {
	const advice = ": give the unicast address at which the node reaches the backend"
	mappedZone := netip.MustParseAddr("::ffff:10.0.0.1").WithZone("eth0")
	var cases []problemCase
	for addr, reason := range map[netip.AddrPort]string{
		netip.MustParseAddrPort("10.0.0.1:65535"):       "",
		netip.MustParseAddrPort("[fd00::1]:1"):          "",
		netip.MustParseAddrPort("[::ffff:10.0.0.1]:80"): "",
		{}:                                             `is missing: give an address and a port, as in "10.0.0.1:8080", or nodePort`,
		netip.AddrPortFrom(netip.Addr{}, 1):            `is missing: give an address and a port, as in "10.0.0.1:8080", or nodePort`,
		netip.MustParseAddrPort("10.0.0.1:0"):          "10.0.0.1:0 has port 0: give a port from 1 to 65535",
		netip.MustParseAddrPort("[fd00::1]:0"):         "[fd00::1]:0 has port 0: give a port from 1 to 65535",
		netip.MustParseAddrPort("0.0.0.0:80"):          "0.0.0.0 is the unspecified address" + advice,
		netip.MustParseAddrPort("[::]:80"):             ":: is the unspecified address" + advice,
		netip.MustParseAddrPort("[::ffff:0.0.0.0]:80"): "::ffff:0.0.0.0 is the unspecified address" + advice,
		netip.MustParseAddrPort("239.0.0.1:80"):        "239.0.0.1 is a multicast address" + advice,
		netip.MustParseAddrPort("[ff0e::1]:80"):        "ff0e::1 is a multicast address" + advice,
		netip.MustParseAddrPort("255.255.255.255:80"):  "255.255.255.255 is the broadcast address" + advice,
		netip.MustParseAddrPort("127.0.0.1:80"):        "127.0.0.1 is a loopback address" + advice,
		netip.MustParseAddrPort("[::1]:80"):            "::1 is a loopback address" + advice,
		netip.MustParseAddrPort("[fe80::1%eth0]:80"):   "fe80::1%eth0 has a zone, which a rule cannot carry" + advice,
		netip.AddrPortFrom(mappedZone, 80):             mappedZone.String() + " has a zone, which a rule cannot carry" + advice,
	} {
		cases = append(cases, problemCase{
			name:     "backend " + addr.String(),
			services: []Service{{Name: "a", Frontends: fronts(":80"), Backends: []Backend{{Addr: addr}}}},
			want:     oneProblem("backends[0].addr", reason),
		})
	}
	return cases
}

func familyCases() []problemCase {
	both := backs("10.0.0.1:80", "[fd00::1]:80", "[::ffff:10.0.0.2]:80")
	const advice = ", but no frontend of the service is: add one, or remove the backend"
	v4 := []FieldError{
		{Service: "a", Field: "backends[0].addr", Reason: "10.0.0.1:80 is IPv4" + advice},
		{Service: "a", Field: "backends[2].addr", Reason: "[::ffff:10.0.0.2]:80 is IPv4" + advice},
	}
	v6 := []FieldError{{Service: "a", Field: "backends[1].addr", Reason: "[fd00::1]:80 is IPv6" + advice}}
	var cases []problemCase
	for _, c := range []struct {
		fronts []string
		want   []FieldError
	}{
		{nil, nil},
		{[]string{":80"}, nil},
		{[]string{"10.96.0.1:80", "[fd00:9::1]:80"}, nil},
		{[]string{"0.0.0.0:80", "[::]:80"}, nil},
		{[]string{"10.96.0.1:80"}, v6},
		{[]string{"[::ffff:10.96.0.1]:80"}, v6},
		{[]string{"0.0.0.0:80"}, v6},
		{[]string{"[fd00:9::1]:80"}, v4},
		{[]string{"[::]:80"}, v4},
	} {
		cases = append(cases, problemCase{
			name:     fmt.Sprintf("families of %q", c.fronts),
			services: []Service{{Name: "a", Frontends: fronts(c.fronts...), Backends: both}},
			want:     c.want,
		})
	}
	return append(cases, problemCase{
		name: "an IPv4 frontend without an IPv4 backend is as without any",
		services: []Service{{
			Name: "a", Frontends: fronts("10.96.0.1:80", "[fd00:9::1]:80"), Backends: backs("[fd00::1]:80"),
		}},
	})
}

func poolCases() []problemCase {
	mapped := backs("10.0.0.1:80", "10.0.0.1:81", "[::ffff:10.0.0.1]:80", "[fd00::1]:80", "10.0.0.1:80")
	mapped[4].State = StateDown
	duplicates := func(n int) []FieldError {
		return []FieldError{
			{Service: "a", Field: fmt.Sprintf("backends[%d].addr", n+2), Reason: fmt.Sprintf("[::ffff:10.0.0.1]:80 is backends[%d] already: remove one", n)},
			{Service: "a", Field: fmt.Sprintf("backends[%d].addr", n+4), Reason: fmt.Sprintf("10.0.0.1:80 is backends[%d] already: remove one", n)},
		}
	}
	others := backs()
	for i := range 100 {
		others = append(others, back(fmt.Sprintf("10.1.0.%d:80", i)))
	}
	full := slices.Concat(manyBackends(MaxBackends), backs("[fd00::1]:80"))
	drained := append(slices.Clone(full), Backend{Addr: netip.MustParseAddrPort("11.0.0.1:80"), State: StateDraining})
	over := append(slices.Clone(full), back("[::ffff:11.0.0.1]:80"), back("11.0.0.2:80"))
	return []problemCase{
		{name: "duplicates of few", services: []Service{{Name: "a", Backends: mapped}}, want: duplicates(0)},
		{
			name:     "duplicates of many",
			services: []Service{{Name: "a", Backends: slices.Concat(others, mapped)}},
			want:     duplicates(100),
		},
		{
			name:     "missing addresses are neither duplicates nor active backends",
			services: []Service{{Name: "a", Scheduler: SchedulerMaglev, MaglevSize: 2, Backends: append(make([]Backend, 2), backs("10.0.0.1:80", "[fd00::1]:80")...)}},
			want: []FieldError{
				{Service: "a", Field: "backends[0].addr", Reason: `is missing: give an address and a port, as in "10.0.0.1:8080", or nodePort`},
				{Service: "a", Field: "backends[1].addr", Reason: `is missing: give an address and a port, as in "10.0.0.1:8080", or nodePort`},
			},
		},
		{name: "a full pool", services: []Service{{Name: "a", Backends: full}}},
		{name: "a full pool and one draining", services: []Service{{Name: "a", Backends: drained}}},
		{
			name:     "too many for a pool",
			services: []Service{{Name: "a", Backends: over}},
			want:     []FieldError{{Service: "a", Field: "backends", Reason: "has 65537 active IPv4 backends: at most 65535 are possible"}},
		},
	}
}

// oneService returns a case about a service "a".
func oneService(name string, s Service, want ...FieldError) problemCase {
	s.Name = "a"
	for i := range want {
		want[i].Service = "a"
	}
	return problemCase{name: name, services: []Service{s}, want: want}
}

func sourceCases() []problemCase {
	const advice = ": give a unicast address that leads back to this node"
	addrs := func(texts ...string) (out []netip.Addr) {
		for _, text := range texts {
			out = append(out, netip.MustParseAddr(text))
		}
		return out
	}
	both := fronts(":80")
	return []problemCase{
		oneService("sources of both families", Service{Frontends: both, SNAT: addrs("fd00::1", "10.7.0.1")}),
		oneService("a mapped source", Service{Frontends: fronts("10.96.0.1:80"), SNAT: addrs("::ffff:10.7.0.1")}),
		oneService("a source without frontends", Service{SNAT: addrs("10.7.0.1", "fd00::1")}),
		oneService("wrong sources claim no family",
			Service{Frontends: both, SNAT: append(addrs("0.0.0.0", "::", "224.0.0.1", "::ffff:127.0.0.1", "fe80::1%eth0", "255.255.255.255"),
				netip.Addr{}, addr("10.7.0.1"), addr("fd00::1"))},
			FieldError{Field: "snat[0]", Reason: "0.0.0.0 is the unspecified address" + advice},
			FieldError{Field: "snat[1]", Reason: ":: is the unspecified address" + advice},
			FieldError{Field: "snat[2]", Reason: "224.0.0.1 is a multicast address" + advice},
			FieldError{Field: "snat[3]", Reason: "::ffff:127.0.0.1 is a loopback address" + advice},
			FieldError{Field: "snat[4]", Reason: "fe80::1%eth0 has a zone, which a rule cannot carry" + advice},
			FieldError{Field: "snat[5]", Reason: "255.255.255.255 is the broadcast address" + advice},
			FieldError{Field: "snat[6]", Reason: "is missing" + advice},
		),
		oneService("two sources of a family", Service{Frontends: both, SNAT: addrs("10.7.0.1", "fd00::1", "::ffff:10.7.0.2", "fd00::1")},
			FieldError{Field: "snat[2]", Reason: "::ffff:10.7.0.2 is a second IPv4 address: one of each family is possible"},
			FieldError{Field: "snat[3]", Reason: "fd00::1 is a second IPv6 address: one of each family is possible"},
		),
		oneService("a source of no frontend's family", Service{Frontends: fronts("[::]:80"), SNAT: addrs("10.7.0.1")},
			FieldError{Field: "snat[0]", Reason: "10.7.0.1 is IPv4, but no frontend of the service is: remove it"},
		),
	}
}

func clientCases() []problemCase {
	masqueraded := func(text string, m Masquerade, clients ...string) Service {
		f := front(text)
		f.Masquerade, f.MasqueradeClients = m, prefixes(clients...)
		return Service{Frontends: []Frontend{f}}
	}
	of := func(text string, allow, deny []netip.Prefix) Service {
		f := front(text)
		f.Allow, f.Deny = allow, deny
		return Service{Frontends: []Frontend{f}}
	}
	return []problemCase{
		oneService("clients of both families, host bits and repetitions",
			of(":80", prefixes("10.1.2.3/16", "10.1.0.0/16", "::/0"), prefixes("0.0.0.0/0", "fd00::1/128"))),
		oneService("clients of a mapped frontend", of("[::ffff:10.96.0.1]:80", prefixes("10.0.0.0/8"), prefixes("10.1.0.0/16"))),
		oneService("wrong clients", of("0.0.0.0:80", append(prefixes("10.0.0.0/8"), netip.Prefix{}), prefixes("fd00::/64", "::ffff:1.2.3.4/128")),
			FieldError{Field: "frontends[0].allow[1]", Reason: `is missing: give an address and a length, as in "10.0.0.0/8"`},
			FieldError{Field: "frontends[0].deny[0]", Reason: "fd00::/64 is IPv6, but the frontend is not: remove it"},
			FieldError{Field: "frontends[0].deny[1]", Reason: "::ffff:1.2.3.4/128 is an IPv4-mapped prefix: write 1.2.3.4/32"},
		),
		oneService("masqueraded clients of both families and host bits", masqueraded(":80", MasqueradeAuto, "10.1.2.3/16", "::/0")),
		oneService("masqueraded clients of one family", masqueraded(":80", MasqueradeAuto, "fd00::/64")),
		oneService("wrong masqueraded clients", masqueraded("0.0.0.0:80", MasqueradeAuto, "10.0.0.0/8", "fd00::/64", "::ffff:1.2.3.4/128"),
			FieldError{Field: "frontends[0].masqueradeClients[1]", Reason: "fd00::/64 is IPv6, but the frontend is not: remove it"},
			FieldError{Field: "frontends[0].masqueradeClients[2]", Reason: "::ffff:1.2.3.4/128 is an IPv4-mapped prefix: write 1.2.3.4/32"},
		),
		oneService("masqueraded clients and always", masqueraded(":80", MasqueradeAlways, "10.0.0.0/8"),
			FieldError{Field: "frontends[0].masqueradeClients", Reason: "is not possible with masquerade always: leave one of them out"},
		),
		oneService("a backend for policies that is elsewhere", Service{
			Name: "a", Frontends: []Frontend{{Port: 80}}, Backends: []Backend{{Addr: netip.MustParseAddrPort("10.0.0.1:80"), LocalOnly: true}},
		}, FieldError{Field: "backends[0].localOnly", Reason: "is of no use without local: set both, or leave it out"}),
		oneService("masqueraded clients and never", masqueraded(":80", MasqueradeNever, "10.0.0.0/8"),
			FieldError{Field: "frontends[0].masqueradeClients", Reason: "is not possible with masquerade never: leave one of them out"},
		),
		oneService("masqueraded clients and an unknown word", masqueraded(":80", 9, "10.0.0.0/8"),
			FieldError{Field: "frontends[0].masquerade", Reason: "masquerade(9) is unknown: use auto, always, never or external"},
		),
		oneService("IPv4 clients of an IPv6 frontend", of("[fd00:96::1]:80", prefixes("10.0.0.0/8"), nil),
			FieldError{Field: "frontends[0].allow[0]", Reason: "10.0.0.0/8 is IPv4, but the frontend is not: remove it"},
		),
	}
}

// ranged returns a frontend with a range of ports.
func ranged(text string, end uint16) Frontend {
	f := front(text)
	f.EndPort = end
	return f
}

func rangeCases() []problemCase {
	web := []Frontend{ranged("10.96.0.1:80", 90)}
	portless := manyBackends(MaxRangeBackends + 1)
	for i := range portless {
		portless[i].Addr = netip.AddrPortFrom(portless[i].Addr.Addr(), 0)
	}
	down := slices.Clone(portless)
	down[7].State = StateDown
	maglev := func(size uint16) Service {
		return Service{Scheduler: SchedulerMaglev, MaglevSize: size, Frontends: web, Backends: portless[:252]}
	}
	return []problemCase{
		oneService("all ports", Service{Frontends: []Frontend{ranged(":1", 65535)}, Backends: backs("10.0.0.1:0", "[fd00::1]:0")}),
		oneService("a range of one port is a port", Service{Frontends: []Frontend{ranged("10.96.0.1:80", 80)}, Backends: backs("10.0.0.1:0")},
			FieldError{Field: "backends[0].addr", Reason: "10.0.0.1:0 has port 0: give a port from 1 to 65535"}),
		oneService("the end below the beginning", Service{Frontends: []Frontend{ranged("10.96.0.1:80", 79)}, Backends: backs("10.0.0.1:80")},
			FieldError{Field: "frontends[0].endPort", Reason: "79 is below port 80: give the last port of the range"}),
		oneService("the end below the beginning, and what follows from it", Service{Frontends: []Frontend{ranged("10.96.0.1:80", 79)}, Backends: backs("10.0.0.1:0", "[fd00::1]:0")},
			FieldError{Field: "frontends[0].endPort", Reason: "79 is below port 80: give the last port of the range"},
			FieldError{Field: "backends[1].addr", Reason: "[fd00::1]:0 is IPv6, but no frontend of the service is: add one, or remove the backend"}),
		oneService("a range from port 0", Service{Frontends: []Frontend{ranged("10.96.0.1:0", 79)}},
			FieldError{Field: "frontends[0].port", Reason: "is 0: give a port from 1 to 65535"}),
		oneService("a range and a port", Service{Frontends: append(fronts("10.96.0.1:85"), web...), Backends: backs("10.0.0.1:0", "10.0.0.2:85")},
			FieldError{Field: "backends[1].addr", Reason: "10.0.0.2:85 has a port, but the service has a range of ports, which are kept: give port 0"}),
		oneService("a range and what it excludes", Service{
			Affinity: aSecond, Frontends: web, Backends: []Backend{{Addr: netip.MustParseAddrPort("10.0.0.1:0"), MaxConns: 1}},
		},
			FieldError{Field: "affinity", Reason: "is not possible with port ranges: leave one of them out"},
			FieldError{Field: "backends[0].maxConns", Reason: "is not possible with affinity: leave one of them out"},
			FieldError{Field: "backends[0].maxConns", Reason: "is not possible with port ranges: leave one of them out"}),
		oneService("a full range", Service{Frontends: web, Backends: down}),
		oneService("a full range with Maglev", Service{Scheduler: SchedulerMaglev, Frontends: web, Backends: down}),
		oneService("more than a full range", Service{Frontends: web, Backends: portless},
			FieldError{Field: "backends", Reason: "has 8193 active IPv4 backends: at most 8192 are possible"}),
		oneService("the largest table of a range", maglev(32749)),
		oneService("a table too large for a range", maglev(32771),
			FieldError{Field: "maglevSize", Reason: "32771 is more than the 32768 slots that are possible"}),
		oneService("a table too small for a range", maglev(251),
			FieldError{Field: "maglevSize", Reason: "a table of 251 slots is too small for 252 active IPv4 backends"}),
	}
}

const aSecond = Duration(time.Second)

func affinityCases() []problemCase {
	affinity := func(d Duration) Service { return Service{Frontends: fronts(":80"), Affinity: d} }
	return []problemCase{
		oneService("affinity for a second", affinity(aSecond)),
		oneService("affinity for ever", affinity(math.MaxUint32*aSecond)),
		oneService("affinity for longer", affinity((math.MaxUint32+1)*aSecond),
			FieldError{Field: "affinity", Reason: "1193046h28m16s is too long: at most 1193046h28m15s is possible"}),
		oneService("affinity for less than a second", affinity(aSecond/2),
			FieldError{Field: "affinity", Reason: "500ms is not a whole number of seconds"}),
		oneService("affinity for a negative time", affinity(-1),
			FieldError{Field: "affinity", Reason: "-1ns is negative: leave it out, or write at least 1s"}),
	}
}

func togetherCases() []problemCase {
	limited := []Backend{{Addr: netip.MustParseAddrPort("10.0.0.1:80"), MaxConns: math.MaxUint32}, back("10.0.0.2:80")}
	unusable := slices.Clone(limited)
	unusable[0].State, unusable[0].Local, unusable[0].Backup = StateDown, true, true
	return []problemCase{
		oneService("ports of the node beside other backends", Service{
			Frontends: fronts(":80", "[fd00:96::1]:80"), Backends: []Backend{{NodePort: 80}, {NodePort: 81, MaxConns: 1}, back("10.0.0.1:80")},
		}),
		oneService("a port of the node with what it excludes", Service{
			Frontends: []Frontend{{Port: 80, EndPort: 81}}, Affinity: aSecond, Backends: []Backend{{NodePort: 80}},
		},
			FieldError{Field: "affinity", Reason: "is not possible with port ranges: leave one of them out"},
			FieldError{Field: "backends[0].nodePort", Reason: "is not possible with affinity: leave one of them out"},
			FieldError{Field: "backends[0].nodePort", Reason: "is not possible with port ranges: leave one of them out"}),
		oneService("a port of the node with an address, and twice", Service{
			Frontends: fronts(":80"), Backends: []Backend{{NodePort: 80, Addr: netip.MustParseAddrPort("10.0.0.1:80")}, {NodePort: 80}},
		},
			FieldError{Field: "backends[0].nodePort", Reason: "is not possible with an address: leave one of them out"},
			FieldError{Field: "backends[1].nodePort", Reason: "80 is backends[0] already: remove one"}),
		oneService("limits", Service{Frontends: fronts(":80"), Backends: limited}),
		oneService("a limit of what is down", Service{Frontends: fronts(":80"), Backends: unusable}),
		oneService("affinity and limits", Service{Frontends: fronts(":80"), Affinity: aSecond, Backends: unusable},
			FieldError{Field: "backends[0].maxConns", Reason: "is not possible with affinity: leave one of them out"}),
	}
}

func policyCases() []problemCase {
	return []problemCase{oneService("unknown words",
		Service{Frontends: []Frontend{{Port: 80, Policy: 3, Masquerade: 4}}},
		FieldError{Field: "frontends[0].policy", Reason: "policy(3) is unknown: use any-backend, local-only or external-local-only"},
		FieldError{Field: "frontends[0].masquerade", Reason: "masquerade(4) is unknown: use auto, always, never or external"},
	)}
}

func TestValidate(t *testing.T) {
	for _, c := range problemCases() {
		t.Run(c.name, func(t *testing.T) {
			got := fieldErrors(t, c.config.Validate(c.services))
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("problems (-want +got):\n%s", diff)
			}
		})
	}
}

// TestEveryFieldIsValidated fails when a field is added to the model and no
// case above has a wrong value of it.
func TestEveryFieldIsValidated(t *testing.T) {
	index := regexp.MustCompile(`\[\d+\]`)
	// Every value of these fields is valid. (TestExtremes shows that the kernel
	// accepts the largest sizes and times.)
	seen := map[string]bool{
		"config.localhost": true, "config.affinitySize": true,
		"backends.weight": true, "backends.backup": true, "backends.local": true, "cutStale": true,
	}
	for _, c := range problemCases() {
		for _, p := range c.want {
			field := index.ReplaceAllString(p.Field, "")
			if p.Service == "" {
				field = "config." + field
			}
			seen[field] = true
		}
	}
	for prefix, typ := range map[string]reflect.Type{
		"config.":    reflect.TypeFor[Config](),
		"":           reflect.TypeFor[Service](),
		"frontends.": reflect.TypeFor[Frontend](),
		"backends.":  reflect.TypeFor[Backend](),
	} {
		for field := range typ.Fields() {
			name, _, _ := strings.Cut(field.Tag.Get("json"), ",")
			if !seen[prefix+name] {
				t.Errorf("%v.%s: no case of TestValidate has a problem of %q", typ, field.Name, prefix+name)
			}
		}
	}
}

func TestFieldErrorText(t *testing.T) {
	err := Config{Table: "a b"}.Validate([]Service{{}})
	want := `config: table: "a b" has ' ' at byte 1: a letter is needed first, then letters, digits and any of "/_.-"
service "services[0]": name: is empty: give every service a name of its own`
	if diff := cmp.Diff(want, fmt.Sprint(err)); diff != "" {
		t.Errorf("text (-want +got):\n%s", diff)
	}
}
