package nftdp_test

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/nftdp/go-nftdp/nftdp"
)

// sameAddrs lets cmp compare addresses, which have unexported fields.
func sameAddrs() cmp.Option {
	return cmpopts.EquateComparable(netip.Addr{}, netip.AddrPort{}, netip.Prefix{})
}

func fullService() nftdp.Service {
	return nftdp.Service{
		Name:      `default/web:http é {};\`,
		Protocol:  nftdp.ProtocolSCTP,
		Scheduler: nftdp.SchedulerMaglev, MaglevSize: 251, CutStale: true,
		Affinity: nftdp.Duration(3 * time.Hour),
		SNAT:     []netip.Addr{netip.MustParseAddr("10.7.0.1"), netip.MustParseAddr("fd00:7::1")},
		Frontends: []nftdp.Frontend{{
			Addr: netip.MustParseAddr("10.96.0.10"), Port: 80, EndPort: 90,
			Policy: nftdp.PolicyExternalLocalOnly, Masquerade: nftdp.MasqueradeNever, NoBackend: nftdp.ActionDrop,
			Allow:             []netip.Prefix{netip.MustParsePrefix("10.1.2.3/16"), netip.MustParsePrefix("fd00::/64")},
			Deny:              []netip.Prefix{netip.MustParsePrefix("10.1.7.0/24")},
			MasqueradeClients: []netip.Prefix{netip.MustParsePrefix("fd00:88::/64")},
		}},
		Backends: []nftdp.Backend{{
			Addr: netip.MustParseAddrPort("[fd00::1]:8080"), NodePort: 8443,
			State: nftdp.StateDown, Weight: 3, Backup: true, Local: true, LocalOnly: true, MaxConns: 100,
		}},
	}
}

func TestServiceJSON(t *testing.T) {
	for _, c := range []struct {
		name    string
		service nftdp.Service
		want    string
	}{
		{
			"every field", fullService(),
			`{"name":"default/web:http é {};\\","protocol":"sctp",` +
				`"frontends":[{"addr":"10.96.0.10","port":80,"endPort":90,"policy":"external-local-only",` +
				`"masquerade":"never","masqueradeClients":["fd00:88::/64"],"allow":["10.1.2.3/16","fd00::/64"],"deny":["10.1.7.0/24"],"noBackend":"drop"}],` +
				`"backends":[{"addr":"[fd00::1]:8080","nodePort":8443,"state":"down","weight":3,"backup":true,"local":true,"localOnly":true,"maxConns":100}],` +
				`"scheduler":"maglev","affinity":"3h0m0s","snat":["10.7.0.1","fd00:7::1"],"maglevSize":251,"cutStale":true}`,
		},
		{"zero", nftdp.Service{}, `{"name":""}`},
		{
			"zero values inside",
			nftdp.Service{Name: "a", Frontends: make([]nftdp.Frontend, 1), Backends: make([]nftdp.Backend, 1)},
			`{"name":"a","frontends":[{"port":0}],"backends":[{}]}`,
		},
	} {
		t.Run(c.name, func(t *testing.T) { roundTrip(t, c.service, c.want) })
	}
}

func TestConfigJSON(t *testing.T) {
	roundTrip(t, nftdp.Config{}, `{}`)
	roundTrip(t, fullConfig(), `{"table":"edge","owner":"cni","nodeAddrs":["192.168.0.0/24","fd00::/64"],"internal":["10.0.0.0/8"],"internalInterfaces":["veth*"],`+
		`"serviceCIDRs":["10.96.0.0/12"],"unallocated":"drop","localhost":true,"affinitySize":1000,"protect":true}`)
}

func fullConfig() nftdp.Config {
	return nftdp.Config{
		Table:     "edge",
		Owner:     "cni",
		NodeAddrs: []netip.Prefix{netip.MustParsePrefix("192.168.0.0/24"), netip.MustParsePrefix("fd00::/64")},
		Internal:  []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")},

		InternalInterfaces: []string{"veth*"},

		ServiceCIDRs: []netip.Prefix{netip.MustParsePrefix("10.96.0.0/12")},
		Unallocated:  nftdp.ActionDrop,
		Localhost:    true,
		AffinitySize: 1000,
		Protect:      true,
	}
}

// roundTrip checks a value's JSON and that it decodes to an equal value.
func roundTrip[T any](t *testing.T, value T, want string) {
	t.Helper()
	text, err := json.Marshal(value)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, string(text)); diff != "" {
		t.Errorf("JSON (-want +got):\n%s", diff)
	}
	var got T
	if err := json.Unmarshal(text, &got); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(value, got, sameAddrs()); diff != "" {
		t.Errorf("decoded again (-want +got):\n%s", diff)
	}
}

// TestRoundTripHasEveryField fails when a field is added to the model and the
// values that the tests encode leave it at zero.
func TestRoundTripHasEveryField(t *testing.T) {
	s := fullService()
	for _, v := range []any{s, s.Frontends[0], s.Backends[0], fullConfig()} {
		for field, value := range reflect.ValueOf(v).Fields() {
			if value.IsZero() {
				t.Errorf("%T.%s is zero", v, field.Name)
			}
		}
	}
}

// TestUnsetAddrInJSON: there are two ways to write a node-wide frontend.
func TestUnsetAddrInJSON(t *testing.T) {
	for _, text := range []string{`{"port":80}`, `{"addr":"","port":80}`} {
		var got nftdp.Frontend
		if err := json.Unmarshal([]byte(text), &got); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(nftdp.Frontend{Port: 80}, got, sameAddrs()); diff != "" {
			t.Errorf("%s (-want +got):\n%s", text, diff)
		}
	}
}

// TestStatusJSON: what Inspect returns can be encoded and decoded again.
func TestStatusJSON(t *testing.T) {
	drop := nftdp.ActionDrop
	full := nftdp.ServiceStatus{Name: "a", Protocol: nftdp.ProtocolUDP, Frontends: []nftdp.FrontendStatus{{
		Addr: netip.MustParseAddr("::"), Port: 80, EndPort: 90, NoBackend: &drop,
		Counter: nftdp.Counter{Connections: 7, Bytes: 420},
		Backends: []nftdp.BackendStatus{
			{Addr: netip.MustParseAddrPort("[fd00::1]:0"), Slots: 2, Counter: nftdp.Counter{Connections: 1, Bytes: 60}},
		},
	}}}
	for _, v := range []any{full, full.Frontends[0], full.Frontends[0].Backends[0], full.Frontends[0].Counter} {
		for field, value := range reflect.ValueOf(v).Fields() {
			if value.IsZero() {
				t.Errorf("%T.%s is zero", v, field.Name)
			}
		}
	}
	roundTrip(t, full, `{"name":"a","protocol":"udp","frontends":[{"addr":"::","port":80,"endPort":90,"noBackend":"drop",`+
		`"counter":{"connections":7,"bytes":420},`+
		`"backends":[{"addr":"[fd00::1]:0","slots":2,"counter":{"connections":1,"bytes":60}}]}]}`)
	roundTrip(t, nftdp.FrontendStatus{Addr: netip.MustParseAddr("10.0.0.1"), Port: 80},
		`{"addr":"10.0.0.1","port":80,"counter":{"connections":0,"bytes":0}}`)
}

// word is the interface of the enumerations.
type word interface {
	comparable
	fmt.Stringer
	MarshalText() ([]byte, error)
}

func TestWords(t *testing.T) {
	testWords(t, nftdp.Protocol(9), "unknown protocol %s: want tcp, udp or sctp",
		map[string]nftdp.Protocol{"tcp": nftdp.ProtocolTCP, "udp": nftdp.ProtocolUDP, "sctp": nftdp.ProtocolSCTP})
	testWords(t, nftdp.Action(9), "unknown action %s: want default, reject, drop or pass",
		map[string]nftdp.Action{"default": nftdp.ActionDefault, "reject": nftdp.ActionReject, "drop": nftdp.ActionDrop})
	testWords(t, nftdp.Policy(9), "unknown policy %s: want any-backend, local-only or external-local-only",
		map[string]nftdp.Policy{
			"any-backend": nftdp.PolicyAnyBackend, "local-only": nftdp.PolicyLocalOnly, "external-local-only": nftdp.PolicyExternalLocalOnly,
		})
	testWords(t, nftdp.Masquerade(9), "unknown masquerade %s: want auto, always, never or external",
		map[string]nftdp.Masquerade{
			"auto": nftdp.MasqueradeAuto, "always": nftdp.MasqueradeAlways, "never": nftdp.MasqueradeNever,
			"external": nftdp.MasqueradeExternal,
		})
	testWords(t, nftdp.Scheduler(9), "unknown scheduler %s: want random, round-robin, source-hash, maglev or source-port-hash",
		map[string]nftdp.Scheduler{
			"random": nftdp.SchedulerRandom, "round-robin": nftdp.SchedulerRoundRobin, "source-hash": nftdp.SchedulerSourceHash,
			"maglev": nftdp.SchedulerMaglev, "source-port-hash": nftdp.SchedulerSourcePortHash,
		})
	testWords(t, nftdp.State(9), "unknown state %s: want active, draining or down",
		map[string]nftdp.State{"active": nftdp.StateActive, "draining": nftdp.StateDraining, "down": nftdp.StateDown})
}

// testWords checks every word of a type, and that the refusal of another word
// lists them. The text of the refusal has %s in place of the refused word.
func testWords[T word](t *testing.T, unknown T, refusal string, words map[string]T) {
	t.Helper()
	for text, value := range words {
		if got := value.String(); got != text {
			t.Errorf("String of %q is %q", text, got)
		}
		roundTrip(t, value, `"`+text+`"`)
		decodes(t, text, value)
		decodes(t, strings.ToUpper(text), value)
	}
	kind := strings.Fields(refusal)[1]
	if got, want := unknown.String(), kind+"(9)"; got != want {
		t.Errorf("String is %q, want %q", got, want)
	}
	if _, err := unknown.MarshalText(); fmt.Sprint(err) != fmt.Sprintf(refusal, "9") {
		t.Errorf("marshal: %v", err)
	}
	// The last one has a long s, which to Unicode is an s in another case.
	for _, text := range []string{"", "0", " tcp", "drop ", "ſctp"} {
		value := unknown
		err := json.Unmarshal([]byte(`"`+text+`"`), &value)
		if want := fmt.Sprintf(refusal, `"`+text+`"`); fmt.Sprint(err) != want {
			t.Errorf("error %v, want %s", err, want)
		}
		if value != unknown {
			t.Errorf("a refused %q became %v", text, value)
		}
	}
}

func decodes[T word](t *testing.T, text string, want T) {
	t.Helper()
	var got T
	if err := json.Unmarshal([]byte(`"`+text+`"`), &got); err != nil || got != want {
		t.Errorf("%q became %v, %v", text, got, err)
	}
}

func ExampleConfig_Validate() {
	services := []nftdp.Service{
		{
			Name:      "default/web:http",
			Frontends: []nftdp.Frontend{{Addr: netip.MustParseAddr("10.96.0.10"), Port: 80}, {Port: 30644}},
			Backends:  []nftdp.Backend{{Addr: netip.MustParseAddrPort("127.0.0.1:8080")}},
		},
		{
			Name:      "default/shop:http",
			Frontends: []nftdp.Frontend{{Addr: netip.MustParseAddr("10.96.0.10"), Port: 80}, {}},
		},
	}
	fmt.Println(nftdp.Config{}.Validate(services))
	// Output:
	// service "default/web:http": backends[0].addr: 127.0.0.1 is a loopback address: give the unicast address at which the node reaches the backend
	// service "default/shop:http": frontends[1].port: is 0: give a port from 1 to 65535
	// service "default/shop:http": frontends[0]: tcp 10.96.0.10:80 is already a frontend of service "default/web:http"
}
