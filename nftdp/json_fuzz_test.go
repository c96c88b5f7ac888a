package nftdp_test

import (
	"encoding/json"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/nftdp/go-nftdp/internal/compile"
	"github.com/nftdp/go-nftdp/nftdp"
)

// FuzzServicesJSON decodes any text that a user may have written in a file. Its
// validation ends. Valid services encode to a text that decodes to an equal and
// still valid value, and compile to lines that neither affect a terminal nor
// contain other commands.
func FuzzServicesJSON(f *testing.F) {
	for _, seed := range []string{
		`{}`,
		`{"services":[{"name":"a"}]}`,
		`{"config":{"table":"edge","nodeAddrs":["10.0.0.1/8"],"internal":["fd00::/64"]},"services":[` +
			`{"name":"default/web:http","protocol":"TCP","frontends":[{"addr":"10.96.0.10","port":80},` +
			`{"addr":"","port":30644,"noBackend":"drop"}],"backends":[{"addr":"10.8.0.1:8080"},` +
			`{"addr":"[fd00::1]:8080","state":"draining"}]},` +
			`{"name":"dns","protocol":"udp","frontends":[{"addr":"::","port":53},{"addr":"0.0.0.0","port":53}]}]}`,
		`{"services":[{"name":"a","backends":[{"addr":"[::ffff:10.0.0.1]:80"},{"addr":"10.0.0.1:80"}]},{"name":"a"}]}`,
		`{"services":[{"name":"\ud800 \u0000","frontends":[{"addr":"fe80::1%eth0","port":1},{"addr":"224.0.0.1"}]}]}`,
		`{"config":{"table":"ip","nodeAddrs":["::ffff:1.2.3.4/96",""]},"services":[{"backends":[{"addr":""}]}]}`,
		`{"config":{"serviceCIDRs":["10.96.0.0/12"],"unallocated":"drop","internalInterfaces":["cni0","veth*"],"localhost":true,"affinitySize":9},"services":[{"name":"a","affinity":"1m",` +
			`"snat":["10.7.0.1","fd00::7"],"frontends":[{"port":80,"policy":"local-only","masquerade":"always","noBackend":"default",` +
			`"allow":["10.0.0.1/8","fd00::/64"],"deny":["10.1.0.0/16"]}],"backends":[{"addr":"10.8.0.1:80","local":true,"localOnly":true}]},` +
			`{"name":"b","frontends":[{"addr":"10.96.0.2","port":80,"endPort":90,"masqueradeClients":["10.88.0.0/16"]},{"addr":"10.96.0.1","port":80,"endPort":90,"policy":"external-local-only","masquerade":"never"}],` +
			`"backends":[{"addr":"10.8.0.1:0","weight":3}],"scheduler":"source-port-hash"},{"name":"c","scheduler":"round-robin","frontends":[{"port":81}],` +
			`"backends":[{"addr":"10.8.0.1:80","maxConns":5}]}]}`,
	} {
		f.Add([]byte(seed))
	}
	type file struct {
		Config   nftdp.Config    `json:"config"`
		Services []nftdp.Service `json:"services"`
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		var in file
		if json.Unmarshal(text, &in) != nil || in.Config.Validate(in.Services) != nil {
			return
		}
		again, err := json.Marshal(in)
		if err != nil {
			t.Fatal(err)
		}
		var out file
		if err := json.Unmarshal(again, &out); err != nil {
			t.Fatalf("%v in %s", err, again)
		}
		if diff := cmp.Diff(in, out, sameAddrs(), cmpopts.EquateEmpty()); diff != "" {
			t.Errorf("decoded again (-want +got):\n%s", diff)
		}
		if err := out.Config.Validate(out.Services); err != nil {
			t.Errorf("no longer valid: %v", err)
		}
		if !slices.ContainsFunc(out.Services, isLarge) {
			wantHarmless(t, out.Config, out.Services)
		}
	})
}

// isLarge reports whether a service would take too long.
func isLarge(s nftdp.Service) bool {
	return s.Scheduler == nftdp.SchedulerMaglev || slices.ContainsFunc(s.Backends, func(b nftdp.Backend) bool { return b.Weight > 20 })
}

// harmless matches everything that a ruleset contains outside of names.
var harmless = regexp.MustCompile(`^[a-zA-Z0-9 \t:;.,_@/{}!=<>-]*$`)

// wantHarmless checks that, whatever the names, text and plan consist of the
// lines of the fixed ruleset and of elements, with the names, also those of
// interfaces, in quotes.
func wantHarmless(t *testing.T, config nftdp.Config, services []nftdp.Service) {
	t.Helper()
	r, err := config.Compile(services)
	if err != nil {
		t.Fatal(err)
	}
	if plan := r.PlanTo(r); !plan.Empty() {
		t.Errorf("a ruleset differs from itself:\n%v", plan)
	}
	names := map[string]bool{compile.Schema: true}
	for i := range services {
		names[services[i].Name] = true
	}
	for _, name := range config.InternalInterfaces {
		names[name] = true
	}
	empty, err := nftdp.Config{}.Compile(nil)
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(r.String() + empty.PlanTo(r).String()) {
		parts := strings.Split(strings.TrimSuffix(line, "\n"), `"`)
		for i, part := range parts {
			if i%2 == 0 && !harmless.MatchString(part) || i%2 == 1 && !names[part] {
				t.Errorf("%q in line %q", part, line)
			}
		}
	}
}
