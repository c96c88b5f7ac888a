package nftdp_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"reflect"
	"strings"
	"testing"
	"time"
	"unicode"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/nftdp/go-nftdp/nftdp"
)

func TestParseServicesRefuses(t *testing.T) {
	for _, c := range []struct{ name, text, want string }{
		{"nothing", ``, `line 1: unexpected end of JSON input`},
		{"no list", "\n{\"name\": \"a\"}", `line 2: {...} is not a list of services`},
		{"null", `null`, `line 1: null is not a list of services`},
		{"a number", `7`, `line 1: 7 is not a list of services`},
		{"no comma", "[\n{\"name\": \"a\"}\n{}]", `line 3: invalid character '{' after array element`},
		{"only the syntax error", "[{\"nam: \"a\",\n\"wieght\": 1}]", `line 1: invalid character 'a' after object key`},
		{"a missing end", "[{\n\"name\":\n", `line 2: unexpected end of JSON input`},
		{"more than a list", "[]\n[]", `line 2: invalid character '[' after top-level value`},
		{"invalid UTF-8", "[{\n\"name\": \"\xff\"}]", `line 2: byte 0xff is not UTF-8`},
		{
			"services that are none", `[null, "a", ["b"], 7]`, `
line 1: service "services[0]": null is not an object
line 1: service "services[1]": "a" is not an object
line 1: service "services[2]": [...] is not an object
line 1: service "services[3]": 7 is not an object`,
		},
		{
			"fields that are unknown",
			`[{
  "name": "demo/web",
  "Protocol": "udp",
  "backends": [{"addr": "10.0.0.1:80"}, {
    "addr": "10.0.0.2:80",
    "wieght": {"a": [1, {}], "addr": "x"}
  }],
  "frontends": [{"port": 80, "color": ["red"], "a\n\"b": 1}]
}]`,
			`
line 3: service "demo/web": Protocol: is unknown: did you mean "protocol"?
line 6: service "demo/web": backends[1].wieght: is unknown: did you mean "weight"?
line 8: service "demo/web": frontends[0].color: is unknown: known are addr, port, endPort, policy, masquerade, masqueradeClients, allow, deny, noBackend
line 8: service "demo/web": frontends[0]."a\n\"b": is unknown: known are addr, port, endPort, policy, masquerade, masqueradeClients, allow, deny, noBackend`,
		},
		{
			"fields that occur twice", `[{"name": "a",
"backends": [{"addr": "10.0.0.1:80", "weight": 1,
"weight": 2}], "name": ["b"]}]`, `
line 3: service "a": backends[0].weight: occurs twice: remove one
line 3: service "a": name: occurs twice: remove one`,
		},
		{
			"values that do not fit", `[{
"name": 7, "protocol": "tpc", "scheduler": 1,
"affinity": 600, "snat": ["10.0.0.1/8", null, "10.0.0.1"], "maglevSize": 65536,
"frontends": [
  {"addr": "10.0.0.300", "port": "80", "endPort": -1, "allow": ["10.0.0.0"], "deny": {"a": 1}},
  {"addr": {}, "port": 8e1, "noBackend": "", "policy": true, "masquerade": []},
  null
],
"backends": [
  {"addr": "10.0.0.1", "weight": 1.5, "backup": "yes", "local": 0, "maxConns": 4294967296},
  {"addr": "fd00::1:80", "state": null}, []
]}, {"name": "b", "affinity": "600", "frontends": "x", "backends": null}]`,
			`
line 2: service "services[0]": name: 7 is not text in quotes
line 2: service "services[0]": protocol: "tpc" is not tcp, udp or sctp
line 2: service "services[0]": scheduler: 1 is not random, round-robin, source-hash, maglev or source-port-hash
line 3: service "services[0]": affinity: 600 is not a duration, as in "10m"
line 3: service "services[0]": snat[0]: "10.0.0.1/8" is not an IP address, as in "10.0.0.1"
line 3: service "services[0]": snat[1]: null is not an IP address, as in "10.0.0.1"
line 3: service "services[0]": maglevSize: 65536 is not a whole number from 0 to 65535
line 5: service "services[0]": frontends[0].addr: "10.0.0.300" is not an IP address, as in "10.0.0.1"
line 5: service "services[0]": frontends[0].port: "80" is not a whole number from 0 to 65535
line 5: service "services[0]": frontends[0].endPort: -1 is not a whole number from 0 to 65535
line 5: service "services[0]": frontends[0].allow[0]: "10.0.0.0" is not an address and a length, as in "10.0.0.0/8"
line 5: service "services[0]": frontends[0].deny: {...} is not a list
line 6: service "services[0]": frontends[1].addr: {...} is not an IP address, as in "10.0.0.1"
line 6: service "services[0]": frontends[1].port: 8e1 is not a whole number from 0 to 65535
line 6: service "services[0]": frontends[1].noBackend: "" is not default, reject, drop or pass
line 6: service "services[0]": frontends[1].policy: true is not any-backend, local-only or external-local-only
line 6: service "services[0]": frontends[1].masquerade: [...] is not auto, always, never or external
line 7: service "services[0]": frontends[2]: null is not an object
line 10: service "services[0]": backends[0].addr: "10.0.0.1" is not an ip:port, as in "10.0.0.1:8080" or "[fd00::1]:8080"
line 10: service "services[0]": backends[0].weight: 1.5 is not a whole number from 0 to 65535
line 10: service "services[0]": backends[0].backup: "yes" is not true or false
line 10: service "services[0]": backends[0].local: 0 is not true or false
line 10: service "services[0]": backends[0].maxConns: 4294967296 is not a whole number from 0 to 4294967295
line 11: service "services[0]": backends[1].addr: "fd00::1:80" is not an ip:port, as in "10.0.0.1:8080" or "[fd00::1]:8080"
line 11: service "services[0]": backends[1].state: null is not active, draining or down
line 11: service "services[0]": backends[2]: [...] is not an object
line 12: service "b": affinity: "600" is not a duration, as in "10m"
line 12: service "b": frontends: "x" is not a list
line 12: service "b": backends: null is not a list`,
		},
		{
			"what validation finds, in the line of the field or of what lacks it", `[
{
  "name": "a",
  "frontends": [
    {"addr": "10.96.0.1", "port": 80},
    {"addr": "10.96.0.2",
     "port": 0}
  ],
  "backends": [
    {
      "weight": 1
    }
  ],
  "snat": [
    "127.0.0.1"
  ]
},
{
  "frontends": [
    {"port": 0, "policie": "x"}
  ]
},
{
  "frontends": [
    {"addr": "10.96.0.1", "port": 80}
  ]
},
{
  "backends": [],
  "name":
    "a"
}]`,
			`
line 7: service "a": frontends[1].port: is 0: give a port from 1 to 65535
line 10: service "a": backends[0].addr: is missing: give an address and a port, as in "10.0.0.1:8080", or nodePort
line 15: service "a": snat[0]: 127.0.0.1 is a loopback address: give a unicast address that leads back to this node
line 20: service "services[1]": frontends[0].policie: is unknown: did you mean "policy"?
line 23: service "services[2]": name: is empty: give every service a name of its own
line 25: service "services[2]": frontends[0]: tcp 10.96.0.1:80 is already a frontend of service "a"
line 31: service "a": name: services[3] has the name of services[0]: choose another`,
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			services, err := nftdp.ParseServices([]byte(c.text))
			if diff := cmp.Diff(strings.Split(strings.TrimPrefix(c.want, "\n"), "\n"), strings.Split(fmt.Sprint(err), "\n")); diff != "" {
				t.Errorf("errors (-want +got):\n%s", diff)
			}
			if services != nil {
				t.Errorf("services %v together with an error", services)
			}
		})
	}
}

// TestParseServicesErrors: each problem is a separate *FieldError.
func TestParseServicesErrors(t *testing.T) {
	_, err := nftdp.ParseServices([]byte("[\n{\"name\": \"a\", \"prot\": 1,\n\"snat\": 1}]"))
	var joined interface{ Unwrap() []error }
	if !errors.As(err, &joined) {
		t.Fatalf("%T is not a joined error", err)
	}
	var got []nftdp.FieldError
	for _, one := range joined.Unwrap() {
		var p *nftdp.FieldError
		if !errors.As(one, &p) {
			t.Fatalf("%T is not a *FieldError", one)
		}
		got = append(got, *p)
	}
	want := []nftdp.FieldError{
		{
			Service: "a", Field: "prot", Line: 2,
			Reason: "is unknown: known are name, protocol, frontends, backends, scheduler, affinity, snat, maglevSize, cutStale",
		},
		{Service: "a", Field: "snat", Line: 3, Reason: "1 is not a list"},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("problems (-want +got):\n%s", diff)
	}
}

// possible returns valid services that together set every field.
func possible() []nftdp.Service {
	full := fullService()
	full.SNAT, full.Affinity = full.SNAT[1:], 0
	node := full.Backends[0]
	full.Backends[0].NodePort, node.Addr = 0, netip.AddrPort{}
	full.Backends = append(full.Backends, node)
	full.Frontends[0].Addr, full.Frontends[0].EndPort = netip.MustParseAddr("fd00:96::1"), 0
	full.Frontends[0].Masquerade = nftdp.MasqueradeAuto
	full.Frontends[0].Allow, full.Frontends[0].Deny = full.Frontends[0].Allow[1:], full.Frontends[0].Allow[1:]
	return []nftdp.Service{
		full,
		{Name: "ports", Frontends: []nftdp.Frontend{{Port: 1, EndPort: 9, Masquerade: nftdp.MasqueradeNever}}},
		{Name: "affinity", Affinity: nftdp.Duration(time.Hour)},
	}
}

// TestParseServicesHasEveryField: the output of json.Marshal is accepted, with
// all fields of the model.
func TestParseServicesHasEveryField(t *testing.T) {
	text, err := json.MarshalIndent(possible(), "", "\t")
	if err != nil {
		t.Fatal(err)
	}
	got, err := nftdp.ParseServices(text)
	if diff := cmp.Diff(possible(), got, sameAddrs()); err != nil || diff != "" {
		t.Errorf("error %v (-want +got):\n%s", err, diff)
	}
	for _, typ := range []reflect.Type{reflect.TypeFor[nftdp.Service](), reflect.TypeFor[nftdp.Frontend](), reflect.TypeFor[nftdp.Backend]()} {
		for field := range typ.Fields() {
			name, _, _ := strings.Cut(field.Tag.Get("json"), ",")
			if !strings.Contains(string(text), `"`+name+`": `) {
				t.Errorf("%v.%s is in none of the services", typ, field.Name)
			}
		}
	}
}

func TestParseServicesAccepts(t *testing.T) {
	file, err := os.ReadFile("../examples/nodeport/services.json")
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"no service": "[ ]\n",
		"a file":     string(file),
		"words in upper case, host bits, a mapped address, explicit zeros": `[{"name": "a", "protocol": "UDP", "affinity": "1h30m",
			"frontends": [{"addr": "", "port": 1, "policy": "Local-Only", "allow": ["10.1.2.3/8"], "deny": []}],
			"backends": [{"addr": "[::ffff:10.0.0.1]:80", "weight": 0, "local": false, "state": "active"}]}]`,
		"escapes": `[{"n\u0061me": "\u00e9 \/ \\ 日"}]`,
	} {
		t.Run(name, func(t *testing.T) {
			got, err := nftdp.ParseServices([]byte(text))
			if err != nil {
				t.Fatal(err)
			}
			wantParsed(t, []byte(text), got)
		})
	}
}

// wantParsed checks parsed services: json.Unmarshal reads the same, and the
// output of json.Marshal is parsed to the same.
func wantParsed(t *testing.T, text []byte, services []nftdp.Service) {
	t.Helper()
	var plain []nftdp.Service
	if err := json.Unmarshal(text, &plain); err != nil {
		t.Errorf("json.Unmarshal: %v", err)
	}
	if diff := cmp.Diff(plain, services, sameAddrs(), cmpopts.EquateEmpty()); diff != "" {
		t.Errorf("-json.Unmarshal +ParseServices:\n%s", diff)
	}
	again, err := json.Marshal(services)
	if err != nil {
		t.Fatal(err)
	}
	got, err := nftdp.ParseServices(again)
	if diff := cmp.Diff(services, got, sameAddrs()); err != nil || diff != "" {
		t.Errorf("parsed again: error %v (-want +got):\n%s", err, diff)
	}
}

// FuzzParseServices: every text is either refused, with lines that do not
// affect a terminal, or accepted, also after it is encoded again.
func FuzzParseServices(f *testing.F) {
	text, err := json.Marshal(possible())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(text)
	for _, seed := range []string{
		``, `null`, `[]`, `[{}]`, `[[`, `[{"name":"a"}] `, "[{\"name\":\"\xff\"}]", `[{"name":"\ud800"},{"name":"\u0000"}]`,
		`[{"name":"a","name":"b","wieght":{"a":[[]]}}]`, `[{"name":"a","backends":[{"addr":7},[],null,{"addr":{}}]}]`,
		`[{"name":"a","affinity":"-1ns","frontends":[{"port":65536},{"port":1e1}]},{"name":"a"}]`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		services, err := nftdp.ParseServices(text)
		if err == nil {
			wantParsed(t, text, services)
			return
		}
		for line := range strings.SplitSeq(err.Error(), "\n") {
			if !strings.HasPrefix(line, "line ") || strings.ContainsFunc(line, func(r rune) bool { return !unicode.IsPrint(r) }) {
				t.Errorf("%q is in the error", line)
			}
		}
	})
}

func ExampleParseServices() {
	_, err := nftdp.ParseServices([]byte(`[
	{
		"name": "demo/web",
		"frontends": [{"addr": "10.96.0.10", "port": 80}],
		"backends": [
			{"addr": "10.180.0.1:8080"},
			{"addr": "10.180.0.2", "wieght": 3}
		]
	}
]`))
	fmt.Println(err)
	// Output:
	// line 7: service "demo/web": backends[1].addr: "10.180.0.2" is not an ip:port, as in "10.0.0.1:8080" or "[fd00::1]:8080"
	// line 7: service "demo/web": backends[1].wieght: is unknown: did you mean "weight"?
}

// A configuration is read as strictly as services are.
func TestParseConfig(t *testing.T) {
	want := nftdp.Config{
		Table: "t", Owner: "cni", NodeAddrs: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}, Internal: []netip.Prefix{netip.MustParsePrefix("10.1.0.0/16")},
		ServiceCIDRs: []netip.Prefix{netip.MustParsePrefix("10.96.0.0/12")}, Localhost: true, AffinitySize: 7,
	}
	text, err := json.Marshal(want)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := nftdp.ParseConfig(text); err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%s: %+v, %v", text, got, err)
	}
	for _, c := range []struct{ text, want string }{
		{``, "line 1: unexpected end of JSON input"},
		{`[]`, "line 1: [...] is not an object"},
		{"{\n\"tabel\": \"a\"}", `line 2: config: tabel: is unknown: did you mean "table"?`},
		{"{\"table\": \"a b\",\n\"internal\": [\n\"::ffff:10.0.0.0/104\"]}", `line 1: config: table: "a b" has ' ' at byte 1: a letter is needed first, then letters, digits and any of "/_.-"
line 3: config: internal[0]: ::ffff:10.0.0.0/104 is an IPv4-mapped prefix: write 10.0.0.0/8`},
		{"{\"localhost\": 1, \"localhost\": true,\n\"nodeAddrs\": null}", `line 1: config: localhost: 1 is not true or false
line 1: config: localhost: occurs twice: remove one
line 2: config: nodeAddrs: null is not a list`},
	} {
		_, err := nftdp.ParseConfig([]byte(c.text))
		if diff := cmp.Diff(c.want, fmt.Sprint(err)); diff != "" {
			t.Errorf("%s: %s", c.text, diff)
		}
	}
}
