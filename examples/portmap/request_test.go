//go:build linux

package main

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"testing"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"

	"github.com/nftdp/go-nftdp/internal/nstest"
	"github.com/nftdp/go-nftdp/nftdp"
)

// argsOf returns what skel makes of a request: with the keys of the configuration,
// as JSON, and the addresses that the plugin before this one has set.
func argsOf(keys string, addrs ...string) *skel.CmdArgs {
	ips := []string{`{"address": "192.0.2.1/24", "interface": 0}`} // the node's
	for _, a := range addrs {
		ips = append(ips, fmt.Sprintf(`{"address": %q, "interface": 1}`, a))
	}
	return &skel.CmdArgs{
		ContainerID: strings.Repeat("c0ffee", 11)[:64], IfName: "eth0",
		StdinData: fmt.Appendf(nil, `{"cniVersion": "1.1.0", "name": "net", "type": "portmap", %s,
			"prevResult": {"cniVersion": "1.1.0", "interfaces": [{"name": "eth0"}, {"name": "eth0", "sandbox": "/proc/1/ns/net"}],
				"ips": [%s]}}`, keys, strings.Join(ips, ", ")),
	}
}

func mappings(list ...string) string {
	return fmt.Sprintf(`"runtimeConfig": {"portMappings": [%s]}`, strings.Join(list, ", "))
}

// TestServices: what the plugin asks of the dataplane is valid, and as configured.
func TestServices(t *testing.T) {
	const (
		v4, v6 = "10.88.0.5/16", "fd00:88::5/64"
		web    = `{"hostPort": 80, "containerPort": 8080}`
	)
	for _, test := range []struct {
		name, keys, addrs string
		want              string // frontends and backends of all services
	}{
		{
			name: "both families", keys: mappings(web), addrs: v4 + " " + v6,
			want: `tcp 0.0.0.0:80 masquerade 10.88.0.5/16, [::]:80 masquerade fd00:88::5/64 > 10.88.0.5:8080 [fd00:88::5]:8080`,
		},
		{name: "one family", keys: mappings(web), addrs: v6, want: `tcp [::]:80 masquerade fd00:88::5/64 > [fd00:88::5]:8080`},
		{name: "the first address of a family", keys: mappings(web), addrs: v4 + " 10.99.0.5/16", want: `tcp 0.0.0.0:80 masquerade 10.88.0.5/16 > 10.88.0.5:8080`},
		{
			name: "two ports of the node", keys: mappings(web, `{"hostPort": 81, "containerPort": 8080, "hostIP": "192.0.2.1"}`), addrs: v4,
			want: `tcp 0.0.0.0:80 masquerade 10.88.0.5/16, 192.0.2.1:81 masquerade 10.88.0.5/16 > 10.88.0.5:8080`,
		},
		{name: "unspecified", keys: mappings(`{"hostPort": 80, "containerPort": 8080, "hostIP": "::"}`), addrs: v4, want: ""},
		{
			name: "mapped", keys: mappings(`{"hostPort": 80, "containerPort": 8080, "hostIP": "::ffff:192.0.2.1"}`), addrs: v4,
			want: `tcp 192.0.2.1:80 masquerade 10.88.0.5/16 > 10.88.0.5:8080`,
		},
		{
			name: "protocols", keys: mappings(`{"hostPort": 80, "containerPort": 8080, "protocol": "udp"}`, `{"hostPort": 80, "containerPort": 8080, "protocol": "SCTP"}`), addrs: v4,
			want: "udp 0.0.0.0:80 masquerade 10.88.0.5/16 > 10.88.0.5:8080\nsctp 0.0.0.0:80 masquerade 10.88.0.5/16 > 10.88.0.5:8080",
		},
		{name: "no snat", keys: mappings(web) + `, "snat": false, "masqAll": true`, addrs: v4, want: `tcp 0.0.0.0:80 never > 10.88.0.5:8080`},
		{name: "masqAll", keys: mappings(web) + `, "masqAll": true, "backend": "iptables", "markMasqBit": 3, "externalSetMarkChain": "X"`, addrs: v4, want: `tcp 0.0.0.0:80 always > 10.88.0.5:8080`},
		{
			name: "clients", keys: mappings(web) + `, "allow": ["10.0.0.0/8"], "deny": ["10.1.0.0/16"], "snat": false`, addrs: v4 + " " + v6,
			want: `tcp 0.0.0.0:80 never allow [10.0.0.0/8] deny [10.1.0.0/16], [::]:80 never deny [::/0] > 10.88.0.5:8080 [fd00:88::5]:8080`,
		},
		{name: "no address", keys: mappings(web), addrs: "", want: ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			r, err := newRequest(argsOf(test.keys, strings.Fields(test.addrs)...))
			if err != nil {
				t.Fatal(err)
			}
			if got := inWords(r.services); got != test.want {
				t.Errorf("got  %s\nwant %s", got, test.want)
			}
			if err := r.Dataplane.Validate(r.services); err != nil {
				t.Error(err)
			}
		})
	}
}

func inWords(services []nftdp.Service) string {
	var lines []string
	for _, s := range services {
		var fronts, backs []string
		for _, f := range s.Frontends {
			words := netip.AddrPortFrom(f.Addr, f.Port).String()
			if f.Masquerade != nftdp.MasqueradeAuto {
				words += " " + f.Masquerade.String()
			}
			for _, p := range f.MasqueradeClients {
				words += " masquerade " + p.String()
			}
			if len(f.Allow) > 0 {
				words += fmt.Sprint(" allow ", f.Allow)
			}
			if len(f.Deny) > 0 {
				words += fmt.Sprint(" deny ", f.Deny)
			}
			fronts = append(fronts, words)
		}
		for _, b := range s.Backends {
			backs = append(backs, b.Addr.String())
		}
		lines = append(lines, fmt.Sprintf("%v %s > %s", s.Protocol, strings.Join(fronts, ", "), strings.Join(backs, " ")))
	}
	return strings.Join(lines, "\n")
}

// TestWrong: a request that cannot be met as it is says why, and with which code.
func TestWrong(t *testing.T) {
	for _, test := range []struct {
		keys string
		code uint
		want string
	}{
		{mappings() + `, "sant": false`, types.ErrUnsupportedField, `"sant": false: the key is unknown`},
		{mappings() + `, "conditionsV4": ["ip", "saddr", "10.0.0.0/8"]`, types.ErrUnsupportedField, `conditionsV4`},
		{mappings() + `, "dataplane": {"owner": ""}`, types.ErrInvalidNetworkConfig, `dataplane.owner is empty`},
		{mappings(`{"containerPort": 80}`), types.ErrInvalidNetworkConfig, `portMappings[0]: {"containerPort": 80}: hostPort is 0`},
		{mappings(`{"hostPort": 80}`), types.ErrInvalidNetworkConfig, `containerPort is 0`},
		{mappings(`{"hostPort": 70000, "containerPort": 80}`), types.ErrInvalidNetworkConfig, `70000`},
		{mappings(`{"hostPort": 80, "containerPort": 80, "protocol": "icmp"}`), types.ErrInvalidNetworkConfig, `icmp`},
		{mappings(`{"hostPort": 80, "containerPort": 80, "hostIP": "x"}`), types.ErrInvalidNetworkConfig, `hostIP`},
		{mappings(`{"hostPort": 80, "containerPort": 80, "hostIP": "fd00::1"}`), types.ErrInvalidNetworkConfig, `the container has no address of that family`},
		{mappings(`{"hostPort": 80, "containerPort": 80, "hostPortEnd": 90}`), types.ErrInvalidNetworkConfig, `hostPortEnd`},
		{`"runtimeConfig": {"portMappings": {}}`, types.ErrDecodingFailure, `portMappings`},
	} {
		_, err := newRequest(argsOf(test.keys, "10.88.0.5/16"))
		coded, ok := err.(*types.Error) //nolint:errorlint // It is the error itself that skel prints.
		if !ok || coded.Code != test.code || !strings.Contains(coded.Msg, test.want) {
			t.Errorf("%s: error %#v, want code %d and %q", test.keys, err, test.code, test.want)
		}
	}
}

// TestNames: the names of services are valid and different, whatever the runtime's are.
func TestNames(t *testing.T) {
	long := strings.Repeat("n", 100)
	seen := map[string]bool{}
	for _, a := range []attachment{
		{"portmap", "net", "id", "eth0"},
		{"portmap", "net", "id", "eth1"},
		{"portmap", long, long, "interface-name1"},
		{"portmap", long + "x", long, "interface-name1"},
		{"portmap", long, long + "x", "interface-name1"},
	} {
		prefix := a.prefix()
		if seen[prefix] {
			t.Errorf("%+v: not the only one with %q", a, prefix)
		}
		seen[prefix] = true
		name := prefix + "sctp/65535"
		if len(name) > nftdp.MaxNameLen || attachmentOf(name) != prefix {
			t.Errorf("%q: %d bytes, of attachment %q", name, len(name), attachmentOf(name))
		}
	}
}

// BenchmarkAdd publishes 206 ports of a container in one ADD, and withdraws them.
func BenchmarkAdd(b *testing.B) {
	ns, err := nstest.New("node")
	if err != nil {
		b.Fatal(err)
	}
	defer ns.Close()
	var list []string
	for i := range 206 {
		list = append(list, fmt.Sprintf(`{"hostPort": %d, "containerPort": %d}`, 8000+i, 8000+i))
	}
	dir, err := json.Marshal(b.TempDir())
	if err != nil {
		b.Fatal(err)
	}
	args := argsOf(fmt.Sprintf(`%s, "stateDir": %s`, mappings(list...), dir), "10.88.0.5/16", "fd00:88::5/64")
	stdout := os.Stdout
	defer func() { os.Stdout = stdout }()
	if os.Stdout, err = os.OpenFile(os.DevNull, os.O_WRONLY, 0); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		err := ns.Do(func() error { return add(b.Context(), args) })
		b.StopTimer()
		if err == nil {
			err = ns.Do(func() error { return del(b.Context(), args) })
		}
		if err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
	}
}
