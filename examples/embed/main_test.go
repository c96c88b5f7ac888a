//go:build linux

package main

import (
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nftdp/go-nftdp/internal/nstest"
)

func TestMain(m *testing.M) { nstest.MainOf(m, main) }

// The services of the file work when the program has ended, and a second run
// finds everything in place.
func TestEmbed(t *testing.T) {
	top := nstest.NewTestTopology(t, 2, "tcp")
	embed := func(args ...string) string {
		return nstest.Start(t, top.Node, append(args, "-services", "services.json")...).Exit(t, 0)
	}
	for _, args := range [][]string{{"-dry-run"}, nil} {
		if plan := embed(args...); !strings.Contains(plan, "add table ip nftdp") || !strings.Contains(plan, `"shop/web:http"`) {
			t.Fatalf("embed %v prints\n%s", args, plan)
		}
	}
	if err := top.Node.Sysctl("net/netfilter/nf_conntrack_tcp_be_liberal", "1"); err != nil {
		t.Fatal(err)
	}
	if plan := embed(); plan != "" {
		t.Errorf("the second run prints\n%s", plan)
	}
	a := nstest.IPv4()
	for _, to := range []netip.Addr{a.Node, a.ClusterIP} {
		if _, err := nstest.Dial(top.Client, "tcp", netip.Addr{}, netip.AddrPortFrom(to, 80), 5*time.Second); err != nil {
			t.Error(err)
		}
	}
}

// What is wrong is reported before anything is programmed, and so is what the
// node lacks.
func TestEmbedErrors(t *testing.T) {
	top := nstest.NewTestTopology(t, 0)
	bad := filepath.Join(t.TempDir(), "bad.json")
	if err := os.WriteFile(bad, []byte(`[{"name": "a", "frontends": [{"port": 0}]}, {"name": "a"}]`), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		args []string
		code int
		want []string
	}{
		{nil, 2, []string{"-services file"}},
		{[]string{"-services", "none.json"}, 1, []string{"none.json"}},
		{[]string{"-services", bad}, 1, []string{`frontends[0].port`, `service "a": name`}},
		{[]string{"-services", "services.json"}, 0, []string{"sysctl -w net.ipv4.ip_forward=1"}},
	} {
		said := nstest.Start(t, top.Client, test.args...).Exit(t, test.code)
		for _, want := range test.want {
			if !strings.Contains(said, want) {
				t.Errorf("embed %v: no %q in\n%s", test.args, want, said)
			}
		}
	}
}
