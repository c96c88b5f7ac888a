package flows

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/nftdp/go-nftdp/internal/compile"
	"github.com/nftdp/go-nftdp/internal/conntrack"
	"github.com/nftdp/go-nftdp/internal/ruleset"
)

// TestConntrackNotSupported: nfnetlink answers EINVAL if a subsystem does not
// exist (nfnetlink_rcv_msg in net/netfilter/nfnetlink.c).
func TestConntrackNotSupported(t *testing.T) {
	err := explain(fmt.Errorf("list flows: %w", syscall.EINVAL))
	if !errors.Is(err, ErrNotSupported) || !errors.Is(err, syscall.EINVAL) || !strings.Contains(err.Error(), "CONFIG_NF_CT_NETLINK") {
		t.Errorf("error is %v", err)
	}
	if err := explain(syscall.EPERM); errors.Is(err, ErrNotSupported) {
		t.Errorf("error is %v", err)
	}
}

// TestFilters: for up to four ports there is one dump for each, limited to the
// address if there is only one; for more ports there is one dump for all.
func TestFilters(t *testing.T) {
	at := func(addr string, ports ...uint16) (out []compile.Key) {
		for _, p := range ports {
			out = append(out, compile.Key{Addr: netip.MustParseAddr(addr), Port: p, Proto: compile.UDP})
		}
		return out
	}
	filter := func(addr string, port uint16, translated bool) conntrack.Filter {
		f := conntrack.Filter{Family: ruleset.IPv4, Proto: compile.UDP, Port: port, Translated: translated}
		if addr != "" {
			f.Addr = netip.MustParseAddr(addr)
		}
		return f
	}
	for _, c := range []struct {
		name       string
		at         []compile.Key
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
		if diff := cmp.Diff(c.want, filters(c.at, c.translated), byPort, cmpopts.EquateComparable(netip.Addr{}, netip.AddrPort{})); diff != "" {
			t.Errorf("%s (-want +got):\n%s", c.name, diff)
		}
	}
}
