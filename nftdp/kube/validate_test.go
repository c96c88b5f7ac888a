package kube

import (
	"net/netip"
	"strings"
	"testing"
)

// TestValidateOptions: each option that is wrong is an error that begins with its flag, and
// all of them are found at once.
func TestValidateOptions(t *testing.T) {
	for _, test := range []struct {
		name string
		o    Options
		want []string // how the lines begin
	}{
		{"nothing", Options{}, []string{"hostname-override: "}},
		{"names", Options{NodeName: "Node_1", ProxyName: "a b"}, []string{`hostname-override: "Node_1"`, `service-proxy-name: "a b"`}},
		{
			"node ports",
			Options{NodeName: "n", NodePortAddresses: []string{"primary", "10.0.0.1", "fe80::/64", "10.0.0.0/8"}},
			[]string{`nodeport-addresses: "10.0.0.1"`, `nodeport-addresses: "fe80::/64"`},
		},
		{
			"prefixes",
			Options{NodeName: "n", DetectLocal: DetectLocalClusterCIDR, ClusterCIDRs: []netip.Prefix{{}, netip.MustParsePrefix("::ffff:10.0.0.0/104")}},
			[]string{"cluster-cidr: invalid Prefix", "cluster-cidr: ::ffff:10.0.0.0/104"},
		},
		{"no prefixes", Options{NodeName: "n", DetectLocal: DetectLocalClusterCIDR}, []string{"cluster-cidr: "}},
		{"mode", Options{NodeName: "n", DetectLocal: "bridge"}, []string{`detect-local-mode: "bridge"`}},
		{"no bridge", Options{NodeName: "n", DetectLocal: DetectLocalBridgeInterface}, []string{"pod-bridge-interface: "}},
		{"no beginning", Options{NodeName: "n", DetectLocal: DetectLocalInterfaceNamePrefix}, []string{"pod-interface-name-prefix: "}},
		{
			"asterisk",
			Options{NodeName: "n", DetectLocal: DetectLocalInterfaceNamePrefix, PodInterfaceNamePrefix: "veth*"},
			[]string{`pod-interface-name-prefix: "veth*": leave the asterisk out`},
		},
		{
			"names of interfaces",
			Options{NodeName: "n", DetectLocal: DetectLocalBridgeInterface, PodBridgeInterface: "a/b"},
			[]string{`pod-bridge-interface: "a/b"`},
		},
		{"long name", Options{NodeName: "n", DetectLocal: DetectLocalInterfaceNamePrefix, PodInterfaceNamePrefix: "veth0123456789ab"}, []string{"pod-interface-name-prefix: "}},
		{
			"without effect",
			Options{NodeName: "n", PodBridgeInterface: "cni0", PodInterfaceNamePrefix: "veth"},
			[]string{`pod-bridge-interface: "cni0" has no effect`, `pod-interface-name-prefix: "veth" has no effect`},
		},
		{"all well", Options{
			NodeName: "node-1.example", ProxyName: "nftdp", NodePortAddresses: []string{"primary", "localhost", "2001:db8::/32"},
			DetectLocal: DetectLocalInterfaceNamePrefix, PodInterfaceNamePrefix: "veth", ClusterCIDRs: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")},
		}, nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			var got []string
			if err := test.o.Validate(); err != nil {
				got = strings.Split(err.Error(), "\n")
			}
			if len(got) != len(test.want) {
				t.Fatalf("%q, want %d lines", got, len(test.want))
			}
			for i, want := range test.want {
				if !strings.HasPrefix(got[i], want) {
					t.Errorf("%q, want %q", got[i], want)
				}
			}
		})
	}
}
