package kube

import (
	"net/netip"
	"testing"

	v1 "k8s.io/api/core/v1"
)

// What parsePrefix yields is what nftdp accepts: valid, without host bits, and IPv4 where
// it means IPv4.
func TestParsePrefix(t *testing.T) {
	for text, want := range map[string]string{
		"10.1.2.3/8": "10.0.0.0/8", " 010.0.0.0/8 ": "10.0.0.0/8", "::ffff:10.0.0.0/104": "10.0.0.0/8",
		"::ffff:10.0.0.1/128": "10.0.0.1/32", "::ffff:0:0/96": "0.0.0.0/0", "::/0": "::/0", "2001:db8::1/32": "2001:db8::/32",
		"::ffff:0:0/90": "::ffc0:0:0/90", "10.0.0.0/33": "", "10.0.0.1": "", "": "",
	} {
		p, ok := parsePrefix(text)
		if ok != (want != "") || ok && p != netip.MustParsePrefix(want) {
			t.Errorf("parsePrefix(%q) = %v, %v, want %q", text, p, ok, want)
		}
	}
}

// A link-local IPv6 address cannot take node ports: as an option it is refused, and that
// of a Node object is skipped.
func TestLinkLocalNodePorts(t *testing.T) {
	if err := (Options{NodeName: "a", NodePortAddresses: []string{"fe80::/10"}}).Validate(); err == nil {
		t.Error("fe80::/10 is accepted")
	}
	if err := (Options{NodeName: "a", NodePortAddresses: []string{"169.254.0.0/16", "::/0", "::ffff:10.0.0.0/104"}}).Validate(); err != nil {
		t.Error(err)
	}
	node := &v1.Node{Status: v1.NodeStatus{Addresses: []v1.NodeAddress{
		{Type: v1.NodeInternalIP, Address: "fe80::1"}, {Type: v1.NodeInternalIP, Address: "2001:db8::1"},
	}}}
	got := Options{NodeName: "a"}.Config(node, nil).NodeAddrs
	if want := netip.MustParsePrefix("2001:db8::1/128"); len(got) != 1 || got[0] != want {
		t.Errorf("node addresses %v, want %v", got, want)
	}
}
