//go:build linux

package nftdp

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"golang.org/x/sys/unix"

	"github.com/nftdp/go-nftdp/internal/conntrack"
	"github.com/nftdp/go-nftdp/internal/ruleset"
)

// TestConntrackNotSupported: nfnetlink answers with EINVAL where it has no such
// subsystem (nfnetlink_rcv_msg in net/netfilter/nfnetlink.c).
func TestConntrackNotSupported(t *testing.T) {
	err := explainConntrack(fmt.Errorf("list flows: %w", unix.EINVAL))
	if !errors.Is(err, ErrNotSupported) || !errors.Is(err, unix.EINVAL) || !strings.Contains(err.Error(), "CONFIG_NF_CT_NETLINK") {
		t.Errorf("error is %v", err)
	}
	if err := explainConntrack(unix.EPERM); errors.Is(err, ErrNotSupported) {
		t.Errorf("error is %v", err)
	}
}

// TestFilters: frontends with one port, or few, are one dump each, narrowed to
// the address if there is one; more are one dump in all.
func TestFilters(t *testing.T) {
	at := func(addr string, ports ...uint16) (out []claim) {
		for _, p := range ports {
			out = append(out, claim{netip.MustParseAddr(addr), p, ProtocolUDP, false})
		}
		return out
	}
	filter := func(addr string, port uint16, translated bool) conntrack.Filter {
		f := conntrack.Filter{Family: ruleset.IPv4, Proto: unix.IPPROTO_UDP, Port: port, Translated: translated}
		if addr != "" {
			f.Addr = netip.MustParseAddr(addr)
		}
		return f
	}
	for _, c := range []struct {
		name       string
		at         []claim
		translated bool
		want       []conntrack.Filter
	}{
		{"one", at("10.0.0.1", 53), false, []conntrack.Filter{filter("10.0.0.1", 53, false)}},
		{"node-wide", at("0.0.0.0", 53), true, []conntrack.Filter{filter("", 53, true)}},
		{"two addresses", append(at("10.0.0.1", 53), at("10.0.0.2", 53)...), true, []conntrack.Filter{filter("", 53, true)}},
		{"two ports", at("10.0.0.1", 53, 54), false, []conntrack.Filter{filter("10.0.0.1", 53, false), filter("10.0.0.1", 54, false)}},
		{"two ports, translated", at("10.0.0.1", 53, 54), true, []conntrack.Filter{filter("10.0.0.1", 0, true)}},
		{"many ports", at("10.0.0.1", 1, 2, 3, 4, 5), false, []conntrack.Filter{filter("10.0.0.1", 0, false)}},
	} {
		byPort := cmpopts.SortSlices(func(x, y conntrack.Filter) bool { return x.Port < y.Port })
		if diff := cmp.Diff(c.want, filters(c.at, c.translated), byPort, cmpopts.EquateComparable(netip.Addr{})); diff != "" {
			t.Errorf("%s (-want +got):\n%s", c.name, diff)
		}
	}
}

// TestBackendWithFrontendsAddress: a flow to such a backend has nothing to
// translate, so it is no sign that others need not be listed.
func TestBackendWithFrontendsAddress(t *testing.T) {
	own, other := netip.MustParseAddrPort("10.0.0.1:53"), netip.MustParseAddrPort("10.0.0.2:8053")
	at := claim{own.Addr(), own.Port(), ProtocolUDP, false}
	wide := claim{netip.IPv4Unspecified(), own.Port(), ProtocolUDP, false}
	for _, c := range []struct {
		at   claim
		to   netip.AddrPort
		want bool
	}{{at, own, false}, {wide, own, false}, {at, other, true}, {wide, other, true}} {
		f := &former{backends: map[netip.AddrPort]bool{c.to: true}}
		if got := f.translated(c.at); got != c.want {
			t.Errorf("%v at %+v: %v, want %v", c.to, c.at, got, c.want)
		}
	}
}
