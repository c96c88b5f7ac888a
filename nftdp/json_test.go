package nftdp_test

import (
	"encoding/json"
	"fmt"
	"log"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/nftdp/go-nftdp/nftdp"
)

// step is an entry of a Plan in JSON.
type step struct{ Verb, Family, Table, Kind, Name, Command string }

func steps(t *testing.T, v any) []step {
	t.Helper()
	text, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	var out struct{ Changes []step }
	if err := json.Unmarshal(text, &out); err != nil {
		t.Fatal(err)
	}
	return out.Changes
}

// plans returns plans between no tables, no services, and services with every
// kind of object.
func plans(t *testing.T) map[string]*nftdp.Plan {
	t.Helper()
	compile := func(c nftdp.Config, s ...nftdp.Service) *nftdp.Ruleset {
		r, err := c.Compile(s)
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	services := append(possible(), ingress("10.180.0.1:8080"))
	empty, full := compile(nftdp.Config{}), compile(nftdp.Config{ServiceCIDRs: []netip.Prefix{netip.MustParsePrefix("10.96.0.0/12")}}, services...)
	return map[string]*nftdp.Plan{
		"nothing":        full.PlanTo(full),
		"all added":      empty.PlanTo(full),
		"all deleted":    full.PlanTo(empty),
		"a map replaced": full.PlanTo(compile(nftdp.Config{AffinitySize: 9}, services...)),
		"tables changed": full.PlanTo(compile(nftdp.Config{Protect: true}, services...)),
	}
}

// TestPlanJSON: the JSON form of a plan has an entry for each object and each
// line of its text.
func TestPlanJSON(t *testing.T) {
	kinds := map[string]bool{}
	for name, plan := range plans(t) {
		t.Run(name, func(t *testing.T) {
			got := steps(t, plan)
			if len(got) != plan.Len() {
				t.Errorf("%d entries for %d objects", len(got), plan.Len())
			}
			var lines strings.Builder
			for _, s := range got {
				kinds[s.Verb+" "+s.Kind] = true
				fmt.Fprintln(&lines, s.Command)
				begin := strings.TrimSuffix(fmt.Sprintf("%s %s %s %s %s", s.Verb, s.Kind, s.Family, s.Table, s.Name), " ")
				if rest, ok := strings.CutPrefix(s.Command, begin); !ok || rest != "" && rest[0] != ' ' {
					t.Errorf("%+v does not begin with its fields", s)
				}
				if (s.Name == "") != (s.Kind == "table") {
					t.Errorf("name of %+v", s)
				}
			}
			if diff := cmp.Diff(plan.String(), lines.String()); diff != "" {
				t.Errorf("-text +commands:\n%s", diff)
			}
		})
	}
	for _, verb := range []string{"add", "delete"} {
		for _, kind := range []string{"table", "chain", "set", "map", "element"} {
			if !kinds[verb+" "+kind] {
				t.Errorf("no plan has %s %s", verb, kind)
			}
		}
	}
	if !kinds["add rule"] || !kinds["flush chain"] {
		t.Error("no plan changes rules")
	}
}

func TestEmptyPlanJSON(t *testing.T) {
	for _, v := range []any{plans(t)["nothing"], *plans(t)["nothing"], nftdp.Drift{}, &nftdp.Drift{}} {
		if text, err := json.Marshal(v); string(text) != `{"changes":[]}` || err != nil {
			t.Errorf("%T is %s, error %v", v, text, err)
		}
	}
}

func TestDriftJSON(t *testing.T) {
	plan := plans(t)["all added"]
	by := []nftdp.Process{{PID: 7, Name: "nft"}, {PID: 8, Name: "a\"b"}}
	for _, drift := range []any{nftdp.Drift{Plan: plan, By: by}, &nftdp.Drift{Plan: plan, By: by}} {
		if diff := cmp.Diff(steps(t, plan), steps(t, drift)); diff != "" {
			t.Errorf("changes (-plan +drift):\n%s", diff)
		}
		text, err := json.Marshal(drift)
		var got struct{ By []nftdp.Process }
		if err == nil {
			err = json.Unmarshal(text, &got)
		}
		if diff := cmp.Diff(by, got.By); diff != "" || err != nil {
			t.Errorf("error %v, by (-want +got):\n%s", err, diff)
		}
		if want := `"by":[{"pid":7,"name":"nft"},{"pid":8,"name":"a\"b"}]}`; !strings.HasSuffix(string(text), want) {
			t.Errorf("the end is not %s", want)
		}
	}
}

func TestFlowJSON(t *testing.T) {
	roundTrip(t, nftdp.Flow{
		Protocol: nftdp.ProtocolUDP,
		Client:   netip.MustParseAddrPort("198.51.100.1:40000"), Frontend: netip.MustParseAddrPort("10.96.0.10:53"),
		Backend: netip.MustParseAddrPort("10.180.0.1:5353"), Source: netip.MustParseAddrPort("192.0.2.1:40000"), Ended: true,
	}, `{"protocol":"udp","client":"198.51.100.1:40000","frontend":"10.96.0.10:53",`+
		`"backend":"10.180.0.1:5353","source":"192.0.2.1:40000","ended":true}`)
	roundTrip(t, nftdp.Flow{
		Client: netip.MustParseAddrPort("[fd00::9]:1"), Frontend: netip.MustParseAddrPort("[fd00::1]:80"), Source: netip.MustParseAddrPort("[fd00::9]:1"),
	}, `{"protocol":"tcp","client":"[fd00::9]:1","frontend":"[fd00::1]:80","source":"[fd00::9]:1"}`)
}

func TestAffinityJSON(t *testing.T) {
	roundTrip(t, nftdp.Affinity{
		Service: "a", Protocol: nftdp.ProtocolSCTP, Client: netip.MustParseAddr("fd00::9"), Frontend: netip.MustParseAddrPort("[fd00::1]:80"),
		Backend: netip.MustParseAddrPort("[fd00::2]:8080"), Expires: nftdp.Duration(90 * time.Second),
	}, `{"service":"a","protocol":"sctp","client":"fd00::9","frontend":"[fd00::1]:80","backend":"[fd00::2]:8080","expires":"1m30s"}`)
}

func TestChangeJSON(t *testing.T) {
	roundTrip(t, nftdp.Change{}, `{}`)
	roundTrip(t, nftdp.Change{Set: []nftdp.Service{{Name: "a"}}, Delete: []string{"b"}}, `{"set":[{"name":"a"}],"delete":["b"]}`)
}

func TestErrorJSON(t *testing.T) {
	for _, c := range []struct {
		err  error
		want string
	}{
		{
			&nftdp.FieldError{Service: "a", Field: "backends[1].weight", Reason: `"x" is wrong`, Line: 12},
			`{"service":"a","field":"backends[1].weight","reason":"\"x\" is wrong","line":12}`,
		},
		{&nftdp.FieldError{Reason: "is wrong"}, `{"reason":"is wrong"}`},
		{
			&nftdp.ApplyError{Service: "a", Change: "add chain ip nftdp x", Err: syscall.ENOMEM},
			`{"service":"a","change":"add chain ip nftdp x","error":"cannot allocate memory"}`,
		},
		{&nftdp.ApplyError{}, `{}`},
	} {
		if text, err := json.Marshal(c.err); string(text) != c.want || err != nil {
			t.Errorf("%s, error %v, want %s", text, err, c.want)
		}
	}
}

// A service without backends drops what it rejected so far.
func ExamplePlan_MarshalJSON() {
	var config nftdp.Config
	web := nftdp.Service{Name: "default/web", Frontends: []nftdp.Frontend{{Addr: netip.MustParseAddr("10.96.0.10"), Port: 80}}}
	before, err := config.Compile([]nftdp.Service{web})
	if err != nil {
		log.Fatal(err)
	}
	web.Frontends[0].NoBackend = nftdp.ActionDrop
	after, err := config.Compile([]nftdp.Service{web})
	if err != nil {
		log.Fatal(err)
	}
	text, err := json.MarshalIndent(before.PlanTo(after), "", "  ")
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(string(text))
	// Output:
	// {
	//   "changes": [
	//     {
	//       "verb": "delete",
	//       "family": "ip",
	//       "table": "nftdp",
	//       "kind": "element",
	//       "name": "frontends",
	//       "command": "delete element ip nftdp frontends { 10.96.0.10 . tcp . 80 }"
	//     },
	//     {
	//       "verb": "add",
	//       "family": "ip",
	//       "table": "nftdp",
	//       "kind": "element",
	//       "name": "frontends",
	//       "command": "add element ip nftdp frontends { 10.96.0.10 . tcp . 80 comment \"default/web\" : drop }"
	//     }
	//   ]
	// }
}

// A program that watches writes to its log who has changed the tables.
func ExampleDrift() {
	drift := nftdp.Drift{Plan: &nftdp.Plan{}, By: []nftdp.Process{{PID: 4711, Name: "nft"}}} // as Watch yields it
	text, err := json.Marshal(drift)
	fmt.Println(string(text), err)
	// Output:
	// {"changes":[],"by":[{"pid":4711,"name":"nft"}]} <nil>
}
